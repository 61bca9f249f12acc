//! All identities: from a name to its [`Keeper`], and the task that drives every one of them.
//!
//! Identities of one application share its budget of token requests; apart from that, the trouble
//! of one is none of the others'.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::budget::SET_BACK;
use super::keeper::Keeper;
use super::keeper::driver::{Auditor, Driver, Surroundings};
use super::lifecycle::keep_alive_due;
use super::names::{IdentityNumber, Names};
use super::queue::Queue;
use crate::audit::AuditLog;
use crate::clock::{Clock, Timestamp};
use crate::oauth::endpoint::TokenEndpoint;
use crate::secret::SecretKey;
use crate::settings::{ApplicationSettings, IdentitySettings};
use crate::store::{Change, Enrolment, StoreError, Surveyed, TokenStore};
use crate::telemetry::chain;

/// Which identity, as an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentityId {
    index: u32,
    number: IdentityNumber,
}

impl IdentityId {
    /// The position in the configuration, from 0.
    pub const fn index(self) -> usize {
        self.index as usize
    }

    /// The same for this name in a successor.
    pub const fn number(self) -> IdentityNumber {
        self.number
    }
}

/// All identities of the process: those of the configuration, and those that were added since,
/// whose keepers are made when somebody asks for them.
pub struct Identities {
    keepers: boxcar::Vec<Arc<Keeper>>,
    names: RwLock<HashMap<String, IdentityId>>,
    heard: Arc<Names>,
    configured: usize,
    /// Where none is configured: those that were added, and the only one of them.
    added: std::sync::Mutex<BTreeSet<String>>,
    sole: AtomicU32,
    applications: Vec<Arc<ApplicationSettings>>,
    queues: HashMap<String, Arc<Queue>>,
    store: Arc<dyn TokenStore>,
    endpoint: TokenEndpoint,
    clock: Clock,
    /// Who needs a driver.
    agency: UnboundedSender<IdentityId>,
    hired: Mutex<UnboundedReceiver<IdentityId>>,
    /// Strangers are looked up a few at a time.
    lookups: Semaphore,
    audit: Auditor,
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|(_, keeper)| keeper.name())).finish()
    }
}

impl Identities {
    /// Prepares the identities; nothing happens before [`run`](Self::run).
    pub fn new(
        settings: &[Arc<IdentitySettings>],
        store: Arc<dyn TokenStore>,
        endpoint: TokenEndpoint,
        clock: Clock,
    ) -> Self {
        Self::by(Arc::default(), settings, store, endpoint, clock)
    }

    /// The same, with the numbers of these names.
    pub fn by(
        heard: Arc<Names>,
        settings: &[Arc<IdentitySettings>],
        store: Arc<dyn TokenStore>,
        endpoint: TokenEndpoint,
        clock: Clock,
    ) -> Self {
        let all = Self::idle(heard, settings, store, endpoint, clock);
        all.iter().for_each(|(_, keeper)| keeper.hire());
        all
    }

    /// As [`new`](Self::new), but nobody's token is looked after before somebody asks for it.
    pub fn on_demand(
        settings: &[Arc<IdentitySettings>],
        store: Arc<dyn TokenStore>,
        endpoint: TokenEndpoint,
        clock: Clock,
    ) -> Self {
        Self::idle(Arc::default(), settings, store, endpoint, clock)
    }

    fn idle(
        heard: Arc<Names>,
        settings: &[Arc<IdentitySettings>],
        store: Arc<dyn TokenStore>,
        endpoint: TokenEndpoint,
        clock: Clock,
    ) -> Self {
        let (agency, hired) = unbounded_channel();
        let mut all = Self {
            keepers: boxcar::Vec::new(),
            names: RwLock::default(),
            heard,
            configured: 0,
            added: std::sync::Mutex::default(),
            sole: AtomicU32::new(NOBODY),
            applications: Vec::new(),
            queues: HashMap::new(),
            store,
            endpoint,
            clock,
            agency,
            hired: Mutex::new(hired),
            lookups: Semaphore::new(PARALLEL_LOOKUPS),
            audit: Auditor { log: AuditLog::off(), command: "serve" },
        };
        for identity in settings {
            all.open_queue(&identity.application);
            all.add(Arc::clone(identity));
        }
        all.configured = settings.len();
        all
    }

    /// Identities that are added later may log in with these too.
    #[must_use]
    pub fn knowing(mut self, applications: &[Arc<ApplicationSettings>]) -> Self {
        for application in applications {
            self.open_queue(application);
        }
        self
    }

    /// What becomes of sessions is noted there, as done by `command`.
    #[must_use]
    pub fn audited(mut self, log: &AuditLog, command: &'static str) -> Self {
        self.audit = Auditor { log: log.clone(), command };
        self
    }

    /// The identity of that name, if it is configured or has been asked for before.
    pub fn find(&self, name: &str) -> Option<IdentityId> {
        self.names.read().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }

    /// The identity of that name, if it was ever added.
    pub async fn discover(&self, name: &str) -> Result<Option<IdentityId>, StoreError> {
        let _permit = self.lookups.acquire().await.map_err(|_| StoreError::Stopped)?;
        if let Some(id) = self.find(name) {
            return Ok(Some(id));
        }
        if !IdentitySettings::is_name(name) {
            return Ok(None);
        }
        let Some(enrolment) = self.store.enrolment(name).await? else { return Ok(None) };
        Ok(self.admit(name, enrolment))
    }

    /// The identity, if exactly one is configured, or none is and exactly one was added.
    pub fn only(&self) -> Option<IdentityId> {
        match self.configured {
            0 => Some(self.sole.load(Ordering::Acquire))
                .filter(|index| *index != NOBODY)
                .map(|index| self.keepers[index as usize].id()),
            1 => Some(self.keepers[0].id()),
            _ => None,
        }
    }

    /// Its keeper.
    pub fn keeper(&self, id: IdentityId) -> &Keeper {
        &self.keepers[id.index()]
    }

    /// All that are known here: those of the configuration, in its order, then the others.
    pub fn iter(&self) -> impl Iterator<Item = (IdentityId, &Keeper)> {
        self.keepers.iter().map(|(_, keeper)| (keeper.id(), &**keeper))
    }

    /// Those of the configuration, in its order.
    pub fn configured(&self) -> impl Iterator<Item = (IdentityId, &Keeper)> {
        self.iter().take(self.configured)
    }

    /// Those that were added, have been asked for here, and are there still.
    pub fn added(&self) -> impl Iterator<Item = (IdentityId, &Keeper)> {
        let others = self.iter().skip(self.configured);
        others.filter(|(id, keeper)| self.find(keeper.name()) == Some(*id))
    }

    /// The applications whose identities these are.
    pub fn applications(&self) -> &[Arc<ApplicationSettings>] {
        &self.applications
    }

    /// The numbers of their names.
    pub const fn names(&self) -> &Arc<Names> {
        &self.heard
    }

    /// Where the sessions are kept.
    pub fn store(&self) -> &dyn TokenStore {
        &*self.store
    }

    /// Adds an identity for good, in the store and here.
    pub async fn enrol(&self, name: &str, enrolment: Enrolment) -> Result<(), EnrolError> {
        if !IdentitySettings::is_name(name) {
            return Err(EnrolError::Name);
        }
        if self.find(name).is_some_and(|id| id.index() < self.configured) {
            return Err(EnrolError::Configured);
        }
        if !self.applications.iter().any(|known| known.client_id == enrolment.client_id) {
            return Err(EnrolError::UnknownApplication);
        }
        self.store.enrol(name, Some(&enrolment)).await?;
        self.drop_name(name);
        self.admit(name, enrolment);
        Ok(())
    }

    /// Removes an identity that was added. Its session stays in the store until a logout.
    pub async fn remove(&self, name: &str) -> Result<(), EnrolError> {
        if self.find(name).is_some_and(|id| id.index() < self.configured) {
            return Err(EnrolError::Configured);
        }
        self.store.enrol(name, None).await?;
        self.drop_name(name);
        Ok(())
    }

    /// A key that all processes share through the store.
    pub async fn shared_key(&self, name: &str) -> Result<SecretKey, StoreError> {
        self.store.shared_key(name).await
    }

    /// Whether the store answers.
    pub async fn check_store(&self) -> Result<(), StoreError> {
        self.store.check().await
    }

    /// Keeps all tokens until `shutdown`; then begins nothing new, finishes and stores what is under
    /// way, and returns.
    ///
    /// # Panics
    /// If an identity's task panicked, or if it is called twice at a time.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) {
        let (end, ending) = watch::channel(false);
        let mut hired = self.hired.try_lock().expect("identities are run once");
        let mut drivers = JoinSet::new();
        // Before anything is read: what changes after that is heard of.
        let changes = self.store.changes();
        let mut others = std::pin::pin!(async {
            let listening = self.watch_store(changes);
            tokio::join!(self.watch_clock(), listening, self.compare(), self.patrol());
        });
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(id) = hired.recv() => {
                    let keeper = Arc::clone(&self.keepers[id.index()]);
                    let around = self.surroundings(&keeper, &ending);
                    let stays = id.index() < self.configured;
                    drivers.spawn(Box::new(Driver::new(keeper, around, stays)).run());
                }
                Some(ended) = drivers.join_next() => {
                    ended.expect("an identity's task does not panic");
                }
                () = &mut others => unreachable!("they never return"),
            }
        }
        end.send_replace(true);
        while let Some(ended) = drivers.join_next().await {
            ended.expect("an identity's task does not panic");
        }
    }

    fn open_queue(&mut self, application: &Arc<ApplicationSettings>) {
        if self.applications.iter().any(|known| known.client_id == application.client_id) {
            return;
        }
        let queue = Queue::new(application, Arc::clone(&self.store), self.clock.clone());
        self.queues.insert(application.client_id.clone(), Arc::new(queue));
        self.applications.push(Arc::clone(application));
    }

    fn add(&self, settings: Arc<IdentitySettings>) -> IdentityId {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        let number = self.heard.enter(&settings.name);
        let new =
            |index| IdentityId { index: u32::try_from(index).expect("memory ends before"), number };
        *names.entry(settings.name.clone()).or_insert_with(|| {
            new(self.keepers.push_with(|index| {
                let (clock, agency) = (self.clock.clone(), self.agency.clone());
                Arc::new(Keeper::new(settings, clock, new(index), agency))
            }))
        })
    }

    /// Makes the keeper of an identity that was added; `None` if its application is not configured.
    fn admit(&self, name: &str, enrolment: Enrolment) -> Option<IdentityId> {
        let mut applications = self.applications.iter();
        let Some(application) = applications.find(|known| known.client_id == enrolment.client_id)
        else {
            warn!(
                identity = name,
                "this identity belongs to an application that is not configured: add the \
                 application of its client id, or log it out"
            );
            return None;
        };
        let application = Arc::clone(application);
        Some(self.add(Arc::new(IdentitySettings::enrolled(name, application, enrolment.jwt))))
    }

    /// From now on the name is looked up again; the keeper goes when its token has lapsed.
    fn drop_name(&self, name: &str) {
        let gone = self.names.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        if let Some(id) = gone {
            self.keepers[id.index()].dismiss();
        }
    }

    fn surroundings(&self, keeper: &Keeper, ending: &watch::Receiver<bool>) -> Surroundings {
        Surroundings {
            store: Arc::clone(&self.store),
            endpoint: self.endpoint.clone(),
            queue: Arc::clone(&self.queues[keeper.client_id()]),
            clock: self.clock.clone(),
            audit: self.audit.clone(),
            ending: ending.clone(),
        }
    }

    /// Tells keepers what other processes have done. It never returns.
    async fn watch_store(&self, mut changes: UnboundedReceiver<Change>) {
        self.count_added().await;
        while let Some(change) = changes.recv().await {
            match change {
                Change::Identity(name, generation) => {
                    self.recount_added(&name).await;
                    let Some(id) = self.find(&name) else { continue };
                    self.keeper(id).changed(generation);
                    if generation.is_none() && id.index() >= self.configured {
                        self.confirm(&name).await;
                    }
                }
                Change::Anything => {
                    info!("the store is back: every session is compared with it");
                    self.iter().for_each(|(_, keeper)| keeper.changed(None));
                    self.count_added().await;
                }
            }
        }
        std::future::pending::<()>().await;
    }

    /// Where none is configured, looks whether exactly one was added.
    async fn count_added(&self) {
        if self.configured > 0 {
            return;
        }
        let Ok(found) = self.store.survey().await else { return };
        let names = found.into_iter().filter(|line| line.enrolled).map(|line| line.identity);
        let added = names.collect();
        *self.added.lock().unwrap_or_else(PoisonError::into_inner) = added;
        self.elect().await;
    }

    /// The same, when only one of them may have changed.
    async fn recount_added(&self, name: &str) {
        if self.configured > 0 {
            return;
        }
        let Ok(enrolment) = self.store.enrolment(name).await else { return };
        {
            let mut added = self.added.lock().unwrap_or_else(PoisonError::into_inner);
            match enrolment {
                Some(_) => added.insert(name.to_owned()),
                None => added.remove(name),
            };
        }
        if self.find(name).is_some() {
            self.confirm(name).await;
        }
        self.elect().await;
    }

    async fn elect(&self) {
        let name = {
            let added = self.added.lock().unwrap_or_else(PoisonError::into_inner);
            added.first().filter(|_| added.len() == 1).cloned()
        };
        let sole = match name {
            Some(name) => self.discover(&name).await.ok().flatten(),
            None => None,
        };
        self.sole.store(sole.map_or(NOBODY, |id| id.index), Ordering::Release);
    }

    /// Drops the name of an identity that another process has removed or added anew.
    async fn confirm(&self, name: &str) {
        let Ok(enrolment) = self.store.enrolment(name).await else { return };
        let known = self.find(name).map(|id| self.keeper(id).has_enrolment(enrolment.as_ref()));
        if known == Some(false) {
            self.drop_name(name);
        }
    }

    /// Looks from time to time whether the store still has what is known here. A server tells of
    /// changes, but not of its being emptied, nor of a message lost on its way. It never returns.
    async fn compare(&self) {
        loop {
            self.clock.sleep(COMPARE).await;
            let keepers = self.iter().map(|(_, keeper)| keeper);
            let keepers: Vec<_> = keepers.filter(|keeper| !keeper.is_dismissed()).collect();
            let names: Vec<_> = keepers.iter().map(|keeper| keeper.name()).collect();
            match self.store.generations(&names).await {
                Ok(stored) => {
                    for (keeper, stored) in keepers.into_iter().zip(stored) {
                        keeper.compared(stored);
                    }
                }
                Err(error) => debug!(cause = chain(&error), "the sessions were not compared"),
            }
        }
    }

    /// Wakes those whose session would otherwise end because nobody uses it. It never returns.
    async fn patrol(&self) {
        // Those who wait for the first answers go first.
        self.clock.sleep(FIRST_PATROL).await;
        loop {
            match self.store.survey().await {
                Ok(found) => {
                    let (surveyed, hired) = (found.len(), self.hire_due(found).await);
                    debug!(surveyed, hired, "the store was searched for sessions near their end");
                }
                Err(error) => {
                    let cause = chain(&error);
                    warn!(cause, "the store could not be searched for sessions near their end");
                }
            }
            self.clock.sleep(PATROL).await;
        }
    }

    /// Sees to it that those are driven that are due before the next look; says how many are.
    async fn hire_due(&self, found: Vec<Surveyed>) -> usize {
        let (now, mut hired) = (self.clock.now(), 0);
        for line in found {
            let due = line.session.and_then(|session| keep_alive_due(&line.identity, &session));
            if due.is_some_and(|due| due <= now + PATROL)
                && let Ok(Some(id)) = self.discover(&line.identity).await
            {
                self.keeper(id).hire();
                hired += 1;
            }
        }
        hired
    }

    /// Notices when the wall clock is set back, which no deadline would. It never returns.
    async fn watch_clock(&self) {
        let mut before = self.clock.now();
        loop {
            self.clock.next_look(before).await;
            let now = self.clock.now();
            if let Some(by) = set_back(before, now) {
                self.iter().for_each(|(_, keeper)| keeper.clock_set_back(by));
            }
            before = now;
        }
    }
}

/// How often the store is searched for sessions near their end.
const PATROL: Duration = Duration::from_secs(3600);

/// How long after the start it is searched first.
const FIRST_PATROL: Duration = Duration::from_secs(5);

/// How often the store is compared with what is known.
const COMPARE: Duration = Duration::from_secs(30);

const PARALLEL_LOOKUPS: usize = 8;

/// No identity's number.
const NOBODY: u32 = u32::MAX;

/// Why an identity was not added or removed.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The name does not do.
    #[error("a name is at most 64 letters, digits, - and _, and begins with a letter or a digit")]
    Name,
    /// The configuration has it.
    #[error("this identity stands in the configuration file: change it there")]
    Configured,
    /// Nothing is known of its application.
    #[error("no application of the configuration has this client id: add an [application.NAME]")]
    UnknownApplication,
    /// The store failed.
    #[error("the identity cannot be stored")]
    Store(#[from] StoreError),
}

/// By how much the clock went backwards, beyond what a time daemon does in its ordinary work.
fn set_back(before: Timestamp, now: Timestamp) -> Option<Duration> {
    let by = now.until(before);
    (by >= SET_BACK).then_some(by)
}
