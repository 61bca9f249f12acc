use std::fmt::Write;

use proptest::prelude::*;
use serde_json::Value;

use super::super::tests::links;
use super::*;

/// All of it as one piece.
fn rewrite(text: &str) -> String {
    rewrite_pieces(&[text.as_bytes()])
}

fn rewrite_pieces(pieces: &[&[u8]]) -> String {
    let mut rewriter = JsonRewriter::new(Arc::new(links()));
    let mut out = Vec::new();
    for piece in pieces {
        out.extend_from_slice(&rewriter.feed(Bytes::copy_from_slice(piece)));
    }
    out.extend_from_slice(&rewriter.finish());
    assert!(rewriter.is_idle());
    String::from_utf8(out).expect("text stays text")
}

/// A link of RingCentral's as the proxy's, by other means than those under test.
fn led_back(link: &str) -> Option<String> {
    let (scheme, rest) = link.split_once("://")?;
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    let scheme_and_host = (scheme, host.to_ascii_lowercase());
    let base = match (scheme_and_host.0, scheme_and_host.1.trim_end_matches(":443")) {
        ("https", "platform.ringcentral.com") => "http://127.0.0.1:8080",
        ("https", "media.ringcentral.com") => "http://127.0.0.1:8080/.ringbearer/media",
        ("wss", "ws-api.ringcentral.com") => "ws://127.0.0.1:8080/.ringbearer/ws",
        _ => return None,
    };
    Some(format!("{base}{path}"))
}

/// What ought to become of parsed JSON.
fn expected(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(led_back(&text).unwrap_or(text)),
        Value::Array(items) => items.into_iter().map(expected).collect(),
        Value::Object(members) => {
            members.into_iter().map(|(name, value)| (name, expected(value))).collect()
        }
        other => other,
    }
}

#[test]
fn links_in_values_lead_to_the_proxy() {
    for (text, expected) in [
        (
            r#"{"uri": "https://platform.ringcentral.com/restapi/v1.0"}"#,
            r#"{"uri": "http://127.0.0.1:8080/restapi/v1.0"}"#,
        ),
        (r#""https://platform.ringcentral.com""#, r#""http://127.0.0.1:8080""#),
        (
            r#"["https://media.ringcentral.com/a" ,"https://platform.ringcentral.com:443?b"]"#,
            r#"["http://127.0.0.1:8080/.ringbearer/media/a" ,"http://127.0.0.1:8080?b"]"#,
        ),
        (
            "{\"a\"\n:\r\n\t\"wss://WS-API.ringcentral.com/ws\"}",
            "{\"a\"\n:\r\n\t\"ws://127.0.0.1:8080/.ringbearer/ws/ws\"}",
        ),
        (
            r#"{"a":1,"b":"https://platform.ringcentral.com/","c":"https://platform.ringcentral.com/"}"#,
            r#"{"a":1,"b":"http://127.0.0.1:8080/","c":"http://127.0.0.1:8080/"}"#,
        ),
    ] {
        assert_eq!(rewrite(text), expected);
    }
}

#[test]
fn a_replacement_is_escaped_as_the_link_was() {
    for (text, expected) in [
        (
            r#"{"a":"https:\/\/media.ringcentral.com\/b"}"#,
            r#"{"a":"http:\/\/127.0.0.1:8080\/.ringbearer\/media\/b"}"#,
        ),
        (
            r#"{"a":"https:\u002f\u002Fplatform.ringcentral.com\u002fb"}"#,
            r#"{"a":"http:\u002f\u002f127.0.0.1:8080\u002fb"}"#,
        ),
        (
            r#"{"a":"https\u003a//platform.ringcentral.com\u003F"}"#,
            r#"{"a":"http\u003a//127.0.0.1\u003a8080\u003F"}"#,
        ),
        (
            r#"{"a":"https://platform\u002eringcentral.com\\b"}"#,
            r#"{"a":"http://127.0.0.1:8080\\b"}"#,
        ),
    ] {
        assert_eq!(rewrite(text), expected);
    }
}

#[test]
fn everything_else_stays_byte_for_byte() {
    for text in [
        // Names.
        r#"{"https://platform.ringcentral.com/": 1}"#,
        r#"{"a":1, "https://platform.ringcentral.com/\"" : 1}"#,
        // Within texts, quoted or not; the second is JSON in JSON.
        r#"{"a": "see https://platform.ringcentral.com/"}"#,
        r#"{"a": "{\"b\":\"https://platform.ringcentral.com/\"}"}"#,
        r#"{"a": "\\\"https://platform.ringcentral.com/"}"#,
        // Other hosts.
        r#"{"a": "https://platform.ringcentral.com.evil.test/"}"#,
        r#"{"a": "https://platform.ringcentral.com\u002eevil.test/"}"#,
        r#"{"a": "https://platform.ringcentral.community"}"#,
        r#"{"a": "https://platform.ringcentral.com@evil.test/"}"#,
        r#"{"a": "https://platform.ringcentral.com\u0040evil.test/"}"#,
        r#"{"a": "xhttps://platform.ringcentral.com/"}"#,
        r#"{"a": "https://platform.ringcentral.com is down"}"#,
        r#"{"a": "https://platform.ringcentral.com\" quoted"}"#,
        r#"{"a": "https://platform.ringcentral.com\n"}"#,
        r#"{"a": "https:\u00zz//platform.ringcentral.com/"}"#,
        r#"{"a": "https:\u012f/platform.ringcentral.com/"}"#,
        // Nothing at all, or too little.
        "",
        "\"",
        "\"htt",
        r#"{"a": "https://platform.ringcentral.com"#,
        r#"{"a": "https://platform.ringcentral.com\u"#,
        r#"["", "https://platform.ringcentral.com/"#,
        r#"["", "https://platform.ringcentral.com/""#,
    ] {
        assert_eq!(rewrite(text), text);
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(rewrite_pieces(&bytes), text, "byte by byte");
    }
}

#[test]
fn text_that_is_no_json_stays_from_there_on() {
    let broken = r#"{"a":"https://platform.ringcentral.com/" "https://b" : "https://platform.ringcentral.com/"}"#;
    let expected =
        r#"{"a":"http://127.0.0.1:8080/" "https://b" : "https://platform.ringcentral.com/"}"#;
    assert_eq!(rewrite(broken), expected);
    let bytes: Vec<&[u8]> = broken.as_bytes().chunks(1).collect();
    assert_eq!(rewrite_pieces(&bytes), expected);
}

#[test]
fn text_without_links_is_passed_on_uncopied() {
    let mut rewriter = JsonRewriter::new(Arc::new(links()));
    let chunk = Bytes::from(r#"{"a": "https://hooks.glip.com/", "b": 1}"#);
    assert_eq!(rewriter.feed(chunk.clone()).as_ptr(), chunk.as_ptr());
    let half = Bytes::from(r#"{"a": "https://platform.ring"#);
    let out = rewriter.feed(half.clone());
    assert_eq!((out.as_ptr(), &*out), (half.as_ptr(), &br#"{"a": "#[..]));
    assert_eq!(
        &*rewriter.feed(Bytes::from("fence.com")),
        &br#""https://platform.ringfence.com"#[..]
    );
}

#[test]
fn no_more_is_held_back_than_an_origin() {
    let mut rewriter = JsonRewriter::new(Arc::new(links()));
    let mut text = String::from(r#"{"a": "http"#);
    for byte in "s://platform.ringcentral.com:443".bytes() {
        write!(text, "\\u{byte:04x}").unwrap();
    }
    let mut most = 0;
    for byte in text.bytes() {
        rewriter.feed(Bytes::from(vec![byte]));
        most = most.max(rewriter.held.len());
    }
    assert_eq!(most, "\"http".len() + "s://platform.ringcentral.com:443".len() * 6);
}

#[test]
fn behind_a_comma_a_string_of_8_kib_can_still_be_told_from_a_name() {
    let origin = "https://platform.ringcentral.com/";
    // Two quotes and what tells.
    let room = MAX_LOOK_AHEAD - 3 - origin.len();
    for (path, mark, is_rewritten) in
        [(room, "]", true), (room, ":", false), (room + 1, "]", false), (100_000, "]", false)]
    {
        let text = format!(r#"[1,"{origin}{}"{mark}"#, "a".repeat(path));
        let expected = text.replace("https://platform.ringcentral.com", "http://127.0.0.1:8080");
        let expected = if is_rewritten { expected } else { text.clone() };
        assert_eq!(rewrite(&text), expected);

        let mut rewriter = JsonRewriter::new(Arc::new(links()));
        let (mut out, mut most) = (Vec::new(), 0);
        for piece in text.as_bytes().chunks(100) {
            out.extend_from_slice(&rewriter.feed(Bytes::copy_from_slice(piece)));
            most = most.max(rewriter.held.len());
        }
        out.extend_from_slice(&rewriter.finish());
        assert_eq!(out, expected.as_bytes());
        assert!(most < MAX_LOOK_AHEAD, "{most}");
    }
}

#[test]
fn every_documented_answer_is_led_back_and_nothing_else_in_it_changes() {
    let (mut links, mut json) = (0, 0);
    for line in include_str!("../../../sandbox/data/examples.jsonl").lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let response = line["response"].as_str().unwrap();
        let content = response.split_once("\n\n").map_or("", |(_, content)| content);
        let rewritten = rewrite(content);
        links += rewritten.matches("\"http://127.0.0.1:8080/").count();
        if let Ok(value) = serde_json::from_str::<Value>(content) {
            json += 1;
            assert_eq!(serde_json::from_str::<Value>(&rewritten).unwrap(), expected(value));
        } else {
            // Comments, dots, missing commas, multipart: all of it stays but the links.
            let back = rewritten
                .replace("http://127.0.0.1:8080/.ringbearer/media", "https://media.ringcentral.com")
                .replace("http://127.0.0.1:8080", "https://platform.ringcentral.com");
            assert_eq!(back, content);
        }
    }
    assert_eq!((json, links), (EXAMPLES_IN_JSON, LINKS_IN_EXAMPLES));
}

/// Of 227 examples; the others are empty, no JSON, or files.
const EXAMPLES_IN_JSON: usize = 144;
const LINKS_IN_EXAMPLES: usize = 437;

#[derive(Clone, Debug)]
enum Json {
    Text(Written),
    Number(i16),
    Array(Vec<Json>),
    Object(Vec<(Written, Json)>),
}

/// A string and how it is written: which of its characters are escaped, and how.
#[derive(Clone, Debug)]
struct Written {
    text: String,
    slash: &'static str,
    colon: &'static str,
}

fn written() -> impl Strategy<Value = Written> {
    let host = prop::sample::select(vec![
        "https://platform.ringcentral.com",
        "https://PLATFORM.ringcentral.com:443",
        "https://media.ringcentral.com",
        "wss://ws-api.ringcentral.com",
        "https://hooks.glip.com",
        "https://platform.ringcentral.com.evil.test",
        "http://platform.ringcentral.com",
        "",
    ]);
    let before = prop::sample::select(vec!["", "", "", "see ", "\"", "\\", ": ", ", \""]);
    let path = "[/?#\"\\\\ :,a-c\n\u{e9}]{0,6}";
    let slash = prop::sample::select(vec!["/", "\\/", "\\u002f", "\\u002F"]);
    let colon = prop::sample::select(vec![":", ":", "\\u003a", "\\u003A"]);
    (before, host, path, slash, colon).prop_map(|(before, host, path, slash, colon)| Written {
        text: format!("{before}{host}{path}"),
        slash,
        colon,
    })
}

fn json() -> impl Strategy<Value = Json> {
    let leaf =
        prop_oneof![4 => written().prop_map(Json::Text), 1 => any::<i16>().prop_map(Json::Number)];
    leaf.prop_recursive(4, 40, 6, |inner| {
        let named = (written(), inner.clone());
        prop_oneof![
            prop::collection::vec(inner, 0..6).prop_map(Json::Array),
            prop::collection::vec(named, 0..6).prop_map(Json::Object),
        ]
    })
}

impl Written {
    fn write(&self, out: &mut String) {
        out.push('"');
        for character in self.text.chars() {
            match character {
                '/' => out.push_str(self.slash),
                ':' => out.push_str(self.colon),
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                other => out.push(other),
            }
        }
        out.push('"');
    }
}

impl Json {
    fn write(&self, space: &str, out: &mut String) {
        let separate = |at: usize, out: &mut String| {
            if at > 0 {
                out.push(',');
                out.push_str(space);
            }
        };
        match self {
            Self::Text(text) => text.write(out),
            Self::Number(number) => out.push_str(&number.to_string()),
            Self::Array(items) => {
                out.push('[');
                out.push_str(space);
                for (at, item) in items.iter().enumerate() {
                    separate(at, out);
                    item.write(space, out);
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (at, (name, value)) in members.iter().enumerate() {
                    separate(at, out);
                    name.write(out);
                    out.push_str(space);
                    out.push(':');
                    out.push_str(space);
                    value.write(space, out);
                }
                out.push('}');
            }
        }
    }
}

fn cut<'a>(text: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
    cuts.extend([0, text.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|ends| &text[ends[0]..ends[1]]).collect()
}

proptest! {
    /// Parsed, the rewritten text differs in nothing but the links; with no link left, in nothing at
    /// all, byte for byte. And it does not matter how it is cut.
    #[test]
    fn json_means_the_same_but_for_its_links(
        json in json(),
        space in prop::sample::select(vec!["", " ", "\r\n\t "]),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut text = String::new();
        json.write(space, &mut text);
        let value: Value = serde_json::from_str(&text).unwrap();
        let whole = rewrite(&text);
        let parsed: Value = serde_json::from_str(&whole).unwrap();
        prop_assert_eq!(&parsed, &expected(value.clone()));
        prop_assert_eq!(&rewrite(&whole), &whole, "no link is left");
        if parsed == value {
            prop_assert_eq!(&whole, &text);
        }
        prop_assert_eq!(&rewrite_pieces(&cut(text.as_bytes(), &cuts)), &whole);
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        prop_assert_eq!(&rewrite_pieces(&bytes), &whole);
    }

    /// Of whatever is not JSON, too, the same becomes however it is cut.
    #[test]
    fn any_text_is_rewritten_alike_however_it_is_cut(
        words in prop::collection::vec(prop::sample::select(vec![
            "\"", "\\", ":", ",", "[", "{", "}", " ", "\n", "h", "ht", "http", "https", "://", "/", "\\/",
            "\\u002f", "platform.", "ringcentral.com", ":443", "wss", "\"https://platform.ringcentral.com/",
            "\"wss://ws-api.ringcentral.com", "\"w", "a",
        ]), 0..40),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let text = words.concat();
        prop_assert_eq!(rewrite_pieces(&cut(text.as_bytes(), &cuts)), rewrite(&text));
    }
}
