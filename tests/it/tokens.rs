//! Keepers, file store and the real client against the sandbox's token endpoint.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ringbearer::clock::Stopwatch;
use ringbearer::oauth::endpoint::{TokenEndpoint, http_client};
use ringbearer::sandbox::{Fault, FaultKind, Garbage, Place, Rules};
use ringbearer::secret::Secret;
use ringbearer::settings::{ApplicationSettings, Credential, IdentitySettings};
use ringbearer::store::file::FileStore;
use ringbearer::store::seal::Seal;
use ringbearer::token::Generation;
use ringbearer::token::identities::Identities;
use ringbearer::token::keeper::Keeper;
use ringbearer::token::slot::LocalBearer;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::sandbox_support::{ECHO, Stage, answer, text};

/// Identities of the demo application, kept in `directory`.
struct Process {
    identities: Arc<Identities>,
    end: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

impl Process {
    fn start(stage: &Stage, base: &str, directory: &Path, credentials: Vec<Credential>) -> Self {
        let identities = Identities::new(
            &settings(base, credentials),
            Arc::new(
                FileStore::open(directory.join("state"), Seal::none(), stage.clock.clone())
                    .unwrap(),
            ),
            TokenEndpoint::new(client(stage)),
            stage.clock.clone(),
        );
        let identities = Arc::new(identities);
        let (end, ended) = oneshot::channel();
        let running = tokio::spawn({
            let identities = Arc::clone(&identities);
            async move { identities.run(async { ended.await.unwrap_or_default() }).await }
        });
        Self { identities, end, running }
    }

    fn of_user(stage: &Stage, directory: &Path, user: u64) -> Self {
        Self::start(stage, &stage.sandbox.url(), directory, vec![jwt(user)])
    }

    fn keeper(&self) -> &Keeper {
        self.identities.keeper(self.identities.find("identity-0").expect("configured"))
    }

    fn generation(&self) -> u64 {
        self.keeper().status().generation.map_or(0, Generation::number)
    }

    /// The status that the published token meets.
    async fn call(&self, stage: &Stage) -> u16 {
        let mut local = LocalBearer::default();
        let bearer = local.current(self.keeper().slot(), stage.clock.now()).expect("a token");
        let token = bearer.value.to_str().unwrap().trim_start_matches("Bearer ");
        let (status, _) = answer(stage.get(ECHO, token).send().await.unwrap()).await;
        if status != 401 {
            self.keeper().accepted(bearer.generation);
        }
        status
    }

    async fn end(self) {
        self.end.send(()).unwrap();
        self.running.await.unwrap();
    }

    async fn kill(self) {
        self.running.abort();
        self.running.await.unwrap_err();
    }
}

fn jwt(user: u64) -> Credential {
    Credential::Jwt(Secret::new(format!("sandbox-jwt-{user}")))
}

fn settings(base: &str, credentials: Vec<Credential>) -> Vec<Arc<IdentitySettings>> {
    let application = Arc::new(ApplicationSettings {
        name: "app".into(),
        client_id: "sandbox-client".into(),
        client_secret: Some(Secret::new("sandbox-secret")),
        token_url: format!("{base}/restapi/oauth/token").parse().unwrap(),
        revoke_url: format!("{base}/restapi/oauth/revoke").parse().unwrap(),
        authorize_url: "https://host/authorize".parse().unwrap(),
        device_authorization_url: "https://host/device_authorization".parse().unwrap(),
        redirect_uri: "http://127.0.0.1:8765/callback".into(),
        token_requests_per_minute: 5.try_into().unwrap(),
    });
    let identity = |(number, credential)| {
        Arc::new(IdentitySettings {
            name: format!("identity-{number}"),
            application: Arc::clone(&application),
            credential,
            hosts: Vec::new(),
            listen: Vec::new(),
            fallback: None,
            endpoint_id: Some(format!("box-{number}")),
            access_token_ttl: None,
            // The first asks for a session that must be ended, the others for none that lasts.
            refresh_token_ttl: (number == 0).then_some(Duration::from_secs(604_800)),
            scope: None,
        })
    };
    (0..)
        .zip(credentials)
        .map(|(number, credential): (u32, _)| identity((number, credential)))
        .collect()
}

/// Our client, trusting the sandbox and nobody else.
fn client(stage: &Stage) -> reqwest::Client {
    let mut roots = rustls::RootCertStore::empty();
    let pem = stage.sandbox.ca_pem().expect("the stage speaks TLS");
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    http_client(tls, None, Duration::from_secs(10)).unwrap()
}

/// Lets everything run until it is so.
async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let waiting = async {
        while !so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect(what);
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test]
async fn obtains_a_token_over_tls_and_goes_on_with_it_after_a_restart() {
    let (stage, directory) = (Stage::unlimited().await, directory());
    let url = stage.sandbox.tls_url().unwrap();
    for _ in 0..2 {
        let process = Process::start(&stage, &url, directory.path(), vec![jwt(1)]);
        process.keeper().wait_usable().await.expect("a token");
        assert_eq!(process.call(&stage).await, 200);
        process.end().await;
    }
    assert_eq!(stage.control().counts().token_requests, 1, "one for both lives");
}

#[tokio::test]
async fn a_day_of_renewals_meets_no_401_and_keeps_two_sessions_at_most() {
    let (stage, directory) = (Stage::unlimited().await, directory());
    let process = Process::of_user(&stage, directory.path(), 1);
    process.keeper().wait_usable().await.expect("a token");
    stage.pass(500);
    for renewal in 1..=24 {
        assert_eq!(process.call(&stage).await, 200);
        stage.pass(2600);
        until("a renewal", || process.generation() == renewal + 1).await;
        assert_eq!(process.call(&stage).await, 200);
        assert_eq!(stage.control().counts().sessions_alive, 2, "the old one drains");
        stage.pass(500);
        until("the end of the old one", || stage.control().counts().sessions_alive == 1).await;
    }
    let counts = stage.control().counts();
    assert_eq!((counts.token_requests, counts.revocations, counts.api_401), (25, 24, 0));
}

#[tokio::test]
async fn a_revoked_token_is_replaced_by_one_request() {
    let (stage, directory) = (Stage::unlimited().await, directory());
    let process = Process::of_user(&stage, directory.path(), 1);
    process.keeper().wait_usable().await.expect("a token");
    stage.control().revoke_access_tokens();
    assert_eq!(process.call(&stage).await, 401);
    let (first, keeper) = (Generation::new(1), process.keeper());
    let (one, other) = tokio::join!(keeper.rejected(first), keeper.rejected(first));
    assert!(one.is_ok() && other.is_ok());
    assert_eq!(process.call(&stage).await, 200);
    assert_eq!(stage.control().counts().token_requests, 2);
}

#[tokio::test]
async fn a_lost_refresh_answer_and_a_kill_cost_nothing() {
    let (stage, directory) = (Stage::unlimited().await, directory());
    let pair = stage.login(1).await;
    let credential = Credential::RefreshToken(Secret::new(text(&pair, "refresh_token")));
    let start =
        || Process::start(&stage, &stage.sandbox.url(), directory.path(), vec![credential.clone()]);
    stage.control().inject(Fault::once(Place::Token, FaultKind::DropAfter));
    let process = start();
    until("a lost answer", || process.keeper().status().last_error.is_some()).await;
    process.kill().await;
    // RingCentral has rotated the token, we have stored nothing, and the process is new.
    let process = start();
    process.keeper().wait_usable().await.expect("the same answer again");
    assert_eq!(process.call(&stage).await, 200);
    let counts = stage.control().counts();
    assert_eq!((counts.token_answers, counts.token_repeats), (3, 1), "{counts:?}");
}

#[tokio::test]
async fn two_processes_share_a_session_with_one_renewal_per_generation() {
    let (stage, directory) = (Stage::unlimited().await, directory());
    let pair = stage.login(1).await;
    let credential = Credential::RefreshToken(Secret::new(text(&pair, "refresh_token")));
    let start =
        || Process::start(&stage, &stage.sandbox.url(), directory.path(), vec![credential.clone()]);
    let both = [start(), start()];
    for process in &both {
        until("a token in both", || {
            stage.pass(1);
            process.keeper().status().usable
        })
        .await;
    }
    assert_eq!(stage.control().counts().token_requests, 2, "the login and one for both");
    for (process, other) in [(&both[0], &both[1]), (&both[1], &both[0])] {
        let generation = Generation::new(process.generation());
        stage.control().revoke_access_tokens();
        let before = stage.control().counts().token_requests;
        process.keeper().rejected(generation).await.expect("renewed");
        other.keeper().rejected(generation).await.expect("adopted");
        assert_eq!(stage.control().counts().token_requests, before + 1, "one for both");
        assert_eq!((process.call(&stage).await, other.call(&stage).await), (200, 200));
        stage.pass(60);
    }
}

#[tokio::test]
async fn no_cold_start_meets_the_servers_budget() {
    let (stage, directory) = (Stage::with(Rules::default()).await, directory());
    let users: Vec<_> = (0..13).map(|number| jwt(1 + number % 2)).collect();
    let process = Process::start(&stage, &stage.sandbox.url(), directory.path(), users);
    let usable = || process.identities.iter().filter(|(_, k)| k.status().usable).count();
    for (minute, expected) in [(0, 5), (1, 10), (2, 13)] {
        until(&format!("{expected} tokens after {minute} min"), || usable() == expected).await;
        stage.pass(61);
    }
    let counts = stage.control().counts();
    assert_eq!((counts.token_requests, counts.token_refusals), (13, 0));
}

#[tokio::test]
async fn two_processes_share_sessions_and_budget() {
    let (stage, directory) = (Stage::with(Rules::default()).await, directory());
    let users = || (0..13).map(|number| jwt(1 + number % 2)).collect();
    let start = || Process::start(&stage, &stage.sandbox.url(), directory.path(), users());
    let processes = [start(), start()];
    let usable = |process: &Process| {
        process.identities.iter().filter(|(_, keeper)| keeper.status().usable).count()
    };
    for (minute, expected) in [(0, 5), (1, 10), (2, 13)] {
        // Who finds the window full asks again a second later, so the clock has to go on; slowly,
        // because the disk knows nothing of it.
        let began = Stopwatch::start();
        let mut moved = 0;
        let all = || processes.iter().all(|process| usable(process) == expected);
        until(&format!("{expected} tokens after {minute} min"), || {
            if moved < 300 && began.elapsed() > Duration::from_millis(20) * moved {
                moved += 1;
                stage.clock.advance(Duration::from_millis(100));
            }
            all()
        })
        .await;
        stage.pass(61);
    }
    let counts = stage.control().counts();
    assert_eq!((counts.token_requests, counts.token_refusals), (13, 0));
}

#[tokio::test]
async fn no_garbage_becomes_a_token() {
    let (stage, directory) = (Stage::unlimited().await, directory());
    let garbage = [
        Garbage::Html,
        Garbage::TruncatedJson,
        Garbage::Huge { bytes: 10_000_000 },
        Garbage::ExpiresIn(0.into()),
        Garbage::MissingAccessToken,
    ];
    for garbage in garbage {
        stage.control().inject(Fault::always(Place::Token, FaultKind::Garbage(garbage.clone())));
        let process = Process::of_user(&stage, directory.path(), 1);
        until("a complaint", || process.keeper().status().last_error.is_some()).await;
        let status = process.keeper().status();
        let error = status.last_error.unwrap().to_string();
        assert!(error.contains("answer is not a token set"), "{garbage:?}: {error}");
        assert_eq!(status.generation, None, "{garbage:?}");
        process.kill().await;
        stage.control().clear_faults();
    }
}
