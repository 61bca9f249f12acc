use http::HeaderValue;

use super::*;

const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);

fn answer(status: u16, content: &str) -> Result<TokenSet, TokenError> {
    answer_with(status, &HeaderMap::new(), content)
}

fn answer_with(status: u16, fields: &HeaderMap, content: &str) -> Result<TokenSet, TokenError> {
    let status = StatusCode::from_u16(status).unwrap();
    read(&Answer { status, fields, content: content.as_bytes() }, NOW)
}

fn with_expires_in(expires_in: &str) -> Result<TokenSet, TokenError> {
    answer(
        200,
        &format!(r#"{{"access_token":"a","token_type":"bearer","expires_in":{expires_in}}}"#),
    )
}

#[test]
fn reads_a_full_answer() {
    let set = answer(
        200,
        r#"{"access_token":"abc.DEF-_~+/==","token_type":"BEARER","expires_in":3599,
            "refresh_token":"r","refresh_token_expires_in":604800,"scope":"SMS","owner_id":"1",
            "endpoint_id":"e","something_new":[1]}"#,
    )
    .unwrap();
    assert_eq!(set.access_token.expose(), "abc.DEF-_~+/==");
    assert_eq!(set.lifetime(), Duration::from_secs(3599));
    let refresh = set.refresh.unwrap();
    assert_eq!(refresh.token.expose(), "r");
    assert_eq!(refresh.expires_at, Some(NOW + Duration::from_secs(604_800)));
    assert_eq!((set.scope.as_deref(), set.owner_id.as_deref()), (Some("SMS"), Some("1")));
    assert_eq!(set.endpoint_id.as_deref(), Some("e"));
}

#[test]
fn a_refresh_token_of_null_is_none_and_an_odd_endpoint_id_is_not_kept() {
    let set = answer(
        200,
        r#"{"access_token":"a","token_type":"bearer","expires_in":1,"refresh_token":null,
            "endpoint_id":"e\u0000"}"#,
    )
    .unwrap();
    assert!(set.refresh.is_none() && set.endpoint_id.is_none());
}

#[test]
fn takes_a_lifetime_as_string_and_bounds_an_absurd_one() {
    assert_eq!(with_expires_in("\"3600\"").unwrap().lifetime(), Duration::from_secs(3600));
    assert_eq!(with_expires_in("99999999999999").unwrap().lifetime(), MAX_LIFETIME);
}

#[test]
fn a_malformed_200_is_never_a_token_set() {
    let fault = |content: &str| match answer(200, content) {
        Err(TokenError::Malformed { fault }) => fault,
        other => panic!("{content}: {other:?}"),
    };
    assert_eq!(fault("<html>secret</html>"), "it is not a JSON object");
    assert_eq!(fault(""), "it is not a JSON object");
    assert_eq!(fault("[]"), "it is not a JSON object");
    for content in [
        r#"{"token_type":"bearer","expires_in":1}"#,
        r#"{"access_token":"","token_type":"bearer","expires_in":1}"#,
        r#"{"access_token":17,"token_type":"bearer","expires_in":1}"#,
    ] {
        assert_eq!(fault(content), "it has no access_token");
    }
    for token in [r"a\r\nb", "a b", r"a\u0000", "ü", &"x".repeat(MAX_TOKEN_BYTES + 1)] {
        let content =
            format!(r#"{{"access_token":"{token}","token_type":"bearer","expires_in":1}}"#);
        assert_eq!(fault(&content), "its access_token has bytes that no field may carry");
    }
    for kind in [r#""mac""#, "null"] {
        let content = format!(r#"{{"access_token":"a","token_type":{kind},"expires_in":1}}"#);
        assert_eq!(fault(&content), "its token_type is not bearer");
    }
    for expires_in in ["0", "-1", "\"soon\"", "\"-5\"", "1.5", "null", "{}"] {
        let error = with_expires_in(expires_in).unwrap_err().to_string();
        assert!(error.contains("expires_in is not a positive number"), "{expires_in}: {error}");
    }
    let with = |member: &str| {
        fault(&format!(r#"{{"access_token":"a","token_type":"bearer","expires_in":1,{member}}}"#))
    };
    let unfit = "its refresh_token has bytes that no form may carry";
    assert_eq!(with(r#""refresh_token":"a b""#), unfit);
    for value in ["17", "\"\"", "[]", "{}", "true"] {
        let member = format!(r#""refresh_token":{value}"#);
        assert_eq!(with(&member), "its refresh_token is not a token");
    }
    assert_eq!(with(r#""access_token":"b""#), "it names a member twice");
}

#[test]
fn tells_refusals_apart_by_what_to_do() {
    let oauth =
        |code: &str| format!(r#"{{"error":"{code}","errors":[{{"errorCode":"OAU-121"}}]}}"#);
    let text = |status, content: &str| answer(status, content).unwrap_err().to_string();
    assert_eq!(
        text(400, &oauth("invalid_grant")),
        "the token endpoint refused the credential (invalid_grant, OAU-121): log in again, or configure another one"
    );
    assert!(text(401, &oauth("invalid_client")).contains("correct client_id and client_secret"));
    assert!(text(400, &oauth("invalid_client")).contains("correct client_id and client_secret"));
    assert!(text(401, "<html>").contains("(no code)"));
    assert!(text(400, &oauth("unauthorized_client")).contains("developer console"));
    assert!(text(403, &oauth("access_denied")).contains("developer console"));
    assert!(matches!(answer(500, "x"), Err(TokenError::ServerFault { .. })));
    assert!(matches!(answer(408, "x"), Err(TokenError::ServerFault { .. })));
    for (status, content) in [(400, "<html>"), (403, "<html>"), (302, ""), (404, "{}"), (502, "")] {
        let error = answer(status, content).unwrap_err();
        assert!(matches!(error, TokenError::Unexpected { .. }), "{status}: {error}");
    }
}

#[test]
fn silence_lasts_as_long_as_asked_within_reason() {
    let silence = |status: u16, value: Option<&str>| {
        let mut fields = HeaderMap::new();
        if let Some(value) = value {
            fields.insert(header::RETRY_AFTER, HeaderValue::from_str(value).unwrap());
        }
        match answer_with(status, &fields, "") {
            Err(TokenError::Penalty { retry_after, .. }) => retry_after.as_secs(),
            other => panic!("{status} {value:?}: {other:?}"),
        }
    };
    assert_eq!(silence(429, Some("47")), 47);
    assert_eq!(silence(503, Some("0")), 0);
    assert_eq!(silence(429, None), 30);
    assert_eq!(silence(503, Some("soon")), 30);
    assert_eq!(silence(429, Some("-3")), 30);
    assert_eq!(silence(429, Some("31536000")), 3600);
    let date = |at: Timestamp| httpdate::fmt_http_date(at.into());
    assert_eq!(silence(429, Some(&date(NOW + Duration::from_secs(90)))), 90);
    assert_eq!(silence(429, Some(&date(NOW - Duration::from_secs(90)))), 0);
}

#[test]
fn no_error_repeats_what_the_server_wrote() {
    let content = r#"{"error":"canary secret","error_description":"canary","errorCode":"ca\u0000nary",
        "errors":[{"errorCode":"OAU-1","message":"canary"}],"access_token":"canary"}"#;
    for status in [200, 400, 401, 403, 404, 429, 500] {
        let error = answer(status, content).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("canary"), "{status}: {error:?}");
    }
}
