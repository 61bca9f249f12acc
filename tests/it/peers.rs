//! Clients that are known by their connection: each kind let in and kept out, and what has no say in
//! it.

use std::net::IpAddr;

use http::{Request, header::HOST};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ringbearer::key::KeyDigest;
use tokio::net::UnixStream;

use crate::authority::{Authority, Issued, connect, https};
use crate::support::{ECHO, Environment, LONG_IDLE, Wishes, client};

/// What people put into a request to be taken for somebody else.
const PRETENCES: &[(&str, &str)] = &[
    ("user-agent", "kube-probe/1.30"),
    ("user-agent", "GoogleHC/1.0"),
    ("x-forwarded-for", "127.0.0.2"),
    ("x-forwarded-for", "127.0.0.3, 127.0.0.2"),
    ("x-forwarded-host", "localhost"),
    ("x-forwarded-user", "root"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-client-cert", "Subject=\"CN=billing\";DNS=billing.test"),
    ("x-real-ip", "127.0.0.2"),
    ("x-client-ip", "127.0.0.2"),
    ("true-client-ip", "127.0.0.2"),
    ("x-ssl-client-s-dn", "CN=billing"),
    ("forwarded", "for=127.0.0.2;by=127.0.0.2"),
    ("via", "1.1 127.0.0.2"),
];

/// `test` is user 1, `sales` is user 2 and `hr` is user 3.
async fn environment(proxy: &str, clients: &str) -> Environment {
    let identity = format!(
        "jwt = \"sandbox-jwt-1\"\n[identity.sales]\njwt = \"sandbox-jwt-2\"\n\
         [identity.hr]\njwt = \"sandbox-jwt-3\"\n{clients}"
    );
    let proxy = format!("{LONG_IDLE}{proxy}");
    Environment::with(Wishes { proxy, identity, ..Wishes::default() }).await
}

/// Status, the proxy's own code, and the user that the request was sent as.
type Outcome = (u16, String, Option<u64>);

fn sent_as(user: u64) -> Outcome {
    (200, String::new(), Some(user))
}

fn refused(status: u16, code: &str) -> Outcome {
    (status, code.to_owned(), None)
}

/// What becomes of a request by this client, whatever it pretends to be.
async fn outcome(
    environment: &Environment,
    client: &reqwest::Client,
    base: &str,
    fields: &[(&str, &str)],
) -> Outcome {
    let all = std::iter::once(&[][..]).chain(PRETENCES.chunks(1)).chain([PRETENCES]);
    let mut outcomes = Vec::new();
    for pretences in all {
        environment.control().clear_log();
        let mut request = client.get(format!("{base}{ECHO}"));
        for (name, value) in fields.iter().chain(pretences) {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        let code = answer.headers().get("x-ringbearer-error");
        let code = code.map_or_else(String::new, |code| code.to_str().unwrap().to_owned());
        let log = environment.control().log();
        let user = log.iter().find(|arrival| arrival.target == ECHO).and_then(|it| it.user);
        outcomes.push((answer.status().as_u16(), code, user));
    }
    assert_eq!(outcomes.len(), PRETENCES.len() + 2);
    outcomes.dedup();
    assert_eq!(outcomes.len(), 1, "a pretence counted: {outcomes:?}");
    outcomes.remove(0)
}

/// A client whose connections come from this address of the machine.
fn from(address: &str) -> reqwest::Client {
    let address: IpAddr = address.parse().unwrap();
    reqwest::Client::builder()
        .tls_backend_preconfigured(
            ringbearer::upstream::client_config(&ringbearer::upstream::Trust::Nobody).unwrap(),
        )
        .local_address(address)
        .no_proxy()
        .build()
        .unwrap()
}

const NETWORKS: &str = "\
    [client.office]\nnetworks = \"127.0.0.0/8\"\nidentities = \"sales\"\n\
    [client.till]\nnetworks = [\"127.0.0.2\", \"10.9.8.0/24\"]\nidentities = \"hr\"\n";

#[tokio::test]
async fn a_network_lets_in_and_the_narrowest_counts() {
    let environment = environment("", NETWORKS).await;
    let base = environment.url("");
    let asked = async |address| outcome(&environment, &from(address), &base, &[]).await;
    assert_eq!(asked("127.0.0.1").await, sent_as(2));
    assert_eq!(asked("127.0.0.2").await, sent_as(3));
    let field = [("x-ringbearer-identity", "hr")];
    let office = outcome(&environment, &from("127.0.0.3"), &base, &field).await;
    assert_eq!(office, refused(403, "RBR-111"));
    environment.finish().await;
}

#[tokio::test]
async fn a_stranger_is_kept_out_and_told_what_would_let_it_in() {
    let till = "[client.till]\nnetworks = \"127.0.0.2\"\nidentities = \"hr\"\n";
    let environment = environment("", till).await;
    let base = environment.url("");
    let key = [("authorization", "Bearer any-key")];
    for fields in [&[][..], &key] {
        let stranger = outcome(&environment, &client(), &base, fields).await;
        assert_eq!(stranger, refused(403, "RBR-155"));
    }
    assert_eq!(outcome(&environment, &from("127.0.0.2"), &base, &key).await, sent_as(3));
    let answer = environment.get(ECHO).await;
    let message = crate::support::json(answer).await["message"].as_str().unwrap().to_owned();
    assert_eq!(
        message,
        "this proxy knows its clients by certificate, Unix user or network, and this connection is none of theirs: \
         see [client.NAME]"
    );
    environment.finish().await;
}

#[tokio::test]
async fn a_key_says_more_than_a_network_and_a_wrong_one_is_refused() {
    let digest = KeyDigest::of("key-1").to_string();
    let clients = format!(
        "[client.operator]\nkey_sha256 = \"{digest}\"\nidentities = \"test\"\n\
         [client.till]\nnetworks = \"127.0.0.2\"\nidentities = \"hr\"\n"
    );
    let environment = environment("", &clients).await;
    let base = environment.url("");
    let (key, wrong) = (("x-api-key", "key-1"), ("x-api-key", "key-2"));
    let junk = ("authorization", "Bearer undefined");
    for (address, fields, expected) in [
        ("127.0.0.2", &[][..], sent_as(3)),
        ("127.0.0.2", &[key], sent_as(1)),
        ("127.0.0.2", &[junk], sent_as(3)),
        ("127.0.0.2", &[wrong], refused(401, "RBR-110")),
        ("127.0.0.1", &[], refused(401, "RBR-109")),
        ("127.0.0.1", &[key], sent_as(1)),
        ("127.0.0.1", &[junk], refused(401, "RBR-110")),
        ("127.0.0.1", &[wrong], refused(401, "RBR-110")),
    ] {
        let outcome = outcome(&environment, &from(address), &base, fields).await;
        assert_eq!(outcome, expected, "{address} {fields:?}");
    }
    environment.finish().await;
}

#[tokio::test]
async fn no_page_gets_in_through_the_browser_of_a_network_by_a_name_of_its_own() {
    // The tests' usual `hosts` would take any.
    let proxy = format!("#hosts = \n{LONG_IDLE}");
    let identity = "jwt = \"sandbox-jwt-1\"\nhosts = \"sales.test\"\n\
                    [client.office]\nnetworks = \"127.0.0.0/8\"\nidentities = \"test\"\n";
    let identity = identity.to_owned();
    let environment = Environment::with(Wishes { proxy, identity, ..Wishes::default() }).await;
    let base = environment.url("");
    for (host, expected) in [
        ("127.0.0.1", sent_as(1)),
        ("sales.test", sent_as(1)),
        ("evil.test", refused(421, "RBR-121")),
    ] {
        let outcome = outcome(&environment, &client(), &base, &[("host", host)]).await;
        assert_eq!(outcome, expected, "{host}");
    }
    environment.finish().await;
}

/// The clients of the test below, with keys for nobody.
const SUBJECTS: &str = "\
    [client.billing]\ntls_subject = [\"DNS:billing.test\", \"URI:spiffe://test/billing\"]\nidentities = \"sales\"\n\
    [client.people]\ntls_subject = [\"CN:people\", \"email:people@test\"]\nidentities = \"hr\"\n";

async fn with_certificates(authority: &Authority, demand: &str) -> Environment {
    let ca = authority.file();
    let lines =
        format!("client_ca_file = \"{}\"\nclient_certificates = \"{demand}\"", ca.display());
    environment(&authority.server().tls(&lines), SUBJECTS).await
}

#[tokio::test]
async fn a_certificate_is_known_by_exactly_its_names() {
    let authority = Authority::new();
    let environment = with_certificates(&authority, "optional").await;
    let address = environment.address();
    let base = format!("https://localhost:{}", address.port());
    let asked = async |own: Option<&Issued>| {
        let client = https(authority.client(own), address);
        outcome(&environment, &client, &base, &[]).await
    };
    for (names, expected) in [
        (&["DNS:billing.test"][..], sent_as(2)),
        (&["DNS:BILLING.test"], sent_as(2)),
        (&["URI:spiffe://test/billing", "CN:other"], sent_as(2)),
        (&["CN:people"], sent_as(3)),
        (&["email:people@test", "CN:people"], sent_as(3)),
        (&["CN:billing.test"], refused(403, "RBR-155")),
        (&["DNS:a.billing.test"], refused(403, "RBR-155")),
        (&["URI:spiffe://test/Billing"], refused(403, "RBR-155")),
        (&["DNS:people"], refused(403, "RBR-155")),
        (&["DNS:billing.test", "CN:people"], refused(403, "RBR-156")),
    ] {
        let own = authority.issue("client", names);
        assert_eq!(asked(Some(&own)).await, expected, "{names:?}");
    }
    assert_eq!(asked(None).await, refused(403, "RBR-155"));
    // The connection says it, whatever is spoken on it.
    let mut config = authority.client(Some(&authority.issue("h2", &["CN:people"])));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let io = connect(config, address).await.unwrap();
    assert_eq!(io.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut h2, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        environment.control().clear_log();
        let request = Request::builder().uri(format!("https://localhost{ECHO}"));
        let answer = h2.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await;
        assert_eq!(answer.unwrap().status().as_u16(), 200);
        assert_eq!(environment.control().log()[0].user, Some(3));
    }
    // What another authority has signed is no certificate at all.
    let other = Authority::new();
    let stranger = other.issue("client", &["DNS:billing.test"]);
    let client = https(authority.client(Some(&stranger)), address);
    assert!(client.get(format!("{base}{ECHO}")).send().await.is_err());
    environment.finish().await;
}

#[tokio::test]
async fn where_certificates_are_required_nobody_gets_in_without() {
    let authority = Authority::new();
    let environment = with_certificates(&authority, "required").await;
    let address = environment.address();
    let base = format!("https://localhost:{}", address.port());
    let known = authority.issue("client", &["CN:people"]);
    let client = https(authority.client(Some(&known)), address);
    assert_eq!(outcome(&environment, &client, &base, &[]).await, sent_as(3));
    let none = https(authority.client(None), address);
    let refused = none.get(format!("{base}{ECHO}")).send().await.unwrap_err();
    let said = ringbearer::telemetry::chain(&refused.without_url());
    assert!(said.to_lowercase().contains("certificaterequired"), "{said}");
    environment.finish().await;
}

/// One request by a Unix socket, on a connection of its own.
async fn by_socket(
    environment: &Environment,
    path: &std::path::Path,
    fields: &[(&str, &str)],
) -> Outcome {
    environment.control().clear_log();
    let stream = UnixStream::connect(path).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().uri(ECHO).header(HOST, "localhost");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let answer = sender.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await;
    let answer = answer.unwrap();
    let code = answer.headers().get("x-ringbearer-error");
    let code = code.map_or_else(String::new, |code| code.to_str().unwrap().to_owned());
    let status = answer.status().as_u16();
    answer.into_body().collect().await.unwrap();
    let log = environment.control().log();
    let user = log.iter().find(|arrival| arrival.target == ECHO).and_then(|it| it.user);
    (status, code, user)
}

#[tokio::test]
async fn a_user_of_this_machine_is_known_at_a_unix_socket_and_nowhere_else() {
    let files = tempfile::TempDir::new().unwrap();
    let path = files.path().join("rb.sock");
    let listen = format!("listen = [\"127.0.0.1:0\", \"unix:{}\"]\n", path.display());
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    for (marks, inside) in [
        (format!("uid = {uid}"), sent_as(2)),
        (format!("gid = [54321, {gid}]"), sent_as(2)),
        (format!("uid = {}", uid + 1), refused(403, "RBR-155")),
        (format!("gid = {}", gid + 1), refused(403, "RBR-155")),
        // Whoever comes by a socket comes from no network.
        ("networks = \"127.0.0.2\"".to_owned(), refused(403, "RBR-155")),
    ] {
        let clients = format!("[client.cron]\n{marks}\nidentities = \"sales\"\n");
        let identity = format!(
            "jwt = \"sandbox-jwt-1\"\n[identity.sales]\njwt = \"sandbox-jwt-2\"\n{clients}"
        );
        let environment = with_sockets(&listen, identity).await;
        for fields in std::iter::once(&[][..]).chain(PRETENCES.chunks(1)) {
            let outcome = by_socket(&environment, &path, fields).await;
            assert_eq!(outcome, inside, "{marks} {fields:?}");
        }
        let outside = outcome(&environment, &client(), &environment.url(""), &[]).await;
        assert_eq!(outside, refused(403, "RBR-155"), "{marks}");
        environment.finish().await;
    }
}

/// [`Environment::with`] always listens on an address; this one listens as it is told.
pub(crate) async fn with_sockets(listen: &str, identity: String) -> Environment {
    let proxy = format!("{LONG_IDLE}{listen}");
    Environment::with(Wishes { proxy, identity, ..Wishes::default() }).await
}

#[tokio::test]
async fn an_sdk_logs_in_by_its_connection_and_its_token_is_good_there_only() {
    let clients = "[client.till]\nnetworks = \"127.0.0.2\"\nidentities = \"hr\"\n\
                   [client.office]\nnetworks = \"127.0.0.3\"\nidentities = \"*\"\n";
    let environment = environment("", clients).await;
    let log_in = async |address: &str| {
        let request = from(address).post(environment.url("/restapi/oauth/token"));
        let request = request.basic_auth("any", Some("any"));
        request.form(&[("grant_type", "client_credentials")]).send().await.unwrap()
    };
    assert_eq!(log_in("127.0.0.1").await.status().as_u16(), 401);
    let answer = crate::support::json(log_in("127.0.0.2").await).await;
    let token = answer["access_token"].as_str().expect("it is let in").to_owned();
    let bearer = format!("Bearer {token}");
    let fields = [("authorization", bearer.as_str())];
    let base = environment.url("");
    let till = outcome(&environment, &from("127.0.0.2"), &base, &fields).await;
    assert_eq!(till, sent_as(3));
    for address in ["127.0.0.1", "127.0.0.3"] {
        let stolen = outcome(&environment, &from(address), &base, &fields).await;
        assert_eq!(stolen, refused(401, "RBR-120"), "{address}");
    }
    environment.finish().await;
}
