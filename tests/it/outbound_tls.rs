//! TLS towards RingCentral: a certificate of the proxy's own, and the keys of its connections.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ringbearer::clock::Clock;
use ringbearer::sandbox::{Sandbox, SandboxOptions};
use ringbearer::service::{Service, StartError};
use ringbearer::settings::{ConfigSource, Overrides, Settings};
use ringbearer::telemetry::chain;
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use crate::authority::{Authority, Issued};
use crate::process::{Process, Site};
use crate::support::{ECHO, START, client};

/// Lets nobody through to the sandbox who has no certificate of the authority's. It gives its address.
async fn gate(authority: &Authority, sandbox: &Sandbox) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let acceptor = authority.demanding(&authority.server());
    let inside = sandbox.url()["http://".len()..].to_owned();
    tokio::spawn(async move {
        while let Ok((outside, _)) = listener.accept().await {
            let (acceptor, inside) = (acceptor.clone(), inside.clone());
            tokio::spawn(async move {
                let Ok(mut outside) = acceptor.accept(outside).await else { return };
                let mut inside = TcpStream::connect(inside).await.unwrap();
                // How a connection ends is no concern of its.
                let _ = copy_bidirectional(&mut outside, &mut inside).await;
            });
        }
    });
    url
}

/// A proxy before `url` that shows `own`, if that is something.
fn settings(url: &str, ca: &Path, own: Option<&Issued>, files: &TempDir) -> Settings {
    let own = own.map_or_else(String::new, |own| {
        let (chain, key) = (own.chain.display(), own.key.display());
        format!("client_certificate_file = \"{chain}\"\nclient_key_file = \"{key}\"\n")
    });
    let store = files.path().join("store");
    let (ca, store) = (ca.display(), store.display());
    let text = format!(
        "[proxy]\nlisten = \"127.0.0.1:0\"\nworkers = 1\ntoken_wait = \"1ms\"\n\
         [upstream]\nurl = \"{url}\"\nca_file = \"{ca}\"\n{own}\
         [application.test]\nclient_id = \"sandbox-client\"\nclient_secret = \"sandbox-secret\"\n\
         [identity.test]\njwt = \"sandbox-jwt\"\n[store]\ndirectory = \"{store}\"\n"
    );
    let source = ConfigSource::Text(text);
    Settings::load(&source, Overrides::default(), &|_| None).unwrap().0
}

#[tokio::test]
async fn a_certificate_of_its_own_is_shown_for_tokens_and_for_requests() {
    let clock = Clock::system();
    let options = SandboxOptions { clock: clock.clone(), ..SandboxOptions::default() };
    let sandbox = Sandbox::start(options).await.unwrap();
    let authority = Authority::new();
    let url = gate(&authority, &sandbox).await;
    let own = authority.issue("proxy", &["CN:ringbearer"]);
    let files = TempDir::new().unwrap();
    let with = settings(&url, &authority.file(), Some(&own), &files);
    let service = Service::start(&with, &clock).unwrap();
    let identities = service.identities();
    identities.keeper(identities.only().unwrap()).became_usable().await;
    let target = |service: &Service| format!("http://{}{ECHO}", service.addresses()[0]);
    let answer = client().get(target(&service)).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    let counts = sandbox.control().counts();
    assert_eq!((counts.token_requests, counts.api_requests), (1, 1));
    service.stop().await;
    // Without it nothing arrives: a token is there, from the store, and the request fails.
    let without = settings(&url, &authority.file(), None, &files);
    let service = Service::start(&without, &clock).unwrap();
    let identities = service.identities();
    identities.keeper(identities.only().unwrap()).became_usable().await;
    let answer = client().get(target(&service)).send().await.unwrap();
    let code = answer.headers()["x-ringbearer-error"].to_str().unwrap().to_owned();
    assert_eq!(answer.status().as_u16(), 502, "{code}");
    service.stop().await;
    // And none is requested where there is none.
    let empty = TempDir::new().unwrap();
    let without = settings(&url, &authority.file(), None, &empty);
    let service = Service::start(&without, &clock).unwrap();
    let identities = service.identities();
    let keeper = identities.keeper(identities.only().unwrap());
    while keeper.status().last_error.is_none() {
        crate::support::settle().await;
    }
    let answer = client().get(target(&service)).send().await.unwrap();
    assert_eq!(answer.headers()["x-ringbearer-error"], "RBR-201");
    service.stop().await;
    let counts = sandbox.control().counts();
    assert_eq!((counts.token_requests, counts.api_requests), (1, 1));
    sandbox.stop().await;
}

#[tokio::test]
async fn a_certificate_with_the_key_of_another_is_refused_at_the_start() {
    let authority = Authority::new();
    let (one, other) = (authority.issue("one", &["CN:a"]), authority.issue("two", &["CN:b"]));
    let mixed = Issued { chain: one.chain, key: other.key };
    let files = TempDir::new().unwrap();
    let mixed = settings("https://localhost:1", &authority.file(), Some(&mixed), &files);
    let error = Service::start(&mixed, &Clock::manual(START)).unwrap_err();
    assert!(matches!(error, StartError::Tls(_)));
    let said = chain(&error);
    let expected = "upstream: client_certificate_file and client_key_file do not go together";
    assert!(said.starts_with(expected), "{said}");
}

/// A site whose proxies reach the sandbox by TLS, with more lines for `[upstream]`.
async fn site(lines: &str) -> Site {
    let mut site = Site::new().await;
    let ca = site.file("ca.pem");
    fs::write(&ca, site.sandbox.ca_pem().unwrap()).unwrap();
    let url = site.sandbox.tls_url().unwrap();
    site.upstream = format!("ca_file = \"{}\"\n{lines}\n", ca.display());
    site.application = format!("token_url = \"{url}/restapi/oauth/token\"");
    site
}

/// Starts it with `SSLKEYLOGFILE` set, and asks it something.
async fn call(site: &Site, trap: &Path) {
    let url = site.sandbox.tls_url().unwrap();
    let config = site.configured_with("listen = \"127.0.0.1:0\"");
    let text = fs::read_to_string(&config).unwrap().replacen(&site.sandbox.url(), &url, 1);
    fs::write(&config, text).unwrap();
    let environment = [("SSLKEYLOGFILE", trap.as_os_str())];
    let process = Process::start_with(&config, &environment).await;
    assert_eq!(site.get(&process, ECHO).send().await.unwrap().status().as_u16(), 200);
    process.terminate();
    assert_eq!(process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn keys_are_written_only_where_the_configuration_says_so() {
    let silent = site("").await;
    let trap = silent.file("trap.log");
    call(&silent, &trap).await;
    assert!(!trap.exists(), "the environment has no say");
    let telling = site("tls_key_log_file = \"keys.log\"").await;
    let (trap, keys) = (telling.file("trap.log"), telling.file("keys.log"));
    call(&telling, &trap).await;
    assert!(!trap.exists());
    let found = fs::metadata(&keys).unwrap();
    assert_eq!(found.mode() & 0o7777, 0o600);
    let text = fs::read_to_string(&keys).unwrap();
    let lines = text.lines().filter(|line| line.starts_with("CLIENT_TRAFFIC_SECRET_0 "));
    // A connection for the token, and one for the request.
    assert_eq!(lines.count(), 2, "{}", text.lines().count());
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert_eq!((words.len(), words[1].len()), (3, 64));
        assert!(is_hex(words[1]) && is_hex(words[2]));
    }
}
