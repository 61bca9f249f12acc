//! Sessions from one store to another. A session can live in one place only: two stores that hold the
//! same refresh token end each other's session with the first renewal. So a move takes the leases first,
//! and leaves the mark of a logout behind when the archive is safe.

use std::sync::Arc;

use super::LoginError;
use super::registrar::{give_back, lease};
use crate::clock::Clock;
use crate::secret::Secret;
use crate::settings::{IdentitySettings, Settings};
use crate::store::archive::{Item, Verdict, judge};
use crate::store::{Enrolment, Entry, Lease, Provenance, TokenStore};
use crate::token::Generation;

/// One side of a transfer.
pub struct Transfer {
    store: Arc<dyn TokenStore>,
    clock: Clock,
}

/// What is to go into an archive.
pub struct Collected {
    /// It.
    pub items: Vec<Item>,
    /// While these live, nobody renews what moves.
    leases: Vec<Lease>,
}

impl Collected {
    /// Those whose session would live in two places.
    pub fn shared(&self) -> impl Iterator<Item = &str> {
        let refreshes =
            |item: &&Item| item.session.as_ref().is_some_and(|stored| stored.set.refresh.is_some());
        self.items.iter().filter(refreshes).map(|item| &*item.identity)
    }
}

/// What became of an identity of an archive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum Brought {
    #[error("is stored, generation {}", .0.number())]
    Session(Generation),
    #[error("is stored: it has no session yet")]
    Enrolment,
    #[error("is here already")]
    Same,
    #[error(
        "is NOT stored: the store has generation {}, the archive {}; --replace takes the archive's \
         all the same", there.number(), archived.number()
    )]
    Newer { there: Generation, archived: Generation },
    #[error(
        "is NOT stored: [identity.NAME] here has another credential or application than opened the \
         session, and would not use it"
    )]
    OtherCredential,
    #[error(
        "is NOT stored: no application here is the one that it belongs to; add the [application.NAME] \
         with its client_id"
    )]
    NoApplication,
    #[error(
        "is NOT stored: an identity of this name was added here with another application or JWT; \
         --replace takes the archive's all the same"
    )]
    OtherEnrolment,
    #[error("is NOT stored: this cannot be the name of an identity")]
    Name,
}

impl Brought {
    /// Whether it is in the store now.
    pub const fn is_here(&self) -> bool {
        matches!(self, Self::Session(_) | Self::Enrolment | Self::Same)
    }
}

impl Transfer {
    /// From or to this store.
    pub fn new(store: Arc<dyn TokenStore>, clock: Clock) -> Self {
        Self { store, clock }
    }

    /// Everybody who has a session or an enrolment here.
    pub async fn names(&self) -> Result<Vec<String>, LoginError> {
        let found = self.store.survey().await?;
        Ok(found.into_iter().map(|line| line.identity).collect())
    }

    /// Reads what is stored of these identities; if it is to move, under their leases.
    pub async fn collect(&self, names: &[String], moves: bool) -> Result<Collected, TransferError> {
        let mut collected = Collected { items: Vec::new(), leases: Vec::new() };
        for name in names {
            if moves {
                let lease = lease(&*self.store, &self.clock, name).await?;
                collected.leases.push(lease);
            }
            let session = self.store.load(name).await.map_err(LoginError::from)?.session();
            let enrolment = self.store.enrolment(name).await.map_err(LoginError::from)?;
            if session.is_none() && enrolment.is_none() {
                return Err(TransferError::Unknown { identity: name.clone() });
            }
            collected.items.push(Item { identity: name.clone(), session, enrolment });
        }
        Ok(collected)
    }

    /// Leaves the mark of a logout where the session was, and forgets who was added. Nothing is revoked:
    /// the session goes on elsewhere.
    pub async fn leave(&self, collected: Collected) -> Result<(), LoginError> {
        for (item, lease) in collected.items.iter().zip(collected.leases) {
            if let Some(stored) = &item.session {
                self.store.erase(&lease, stored.set.generation).await?;
            }
            if item.enrolment.is_some() {
                self.store.enrol(&item.identity, None).await?;
            }
            give_back(&*self.store, lease).await;
        }
        Ok(())
    }

    /// Stores what an archive holds of one identity, as far as `settings` have a use for it.
    pub async fn bring(
        &self,
        settings: &Settings,
        item: &Item,
        replace: bool,
    ) -> Result<Brought, LoginError> {
        let name = &item.identity;
        if !IdentitySettings::is_name(name) {
            return Ok(Brought::Name);
        }
        let enrolment = match place(settings, item) {
            Ok(enrolment) => enrolment,
            Err(refusal) => return Ok(refusal),
        };
        let lease = lease(&*self.store, &self.clock, name).await?;
        let there = self.store.load(name).await?;
        let known = self.store.enrolment(name).await?;
        let is_new = enrolment.as_ref().is_some_and(|ours| !is_same(ours, known.as_ref()));
        if is_new && known.is_some() && !replace {
            return Ok(Brought::OtherEnrolment);
        }
        let brought = self.bring_session(&lease, item, &there, replace).await?;
        if !brought.is_here() {
            return Ok(brought);
        }
        if is_new {
            self.store.enrol(name, enrolment.as_ref()).await?;
        }
        give_back(&*self.store, lease).await;
        Ok(if is_new && brought == Brought::Same { Brought::Enrolment } else { brought })
    }

    async fn bring_session(
        &self,
        lease: &Lease,
        item: &Item,
        there: &Entry,
        replace: bool,
    ) -> Result<Brought, LoginError> {
        let Some(session) = &item.session else { return Ok(Brought::Same) };
        match judge(session, there, replace) {
            Verdict::Same => Ok(Brought::Same),
            Verdict::Newer(generation) => {
                Ok(Brought::Newer { there: generation, archived: session.set.generation })
            }
            Verdict::Take(generation) => {
                let mut stored = session.clone();
                stored.set.generation = generation;
                self.store.save(lease, &stored, there.generation()).await?;
                Ok(Brought::Session(generation))
            }
        }
    }
}

/// What is to be kept of the identity beside its session so that a proxy here uses it; nothing if it is
/// configured. PURE.
fn place(settings: &Settings, item: &Item) -> Result<Option<Enrolment>, Brought> {
    let provenance = item.session.as_ref().map(|stored| stored.provenance);
    if let Some(configured) = settings.identities.iter().find(|it| it.name == item.identity) {
        let fits = provenance.is_none_or(|there| there == Provenance::of(configured));
        return if fits { Ok(None) } else { Err(Brought::OtherCredential) };
    }
    let applications = settings.applications.iter();
    if let Some(enrolment) = &item.enrolment {
        let is_known = applications.clone().any(|it| it.client_id == enrolment.client_id);
        return if is_known { Ok(Some(enrolment.clone())) } else { Err(Brought::NoApplication) };
    }
    // Where it comes from it was configured, with `login = true`.
    let opened = |application: &&Arc<_>| {
        let identity = IdentitySettings::enrolled(&item.identity, Arc::clone(application), None);
        Some(Provenance::of(&identity)) == provenance
    };
    let application = applications.clone().find(opened).ok_or(Brought::NoApplication)?;
    Ok(Some(Enrolment { client_id: application.client_id.clone(), jwt: None }))
}

fn is_same(ours: &Enrolment, known: Option<&Enrolment>) -> bool {
    let jwt = |enrolment: &Enrolment| enrolment.jwt.as_ref().map(Secret::expose).map(str::to_owned);
    known.is_some_and(|known| known.client_id == ours.client_id && jwt(known) == jwt(ours))
}

/// Why nothing is exported.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// There is nobody of that name.
    #[error("the store has neither a session nor an enrolment of identity {identity:?}")]
    Unknown {
        /// The name.
        identity: String,
    },
    /// The store or a lease.
    #[error(transparent)]
    Login(#[from] LoginError),
}
