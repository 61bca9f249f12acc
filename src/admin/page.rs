//! The status page: one file, nothing from elsewhere, and a policy that lets nothing else in.

use std::sync::LazyLock;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY};
use http::{Response, StatusCode};
use http_body_util::Full;
use sha2::{Digest, Sha256};

use super::content;

const PAGE: &str = include_str!("page.html");

const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

/// What the page may do: run its own script, wear its own style, and ask this listener.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let (style, script) = (digest("style"), digest("script"));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'"
    );
    policy.parse().expect("it is plain text")
});

/// The page.
pub(super) fn answer() -> Response<Full<Bytes>> {
    let mut response = content::answer(
        StatusCode::OK,
        "text/html; charset=utf-8",
        Bytes::from_static(PAGE.as_bytes()),
    );
    let fields = response.headers_mut();
    fields.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
    fields.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    fields.insert(OPENER_POLICY, HeaderValue::from_static("same-origin"));
    response
}

fn digest(element: &str) -> String {
    BASE64_STANDARD.encode(Sha256::digest(inside(element)))
}

/// What stands in the page's only element of this name.
fn inside(element: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(&format!("<{element}>")).expect("the page has it");
    rest.split_once(&format!("</{element}>")).expect("and it ends").0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_takes_nothing_from_elsewhere_and_makes_no_markup_of_what_it_is_told() {
        for element in ["style", "script"] {
            assert_eq!(PAGE.matches(&format!("<{element}")).count(), 1, "{element}");
        }
        for word in [
            "http://",
            "https://",
            "src=",
            "@import",
            "url(",
            "innerHTML",
            "outerHTML",
            "eval(",
            "insertAdjacentHTML",
            "document.write",
            "style=",
            "onclick=",
            "localStorage",
        ] {
            let found = PAGE.replace("http://www.w3.org/2000/svg", "");
            assert!(!found.contains(word), "{word}");
        }
    }

    #[test]
    fn its_policy_names_the_digests_of_what_is_in_it() {
        let policy = answer().headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
        for element in ["style", "script"] {
            let digest = BASE64_STANDARD.encode(Sha256::digest(inside(element)));
            assert!(policy.contains(&format!("{element}-src 'sha256-{digest}';")), "{policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
    }
}
