//! What logs in, in this process and by a clock that stands still: budget, patience, a store that fails.

use std::sync::Arc;
use std::time::Duration;

use ringbearer::clock::Clock;
use ringbearer::login::LoginError;
use ringbearer::login::registrar::Registrar;
use ringbearer::login::subject::{Subject, Wish};
use ringbearer::oauth::endpoint::TokenEndpoint;
use ringbearer::oauth::grant::Grant;
use ringbearer::sandbox::{Fault, FaultKind, Place, Rules, Sandbox, SandboxOptions};
use ringbearer::secret::Secret;
use ringbearer::settings::{ConfigSource, Overrides, Settings};
use ringbearer::store::file::FileStore;
use ringbearer::store::memory::MemoryStore;
use ringbearer::store::seal::Seal;
use ringbearer::token::budget::Class;
use ringbearer::upstream::{Trust, client_config};

use crate::support::{START, client, settle};

/// A registrar in this process, by a clock that stands still, and an identity to log in.
struct Desk {
    sandbox: Sandbox,
    clock: Clock,
    settings: Settings,
    registrar: Arc<Registrar>,
    subject: Subject,
}

impl Desk {
    /// RingCentral's own limits.
    async fn new() -> Self {
        let clock = Clock::manual(START);
        let rules = Rules::default();
        let options = SandboxOptions { clock: clock.clone(), rules, ..SandboxOptions::default() };
        let sandbox = Sandbox::start(options).await.unwrap();
        let text = format!(
            "[upstream]\nurl = '{}'\nresponse_timeout = '1h'\n[application.test]\nclient_id = 'sandbox-client'\n\
             client_secret = 'sandbox-secret'\n[store]\ndirectory = '/nowhere'\n",
            sandbox.url()
        );
        let source = ConfigSource::Text(text);
        let (settings, _) = Settings::load(&source, Overrides::default(), &|_| None).unwrap();
        let tls = client_config(&Trust::Nobody).unwrap();
        let endpoint = ringbearer::service::endpoint(&settings, &tls).unwrap();
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let registrar = Arc::new(Registrar::new(store, endpoint, clock.clone()));
        let subject = Subject::choose(&settings, "sales", Wish::default(), None).unwrap();
        Self { sandbox, clock, settings, registrar, subject }
    }

    fn endpoint(&self) -> TokenEndpoint {
        let tls = client_config(&Trust::Nobody).unwrap();
        ringbearer::service::endpoint(&self.settings, &tls).unwrap()
    }

    fn by_jwt(&self, name: &str, jwt: &str) -> Subject {
        let wish = Wish { application: None, jwt: Some(Secret::new(jwt)) };
        Subject::choose(&self.settings, name, wish, None).unwrap()
    }

    /// Begins a login on a device and gives its code, and what becomes of it.
    async fn begin(&self) -> (String, tokio::task::JoinHandle<Result<Option<String>, LoginError>>) {
        let codes = self.registrar.begin_device(&self.subject).await.unwrap();
        let code = codes.user_code.clone();
        let (registrar, subject) = (Arc::clone(&self.registrar), self.subject.clone());
        let waiting = tokio::spawn(async move {
            registrar.await_device(&subject, &codes).await.map(|opened| opened.owner_id)
        });
        settle().await;
        (code, waiting)
    }

    /// Lets time pass until the token endpoint has been asked so often.
    async fn pass_until_asked(&self, times: u64) {
        while self.sandbox.control().counts().token_requests < times {
            self.clock.advance(Duration::from_secs(1));
            self.come_to_rest().await;
        }
    }

    /// Until no request is under way.
    async fn come_to_rest(&self) {
        for _ in 0..50 {
            settle().await;
        }
        self.sandbox.control().wait_until(|counts| counts.in_flight == 0).await;
        for _ in 0..50 {
            settle().await;
        }
    }

    async fn approve(&self, code: &str) {
        let url = format!("{}/restapi/oauth/device?user_code={code}", self.sandbox.url());
        assert_eq!(client().get(url).send().await.unwrap().status(), 200);
    }

    /// When the token endpoint was asked, in seconds since the start.
    fn asked_at(&self) -> Vec<u64> {
        let log = self.sandbox.control().log();
        let asked = log.iter().filter(|arrival| arrival.target == "/restapi/oauth/token");
        asked.map(|arrival| (arrival.at_unix_millis - START.unix_millis()) / 1000).collect()
    }
}

#[tokio::test]
async fn the_sixth_login_of_a_minute_waits_for_its_turn() {
    let desk = Desk::new().await;
    let open = |n: u64| {
        let registrar = Arc::clone(&desk.registrar);
        let subject = desk.by_jwt(&format!("user-{n}"), &format!("sandbox-jwt-{n}"));
        async move {
            let grant = Grant::Open(&subject.identity.credential);
            registrar.open(&subject, grant, Class::Waiting).await.map(|opened| opened.owner_id)
        }
    };
    for n in 1..=5 {
        open(n).await.unwrap();
    }
    let sixth = tokio::spawn(open(6));
    for second in 0..60 {
        desk.come_to_rest().await;
        assert!(!sixth.is_finished(), "in second {second}");
        desk.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(sixth.await.unwrap().unwrap().as_deref(), Some("256440022"));
    let counts = desk.sandbox.control().counts();
    assert_eq!((counts.token_requests, counts.token_429), (6, 0));
}

#[tokio::test]
async fn a_session_that_cannot_be_stored_is_ended_again() {
    let files = tempfile::TempDir::new().unwrap();
    let mut desk = Desk::new().await;
    let store = FileStore::open(files.path(), Seal::none(), desk.clock.clone()).unwrap();
    desk.registrar = Arc::new(Registrar::new(Arc::new(store), desk.endpoint(), desk.clock.clone()));
    let kind = FaultKind::Delay { secs: 10.0 };
    desk.sandbox.control().inject(Fault {
        at: Place::Token,
        path_prefix: None,
        kind,
        times: Some(1),
    });
    let (registrar, subject) = (Arc::clone(&desk.registrar), desk.by_jwt("bot", "sandbox-jwt"));
    let opening = tokio::spawn(async move {
        let grant = Grant::Open(&subject.identity.credential);
        registrar.open(&subject, grant, Class::Waiting).await.map(|_| ())
    });
    desk.sandbox.control().wait_until(|counts| counts.token_requests == 1).await;
    // While the answer is on its way, after the store was probed.
    std::fs::create_dir(files.path().join("bot.json")).unwrap();
    while !opening.is_finished() {
        desk.clock.advance(Duration::from_secs(1));
        settle().await;
    }
    let error = opening.await.unwrap().unwrap_err();
    let said = "a session was opened, but it could not be stored, and was ended again";
    assert_eq!(error.to_string(), said);
    let counts = desk.sandbox.control().counts();
    assert_eq!((counts.token_answers, counts.revocations, counts.sessions_alive), (1, 1, 0));
}

#[tokio::test]
async fn a_device_login_leaves_budget_to_others_however_long_it_takes() {
    let desk = Desk::new().await;
    let (code, waiting) = desk.begin().await;
    desk.pass_until_asked(12).await;
    desk.approve(&code).await;
    desk.pass_until_asked(13).await;
    assert_eq!(waiting.await.unwrap().unwrap().as_deref(), Some("256440017"));
    let counts = desk.sandbox.control().counts();
    assert_eq!((counts.token_requests, counts.token_429, counts.token_answers), (13, 0, 1));
    let asked = desk.asked_at();
    assert!(asked.windows(2).all(|pair| pair[1] - pair[0] >= 15), "{asked:?}");
    assert!(asked[0] >= 15 && asked[12] <= 13 * 18, "{asked:?}");
}

#[tokio::test]
async fn a_device_login_slows_down_when_it_is_told_to_and_ends_when_it_is_denied() {
    let desk = Desk::new().await;
    let answer = |error: &str| {
        let body = Some(format!("{{\"error\":\"{error}\"}}"));
        let kind = FaultKind::Status { code: 400, body, retry_after: None };
        Fault { at: Place::Token, path_prefix: None, kind, times: Some(1) }
    };
    let (_, waiting) = desk.begin().await;
    for error in ["authorization_pending", "slow_down", "slow_down", "access_denied"] {
        desk.sandbox.control().inject(answer(error));
    }
    desk.pass_until_asked(4).await;
    let error = waiting.await.unwrap().unwrap_err();
    assert!(
        error.to_string().starts_with("RingCentral refused the login (access_denied: "),
        "{error}"
    );
    let asked = desk.asked_at();
    let gaps: Vec<_> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps[0] >= 15 && gaps[1] >= 20 && gaps[2] >= 25 && gaps[2] <= 28, "{gaps:?}");
}

#[tokio::test]
async fn a_device_login_that_nobody_answers_ends_with_its_code() {
    let desk = Desk::new().await;
    let (_, waiting) = desk.begin().await;
    let mut seconds = 0;
    while !waiting.is_finished() {
        desk.clock.advance(Duration::from_secs(1));
        desk.come_to_rest().await;
        seconds += 1;
        assert!(seconds <= 600, "longer than the code lives");
    }
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the code was not entered in time: run it again");
    assert_eq!(desk.sandbox.control().counts().token_429, 0);
}
