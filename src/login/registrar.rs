//! Who obtains, keeps and ends sessions outside a running proxy. The order is the keeper's: a turn in
//! the budget, the lease, a look, a probe, one request, the store.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::LoginError;
use super::subject::Subject;
use crate::clock::Clock;
use crate::oauth::TokenError;
use crate::oauth::endpoint::TokenEndpoint;
use crate::oauth::grant::Grant;
use crate::settings::{ApplicationSettings, IdentitySettings};
use crate::store::{Enrolment, Lease, Outline, Provenance, StoreError, Stored, TokenStore};
use crate::token::budget::Class;
use crate::token::queue::{Held, Progress, Queue};
use crate::token::{Generation, TokenSet};

/// The store and the token endpoint, as a login needs them.
pub struct Registrar {
    pub(super) store: Arc<dyn TokenStore>,
    pub(super) endpoint: TokenEndpoint,
    pub(super) clock: Clock,
}

/// A session that has been opened and kept.
#[derive(Debug)]
pub struct Opened {
    /// The session.
    pub session: Outline,
    /// The extension that it is of, if RingCentral said so.
    pub owner_id: Option<String>,
    /// The session whose place it has taken, and which is of no use to anybody any more.
    pub replaced: Option<TokenSet>,
}

/// What a logout has found.
#[derive(Debug)]
pub struct Ended {
    /// The session that was there.
    pub session: Option<TokenSet>,
    /// Whether the identity was one that had been added, and is removed.
    pub removed: bool,
}

impl Registrar {
    /// Of this store and this endpoint.
    pub fn new(store: Arc<dyn TokenStore>, endpoint: TokenEndpoint, clock: Clock) -> Self {
        Self { store, endpoint, clock }
    }

    /// What was kept of an identity when it was added.
    pub async fn known(&self, name: &str) -> Result<Option<Enrolment>, LoginError> {
        Ok(self.store.enrolment(name).await?)
    }

    /// Fails if a session could not be asked for or kept now. To be asked before a person is sent to
    /// RingCentral: a code lives for a minute.
    pub async fn prepare(&self, subject: &Subject) -> Result<(), LoginError> {
        let queue = self.queue(&subject.identity.application);
        let unused = self.turn(&queue, Class::Waiting, TURN_PATIENCE).await?;
        unused.settle().await;
        let lease = lease(&*self.store, &self.clock, &subject.identity.name).await?;
        self.store.probe_writable(&lease).await?;
        give_back(&*self.store, lease).await;
        Ok(())
    }

    /// Obtains a session by `grant` and keeps it, in place of any that is there.
    pub async fn open(
        &self,
        subject: &Subject,
        grant: Grant<'_>,
        class: Class,
    ) -> Result<Opened, LoginError> {
        let identity = &subject.identity;
        let queue = self.queue(&identity.application);
        let held = self.turn(&queue, class, TURN_PATIENCE).await?;
        let lease = lease(&*self.store, &self.clock, &identity.name).await?;
        let there = self.store.load(&identity.name).await?;
        self.store.probe_writable(&lease).await?;
        let set = self.request(identity, grant, &lease, held).await?;
        let replaced = there.clone().session().map(|stored| stored.set);
        let replaced = replaced.filter(|replaced| !is_same_session(replaced, &set));
        let kept = self.keep(subject, &lease, set.clone(), there.generation()).await;
        let kept = match kept {
            Ok(kept) => kept,
            Err(error) => {
                // Whatever comes of it: it lives nowhere else.
                let _ = self.revoke(&identity.application, &set).await;
                return Err(LoginError::NotKept(error));
            }
        };
        give_back(&*self.store, lease).await;
        Ok(Opened { session: Outline::of(&kept), owner_id: kept.owner_id, replaced })
    }

    /// Ends the session of an identity for every process of this store, and forgets the identity if it
    /// was added and `keep` is not set.
    pub async fn end(&self, name: &str, keep: bool) -> Result<Ended, LoginError> {
        let lease = lease(&*self.store, &self.clock, name).await?;
        let there = self.store.load(name).await?;
        let generation = there.generation();
        let session = there.session().map(|stored| stored.set);
        if session.is_some() {
            self.store.erase(&lease, generation).await?;
        }
        let removed = !keep && self.store.enrolment(name).await?.is_some();
        if removed {
            self.store.enrol(name, None).await?;
        }
        give_back(&*self.store, lease).await;
        Ok(Ended { session, removed })
    }

    /// Ends a session at RingCentral, within the application's budget. A failure is to be ignored and
    /// never to be repeated, says RingCentral's guide: the session ends by itself.
    pub async fn revoke(
        &self,
        application: &ApplicationSettings,
        session: &TokenSet,
    ) -> Result<(), LoginError> {
        let queue = self.queue(application);
        let mut held = self.turn(&queue, Class::Idle, REVOKE_PATIENCE).await?;
        let token = match &session.refresh {
            Some(refresh) => refresh.token.expose(),
            None => session.access_token.expose(),
        };
        held.sending();
        let answer = self.endpoint.revoke(application, token).await;
        if matches!(answer, Err(TokenError::Unreachable(_))) {
            held.not_sent();
        }
        held.settle().await;
        answer.map_err(|error| match error {
            TokenError::Unexpected { status, .. } => LoginError::NotRevoked { status },
            TokenError::Unreachable(source) | TokenError::NoAnswer(source) => {
                LoginError::NoRevocation(source)
            }
            error => error.into(),
        })
    }

    pub(super) fn queue(&self, application: &ApplicationSettings) -> Queue {
        Queue::new(application, Arc::clone(&self.store), self.clock.clone())
    }

    /// A turn in the application's budget, among all processes.
    pub(super) async fn turn<'q>(
        &self,
        queue: &'q Queue,
        class: Class,
        patience: Duration,
    ) -> Result<Held<'q>, LoginError> {
        let mut place = queue.join(class);
        let mut late = pin!(self.clock.sleep(patience));
        loop {
            tokio::select! {
                biased;
                progress = place.progress(class) => match progress {
                    Progress::Turn(held) => return Ok(held),
                    Progress::Again => {}
                    Progress::Down(error) => return Err(error.into()),
                },
                () = &mut late => {
                    return Err(LoginError::NoTurn { application: queue.application().to_owned() });
                }
            }
        }
    }

    async fn request(
        &self,
        identity: &IdentitySettings,
        grant: Grant<'_>,
        lease: &Lease,
        mut held: Held<'_>,
    ) -> Result<TokenSet, LoginError> {
        held.sending();
        let answer = self.endpoint.request(identity, grant, lease.vigil(), &self.clock).await;
        match &answer {
            Err(TokenError::Unreachable(_) | TokenError::LeaseHeld) => held.not_sent(),
            Err(TokenError::Penalty { retry_after, .. }) => held.silence(*retry_after),
            _ => {}
        }
        held.settle().await;
        Ok(answer?)
    }

    /// The session first: an identity is known only when it can be used.
    async fn keep(
        &self,
        subject: &Subject,
        lease: &Lease,
        set: TokenSet,
        expected: Generation,
    ) -> Result<TokenSet, StoreError> {
        let kept = self.save(subject, lease, set, expected).await?;
        if let Some(enrolment) = &subject.enrolment {
            self.store.enrol(&subject.identity.name, Some(enrolment)).await?;
        }
        Ok(kept)
    }

    async fn save(
        &self,
        subject: &Subject,
        lease: &Lease,
        set: TokenSet,
        expected: Generation,
    ) -> Result<TokenSet, StoreError> {
        let mut stored = Stored { set, provenance: Provenance::of(&subject.identity) };
        stored.set.generation = expected.next();
        match self.store.save(lease, &stored, expected).await {
            // The lease was lost meanwhile; a person's login counts more than a renewal of what it replaces.
            Err(StoreError::Conflict { found, .. }) => {
                stored.set.generation = found.next();
                self.store.save(lease, &stored, found).await?;
            }
            saved => saved?,
        }
        Ok(stored.set)
    }
}

/// The lease of an identity, which a proxy may have for the time of a renewal.
pub(super) async fn lease(
    store: &dyn TokenStore,
    clock: &Clock,
    name: &str,
) -> Result<Lease, LoginError> {
    let late = clock.now() + LEASE_PATIENCE;
    loop {
        if let Some(lease) = store.lease(name).await? {
            return Ok(lease);
        }
        if clock.now() >= late {
            return Err(LoginError::Busy { identity: name.to_owned() });
        }
        clock.sleep(LEASE_POLL).await;
    }
}

/// Some stores give a lease back in a task; a process that ends at once would leave it to lapse.
pub(super) async fn give_back(store: &dyn TokenStore, lease: Lease) {
    drop(lease);
    // If the store does not answer, the lease lapses.
    let _ = store.check().await;
}

/// Whether ending the one would end the other.
fn is_same_session(one: &TokenSet, other: &TokenSet) -> bool {
    let refresh = |set: &TokenSet| set.refresh.as_ref().map(|it| it.token.expose().to_owned());
    one.access_token.expose() == other.access_token.expose()
        || (one.refresh.is_some() && refresh(one) == refresh(other))
}

/// A window of the budget, and some more.
const TURN_PATIENCE: Duration = Duration::from_secs(75);
/// A session that is not ended ends by itself: not worth a person's time.
const REVOKE_PATIENCE: Duration = Duration::from_secs(15);
/// Longer than a renewal that waits for its answer usually takes, and than a dead holder's lease lives.
const LEASE_PATIENCE: Duration = Duration::from_secs(40);
const LEASE_POLL: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::token::{AccessToken, Refresh, RefreshToken};

    fn session(access: &str, refresh: Option<&str>) -> TokenSet {
        let at = Timestamp::from_unix_millis(1_700_000_000_000);
        let token = |text| Refresh { token: RefreshToken::new(text), expires_at: None };
        TokenSet {
            generation: Generation::new(1),
            access_token: AccessToken::new(access),
            issued_at: at,
            expires_at: at + Duration::from_secs(3600),
            refresh: refresh.map(token),
            previous_refresh: None,
            scope: None,
            owner_id: None,
            endpoint_id: None,
        }
    }

    #[test]
    fn a_session_that_goes_on_is_not_taken_for_a_replaced_one() {
        let old = session("a", Some("r"));
        for (new, same) in [
            (session("a", Some("s")), true),
            (session("b", Some("r")), true),
            (session("b", Some("s")), false),
            (session("b", None), false),
        ] {
            assert_eq!(is_same_session(&old, &new), same, "{new:?}");
        }
        assert!(!is_same_session(&session("a", None), &session("b", None)));
    }
}
