//! Several identities in one proxy: nobody ever gets another's token.

use ringbearer::sandbox::Rules;
use tokio::task::JoinSet;

use crate::support::{ECHO, Environment, Wishes, client};

const CONNECTIONS: u64 = 16;
/// Of each identity, on each connection.
const CALLS: u64 = 125;

#[tokio::test]
async fn four_thousand_interleaved_calls_of_two_identities_use_each_its_own_token() {
    let rules = Rules { log_capacity: 10_000, ..Rules::unlimited() };
    let identity = "jwt = \"sandbox-jwt-1\"\n[identity.other]\njwt = \"sandbox-jwt-2\"".into();
    let environment = Environment::with(Wishes { rules, identity, ..Wishes::default() }).await;
    let mut load = JoinSet::new();
    for connection in 0..CONNECTIONS {
        load.spawn(both(environment.url(&format!("{ECHO}?connection={connection}"))));
    }
    environment.control().wait_until(|counts| counts.api_requests >= 2000).await;
    environment.control().revoke_access_tokens();
    load.join_all().await;

    let log = environment.control().log();
    let calls = log.iter().filter(|arrival| arrival.target.starts_with(ECHO));
    let mut let_in = [0, 0];
    for call in calls.filter(|call| call.status == Some(200)) {
        let user = if call.target.ends_with("as=1") { 1 } else { 2 };
        assert_eq!(call.user, Some(user), "{}", call.target);
        assert_eq!(call.field("x-ringbearer-identity"), None, "{}", call.target);
        let_in[usize::try_from(user).unwrap() - 1] += 1;
    }
    assert_eq!(let_in, [2000, 2000]);
    assert_eq!(environment.control().counts().token_requests, 4, "two each");
    environment.finish().await;
}

#[tokio::test]
async fn with_two_identities_a_call_that_names_none_or_a_stranger_is_refused() {
    let identity = "jwt = \"sandbox-jwt-1\"\n[identity.other]\njwt = \"sandbox-jwt-2\"".into();
    let environment = Environment::with(Wishes { identity, ..Wishes::default() }).await;
    let nobody = environment.get(ECHO).await;
    assert_eq!(
        (nobody.status().as_u16(), &nobody.headers()["x-ringbearer-error"]),
        (400, &"RBR-106".parse().unwrap())
    );
    let stranger = environment.client.get(environment.url(ECHO));
    let stranger = stranger.header("X-Ringbearer-Identity", "stranger").send().await.unwrap();
    assert_eq!(
        (stranger.status().as_u16(), &stranger.headers()["x-ringbearer-error"]),
        (403, &"RBR-105".parse().unwrap())
    );
    assert_eq!(environment.control().counts().api_requests, 0);
    environment.finish().await;
}

async fn both(url: String) {
    let client = client();
    for _ in 0..CALLS {
        for (user, identity) in [(1, "test"), (2, "other")] {
            let request = client.get(format!("{url}&as={user}"));
            let answer = request.header("X-Ringbearer-Identity", identity).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            answer.bytes().await.unwrap();
        }
    }
}
