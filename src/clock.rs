//! The only reader of the wall clock and of the monotonic clock.
//!
//! Everything else is given a [`Timestamp`] or a [`Clock`], so that a test can drive an hour of
//! token life in a microsecond and nothing has to sleep.

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

/// A moment of wall-clock time, in milliseconds since the Unix epoch. The arithmetic saturates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// From milliseconds since the Unix epoch.
    pub const fn from_unix_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn unix_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the Unix epoch.
    pub const fn unix_secs(self) -> u64 {
        self.0 / 1000
    }

    /// How long from `self` until `later`; zero if that is past.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_millis(later.0.saturating_sub(self.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(at: Timestamp) -> Self {
        UNIX_EPOCH + Duration::from_millis(at.0)
    }
}

/// The machine's clock, or one that a test moves by hand.
#[derive(Clone)]
pub struct Clock(Option<Arc<watch::Sender<Timestamp>>>);

impl Clock {
    /// The machine's clock.
    pub const fn system() -> Self {
        Self(None)
    }

    /// A clock that stands at `at` until [`Clock::advance`] moves it. Clones share it.
    pub fn manual(at: Timestamp) -> Self {
        Self(Some(Arc::new(watch::Sender::new(at))))
    }

    /// The current wall-clock time, with the kernel's coarse resolution (1 to 4 ms).
    ///
    /// It is read on every request, where the precise clock costs four times as much.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            None => {
                let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
                let secs = u64::try_from(now.tv_sec).unwrap_or(0);
                Timestamp(secs * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000)
            }
            Some(manual) => *manual.borrow(),
        }
    }

    /// The current wall-clock time in nanoseconds since 1970, as precise as it gets; for traces.
    pub fn unix_nanos(&self) -> u64 {
        match &self.0 {
            None => {
                let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
                let secs = u64::try_from(now.tv_sec).unwrap_or(0);
                secs * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
            }
            Some(manual) => manual.borrow().0 * 1_000_000,
        }
    }

    /// Whether [`Clock::advance`] may move it.
    pub const fn is_manual(&self) -> bool {
        self.0.is_some()
    }

    /// Moves a manual clock forward and wakes every sleeper whose time has come.
    ///
    /// # Panics
    /// On the machine's clock, which nobody can move.
    pub fn advance(&self, by: Duration) {
        let manual = self.0.as_ref().expect("only a manual clock is moved by hand");
        manual.send_modify(|now| *now = *now + by);
    }

    /// Sets a manual clock back, as whoever corrects the machine's does.
    ///
    /// # Panics
    /// On the machine's clock, which nobody can move.
    pub fn set_back(&self, by: Duration) {
        let manual = self.0.as_ref().expect("only a manual clock is moved by hand");
        manual.send_modify(|now| *now = *now - by);
    }

    /// Returns when the wall clock has reached `deadline`.
    ///
    /// The wait is cut into pieces of at most [`RECHECK`], and the wall clock is read after each:
    /// a monotonic timer stands still while the machine is suspended, and knows no clock step.
    pub async fn sleep_until(&self, deadline: Timestamp) {
        if let Some(manual) = &self.0 {
            let mut now = manual.subscribe();
            now.wait_for(|now| *now >= deadline).await.expect("self holds the sender");
            return;
        }
        loop {
            let left = self.now().until(deadline);
            if left.is_zero() {
                return;
            }
            #[allow(clippy::disallowed_methods, reason = "this is the place that may sleep")]
            tokio::time::sleep(left.min(RECHECK)).await;
        }
    }

    /// Returns [`RECHECK`] after `before`, whatever becomes of the wall clock meanwhile: for whoever
    /// wants to know that it was set back, through which [`Clock::sleep_until`] sleeps.
    pub async fn next_look(&self, before: Timestamp) {
        if let Some(manual) = &self.0 {
            let mut now = manual.subscribe();
            let passed = now.wait_for(|now| *now < before || *now >= before + RECHECK);
            passed.await.expect("self holds the sender");
            return;
        }
        #[allow(clippy::disallowed_methods, reason = "this, too, is the place that may sleep")]
        tokio::time::sleep(RECHECK).await;
    }

    /// `sleep_until(now + by)`.
    pub async fn sleep(&self, by: Duration) {
        self.sleep_until(self.now() + by).await;
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Clock::manual" } else { "Clock::system" })
    }
}

/// Measures how long something took, by the monotonic clock. For logs and figures only.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(std::time::Instant);

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        #[allow(clippy::disallowed_methods, reason = "this is the one place that reads it")]
        Self(std::time::Instant::now())
    }

    /// The time since the start.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }

    /// The time between two starts; zero if `earlier` was later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_duration_since(earlier.0)
    }
}

/// The CPU time that this process has used.
pub fn process_cpu() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(used.tv_sec).unwrap_or(0), u32::try_from(used.tv_nsec).unwrap_or(0))
}

/// When this process has started, in Unix time, as far as `/proc` says so.
pub fn process_start() -> Option<f64> {
    // What follows the name, which may have blanks in it, begins with field 3.
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let since_boot: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let system = std::fs::read_to_string("/proc/stat").ok()?;
    let boot = system.lines().find_map(|line| line.strip_prefix("btime "))?;
    // Linux shows these times in hundredths of a second, whatever its own tick is.
    Some(boot.trim().parse::<f64>().ok()? + since_boot / 100.0)
}

/// The longest time between two looks at the wall clock while sleeping.
pub const RECHECK: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        assert_eq!(START - Duration::MAX, Timestamp(0));
        assert_eq!(START + Duration::MAX, Timestamp(u64::MAX));
        assert_eq!((START + Duration::from_secs(1)).until(START), Duration::ZERO);
    }

    #[test]
    fn the_system_clock_is_within_a_tick_of_the_precise_one() {
        #[allow(clippy::disallowed_methods, reason = "this is what it is compared with")]
        let precise = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let coarse = u128::from(Clock::system().now().unix_millis());
        assert!(precise.abs_diff(coarse) < 1000, "coarse {coarse}, precise {precise}");
    }

    #[tokio::test]
    async fn who_looks_after_the_clock_notices_that_it_goes_forward_and_back() {
        let clock = Clock::manual(START);
        let look = |before| {
            let clock = clock.clone();
            tokio::spawn(async move { clock.next_look(before).await })
        };
        let onward = look(START);
        tokio::task::yield_now().await;
        clock.advance(Duration::from_millis(14_999));
        tokio::task::yield_now().await;
        assert!(!onward.is_finished(), "it is not time yet");
        clock.advance(Duration::from_millis(1));
        onward.await.unwrap();
        let back = look(clock.now());
        tokio::task::yield_now().await;
        clock.set_back(Duration::from_secs(3600));
        back.await.unwrap();
        assert_eq!(clock.now(), START + RECHECK - Duration::from_secs(3600));
    }

    #[tokio::test]
    async fn a_manual_sleeper_wakes_exactly_at_its_deadline() {
        let clock = Clock::manual(START);
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move {
                clock.sleep(Duration::from_secs(60)).await;
                clock.now()
            }
        });
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(59));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished(), "woke a second early");
        clock.advance(Duration::from_secs(1));
        assert_eq!(sleeper.await.unwrap(), START + Duration::from_secs(60));
    }
}
