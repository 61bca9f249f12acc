//! The sandbox's token endpoint and what becomes of its tokens.

use std::time::Duration;

use reqwest::Method;
use ringbearer::sandbox::Rules;
use serde_json::json;

use crate::sandbox_support::{ECHO, JWT, Stage, answer, text};

#[tokio::test]
async fn a_jwt_opens_a_session_whose_token_lives_an_hour() {
    let stage = Stage::unlimited().await;
    let pair = stage.login(1).await;
    assert_eq!(pair["expires_in"], 3600);
    assert_eq!(pair["refresh_token_expires_in"], 604_800);
    assert_eq!(pair["token_type"], "bearer");
    assert_eq!(stage.use_access(&pair).await, "200");
    stage.pass(3600);
    assert_eq!(stage.use_access(&pair).await, "OAU-128");
    let counts = stage.control().counts();
    assert_eq!((counts.token_requests, counts.token_answers), (1, 1));
    assert_eq!(counts.token_requests_by_grant[JWT], 1);
    assert_eq!((counts.api_requests, counts.api_401), (2, 1));
    assert_eq!(counts.sessions_alive, 1);
}

#[tokio::test]
async fn a_refresh_kills_the_old_access_token_and_repeats_itself_for_a_while() {
    let stage = Stage::unlimited().await;
    let first = stage.login(1).await;
    let (_, second) = stage.refresh(&first).await;
    assert_eq!(stage.use_access(&first).await, "OAU-129");
    stage.pass(10);
    assert_eq!(stage.use_access(&first).await, "OAU-213");
    stage.pass(3000);
    let (status, repeated) = stage.refresh(&first).await;
    assert_eq!((status, &repeated["access_token"]), (200, &second["access_token"]));
    assert_eq!(repeated["refresh_token"], second["refresh_token"]);
    assert_eq!(stage.use_access(&second).await, "200");
    stage.pass(9);
    assert_eq!(stage.refresh(&first).await.1["access_token"], second["access_token"]);
    stage.pass(1);
    let (status, refused) = stage.refresh(&first).await;
    assert_eq!((status, &refused["error"]), (400, &json!("invalid_grant")));
    assert_eq!(stage.control().counts().token_repeats, 2);
}

#[tokio::test]
async fn a_sixth_session_ends_the_oldest_of_the_same_user_only() {
    let stage = Stage::unlimited().await;
    let other = stage.login(2).await;
    let mut pairs = Vec::new();
    for _ in 0..6 {
        pairs.push(stage.login(1).await);
    }
    assert_eq!(stage.use_access(&pairs[0]).await, "OAU-129");
    for pair in pairs[1..].iter().chain([&other]) {
        assert_eq!(stage.use_access(pair).await, "200");
    }
}

#[tokio::test]
async fn revocation_ends_the_whole_session() {
    let stage = Stage::unlimited().await;
    let pair = stage.login(1).await;
    let revoke = stage.request(Method::POST, "/restapi/oauth/revoke");
    let revoke = revoke.basic_auth("sandbox-client", Some("sandbox-secret"));
    let token = text(&pair, "refresh_token");
    let (status, _) = answer(revoke.form(&[("token", token)]).send().await.unwrap()).await;
    assert_eq!(status, 200);
    assert_eq!(stage.use_access(&pair).await, "OAU-129");
    assert_eq!(stage.refresh(&pair).await.0, 400);
    assert_eq!(stage.control().counts().sessions_alive, 0);
}

#[tokio::test]
async fn the_sixth_token_request_of_a_minute_is_refused_with_the_wait() {
    let stage = Stage::with(Rules::default()).await;
    for user in 1..=5 {
        stage.login(user).await;
    }
    let request = stage.request(Method::POST, "/restapi/oauth/token");
    let request = request.basic_auth("sandbox-client", Some("sandbox-secret"));
    let form = [("grant_type", JWT), ("assertion", "sandbox-jwt-6")];
    let response = request.form(&form).send().await.unwrap();
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "60");
    stage.pass(60);
    stage.login(6).await;
    assert_eq!(stage.control().counts().token_429, 1);
}

#[tokio::test]
async fn a_public_client_gets_its_code_exchanged_with_pkce_only() {
    let stage = Stage::unlimited().await;
    // The verifier and challenge of RFC 7636, appendix B.
    let target = "/restapi/oauth/authorize?response_type=code&client_id=sandbox-public&state=s%201\
                  &redirect_uri=http://127.0.0.1:9/cb&code_challenge_method=S256\
                  &code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
    let response = stage.request(Method::GET, target).send().await.unwrap();
    assert_eq!(response.status(), 302);
    let location = response.headers()["location"].to_str().unwrap();
    assert!(location.ends_with("&state=s+1"), "{location}");
    let query = location.strip_prefix("http://127.0.0.1:9/cb?").unwrap();
    let code = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "code").unwrap().1;
    let exchange = |verifier: &'static str| {
        let form = [
            ("grant_type", "authorization_code"),
            ("client_id", "sandbox-public"),
            ("redirect_uri", "http://127.0.0.1:9/cb"),
            ("code", &code),
            ("code_verifier", verifier),
        ];
        stage.request(Method::POST, "/restapi/oauth/token").form(&form).send()
    };
    let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let (status, pair) = answer(exchange(verifier).await.unwrap()).await;
    assert_eq!(status, 200, "{pair}");
    assert_eq!(stage.use_access(&pair).await, "200");
    assert_eq!(exchange(verifier).await.unwrap().status(), 400, "a code is good once");
    assert_eq!(stage.use_access(&pair).await, "OAU-129", "its reuse ends what it opened");
}

#[tokio::test]
async fn wrong_clients_and_grants_are_refused_in_both_error_shapes() {
    let stage = Stage::unlimited().await;
    let request = stage.request(Method::POST, "/restapi/oauth/token");
    let form = [("grant_type", JWT), ("assertion", "sandbox-jwt")];
    let wrong = request.basic_auth("sandbox-client", Some("wrong")).form(&form);
    let (status, body) = answer(wrong.send().await.unwrap()).await;
    assert_eq!((status, &body["error"]), (401, &json!("invalid_client")));
    assert_eq!(body["errors"][0]["errorCode"], "OAU-121");
    let (status, body) = stage.token(&[("grant_type", "magic")]).await;
    assert_eq!((status, &body["error"]), (400, &json!("unsupported_grant_type")));
    let wrong = [("grant_type", "password"), ("username", "+1"), ("password", "x")];
    assert_eq!(stage.token(&wrong).await.1["errorCode"], "OAU-140");
}

#[tokio::test]
async fn passwords_and_client_credentials_open_sessions_too() {
    let stage = Stage::unlimited().await;
    let password = [
        ("grant_type", "password"),
        ("username", "+15551230001"),
        ("extension", "101"),
        ("password", "sandbox-password"),
    ];
    for form in [&password[..], &[("grant_type", "client_credentials")]] {
        let (status, pair) = stage.token(form).await;
        assert_eq!(status, 200, "{pair}");
        assert_eq!(stage.use_access(&pair).await, "200");
    }
}

#[tokio::test]
async fn a_device_gets_its_token_when_the_user_has_agreed() {
    let stage = Stage::unlimited().await;
    let form = [("client_id", "sandbox-public")];
    let request = stage.request(Method::POST, "/restapi/oauth/device_authorization").form(&form);
    let (_, codes) = answer(request.send().await.unwrap()).await;
    let poll = || async {
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code".to_owned()),
            ("client_id", "sandbox-public".to_owned()),
            ("device_code", text(&codes, "device_code")),
        ];
        let request = stage.request(Method::POST, "/restapi/oauth/token").form(&form);
        answer(request.send().await.unwrap()).await
    };
    assert_eq!(poll().await.1["error"], "authorization_pending");
    let page = text(&codes, "verification_uri_complete");
    assert_eq!(stage.client.get(page).send().await.unwrap().status(), 200);
    let (status, pair) = poll().await;
    assert_eq!(status, 200, "{pair}");
    assert_eq!(poll().await.1["error"], "expired_token", "a device code is good once");
}

#[tokio::test]
async fn the_levers_end_tokens_and_sessions_at_once() {
    let stage = Stage::unlimited().await;
    let pair = stage.login(1).await;
    stage.control().expire_access_tokens();
    assert_eq!(stage.use_access(&pair).await, "OAU-128");
    let (_, pair) = stage.refresh(&pair).await;
    stage.control().revoke_access_tokens();
    assert_eq!(stage.use_access(&pair).await, "OAU-129");
    let (status, pair) = stage.refresh(&pair).await;
    assert_eq!((status, stage.use_access(&pair).await.as_str()), (200, "200"));
    stage.control().end_sessions();
    assert_eq!(stage.use_access(&pair).await, "OAU-129");
    assert_eq!(stage.refresh(&pair).await.0, 400);
}

#[tokio::test]
async fn a_demo_may_have_tokens_of_twenty_seconds() {
    let stage = Stage::unlimited().await;
    stage.control().set_rules(|rules| rules.access_token_ttl = Duration::from_secs(20));
    let pair = stage.login(1).await;
    assert_eq!(pair["expires_in"], 20);
    stage.pass(20);
    assert_eq!(stage.use_access(&pair).await, "OAU-128");
}

#[tokio::test]
async fn every_way_of_saying_nothing_useful_gets_its_own_401() {
    let stage = Stage::unlimited().await;
    let pair = stage.login(1).await;
    let code = |request: reqwest::RequestBuilder| async {
        let response = request.send().await.unwrap();
        assert!(response.headers().contains_key("www-authenticate"));
        assert!(response.headers().contains_key("rcrequestid"));
        text(&answer(response).await.1["errors"][0], "errorCode")
    };
    assert_eq!(code(stage.request(Method::GET, ECHO)).await, "CMN-405");
    assert_eq!(code(stage.get(ECHO, "undefined")).await, "OAU-149");
    assert_eq!(code(stage.get(ECHO, "sandbox-access-0")).await, "OAU-213");
    let basic = stage.request(Method::GET, ECHO).basic_auth("id", Some("secret"));
    assert_eq!(code(basic).await, "AGW-402");
    let target = format!("{ECHO}?access_token={}", text(&pair, "access_token"));
    assert_eq!(stage.request(Method::GET, &target).send().await.unwrap().status(), 200);
}
