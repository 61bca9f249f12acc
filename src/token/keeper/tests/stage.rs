//! A process of keepers whose endpoint follows a script, whose store fails on demand, and whose
//! clock is moved by hand.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::clock::{Clock, Timestamp};
use crate::oauth::endpoint::scripted::{Line, Script};
use crate::secret::{Secret, SecretKey};
use crate::settings::{ApplicationSettings, Credential, IdentitySettings};
use crate::store::{
    Change, Enrolment, Entry, Hold, Lease, Provenance, StoreError, StoreFuture, Stored, Surveyed,
    TokenStore,
};
use crate::token::identities::Identities;
use crate::token::keeper::Keeper;
use crate::token::ledger::Ledger;
use crate::token::slot::LocalBearer;
use crate::token::{AccessToken, Generation, Refresh, RefreshToken, TokenSet};

pub(super) const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);

/// A store in memory that outlives "processes" and fails on demand.
#[derive(Default)]
pub(super) struct FlakyStore {
    pub(super) sessions: Mutex<BTreeMap<String, Stored>>,
    pub(super) unreadable: AtomicBool,
    pub(super) unwritable: AtomicBool,
    /// The disk fills up between the probe and the save.
    pub(super) full: AtomicBool,
    pub(super) leased: AtomicBool,
    /// How many leases this process holds.
    pub(super) held: Arc<AtomicUsize>,
    pub(super) watchers: Mutex<Vec<UnboundedSender<Change>>>,
}

impl FlakyStore {
    pub(super) fn fault<T>(failing: &AtomicBool) -> Result<(), T>
    where
        T: From<StoreError>,
    {
        let source = io::Error::from(io::ErrorKind::ReadOnlyFilesystem);
        let fault = StoreError::Io { action: "write", path: "/state".into(), source };
        if failing.load(Ordering::Relaxed) { Err(fault.into()) } else { Ok(()) }
    }

    pub(super) fn put(&self, identity: &str, stored: Stored) {
        self.sessions.lock().unwrap().insert(identity.into(), stored);
    }

    pub(super) fn get(&self, identity: &str) -> Option<Stored> {
        self.sessions.lock().unwrap().get(identity).cloned()
    }

    pub(super) fn set(failing: &AtomicBool, to: bool) {
        failing.store(to, Ordering::Relaxed);
    }
}

impl TokenStore for FlakyStore {
    fn load<'a>(&'a self, identity: &'a str) -> StoreFuture<'a, Entry> {
        Box::pin(async move {
            Self::fault::<StoreError>(&self.unreadable)?;
            Ok(self.get(identity).map_or(Entry::Absent, Entry::Session))
        })
    }

    fn lease<'a>(&'a self, identity: &'a str) -> StoreFuture<'a, Option<Lease>> {
        let free = !self.leased.load(Ordering::Relaxed);
        Box::pin(async move { Ok(free.then(|| Lease::new(identity, Counted::in_(&self.held)))) })
    }

    fn probe_writable<'a>(&'a self, _: &'a Lease) -> StoreFuture<'a, ()> {
        Box::pin(async move { Self::fault(&self.unwritable) })
    }

    fn save<'a>(
        &'a self,
        lease: &'a Lease,
        stored: &'a Stored,
        expected: Generation,
    ) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            Self::fault::<StoreError>(&self.full)?;
            let there = self.get(lease.identity());
            let found = there.map_or(Generation::NONE, |there| there.set.generation);
            if found != expected {
                return Err(StoreError::Conflict { expected, found });
            }
            self.put(lease.identity(), stored.clone());
            Ok(())
        })
    }

    fn erase<'a>(&'a self, lease: &'a Lease, _: Generation) -> StoreFuture<'a, ()> {
        self.sessions.lock().unwrap().remove(lease.identity());
        Box::pin(async { Ok(()) })
    }

    fn changes(&self) -> UnboundedReceiver<Change> {
        let (tell, changes) = unbounded_channel();
        self.watchers.lock().unwrap().push(tell);
        changes
    }

    fn enrol<'a>(&'a self, _: &'a str, _: Option<&'a Enrolment>) -> StoreFuture<'a, ()> {
        unreachable!("nothing here enrols")
    }

    fn enrolment<'a>(&'a self, _: &'a str) -> StoreFuture<'a, Option<Enrolment>> {
        Box::pin(async { Ok(None) })
    }

    fn survey(&self) -> StoreFuture<'_, Vec<Surveyed>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn post<'a>(
        &'a self,
        _: &'a str,
        change: &'a mut (dyn FnMut(&mut Ledger, Timestamp) + Send),
    ) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            change(&mut Ledger::default(), NOW);
            Ok(())
        })
    }

    fn shared_key<'a>(&'a self, _: &'a str) -> StoreFuture<'a, SecretKey> {
        unreachable!("nothing here seals")
    }

    fn check(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move { Self::fault(&self.unreadable) })
    }
}

/// A lease that is counted for as long as it is held.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn in_(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Hold for Counted {}

pub(super) fn identity(name: &str, credential: Credential) -> Arc<IdentitySettings> {
    Arc::new(IdentitySettings {
        name: name.into(),
        application: Arc::new(ApplicationSettings {
            name: "app".into(),
            client_id: "client".into(),
            client_secret: Some(Secret::new("secret")),
            token_url: "https://host/token".parse().unwrap(),
            revoke_url: "https://host/revoke".parse().unwrap(),
            authorize_url: "https://host/authorize".parse().unwrap(),
            device_authorization_url: "https://host/device_authorization".parse().unwrap(),
            redirect_uri: "http://127.0.0.1:8765/callback".into(),
            token_requests_per_minute: 5.try_into().unwrap(),
        }),
        credential,
        hosts: Vec::new(),
        listen: Vec::new(),
        fallback: None,
        endpoint_id: None,
        access_token_ttl: None,
        refresh_token_ttl: None,
        scope: None,
    })
}

pub(super) fn jwt(name: &str) -> Arc<IdentitySettings> {
    identity(name, Credential::Jwt(Secret::new(format!("jwt-{name}"))))
}

pub(super) fn refreshing(name: &str) -> Arc<IdentitySettings> {
    identity(name, Credential::RefreshToken(Secret::new("refresh-0")))
}

pub(super) fn stored(settings: &IdentitySettings, generation: u64, life: u64) -> Stored {
    let set = TokenSet {
        generation: Generation::new(generation),
        access_token: AccessToken::new(format!("stored-{generation}")),
        issued_at: NOW,
        expires_at: NOW + Duration::from_secs(life),
        refresh: Some(Refresh {
            token: RefreshToken::new(format!("stored-refresh-{generation}")),
            expires_at: None,
        }),
        previous_refresh: None,
        scope: None,
        owner_id: None,
        endpoint_id: None,
    };
    Stored { set, provenance: Provenance::of(settings) }
}

/// A process: identities that run until it ends.
pub(super) struct Process {
    pub(super) identities: Arc<Identities>,
    pub(super) clock: Clock,
    pub(super) end: oneshot::Sender<()>,
    pub(super) running: JoinHandle<()>,
}

impl Process {
    pub(super) async fn start(
        settings: &[Arc<IdentitySettings>],
        store: &Arc<FlakyStore>,
        script: &Arc<Script>,
        clock: &Clock,
    ) -> Self {
        let identities = Identities::new(
            settings,
            Arc::clone(store) as Arc<dyn TokenStore>,
            script.endpoint(),
            clock.clone(),
        );
        let identities = Arc::new(identities);
        let (end, ended) = oneshot::channel();
        let running = tokio::spawn({
            let identities = Arc::clone(&identities);
            async move {
                identities.run(async { ended.await.unwrap_or_default() }).await;
            }
        });
        settle().await;
        Self { identities, clock: clock.clone(), end, running }
    }

    pub(super) fn keeper(&self, name: &str) -> &Keeper {
        self.identities.keeper(self.identities.find(name).expect("configured"))
    }

    pub(super) fn token(&self, name: &str) -> Option<String> {
        let mut local = LocalBearer::default();
        let bearer = local.current(self.keeper(name).slot(), self.clock.now())?;
        Some(bearer.value.to_str().unwrap().to_owned())
    }

    pub(super) async fn advance(&self, secs: u64) {
        self.clock.advance(Duration::from_secs(secs));
        settle().await;
    }

    /// Ends as `kill -9` would: whatever was under way is gone.
    pub(super) async fn kill(self) {
        self.running.abort();
        let _ = self.running.await;
    }
}

/// Lets every task run until none can: nothing here waits for anything but the manual clock.
pub(super) async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// One process of one identity, whose endpoint follows `lines`.
pub(super) async fn process_of(
    settings: Arc<IdentitySettings>,
    lines: Vec<Line>,
) -> (Process, Arc<FlakyStore>, Arc<Script>) {
    let (store, script) = (Arc::new(FlakyStore::default()), Script::new(lines, true));
    let process = Process::start(&[settings], &store, &script, &Clock::manual(NOW)).await;
    (process, store, script)
}
