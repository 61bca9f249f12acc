//! The page on which the user agrees to a login, or does not. Pure.

use http::StatusCode;

use super::oauth::Form;
use super::reply::{Reply, text};

/// Asks the user; either button comes back to the same address with `consent`.
pub(super) fn page(application: &str, form: &Form) -> Reply {
    let field = |(name, value)| {
        let (name, value) = (escaped(name), escaped(value));
        format!("<input type=\"hidden\" name=\"{name}\" value=\"{value}\">")
    };
    let pairs = form.pairs().filter(|(name, _)| *name != "consent");
    let hidden = pairs.map(field).collect::<Vec<_>>().concat();
    let html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Sandbox login</title></head>\
         <body><h1>Let {} act as you?</h1><form method=\"get\" action=\"/restapi/oauth/authorize\">{hidden}\
         <button id=\"allow\" name=\"consent\" value=\"yes\">Allow</button>\
         <button id=\"deny\" name=\"consent\" value=\"no\">Deny</button></form></body></html>\n",
        escaped(application)
    );
    text(StatusCode::OK, "text/html; charset=utf-8", html)
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::reply::Content;

    #[test]
    fn the_page_carries_every_parameter_and_runs_none_of_them() {
        let form = Form::parse(b"state=a%22%3E%3Cscript%3E&client_id=x&consent=maybe");
        let Content::Whole(Some(html)) = page("<x>", &form).into_body() else { panic!("a page") };
        let html = String::from_utf8(html.to_vec()).unwrap();
        assert!(html.contains("name=\"state\" value=\"a&quot;&gt;&lt;script&gt;\""), "{html}");
        assert!(html.contains("name=\"client_id\" value=\"x\""), "{html}");
        assert!(html.contains("Let &lt;x&gt; act as you?"), "{html}");
        assert!(!html.contains("maybe") && !html.contains("<script>"), "{html}");
    }
}
