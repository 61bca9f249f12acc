//! Redis over TLS, with users of its access control list.

use std::fs;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use ringbearer::store::TokenStore;
use tempfile::TempDir;

use crate::redis::use_every_operation;
use crate::redis_server::{RedisServer, open_store};
use crate::throttle_shared::{open_limits, use_every_operation_of_limits};

/// What docs/redis.md grants to the proxy's user.
const RIGHTS: &str = "~test:* &test:changes &test:silences +ping +get +set +del +exists +hget +hset +hdel +hmget \
                      +hgetall +persist +pexpire +sadd +smembers +zadd +zcard +zcount +zscore \
                      +zrangebyscore +zremrangebyscore +eval +time +publish +subscribe";

/// A certificate authority, and what it has issued to a server.
struct Authority {
    files: TempDir,
}

impl Authority {
    fn issuing_to(name: &str) -> Self {
        let files = TempDir::new().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new([name.to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &authority).unwrap();
        fs::write(files.path().join("ca.pem"), authority.pem()).unwrap();
        fs::write(files.path().join("server.pem"), leaf.pem()).unwrap();
        fs::write(files.path().join("server.key"), key.serialize_pem()).unwrap();
        Self { files }
    }

    fn file(&self, name: &str) -> String {
        self.files.path().join(name).to_str().unwrap().to_owned()
    }

    /// A server with this certificate, a user `proxy` and a user `stranger`.
    async fn server(&self) -> Option<RedisServer> {
        RedisServer::with(&format!(
            "tls-port PORT\ntls-auth-clients no\ntls-cert-file {}\ntls-key-file {}\n\
             tls-ca-cert-file {}\nuser default off\nuser proxy on >p@ss/word {RIGHTS}\n\
             user stranger on >canary +ping\n\
             user reader on >canary ~test:* +ping +eval +time +hgetall\n",
            self.file("server.pem"),
            self.file("server.key"),
            self.file("ca.pem"),
        ))
        .await
    }

    /// `[store]` for a user of the server.
    fn store(&self, user: &str, host: &str, server: &RedisServer) -> String {
        let (ca, port) = (self.file("ca.pem"), server.port());
        format!("redis = \"rediss://{user}@{host}:{port}\"\nredis_ca_file = {ca:?}")
    }
}

/// Why the store does not do it, without its address.
async fn refusal(lines: &str) -> String {
    let error = open_store(lines).load("sales").await.unwrap_err();
    let error = ringbearer::telemetry::chain(&error);
    assert!(!error.contains("canary"), "{error}");
    error.split_once(" cannot read a session: ").expect(&error).1.to_owned()
}

#[tokio::test]
async fn a_user_with_the_rights_of_the_page_can_do_everything_over_tls() {
    let authority = Authority::issuing_to("127.0.0.1");
    let Some(server) = authority.server().await else { return };
    let lines = authority.store("proxy:p%40ss%2Fword", "127.0.0.1", &server);
    use_every_operation(&open_store(&lines)).await.unwrap();
    let limits = open_limits(&format!("{lines}\nredis_prefix = \"test:\""));
    use_every_operation_of_limits(&limits).await.unwrap();
    // What a script may not is told like what a command may not.
    let lines = authority.store("reader:canary", "127.0.0.1", &server);
    let limits = open_limits(&format!("{lines}\nredis_prefix = \"test:\""));
    let refused = use_every_operation_of_limits(&limits).await.unwrap_err();
    let refused = ringbearer::telemetry::chain(&refused);
    assert!(refused.contains("grant the rights that docs/redis.md lists"), "{refused}");
}

#[test]
fn the_page_grants_exactly_these_rights() {
    let page = include_str!("../../docs/redis.md").split_whitespace().collect::<Vec<_>>().join(" ");
    let rights = RIGHTS.replace("test:", "ringbearer:");
    let rights = rights.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(page.contains(&rights), "docs/redis.md lacks: {rights}");
}

#[test]
fn whatever_a_script_calls_is_granted() {
    let scripts = include_str!("../../src/store/redis/scripts.rs");
    let called = scripts.split("redis.call('").skip(1).map(|rest| rest.split('\'').next().unwrap());
    let called: Vec<_> = called.map(|command| format!(" +{}", command.to_lowercase())).collect();
    assert!(called.len() > 40, "{called:?}");
    for command in called {
        assert!(format!("{RIGHTS} ").contains(&format!("{command} ")), "{command}");
    }
}

#[tokio::test]
async fn what_keeps_the_proxy_out_is_told_with_its_cure() {
    let authority = Authority::issuing_to("127.0.0.1");
    let Some(server) = authority.server().await else { return };
    let lines = |user| authority.store(user, "127.0.0.1", &server);
    let login = "it refuses user or password: correct them in store.redis";
    for user in ["proxy:canary", "nobody:canary"] {
        assert!(refusal(&lines(user)).await.starts_with(login), "{user}");
    }
    let rights = "its user may not: grant the rights that docs/redis.md lists";
    let refused = refusal(&lines("stranger:canary")).await;
    assert!(refused.starts_with(rights) && refused.contains("hmget"), "{refused}");
    let elsewhere = authority.store("proxy:p%40ss%2Fword", "localhost", &server);
    let name = "its certificate has another name: use that one in store.redis";
    let refused = refusal(&elsewhere).await;
    assert!(refused.starts_with(name), "{refused}");
}

#[tokio::test]
async fn a_certificate_of_somebody_else_is_not_trusted() {
    let (ours, theirs) = (Authority::issuing_to("127.0.0.1"), Authority::issuing_to("127.0.0.1"));
    let Some(server) = theirs.server().await else { return };
    let refused = refusal(&ours.store("proxy:p%40ss%2Fword", "127.0.0.1", &server)).await;
    let untrusted = "its certificate is not from a CA that is trusted: set store.redis_ca_file";
    assert!(refused.starts_with(untrusted), "{refused}");
}

#[tokio::test]
async fn clear_text_and_tls_are_told_apart() {
    let authority = Authority::issuing_to("127.0.0.1");
    let Some(plain) = RedisServer::start().await else { return };
    let refused = refusal(&authority.store("proxy:pw", "127.0.0.1", &plain)).await;
    // It waits for the end of what it takes for a line.
    let silent = "it gives no answer in time: check that it runs, that the network lets it through, \
                  and that it speaks TLS if store.redis says rediss://";
    assert!(refused.starts_with(silent), "{refused}");
    let Some(secure) = authority.server().await else { return };
    let refused = refusal(&format!("redis = {:?}", secure.url())).await;
    let broke = "it closed the connection: if it speaks TLS there, write rediss://";
    assert!(refused.starts_with(broke), "{refused}");
}
