//! How long the lifecycle waits for what: renewal ahead of expiry, back-off, cool-down.
//!
//! Spread comes from a seed, not from a random source: the same identity behaves the same in every
//! test, and many identities still never act in step.

use std::time::Duration;

use super::Failure;
use crate::clock::Timestamp;
use crate::store::Outline;
use crate::token::budget::Class;

/// The most that a renewal comes ahead of expiry: time enough for every retry in the guide's table.
const LONGEST_LEAD: Duration = Duration::from_secs(15 * 60);

/// A refresh token without a stated end is taken to last RingCentral's default, seven days.
pub(super) const USUAL_REFRESH_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// How often the store is read for an identity that needs a login: somebody may have done it.
pub(super) const RECHECK_WHEN_LOST: Duration = Duration::from_secs(15);

/// How often another process's renewal is looked after.
pub(super) const LEASE_POLL: Duration = Duration::from_millis(500);

/// The guide's distance between repetitions after 408, 500 or a timeout, and how many there are.
const UNANSWERED_STEP: Duration = Duration::from_secs(10);
pub(super) const UNANSWERED_STEPS: u32 = 3;

const SLOWEST: Duration = Duration::from_secs(300);
const SLOWEST_UNSENT: Duration = Duration::from_secs(30);

/// A forced renewal is followed by a cool-down, three times as long each time.
const COOL_DOWN: Duration = Duration::from_secs(10);
const LONGEST_COOL_DOWN: Duration = Duration::from_secs(15 * 60);
/// So long without a refusal, and the next one counts as the first.
const FORGIVEN_AFTER: Duration = Duration::from_secs(30 * 60);

/// The seed of an identity's spread.
#[derive(Clone, Copy, Debug)]
pub struct Pace(u64);

/// A number from 0 to 1023, for "this much of the room there is".
#[derive(Clone, Copy, Debug)]
pub struct Spread(u32);

impl Pace {
    /// From the identity's name (FNV-1a).
    pub fn of(name: &str) -> Self {
        let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Self(name.bytes().fold(0xcbf2_9ce4_8422_2325, fnv))
    }

    /// The spread of the `n`th occasion.
    pub(super) fn spread(self, n: u32) -> Spread {
        // The finaliser of SplitMix64.
        let mut mixed = self.0.wrapping_add(u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Spread(u32::try_from((mixed ^ (mixed >> 31)) % 1024).expect("less than 1024"))
    }

    /// How long to wait after the `n`th failure in a row, from 1.
    pub(super) fn back_off(self, failure: Failure, n: u32) -> Duration {
        let doubled = |first: Duration, times: u32| first.saturating_mul(1 << times.min(16));
        let base = match failure {
            // Exactly: the server said so.
            Failure::Penalty(silence) => return silence,
            Failure::Unanswered if n <= UNANSWERED_STEPS => return UNANSWERED_STEP,
            Failure::Unanswered => doubled(2 * UNANSWERED_STEP, n - UNANSWERED_STEPS - 1),
            Failure::Unreachable | Failure::Store => {
                doubled(Duration::from_secs(1), n - 1).min(SLOWEST_UNSENT)
            }
            _ => doubled(UNANSWERED_STEP, n - 1),
        };
        let base = base.min(SLOWEST);
        base + self.spread(n).of(base / 4)
    }
}

impl Spread {
    fn of(self, room: Duration) -> Duration {
        room * self.0 / 1024
    }
}

/// When a set that is in use is renewed: after 75 to 85 % of its life, so that identities which
/// started together do not renew together; of a long life, a quarter of an hour before its end.
pub fn renew_at(issued_at: Timestamp, expires_at: Timestamp, spread: Spread) -> Timestamp {
    let life = issued_at.until(expires_at);
    let lead = (life / 4).min(LONGEST_LEAD);
    expires_at - lead + spread.of(lead * 2 / 5)
}

/// When an idle session is refreshed so that it does not end.
pub(super) fn keep_alive_at(issued_at: Timestamp, ends: Timestamp, spread: Spread) -> Timestamp {
    let life = issued_at.until(ends);
    ends - life / 4 + spread.of(life / 10)
}

/// How urgent that is: of seven days, six hours before the end it goes before every token in use that
/// nobody waits for, and in the last hour it is as urgent as what somebody waits for.
pub(super) fn keep_alive_class(issued_at: Timestamp, ends: Timestamp, now: Timestamp) -> Class {
    let life = issued_at.until(ends);
    if now < ends - life / 168 { Class::Expiring(ends - life / 28) } else { Class::Waiting }
}

/// When an unused session is refreshed so that it does not end; `None` if it cannot be.
pub fn keep_alive_due(identity: &str, session: &Outline) -> Option<Timestamp> {
    let usual = session.issued_at + USUAL_REFRESH_LIFETIME;
    let ends = session.refresh_expires_at.unwrap_or(usual);
    let due = keep_alive_at(session.issued_at, ends, Pace::of(identity).spread(0));
    session.has_refresh.then_some(due)
}

/// Renewals forced by refusals: at most one per generation, ever more slowly.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Forced {
    strikes: u32,
    last: Option<Timestamp>,
}

impl Forced {
    pub(super) fn strike(&mut self, now: Timestamp) {
        let forgiven = self.last.is_none_or(|last| last.until(now) >= FORGIVEN_AFTER);
        self.strikes = if forgiven { 1 } else { self.strikes.saturating_add(1) };
        self.last = Some(now);
    }

    /// The clock was set back: the cool-down is no longer for that.
    pub(super) fn set_back(&mut self, by: Duration) {
        self.last = self.last.map(|last| last - by);
    }

    /// When the next one may begin.
    pub(super) fn until(&self) -> Timestamp {
        let Some(last) = self.last else { return Timestamp::from_unix_millis(0) };
        let cool = COOL_DOWN.saturating_mul(3_u32.pow(self.strikes.saturating_sub(1).min(8)));
        last + cool.min(LONGEST_COOL_DOWN)
    }
}
