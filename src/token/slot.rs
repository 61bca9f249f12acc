//! How the current token reaches the threads that serve requests: one atomic load when nothing has
//! changed, no lock, no allocation, no reference count shared between threads.
//!
//! A keeper [`publish`](TokenSlot::publish)es into the slot; every worker thread owns a
//! [`LocalBearer`] with its own deep copy of the ready `Bearer …` value. Cloning a `HeaderValue`
//! moves a reference count; were that count shared, two busy threads would fight for its cache
//! line, which costs ten times the load itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use http::HeaderValue;

use super::{Generation, TokenSet};
use crate::clock::Timestamp;

/// The field value to inject, with the generation and the end of the token inside it.
#[derive(Debug)]
pub struct Bearer {
    /// `Bearer <access token>`, marked sensitive.
    pub value: HeaderValue,
    /// Which token set it is of.
    pub generation: Generation,
    /// When the token ends.
    pub expires_at: Timestamp,
}

impl Bearer {
    /// Prepares the field value of a token set.
    ///
    /// Returns `None` if the token has bytes that no field value may have. RFC 6750 §2.1 allows
    /// none of those, and the token endpoint's answer is checked before it gets here.
    pub fn of(set: &TokenSet) -> Option<Self> {
        let mut value = HeaderValue::from_maybe_shared(set.access_token.field_value()).ok()?;
        value.set_sensitive(true);
        Some(Self { value, generation: set.generation, expires_at: set.expires_at })
    }

    /// A copy that shares no memory with this one.
    fn deep_copy(&self) -> Self {
        let mut value =
            HeaderValue::from_bytes(self.value.as_bytes()).expect("copied from a value");
        value.set_sensitive(true);
        Self { value, generation: self.generation, expires_at: self.expires_at }
    }
}

/// One identity's current token, as the keeper publishes it.
#[derive(Debug, Default)]
pub struct TokenSlot {
    /// Raised after every change of `current`; a reader with the same number has the same bearer.
    epoch: AtomicU64,
    current: Mutex<Option<Bearer>>,
}

impl TokenSlot {
    /// Replaces the current token; `None` takes it away, because it was refused or is lost.
    pub fn publish(&self, bearer: Option<Bearer>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current = bearer;
        // Under the lock, so that the epoch a reader copies belongs to the bearer it copies.
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// The generation of the current token, if there is one.
    pub fn generation(&self) -> Option<Generation> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(|bearer| bearer.generation)
    }
}

/// One worker thread's copy of an identity's current token.
#[derive(Debug, Default)]
pub struct LocalBearer {
    epoch: u64,
    bearer: Option<Bearer>,
}

impl LocalBearer {
    /// The token to inject now: `None` if there is none, or its time is over.
    pub fn current(&mut self, slot: &TokenSlot, now: Timestamp) -> Option<&Bearer> {
        if slot.epoch.load(Ordering::Acquire) != self.epoch {
            self.copy(slot);
        }
        self.bearer.as_ref().filter(|bearer| now < bearer.expires_at)
    }

    #[cold]
    fn copy(&mut self, slot: &TokenSlot) {
        let current = slot.current.lock().unwrap_or_else(PoisonError::into_inner);
        self.bearer = current.as_ref().map(Bearer::deep_copy);
        self.epoch = slot.epoch.load(Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::token::AccessToken;

    const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);

    fn set(generation: u64, token: &str) -> TokenSet {
        TokenSet {
            generation: Generation::new(generation),
            access_token: AccessToken::new(token),
            issued_at: NOW,
            expires_at: NOW + Duration::from_secs(3600),
            refresh: None,
            previous_refresh: None,
            scope: None,
            owner_id: None,
            endpoint_id: None,
        }
    }

    #[test]
    fn a_reader_sees_each_publication_and_nothing_after_the_token_is_taken_away() {
        let (slot, mut local) = (TokenSlot::default(), LocalBearer::default());
        assert!(local.current(&slot, NOW).is_none());
        slot.publish(Bearer::of(&set(1, "first")));
        assert_eq!(local.current(&slot, NOW).unwrap().value, "Bearer first");
        slot.publish(Bearer::of(&set(2, "second")));
        let bearer = local.current(&slot, NOW).unwrap();
        assert_eq!(
            (bearer.value.as_bytes(), bearer.generation.number()),
            (&b"Bearer second"[..], 2)
        );
        slot.publish(None);
        assert!(local.current(&slot, NOW).is_none());
    }

    #[test]
    fn no_token_is_handed_out_from_the_instant_it_expires() {
        let (slot, mut local) = (TokenSlot::default(), LocalBearer::default());
        slot.publish(Bearer::of(&set(1, "first")));
        let end = NOW + Duration::from_secs(3600);
        assert!(local.current(&slot, end - Duration::from_millis(1)).is_some());
        assert!(local.current(&slot, end).is_none());
    }

    #[test]
    fn the_copy_is_sensitive_and_shares_no_memory() {
        let (slot, mut local) = (TokenSlot::default(), LocalBearer::default());
        let bearer = Bearer::of(&set(1, "secret-token")).unwrap();
        let original = bearer.value.as_bytes().as_ptr();
        slot.publish(Some(bearer));
        let copy = &local.current(&slot, NOW).unwrap().value;
        assert!(copy.is_sensitive());
        assert_ne!(copy.as_bytes().as_ptr(), original);
        assert!(!format!("{copy:?}").contains("secret-token"));
    }

    #[test]
    fn a_token_that_no_field_can_carry_is_refused() {
        assert!(Bearer::of(&set(1, "bad\r\ntoken")).is_none());
    }
}
