//! TLS towards apps: versions, certificates that change while it runs, and curl with one of its own.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ringbearer::settings::InboundTls;
use rustls::pki_types::CertificateDer;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::authority::{Authority, connect, https, replace};
use crate::support::{ECHO, Environment, LONG_IDLE, Wishes, has_program, settle};

const SECOND: Duration = Duration::from_secs(1);

async fn environment(tls: &str, identity: &str) -> Environment {
    let proxy = format!("{LONG_IDLE}{tls}");
    Environment::with(Wishes { proxy, identity: identity.into(), ..Wishes::default() }).await
}

const JWT: &str = "jwt = \"sandbox-jwt\"\n";

/// What a client is shown by the next connection.
async fn shown(authority: &Authority, environment: &Environment) -> CertificateDer<'static> {
    let io = connect(authority.client(None), environment.address()).await.unwrap();
    io.get_ref().1.peer_certificates().unwrap()[0].clone()
}

/// A `ClientHello` as a client of this version sends it, which knows no newer one.
fn client_hello(version: [u8; 2], extensions: &[u8]) -> Vec<u8> {
    let mut hello = version.to_vec();
    hello.extend([7; 32]);
    hello.push(0);
    // ECDHE-RSA and ECDHE-ECDSA with AES-128-CBC and SHA-1, and the plain RSA one.
    hello.extend([0, 6, 0xc0, 0x13, 0xc0, 0x09, 0x00, 0x2f]);
    hello.extend([1, 0]);
    hello.extend([0, u8::try_from(extensions.len()).unwrap()]);
    hello.extend(extensions);
    let length = u8::try_from(hello.len()).unwrap();
    let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(hello);
    record
}

#[tokio::test]
async fn versions_before_1_2_are_refused_and_1_2_is_where_1_3_is_demanded() {
    let authority = Authority::new();
    let server = authority.server();
    let usual = environment(&server.tls(""), JWT).await;
    // The curve P-256 in uncompressed form; then what only newer clients say, RSA with SHA-256.
    let old = [0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0];
    let newer = [&old[..], &[0, 13, 0, 4, 0, 2, 4, 1]].concat();
    // Fatal alerts: handshake_failure, and protocol_version.
    for (extensions, alert) in [(&old[..], 40), (&newer, 70)] {
        for version in [[3, 0], [3, 1], [3, 2]] {
            let mut tcp = TcpStream::connect(usual.address()).await.unwrap();
            tcp.write_all(&client_hello(version, extensions)).await.unwrap();
            let mut answer = Vec::new();
            tcp.read_to_end(&mut answer).await.unwrap();
            assert_eq!((answer[0], &answer[5..]), (21, &[2, alert][..]), "{version:?}: {answer:?}");
        }
    }
    let strict = environment(&server.tls("min_version = \"1.3\""), JWT).await;
    for (version, is_spoken) in [(&TLS12, [true, false]), (&TLS13, [true, true])] {
        let config = || {
            let mut config = authority.client(None);
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            let with =
                rustls::ClientConfig::builder_with_provider(Arc::clone(config.crypto_provider()));
            let with = with.with_protocol_versions(&[version]).unwrap();
            let roots = authority.roots();
            with.with_root_certificates(roots).with_no_client_auth()
        };
        for (environment, spoken) in [&usual, &strict].into_iter().zip(is_spoken) {
            let connected = connect(config(), environment.address()).await;
            assert_eq!(connected.is_ok(), spoken, "{:?}", version.version);
        }
    }
    assert_eq!(usual.control().counts().api_requests, 0);
    usual.finish().await;
    strict.finish().await;
}

#[tokio::test]
async fn certificates_change_under_load_and_no_request_fails() {
    let authority = Authority::new();
    let server = authority.server();
    let environment = environment(&server.tls(""), JWT).await;
    let address = environment.address();
    let (goes_on, answered) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
    let clients = (0..4).map(|number| {
        // Half of them make a connection for each request, the others keep theirs.
        let config = authority.client(None);
        let client = match number % 2 {
            0 => https(config, address),
            _ => reqwest::Client::builder()
                .tls_backend_preconfigured(config)
                .resolve("localhost", address)
                .pool_max_idle_per_host(0)
                .no_proxy()
                .build()
                .unwrap(),
        };
        let (goes_on, answered) = (Arc::clone(&goes_on), Arc::clone(&answered));
        let url = format!("https://localhost:{}{ECHO}", address.port());
        tokio::spawn(async move {
            while goes_on.load(Ordering::Relaxed) {
                let answer = client.get(&url).send().await.expect("no request fails");
                assert_eq!(answer.status().as_u16(), 200);
                answer.bytes().await.expect("no answer is cut");
                answered.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    let mut before = shown(&authority, &environment).await;
    assert_eq!(before, server.chain()[0]);
    for number in 0..20 {
        let seen = answered.load(Ordering::Relaxed);
        let next = authority.issue(&format!("server-{number}"), &["DNS:localhost"]);
        server.replace_by(&next);
        environment.proxy().certificates().unwrap().reload().unwrap();
        let now = shown(&authority, &environment).await;
        assert_eq!(now, next.chain()[0], "the next connection sees the new one");
        assert_ne!(now, before);
        before = now;
        while answered.load(Ordering::Relaxed) < seen + 20 {
            settle().await;
        }
    }
    goes_on.store(false, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let answered = answered.load(Ordering::Relaxed);
    assert!(answered >= 400, "{answered}");
    assert_eq!(environment.control().counts().api_requests, answered);
    environment.finish().await;
}

/// A proxy with TLS and an admin listener.
async fn operated(tls: &str) -> Environment {
    environment(tls, &format!("{JWT}[admin]\nlisten = \"127.0.0.1:0\"\n")).await
}

/// Reloads done and refused, and whether what is shown is stale.
async fn figures(environment: &Environment) -> [u64; 3] {
    let url = format!("http://{}/metrics", environment.proxy().admin_addresses()[0]);
    let page = environment.client.get(url).send().await.unwrap().text().await.unwrap();
    let figure = |name: &str| {
        let line = page.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} in {page}")).trim().parse().unwrap()
    };
    [
        figure("ringbearer_tls_reloads_total{outcome=\"loaded\"}"),
        figure("ringbearer_tls_reloads_total{outcome=\"refused\"}"),
        figure("ringbearer_tls_stale"),
    ]
}

/// Lets the proxy look at its files, as often as is needed for `figures` to be so.
async fn until(environment: &Environment, wanted: [u64; 3]) {
    let mut seen = figures(environment).await;
    for _ in 0..100 {
        if seen == wanted {
            return;
        }
        environment.advance(SECOND).await;
        seen = figures(environment).await;
    }
    assert_eq!(seen, wanted);
}

#[tokio::test]
async fn changed_files_are_noticed_and_unusable_ones_leave_all_as_it_is() {
    let authority = Authority::new();
    let server = authority.server();
    let environment = operated(&server.tls("")).await;
    assert_eq!(figures(&environment).await, [0, 0, 0]);
    let first = shown(&authority, &environment).await;
    let good = authority.issue("good", &["DNS:localhost"]);
    // The certificate alone: its key is another.
    replace(&server.chain, &fs::read(&good.chain).unwrap());
    until(&environment, [0, 1, 1]).await;
    assert_eq!(shown(&authority, &environment).await, first);
    // It is told once, and not at every look.
    environment.advance(30 * SECOND).await;
    assert_eq!(figures(&environment).await, [0, 1, 1]);
    replace(&server.key, &fs::read(&good.key).unwrap());
    until(&environment, [1, 1, 0]).await;
    assert_eq!(shown(&authority, &environment).await, good.chain()[0]);
    fs::write(&server.chain, "no certificate").unwrap();
    until(&environment, [1, 2, 1]).await;
    fs::remove_file(&server.chain).unwrap();
    until(&environment, [1, 3, 1]).await;
    assert_eq!(shown(&authority, &environment).await, good.chain()[0]);
    let error = environment.proxy().certificates().unwrap().reload().unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("proxy.tls: \"{}\" cannot be read as PEM", server.chain.display())
    );
    // Files of other names, as a changed configuration has them.
    let files = |chain: &std::path::Path, key: &std::path::Path| InboundTls {
        certificate_file: chain.to_owned(),
        key_file: key.to_owned(),
        ..environment.settings().proxy.tls.clone().unwrap()
    };
    let elsewhere = authority.issue("elsewhere", &["DNS:localhost"]);
    let certificates = environment.proxy().certificates().unwrap();
    certificates.reload_from(files(&good.chain, &elsewhere.key)).unwrap_err();
    assert_eq!(shown(&authority, &environment).await, good.chain()[0]);
    certificates.reload_from(files(&elsewhere.chain, &elsewhere.key)).unwrap();
    assert_eq!(shown(&authority, &environment).await, elsewhere.chain()[0]);
    certificates.reload_from(files(&server.chain, &server.key)).unwrap_err();
    // A link that leads elsewhere is a change, too.
    replace(&server.key, &fs::read(&good.key).unwrap());
    replace(&server.chain, &fs::read(&good.chain).unwrap());
    certificates.reload_from(files(&server.chain, &server.key)).unwrap();
    fs::remove_file(&server.chain).unwrap();
    let other = authority.issue("other", &["DNS:localhost"]);
    replace(&server.key, &fs::read(&other.key).unwrap());
    std::os::unix::fs::symlink(&other.chain, &server.chain).unwrap();
    until(&environment, [4, 6, 0]).await;
    assert_eq!(shown(&authority, &environment).await, other.chain()[0]);
    environment.finish().await;
}

#[tokio::test]
async fn a_ca_that_is_replaced_lets_in_nobody_of_before_not_even_by_a_resumed_session() {
    let (authority, next) = (Authority::new(), Authority::new());
    let (server, ca) = (authority.server(), authority.file());
    let ca_file = ca.with_extension("clients");
    fs::copy(&ca, &ca_file).unwrap();
    let environment =
        environment(&server.tls(&format!("client_ca_file = \"{}\"", ca_file.display())), JWT).await;
    let address = environment.address();
    let url = format!("https://localhost:{}{ECHO}", address.port());
    let known = authority.issue("client", &["CN:client"]);
    let client = || {
        reqwest::Client::builder()
            .tls_backend_preconfigured(authority.client(Some(&known)))
            .resolve("localhost", address)
            .pool_max_idle_per_host(0)
            .no_proxy()
            .build()
            .unwrap()
    };
    let before = client();
    for _ in 0..3 {
        assert_eq!(before.get(&url).send().await.unwrap().status().as_u16(), 200);
    }
    replace(&ca_file, &fs::read(next.file()).unwrap());
    environment.proxy().certificates().unwrap().reload().unwrap();
    for client in [before, client()] {
        assert!(client.get(&url).send().await.is_err(), "its session is over, too");
    }
    let new = next.issue("client", &["CN:client"]);
    let mut config = authority.client(None);
    config.client_auth_cert_resolver = next.client(Some(&new)).client_auth_cert_resolver;
    assert_eq!(https(config, address).get(&url).send().await.unwrap().status().as_u16(), 200);
    assert_eq!(environment.control().counts().api_requests, 4);
    environment.finish().await;
}

#[tokio::test]
async fn curl_shows_its_certificate() {
    if !has_program("curl", "apt-get install curl") {
        return;
    }
    let authority = Authority::new();
    let (server, ca) = (authority.server(), authority.file());
    let client = "[client.billing]\ntls_subject = \"CN:billing\"\nidentities = \"test\"\n";
    let lines =
        format!("client_ca_file = \"{}\"\nclient_certificates = \"optional\"", ca.display());
    let environment = environment(&server.tls(&lines), &format!("{JWT}{client}")).await;
    let known = authority.issue("billing", &["CN:billing"]);
    let other = authority.issue("other", &["CN:other"]);
    let url = format!("https://localhost:{}{ECHO}", environment.address().port());
    let curl = async |arguments: Vec<String>| {
        let mut command = Command::new("curl");
        command.args(["-q", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--noproxy", "*"]);
        command.arg("--cacert").arg(&ca).args(arguments).arg(&url);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let with = |issued: &crate::authority::Issued| {
        let (chain, key) = (issued.chain.display(), issued.key.display());
        ["--cert", &chain.to_string(), "--key", &key.to_string()].map(str::to_owned).to_vec()
    };
    assert_eq!(curl(with(&known)).await, "200");
    assert_eq!(curl(with(&other)).await, "403");
    assert_eq!(curl(Vec::new()).await, "403");
    environment.finish().await;
}
