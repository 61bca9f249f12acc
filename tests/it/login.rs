//! `ringbearer login` and `logout`, every way, against the sandbox and beside a running proxy.

use std::net::TcpListener;
use std::time::Duration;

use ringbearer::clock::Clock;
use ringbearer::login::PATIENCE;
use ringbearer::login::callback::Listener;
use ringbearer::oauth::authorization::Authorization;
use ringbearer::sandbox::{Fault, FaultKind, Place};

use crate::login_site::{Site, free_port};
use crate::redis_server::RedisServer;
use crate::support::{START, settle};

const LOGIN: &str = "[identity.sales]\nlogin = true\n";

#[tokio::test]
async fn a_browser_login_adds_an_identity_that_a_running_proxy_uses_at_once() {
    let site = Site::unlimited("").await;
    let proxy = site.serve("proxy");
    assert_eq!(site.ask(&proxy, Some("sales")).await.1, "RBR-105");
    let (status, code, content) = site.ask(&proxy, None).await;
    assert_eq!((status, &*code), (400, "RBR-106"));
    assert!(content.contains("or add the first with `ringbearer login NAME`"), "{content}");

    let mut login = site.start("login sales --no-browser");
    let (status, page) = site.agree(&login.address().await).await;
    assert_eq!(status, 200);
    assert!(page.contains("<h1>You can close this window</h1>"), "{page}");
    let ended = login.ended().await;
    assert_eq!((ended.code, &*ended.err), (Some(0), ""), "{}", ended.out);
    let welcome = "sales is logged in to test as extension 256440017, and is kept in the store. It is \
                   renewed from now on; unused and without a running proxy it ends in ";
    assert!(ended.out.contains(welcome), "{}", ended.out);

    assert_eq!(site.ask(&proxy, Some("sales")).await.0, 200);
    // With a single one, requests need not name it.
    site.ask_until(&proxy, None, 200).await;
    let counts = site.control().counts();
    assert_eq!((counts.token_requests, counts.sessions_alive, counts.api_401), (1, 1, 0));
    proxy.stop().await;
}

#[tokio::test]
async fn a_proxy_that_starts_after_the_login_needs_no_identity_in_its_configuration() {
    let site = Site::unlimited("").await;
    let mut login = site.start("login --no-browser");
    site.agree(&login.address().await).await;
    assert_eq!(login.ended().await.code, Some(0));
    let proxy = site.serve("proxy");
    site.ask_until(&proxy, None, 200).await;
    let ended = site.run("check").await;
    let warning = "warning      no identity is configured: requests are refused until \
                   `ringbearer login NAME` has added one";
    assert!(ended.out.lines().any(|line| line == warning), "{}", ended.out);
    proxy.stop().await;
}

#[tokio::test]
async fn what_is_not_the_login_is_answered_and_not_believed() {
    let site = Site::unlimited("").await;
    let mut login = site.start("login sales --no-browser");
    let address = login.address().await;
    let ask = async |target: &str| {
        let url = site.redirect_uri.replace("/callback", target);
        site.client.get(url).send().await.unwrap()
    };
    for target in
        ["/callback?code=evil&state=guess", "/callback?code=evil", "/callback?error=access_denied"]
    {
        let answer = ask(target).await;
        assert_eq!(answer.status(), 400, "{target}");
        assert_eq!(answer.headers()["cache-control"], "no-store");
        let policy = answer.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        let page = answer.text().await.unwrap();
        assert!(page.contains("This is not the login that is waited for"), "{page}");
    }
    assert_eq!(ask("/favicon.ico").await.status(), 404);
    let posted = site.client.post(&site.redirect_uri).send().await.unwrap();
    assert_eq!(
        (posted.status().as_u16(), &posted.headers()["allow"]),
        (405, &"GET".parse().unwrap())
    );
    assert_eq!(site.control().counts().token_requests, 0);
    assert_eq!(site.agree(&address).await.0, 200, "it goes on waiting");
    assert_eq!(login.ended().await.code, Some(0));
}

#[tokio::test]
async fn a_user_who_says_no_ends_it_with_the_meaning() {
    let site = Site::unlimited("").await;
    let mut login = site.start("login sales --no-browser");
    let (status, page) = site.agree(&format!("{}&consent=no", login.address().await)).await;
    assert_eq!(status, 200);
    assert!(page.contains("<h1>RingCentral refused the login</h1>"), "{page}");
    let ended = login.ended().await;
    assert_eq!(
        (ended.code, &*ended.err),
        (
            Some(1),
            "ringbearer: RingCentral refused the login (access_denied: the login was cancelled, or an \
             administrator does not let this user use the app)\n"
        )
    );
    assert_eq!(site.control().counts().token_requests, 0);
}

#[tokio::test]
async fn a_port_in_use_is_said_before_anybody_is_sent_anywhere() {
    let site = Site::unlimited("").await;
    let address = site.redirect_uri.replace("http://", "").replace("/callback", "");
    let _taken = TcpListener::bind(&address).unwrap();
    let ended = site.run("login sales --no-browser").await;
    let message = format!(
        "ringbearer: {address} is in use: end the process that has it, use --paste, or choose another \
         redirect_uri and register it for the app\n"
    );
    assert_eq!((ended.code, &*ended.out, ended.err), (Some(1), "", message));
}

#[tokio::test]
async fn nobody_comes_for_five_minutes_and_it_ends() {
    let clock = Clock::manual(START);
    let redirect_uri = format!("http://127.0.0.1:{}/callback", free_port());
    let listener = Listener::bind(&redirect_uri).await.unwrap();
    let login = Authorization::begin(&redirect_uri);
    let waiting = tokio::spawn({
        let clock = clock.clone();
        async move { listener.wait(&login, &clock, PATIENCE).await }
    });
    settle().await;
    clock.advance(Duration::from_secs(299));
    settle().await;
    assert!(!waiting.is_finished(), "a second early");
    clock.advance(Duration::from_secs(1));
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "nobody has logged in within 5m: run it again");
}

#[tokio::test]
async fn a_silent_connection_stops_nobody() {
    let clock = Clock::manual(START);
    let redirect_uri = format!("http://127.0.0.1:{}/callback", free_port());
    let address = redirect_uri.replace("http://", "").replace("/callback", "");
    let listener = Listener::bind(&redirect_uri).await.unwrap();
    let login = Authorization::begin(&redirect_uri);
    let waiting = tokio::spawn({
        let clock = clock.clone();
        async move { listener.wait(&login, &clock, PATIENCE).await }
    });
    // As many as are served at a time, and one that has to wait for them to be cut off.
    let mut silent = Vec::new();
    for _ in 0..32 {
        silent.push(tokio::net::TcpStream::connect(&address).await.unwrap());
    }
    settle().await;
    let late = tokio::spawn(crate::support::client().get(&redirect_uri).send());
    while !late.is_finished() {
        clock.advance(Duration::from_secs(1));
        settle().await;
        assert!(!waiting.is_finished(), "not within its five minutes");
    }
    assert_eq!(late.await.unwrap().unwrap().status(), 400);
    waiting.abort();
}

#[tokio::test]
async fn without_terminal_and_browser_it_does_not_wait_for_a_person() {
    let site = Site::unlimited("").await;
    let ended = site.run("login sales").await;
    assert_eq!(
        (ended.code, &*ended.out, &*ended.err),
        (
            Some(1),
            "",
            "ringbearer: there is neither a terminal nor a browser here: say how with --paste, \
             --device, --jwt-file or --no-browser\n"
        )
    );
}

#[tokio::test]
async fn an_address_or_a_code_is_pasted_where_there_is_no_browser() {
    // It leads elsewhere, where nobody listens.
    let site = Site::unlimited(LOGIN).await;
    let elsewhere = "redirect_uri = 'https://app.example.com/callback?a=b'";
    let text = std::fs::read_to_string(site.path("proxy.toml")).unwrap();
    site.write(
        "proxy.toml",
        &text.replace(&format!("redirect_uri = '{}'", site.redirect_uri), elsewhere),
    );
    for whole in [true, false] {
        let mut login = site.start("login --paste");
        let back = site.sent_back_to(&login.address().await).await;
        assert!(back.starts_with("https://app.example.com/callback?a=b&code="), "{back}");
        let code = back.split("code=").nth(1).unwrap().split('&').next().unwrap();
        login.paste(if whole { &back } else { code });
        let ended = login.ended().await;
        assert_eq!((ended.code, &*ended.err), (Some(0), ""), "{}", ended.out);
        assert!(ended.out.contains("sales is logged in to test as "), "{}", ended.out);
    }
    assert_eq!(site.control().counts().token_answers, 2);
    let mut login = site.start("login --paste");
    login.address().await;
    login.paste("https://app.example.com/callback?a=b&code=c&state=other");
    let ended = login.ended().await;
    assert_eq!(
        (ended.code, &*ended.err),
        (
            Some(1),
            "ringbearer: what was pasted belongs to another login: use the address of this one, whole\n"
        )
    );
    let ended = site.run("login --no-browser").await;
    assert_eq!(
        (ended.code, &*ended.err),
        (
            Some(1),
            "ringbearer: redirect_uri https://app.example.com/callback?a=b does not lead to this program: \
             use --paste, or register and configure one such as http://127.0.0.1:8765/callback\n"
        )
    );
}

#[tokio::test]
async fn a_public_client_logs_in_without_a_secret() {
    let site = Site::unlimited("").await;
    let text = std::fs::read_to_string(site.path("proxy.toml")).unwrap();
    let public = text.replace("client_secret = 'sandbox-secret'\n", "");
    site.write("proxy.toml", &public.replace("sandbox-client", "sandbox-public"));
    let mut login = site.start("login sales --no-browser");
    site.agree(&login.address().await).await;
    let ended = login.ended().await;
    assert_eq!((ended.code, &*ended.err), (Some(0), ""), "{}", ended.out);
}

#[tokio::test]
async fn a_device_login_waits_for_somebody_to_enter_the_code() {
    let site = Site::unlimited("").await;
    let mut login = site.start("login sales --device");
    let page = login.says("/restapi/oauth/device").await;
    let code = login.says("SBX-").await;
    let approved = site.client.get(format!("{page}?user_code={code}")).send().await.unwrap();
    assert_eq!(approved.status(), 200);
    let ended = login.ended().await;
    assert_eq!((ended.code, &*ended.err), (Some(0), ""), "{}", ended.out);
    assert!(ended.out.contains(&format!("or open {page}?user_code={code}")), "{}", ended.out);
    assert!(
        ended.out.contains("sales is logged in to test as extension 256440017"),
        "{}",
        ended.out
    );
}

#[tokio::test]
async fn a_server_without_device_logins_is_told_from_one_that_fails() {
    let site = Site::unlimited("").await;
    let text = std::fs::read_to_string(site.path("proxy.toml")).unwrap();
    let nowhere = format!("{}/restapi/oauth/nowhere", site.sandbox.url());
    let line = format!("device_authorization_url = '{nowhere}'\nredirect_uri");
    site.write("proxy.toml", &text.replace("redirect_uri", &line));
    let ended = site.run("login sales --device").await;
    let message = format!(
        "ringbearer: the server offers no login on a device (405 Method Not Allowed at {nowhere}): use \
         --paste\n"
    );
    assert_eq!((ended.code, ended.err), (Some(1), message));
}

#[tokio::test]
async fn a_jwt_is_kept_as_an_identity_with_its_first_token() {
    let site = Site::unlimited("").await;
    let proxy = site.serve("proxy");
    let jwt = site.write("jwt", "sandbox-jwt-7\n");
    let ended = site.run(&format!("login bot --jwt-file {jwt}")).await;
    assert_eq!((ended.code, &*ended.err), (Some(0), ""), "{}", ended.out);
    assert!(
        ended.out.contains(
            "bot is logged in to test as extension 256440023, and is kept in the store. "
        ),
        "{}",
        ended.out
    );
    assert!(!ended.out.contains("sandbox-jwt"), "{}", ended.out);
    let ended = site.start_with("login spare --jwt-file -", "proxy", "sandbox-jwt-8\n", &[]);
    assert_eq!(ended.ended().await.code, Some(0));
    for (identity, user) in [("bot", 7), ("spare", 8)] {
        assert_eq!(site.ask(&proxy, Some(identity)).await.0, 200);
        assert_eq!(site.control().log().last().unwrap().user, Some(user));
    }
    assert_eq!(site.control().counts().token_requests, 2, "the first tokens are used");
    // An identity that was added by its JWT opens the next session itself.
    site.control().end_sessions();
    assert_eq!(site.ask(&proxy, Some("bot")).await.0, 200);
    let ended = site.run("logout bot").await;
    assert_eq!(
        (ended.code, &*ended.out),
        (
            Some(0),
            "bot is logged out: no proxy with this store uses the session any more, and the identity is \
             forgotten.\nIt is ended at RingCentral too.\n"
        )
    );
    site.ask_until(&proxy, Some("bot"), 403).await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_refused_jwt_is_not_kept() {
    let site = Site::unlimited("").await;
    let jwt = site.write("jwt", "canary");
    let ended = site.run(&format!("login bot --jwt-file {jwt}")).await;
    assert_eq!(
        (ended.code, &*ended.err),
        (
            Some(1),
            "ringbearer: no session was opened: the token endpoint refused the credential \
             (invalid_grant, OAU-251): log in again, or configure another one\n"
        )
    );
    let ended = site.run("logout bot").await;
    assert_eq!(
        (ended.code, &*ended.err),
        (
            Some(1),
            "ringbearer: there is no identity \"bot\": neither configured nor in the store\n"
        )
    );
}

#[tokio::test]
async fn a_configured_identity_is_not_shadowed() {
    let site = Site::unlimited("[identity.sales]\njwt = 'sandbox-jwt'\n").await;
    let ended = site.run("login sales --no-browser").await;
    assert_eq!(
        (ended.code, &*ended.err),
        (
            Some(1),
            "ringbearer: identity \"sales\" is configured with jwt, and a login would not be used: write \
             login = true instead of jwt, or log in under another name\n"
        )
    );
}

#[tokio::test]
async fn a_configured_login_waits_for_its_session_and_a_second_one_replaces_it() {
    let site = Site::unlimited(LOGIN).await;
    let proxy = site.serve("proxy");
    let (status, code, content) = site.ask(&proxy, None).await;
    assert_eq!((status, &*code), (503, "RBR-202"));
    assert!(content.contains("nobody has logged in: run `ringbearer login`"), "{content}");

    let mut login = site.start("login --no-browser");
    site.agree(&login.address().await).await;
    let ended = login.ended().await;
    assert!(!ended.out.contains("kept in the store"), "it is configured: {}", ended.out);
    site.ask_until(&proxy, None, 200).await;
    assert_eq!(site.last_session(), Some(1));

    let mut login = site.start("login --no-browser");
    site.agree(&login.address().await).await;
    let ended = login.ended().await;
    assert!(ended.out.ends_with("The session before it is ended.\n"), "{}", ended.out);
    assert_eq!(site.ask(&proxy, None).await.0, 200, "whatever the proxy knew");
    assert_eq!(site.last_session(), Some(2));
    let counts = site.control().counts();
    assert_eq!((counts.token_requests, counts.revocations, counts.sessions_alive), (2, 1, 1));
    proxy.stop().await;
}

#[tokio::test]
async fn a_logout_ends_the_session_for_a_proxy_that_serves() {
    let site = Site::unlimited(LOGIN).await;
    let mut login = site.start("login --no-browser");
    site.agree(&login.address().await).await;
    assert_eq!(login.ended().await.code, Some(0));
    let proxy = site.serve("proxy");
    assert_eq!(site.ask(&proxy, None).await.0, 200);

    let ended = site.run("logout sales").await;
    assert_eq!(
        (ended.code, &*ended.out, &*ended.err),
        (
            Some(0),
            "sales is logged out: no proxy with this store uses the session any more.\n\
             It is ended at RingCentral too.\n",
            ""
        )
    );
    let (_, code, content) = site.ask_until(&proxy, None, 503).await;
    assert_eq!(code, "RBR-202");
    assert!(content.contains("the session was ended by a logout: log in again"), "{content}");
    let counts = site.control().counts();
    assert_eq!((counts.token_requests, counts.revocations, counts.sessions_alive), (1, 1, 0));

    let ended = site.run("logout sales").await;
    assert_eq!((ended.code, &*ended.out), (Some(0), "sales had no session.\n"));
    let mut login = site.start("login --no-browser");
    site.agree(&login.address().await).await;
    assert_eq!(login.ended().await.code, Some(0));
    site.ask_until(&proxy, None, 200).await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_logout_that_cannot_reach_ringcentral_has_ended_it_here() {
    let site = Site::unlimited(LOGIN).await;
    let mut login = site.start("login --no-browser");
    site.agree(&login.address().await).await;
    assert_eq!(login.ended().await.code, Some(0));
    let kind = FaultKind::Status { code: 500, body: None, retry_after: None };
    let path_prefix = Some("/restapi/oauth/revoke".to_owned());
    site.control().inject(Fault { at: Place::Api, path_prefix, kind, times: None });
    let ended = site.run("logout sales").await;
    assert_eq!(ended.code, Some(0));
    let said = "It is not ended at RingCentral, and ends there by itself: the revocation endpoint \
                answered 500 Internal Server Error\n";
    assert!(ended.out.ends_with(said), "{}", ended.out);
    let proxy = site.serve("proxy");
    assert_eq!(site.ask(&proxy, None).await.1, "RBR-202");
    proxy.stop().await;
}

#[tokio::test]
async fn keep_ends_the_session_and_not_the_identity() {
    let site = Site::unlimited("").await;
    let jwt = site.write("jwt", "sandbox-jwt-7\n");
    assert_eq!(site.run(&format!("login bot --jwt-file {jwt}")).await.code, Some(0));
    let ended = site.run("logout bot --keep").await;
    assert_eq!(
        ended.out,
        "bot is logged out: no proxy with this store uses the session any more.\n\
         It is ended at RingCentral too.\n\
         What bot is configured with opens a new session with the next request.\n"
    );
    let proxy = site.serve("proxy");
    assert_eq!(site.ask(&proxy, Some("bot")).await.0, 200);
    proxy.stop().await;
}

#[tokio::test]
async fn a_login_is_heard_of_through_redis() {
    let Some(server) = RedisServer::start().await else { return };
    let site = Site::unlimited("").await;
    site.configure("proxy", &format!("[store]\nredis = '{}'\n", server.url()));
    let proxy = site.serve("proxy");
    assert_eq!(site.ask(&proxy, Some("sales")).await.1, "RBR-105");
    for session in [1, 2] {
        let mut login = site.start("login sales --no-browser");
        site.agree(&login.address().await).await;
        let ended = login.ended().await;
        assert_eq!((ended.code, &*ended.err), (Some(0), ""), "{}", ended.out);
        assert_eq!(site.ask(&proxy, Some("sales")).await.0, 200);
        assert_eq!(site.last_session(), Some(session));
    }
    site.ask_until(&proxy, None, 200).await;
    let ended = site.run("logout sales").await;
    assert_eq!((ended.code, &*ended.err), (Some(0), ""), "{}", ended.out);
    site.ask_until(&proxy, Some("sales"), 403).await;
    proxy.stop().await;
}
