//! Token sets that end with the process: for tests, demonstrations, and identities that can open a
//! new session any time. Clones share one store, as processes would.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{
    Change, Enrolment, Entry, Hold, Lease, Outline, StoreError, StoreFuture, Stored, Surveyed,
    TokenStore,
};
use crate::clock::{Clock, Timestamp};
use crate::secret::SecretKey;
use crate::token::Generation;
use crate::token::ledger::Ledger;

/// Token sets in memory.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    shelf: Arc<Mutex<Shelf>>,
    clock: Clock,
}

#[derive(Debug, Default)]
struct Shelf {
    entries: BTreeMap<String, Entry>,
    enrolments: BTreeMap<String, Enrolment>,
    ledgers: BTreeMap<String, Ledger>,
    keys: BTreeMap<String, SecretKey>,
    leased: HashSet<String>,
    watchers: Vec<UnboundedSender<Change>>,
}

impl MemoryStore {
    /// An empty one, whose ledger goes by `clock`.
    pub fn new(clock: Clock) -> Self {
        Self { shelf: Arc::default(), clock }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(
        &self,
        identity: &str,
        entry: Entry,
        expected: Generation,
    ) -> Result<(), StoreError> {
        let mut kept = self.shelf();
        let found = kept.entries.get(identity).map_or(Generation::NONE, Entry::generation);
        if found != expected {
            return Err(StoreError::Conflict { expected, found });
        }
        let change = Change::Identity(identity.to_owned(), Some(entry.generation()));
        kept.entries.insert(identity.to_owned(), entry);
        kept.tell(&change);
        Ok(())
    }
}

impl Shelf {
    fn tell(&mut self, change: &Change) {
        self.watchers.retain(|watcher| watcher.send(change.clone()).is_ok());
    }
}

/// The lease of one identity.
struct Leased(MemoryStore, String);

impl Hold for Leased {}

impl Drop for Leased {
    fn drop(&mut self) {
        self.0.shelf().leased.remove(&self.1);
    }
}

impl TokenStore for MemoryStore {
    fn load<'a>(&'a self, identity: &'a str) -> StoreFuture<'a, Entry> {
        Box::pin(
            async move { Ok(self.shelf().entries.get(identity).cloned().unwrap_or(Entry::Absent)) },
        )
    }

    fn lease<'a>(&'a self, identity: &'a str) -> StoreFuture<'a, Option<Lease>> {
        Box::pin(async move {
            let free = self.shelf().leased.insert(identity.to_owned());
            let held = || Leased(self.clone(), identity.to_owned());
            Ok(free.then(|| Lease::new(identity, held())))
        })
    }

    fn probe_writable<'a>(&'a self, _: &'a Lease) -> StoreFuture<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn save<'a>(
        &'a self,
        lease: &'a Lease,
        stored: &'a Stored,
        expected: Generation,
    ) -> StoreFuture<'a, ()> {
        let entry = Entry::Session(stored.clone());
        Box::pin(async move { self.replace(lease.identity(), entry, expected) })
    }

    fn erase<'a>(&'a self, lease: &'a Lease, expected: Generation) -> StoreFuture<'a, ()> {
        let entry = Entry::Erased(expected.next());
        Box::pin(async move { self.replace(lease.identity(), entry, expected) })
    }

    fn changes(&self) -> UnboundedReceiver<Change> {
        let (watcher, changes) = unbounded_channel();
        self.shelf().watchers.push(watcher);
        changes
    }

    fn enrol<'a>(
        &'a self,
        identity: &'a str,
        enrolment: Option<&'a Enrolment>,
    ) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let mut kept = self.shelf();
            match enrolment {
                Some(enrolment) => {
                    kept.enrolments.insert(identity.to_owned(), enrolment.clone());
                }
                None => {
                    kept.enrolments.remove(identity);
                }
            }
            kept.tell(&Change::Identity(identity.to_owned(), None));
            Ok(())
        })
    }

    fn enrolment<'a>(&'a self, identity: &'a str) -> StoreFuture<'a, Option<Enrolment>> {
        Box::pin(async move { Ok(self.shelf().enrolments.get(identity).cloned()) })
    }

    fn survey(&self) -> StoreFuture<'_, Vec<Surveyed>> {
        Box::pin(async move {
            let kept = self.shelf();
            let mut found = BTreeMap::<&String, Surveyed>::new();
            let new = |identity: &String| Surveyed {
                identity: identity.clone(),
                session: None,
                enrolled: false,
            };
            for (identity, entry) in &kept.entries {
                if let Entry::Session(stored) = entry {
                    let line = found.entry(identity).or_insert_with(|| new(identity));
                    line.session = Some(Outline::of(&stored.set));
                }
            }
            for identity in kept.enrolments.keys() {
                found.entry(identity).or_insert_with(|| new(identity)).enrolled = true;
            }
            Ok(found.into_values().collect())
        })
    }

    fn post<'a>(
        &'a self,
        application: &'a str,
        change: &'a mut (dyn FnMut(&mut Ledger, Timestamp) + Send),
    ) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let now = self.clock.now();
            change(self.shelf().ledgers.entry(application.to_owned()).or_default(), now);
            Ok(())
        })
    }

    fn shared_key<'a>(&'a self, name: &'a str) -> StoreFuture<'a, SecretKey> {
        let new = || SecretKey::parse(&SecretKey::generate()).expect("it is a key");
        Box::pin(
            async move { Ok(self.shelf().keys.entry(name.to_owned()).or_insert_with(new).clone()) },
        )
    }

    fn check(&self) -> StoreFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}
