use super::*;

fn form(pairs: &[(&str, &str)]) -> Form {
    Form(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
}

fn granted(pairs: &[(&str, &str)]) -> Result<Granted, Refusal> {
    let rules = Rules::default();
    let (mut sessions, mut codes) = (Sessions::new(1), Codes::default());
    let now = Timestamp::from_unix_millis(1_700_000_000_000);
    let mut desk = Desk { sessions: &mut sessions, codes: &mut codes, rules: &rules, now };
    desk.grant(&Application::demo(), &form(pairs))
}

fn jwt<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[("grant_type", JWT_BEARER), ("assertion", "sandbox-jwt")], more].concat()
}

#[test]
fn access_token_lives_are_clamped_to_what_ringcentral_allows() {
    for (wish, expected) in [("-1", 600), ("1", 600), ("1800", 1800), ("99999", 3600), ("x", 3600)]
    {
        let granted = granted(&jwt(&[("access_token_ttl", wish)])).unwrap();
        assert_eq!(granted.expires_in.as_secs(), expected, "access_token_ttl={wish}");
    }
}

#[test]
fn refresh_token_lives_are_clamped_and_zero_means_none() {
    let cases = [("0", None), ("-1", Some(604_800)), ("60", Some(60)), ("9999999", Some(604_800))];
    for (wish, expected) in cases {
        let granted = granted(&jwt(&[("refresh_token_ttl", wish)])).unwrap();
        let life = granted.refresh.map(|(_, life)| life.as_secs());
        assert_eq!(life, expected, "refresh_token_ttl={wish}");
    }
}

#[test]
fn endpoint_id_is_kept_or_made_up() {
    assert_eq!(granted(&jwt(&[("endpoint_id", "e7")])).unwrap().endpoint_id, "e7");
    assert_eq!(granted(&jwt(&[])).unwrap().endpoint_id, "sandbox-endpoint-1");
}

#[test]
fn a_grant_without_its_parameter_names_the_parameter() {
    let cases = [
        (vec![], "grant_type"),
        (vec![("grant_type", JWT_BEARER)], "assertion"),
        (vec![("grant_type", "refresh_token")], "refresh_token"),
        (vec![("grant_type", "authorization_code")], "code"),
        (vec![("grant_type", "password")], "username"),
        (vec![("grant_type", DEVICE_CODE)], "device_code"),
    ];
    for (pairs, missing) in cases {
        let refused = granted(&pairs).unwrap_err();
        assert_eq!(refused.message, format!("Parameter [{missing}] is missing"));
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    }
}

#[test]
fn an_application_may_be_kept_from_a_grant() {
    let rules = Rules::default();
    let (mut sessions, mut codes) = (Sessions::new(1), Codes::default());
    let now = Timestamp::from_unix_millis(0);
    let mut desk = Desk { sessions: &mut sessions, codes: &mut codes, rules: &rules, now };
    let application =
        Application { grants: Some(vec!["refresh_token".into()]), ..Application::demo() };
    let refused = desk.grant(&application, &form(&jwt(&[]))).unwrap_err();
    assert_eq!((refused.status, refused.code), (StatusCode::FORBIDDEN, "OAU-112"));
}

#[test]
fn clients_prove_themselves_by_field_form_assertion_or_pkce() {
    let rules = Rules::default();
    let who = |authorization: Option<&str>, pairs: &[(&str, &str)]| {
        let client = authenticate_client(&rules, authorization, &form(pairs));
        client.map(|application| application.client_id.clone()).map_err(|refused| refused.code)
    };
    let basic = |text: &str| format!("basic {}", STANDARD.encode(text));
    let demo = Ok("sandbox-client".to_owned());
    assert_eq!(who(Some(&basic("sandbox-client:sandbox-secret")), &[]), demo);
    assert_eq!(who(Some(&basic("sandbox-client:nope")), &[]), Err("OAU-121"));
    assert_eq!(who(Some(&basic("nobody:nope")), &[]), Err("OAU-120"));
    let id = ("client_id", "sandbox-client");
    assert_eq!(who(None, &[id, ("client_secret", "sandbox-secret")]), demo);
    assert_eq!(who(None, &[id]), Err("OAU-121"));
    assert_eq!(who(None, &[]), Err("OAU-146"));
    assert_eq!(who(None, &[("client_id", "sandbox-public")]), Ok("sandbox-public".into()));
    let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"sandbox-client"}"#);
    let assertion = format!("e30.{claims}.c2ln");
    let asserted =
        [("client_assertion_type", ASSERTION_TYPE), ("client_assertion", assertion.as_str())];
    assert_eq!(who(None, &asserted), demo);
    assert_eq!(who(None, &asserted[1..]), Err("OAU-151"));
    assert_eq!(claimed_client(None, &form(&asserted)), "sandbox-client");
}

#[test]
fn expires_in_may_understate_the_life() {
    let rules = Rules { expires_in_less: 1, ..Rules::default() };
    let body = token_body(&granted(&jwt(&[])).unwrap(), &rules);
    assert_eq!(body["expires_in"], 3599);
}
