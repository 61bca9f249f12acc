//! One renewal, from the lease to the store. It shares nothing with the driver, which meanwhile
//! goes on heeding signals.
//!
//! The order that everything rests on: permit, lease, look again, probe the store, send, store. The
//! old refresh token stays in the store until the new set is there: should the answer or this
//! process be lost in between, RingCentral answers the old one with the same set again.

use std::borrow::Cow;
use std::sync::Arc;

use super::driver::Surroundings;
use crate::oauth::TokenError;
use crate::oauth::grant::Grant;
use crate::settings::IdentitySettings;
use crate::store::{Entry, Lease, Provenance, StoreError, Stored};
use crate::token::lifecycle::Source;
use crate::token::queue::Held;
use crate::token::{Generation, RefreshToken, TokenSet};

/// What a renewal starts from, and what is left of it after a failure.
pub(super) struct Renewal {
    pub(super) around: Surroundings,
    pub(super) settings: Arc<IdentitySettings>,
    pub(super) provenance: Provenance,
    /// The latest set that is stored.
    pub(super) latest: Option<TokenSet>,
    /// Obtained, but not yet stored, and therefore not used.
    pub(super) unsaved: Option<TokenSet>,
    /// The lease that such a set keeps: were it free, another process would send the old refresh
    /// token again, which a strict server takes for theft (RFC 9700 section 4.14.2).
    pub(super) lease: Option<Lease>,
    /// The highest generation ever seen, other credentials' included.
    pub(super) floor: Generation,
}

/// A set that is in the store.
pub(super) enum Obtained {
    /// Of our own making.
    New(TokenSet),
    /// Of another process.
    Newer(TokenSet),
    /// None: the session was ended on purpose.
    Ended(Generation),
}

impl Renewal {
    /// Obtains and stores a set. Only a set that could not be stored last time needs no permit.
    pub(super) async fn run(
        &mut self,
        source: Source,
        held: Option<Held<'_>>,
    ) -> Result<Obtained, TokenError> {
        let lease = self.lease().await?;
        let ended = self.run_under(&lease, source, held).await;
        self.lease = Some(lease).filter(|_| self.unsaved.is_some());
        ended
    }

    async fn lease(&mut self) -> Result<Lease, TokenError> {
        if let Some(lease) = self.lease.take().filter(Lease::is_live) {
            return Ok(lease);
        }
        self.around.store.lease(&self.settings.name).await?.ok_or(TokenError::LeaseHeld)
    }

    async fn run_under(
        &mut self,
        lease: &Lease,
        source: Source,
        held: Option<Held<'_>>,
    ) -> Result<Obtained, TokenError> {
        let store = Arc::clone(&self.around.store);
        let there = store.load(&self.settings.name).await?;
        let expected = there.generation();
        self.floor = self.floor.max(expected);
        if let Some(generation) = ended(&there, self.latest.as_ref()) {
            return Ok(Obtained::Ended(generation));
        }
        if let Some(newer) = newer(there.session(), self.provenance, self.latest.as_ref()) {
            return Ok(Obtained::Newer(newer));
        }
        let set = match (self.unsaved.take(), held) {
            (Some(set), _) => set,
            (None, Some(held)) => {
                store.probe_writable(lease).await?;
                self.request(source, held, lease).await?
            }
            (None, None) => unreachable!("a turn was waited for unless a set was unsaved"),
        };
        self.save(lease, set, expected).await
    }

    async fn request(
        &self,
        source: Source,
        mut held: Held<'_>,
        lease: &Lease,
    ) -> Result<TokenSet, TokenError> {
        let token = self.refresh_token(source);
        let grant = match (source, token, &self.settings.fallback) {
            (_, Some(token), _) => Grant::Refresh(token),
            (Source::Fallback, None, Some(fallback)) => Grant::Fallback(fallback),
            _ => Grant::Open(&self.settings.credential),
        };
        let settings = self.as_one_instance();
        held.sending();
        // Whoever stood still for too long may not be the only one any more.
        let around = &self.around;
        let answer = around.endpoint.request(&settings, grant, lease.vigil(), &around.clock).await;
        match &answer {
            Err(TokenError::Unreachable(_) | TokenError::LeaseHeld) => held.not_sent(),
            Err(TokenError::Penalty { retry_after, .. }) => held.silence(*retry_after),
            _ => {}
        }
        held.settle().await;
        let mut set = answer?;
        set.endpoint_id = settings.endpoint_id.clone().or(set.endpoint_id);
        if let Some(token) = token {
            // RFC 6749 §6: without a new refresh token, the old one goes on.
            set.refresh = set.refresh.or_else(|| self.latest.as_ref()?.refresh.clone());
            set.previous_refresh = Some(token.clone());
        }
        Ok(set)
    }

    /// The settings with an `endpoint_id`, once there is one: where none is configured, that of the
    /// first answer. It is kept with the session, so that every process that shares the store is,
    /// restart after restart, the same instance of the application to RingCentral.
    fn as_one_instance(&self) -> Cow<'_, IdentitySettings> {
        let known = self.latest.as_ref().and_then(|set| set.endpoint_id.as_ref());
        match (&self.settings.endpoint_id, known) {
            (None, Some(known)) => Cow::Owned(IdentitySettings {
                endpoint_id: Some(known.clone()),
                ..(*self.settings).clone()
            }),
            _ => Cow::Borrowed(&*self.settings),
        }
    }

    fn refresh_token(&self, source: Source) -> Option<&RefreshToken> {
        let set = self.latest.as_ref()?;
        match source {
            Source::Open | Source::Fallback => None,
            Source::Refresh => set.refresh.as_ref().map(|refresh| &refresh.token),
            Source::PreviousRefresh => set.previous_refresh.as_ref(),
        }
    }

    /// Stores the set under the next generation, unless a later write than the one we saw is there:
    /// then our lease was lost meanwhile, and theirs counts.
    async fn save(
        &mut self,
        lease: &Lease,
        mut set: TokenSet,
        expected: Generation,
    ) -> Result<Obtained, TokenError> {
        set.generation = self.floor.next();
        let stored = Stored { set, provenance: self.provenance };
        match self.around.store.save(lease, &stored, expected).await {
            Ok(()) => Ok(Obtained::New(stored.set)),
            Err(error @ StoreError::Conflict { .. }) => {
                let there = self.around.store.load(lease.identity()).await?;
                let newer = newer(there.session(), self.provenance, self.latest.as_ref());
                Ok(Obtained::Newer(newer.ok_or(error)?))
            }
            Err(error) => {
                self.unsaved = Some(stored.set);
                Err(error.into())
            }
        }
    }
}

/// The mark of a session that was ended after ours was obtained.
pub(super) fn ended(there: &Entry, ours: Option<&TokenSet>) -> Option<Generation> {
    let ours = ours?.generation;
    match there {
        Entry::Erased(generation) if *generation > ours => Some(*generation),
        _ => None,
    }
}

/// The stored set, if it is later than ours and of the configured credential.
pub(super) fn newer(
    there: Option<Stored>,
    provenance: Provenance,
    ours: Option<&TokenSet>,
) -> Option<TokenSet> {
    let there = there.filter(|stored| stored.provenance == provenance)?;
    let ours = ours.map_or(Generation::NONE, |set| set.generation);
    (there.set.generation > ours).then_some(there.set)
}
