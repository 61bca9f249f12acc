//! Requests that mean another method, or another path, than they say.
//!
//! RingCentral takes `X-HTTP-Method-Override` and `_method` in the query for the method. Servers
//! before it may know other names for the same, and spell `-` as `_`, decode twice or end a parameter
//! at `;`, so the look-out is wide: nothing that an app sends to this API is called so.
//! (A form may say `_method`, too. RingCentral documents that nowhere, its operations take no forms,
//! and content streams through unread.)

use http::HeaderMap;

/// The name of a field by which a request means something else.
pub(super) fn field(fields: &HeaderMap) -> Option<&str> {
    fields.keys().map(http::HeaderName::as_str).find(|name| is_tunnel(name))
}

/// Names are in lower case.
fn is_tunnel(name: &str) -> bool {
    let bytes = name.as_bytes();
    // `Access-Control-Request-Method` is a browser's question, and stays one.
    let may_be =
        bytes.len() >= 6 && matches!(bytes[0], b'x' | b'h' | b'm' | b'o' | b'r' | b'_' | b'-');
    may_be
        && [&b"method"[..], b"original-ur", b"original_ur", b"rewrite-ur", b"rewrite_ur"]
            .iter()
            .any(|part| bytes.windows(part.len()).any(|window| window == *part))
}

/// Whether a parameter of a query means another method, to any reader.
pub(super) fn is_in_query(query: &str) -> bool {
    let query = query.as_bytes();
    match names(query) {
        Names::Plain => false,
        Names::Odd => true,
        Names::Nested => is_nested(query),
    }
}

/// What the names of parameters are.
enum Names {
    Plain,
    Odd,
    /// That takes decoding more than once.
    Nested,
}

/// Reads the names once decoded. An escaped `&` ends a parameter as well.
fn names(query: &[u8]) -> Names {
    const WORD: &[u8] = b"method";
    let (mut at, mut in_name, mut known) = (0, true, 0);
    while let Some(&raw) = query.get(at) {
        at += 1;
        let mut byte = raw;
        if raw == b'%' {
            match hex(query.get(at), query.get(at + 1)) {
                Some(b'%') => return Names::Nested,
                Some(decoded) => {
                    byte = decoded;
                    at += 2;
                }
                None if in_name => return Names::Odd,
                None => {}
            }
        }
        match byte {
            b'&' | b';' | b'?' | b'#' | b'\r' | b'\n' => {
                in_name = true;
                known = 0;
            }
            b'=' => in_name = false,
            _ if !in_name => {}
            // No parameter's name has any of these, and a reader may fold or drop them.
            0..=0x1f | 0x7f.. => return Names::Odd,
            _ => {
                let byte = byte.to_ascii_lowercase();
                known = if byte == WORD[known] { known + 1 } else { usize::from(byte == WORD[0]) };
                if known == WORD.len() {
                    return Names::Odd;
                }
            }
        }
    }
    Names::Plain
}

/// The same after every further decoding. Rare: a `%25` in a query is an encoded link, mostly.
#[cold]
fn is_nested(query: &[u8]) -> bool {
    let mut decoded = query.to_vec();
    loop {
        let again = decode(&decoded);
        if again == decoded {
            // What is still a `%` now was never one of an escape.
            let rest: Vec<u8> = again.into_iter().filter(|byte| *byte != b'%').collect();
            return matches!(names(&rest), Names::Odd);
        }
        decoded = again;
        if matches!(names(&decoded), Names::Odd) {
            return true;
        }
    }
}

fn decode(bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match hex(bytes.get(at), bytes.get(at + 1)) {
            Some(escaped) if byte == b'%' => {
                decoded.push(escaped);
                at += 2;
            }
            _ => decoded.push(byte),
        }
    }
    decoded
}

fn hex(high: Option<&u8>, low: Option<&u8>) -> Option<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let (high, low) = (digit(high?)?, digit(low?)?);
    u8::try_from(high * 16 + low).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_field_that_names_a_method_or_a_path_is_seen_in_any_spelling() {
        for name in [
            "x-http-method-override",
            "x_http_method_override",
            "x-http-method",
            "x-method-override",
            "x-http_method-override",
            "x-method",
            "http-method-override",
            "method",
            "_method",
            "x-original-url",
            "x_rewrite_url",
            "x-original-uri",
        ] {
            let mut fields = HeaderMap::new();
            fields.insert("accept", "a".parse().unwrap());
            fields.insert(name, "DELETE".parse().unwrap());
            assert_eq!(field(&fields), Some(name));
        }
        for name in
            ["access-control-request-method", "x-user-agent", "origin", "rcclientid", "meth"]
        {
            assert!(!is_tunnel(name), "{name}");
        }
    }

    #[test]
    fn a_parameter_that_names_a_method_is_seen_in_any_encoding() {
        for query in [
            "_method=DELETE",
            "a=b&_method=DELETE",
            "a=b;_method=DELETE",
            "_METHOD=delete",
            "_method",
            "%5fmethod=DELETE",
            "%5F%6D%65%74%68%6f%64=x",
            "%255fmethod=x",
            "%25%35%66method=x",
            "%25255f%256dethod=x",
            "a=b%26_method=DELETE",
            "a=b%2526_method=DELETE",
            "a=b%25252526_method=DELETE",
            "a=1%0d%0a_method=x",
            "_method[]=x",
            "_me%00thod=x",
            "_meth%C2%ADod=x",
            "_m%zzethod=x",
            "_m%u0065thod=x",
            "x-http-method-override=DELETE",
            "mmethod=x",
        ] {
            assert!(is_in_query(query), "{query}");
        }
    }

    #[test]
    fn ordinary_queries_are_none() {
        for query in [
            "",
            "perPage=100&page=2",
            "dateFrom=2024-01-01T00%3A00%3A00Z&view=Detailed",
            "search=payment_method",
            "search=100%25&x=y",
            "link=https%253A%252F%252Fa.test%252F%253Fb",
            "name=J%C3%BCrgen",
            "filter=%7B%22a%22%3A1%7D",
            "meth=od",
            "broken=%zz",
        ] {
            assert!(!is_in_query(query), "{query}");
        }
    }

    proptest! {
        #[test]
        fn no_number_of_encodings_hides_it(
            before in "([a-z]{1,4}=[a-z0-9]{0,4}&){0,3}",
            which in proptest::collection::vec(0_u8..4, 7),
        ) {
            // Each letter is encoded none to three times, each time whole.
            let encode = |text: &str| {
                text.bytes().fold(String::new(), |text, byte| text + &format!("%{byte:02x}"))
            };
            let letters = "_method".chars().zip(&which).map(|(letter, times)| {
                (0..*times).fold(letter.to_string(), |text, _| encode(&text))
            });
            let query = format!("{before}{}=DELETE", letters.collect::<String>());
            prop_assert!(is_in_query(&query), "{}", query);
        }

        #[test]
        fn no_query_makes_it_panic(query in "[a-z_=&;%0-9A-F]{0,40}") {
            is_in_query(&query);
        }
    }
}
