//! How long things took: a histogram that one thread writes and any may read.

use std::time::Duration;

use super::traffic::Count;

/// The upper bounds of the buckets, in nanoseconds and as they are written, in seconds.
pub const BOUNDS: [(u64, &str); 21] = [
    (10_000, "0.00001"),
    (25_000, "0.000025"),
    (50_000, "0.00005"),
    (100_000, "0.0001"),
    (250_000, "0.00025"),
    (500_000, "0.0005"),
    (1_000_000, "0.001"),
    (2_500_000, "0.0025"),
    (5_000_000, "0.005"),
    (10_000_000, "0.01"),
    (25_000_000, "0.025"),
    (50_000_000, "0.05"),
    (100_000_000, "0.1"),
    (250_000_000, "0.25"),
    (500_000_000, "0.5"),
    (1_000_000_000, "1"),
    (2_500_000_000, "2.5"),
    (5_000_000_000, "5"),
    (10_000_000_000, "10"),
    (30_000_000_000, "30"),
    (60_000_000_000, "60"),
];

/// Each bound's bucket, and one for what is longer.
const BUCKETS: usize = BOUNDS.len() + 1;

/// The first bucket that a number with so many bits may belong to: then a step or two are left, where
/// a search would have five that no branch predictor knows.
const FIRST: [u8; 65] = {
    let mut first = [0; 65];
    let mut bits = 1;
    while bits < 65 {
        let least = 1 << (bits - 1);
        let mut index = 0;
        while index < BOUNDS.len() && BOUNDS[index].0 < least {
            index += 1;
            first[bits] += 1;
        }
        bits += 1;
    }
    first
};

fn bucket(nanos: u64) -> usize {
    let bits = u64::BITS - nanos.leading_zeros();
    let mut index = usize::from(FIRST[bits as usize]);
    while index < BOUNDS.len() && BOUNDS[index].0 < nanos {
        index += 1;
    }
    index
}

/// Durations in buckets.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Count; BUCKETS],
    nanos: Count,
}

impl Histogram {
    /// One more. Only the owning thread may call it.
    pub fn observe(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(nanos)].add(1);
        self.nanos.add(nanos);
    }

    /// What has been observed so far.
    pub fn read(&self) -> Distribution {
        let mut counts = [0; BUCKETS];
        for (count, bucket) in counts.iter_mut().zip(&self.buckets) {
            *count = bucket.get();
        }
        Distribution { counts, nanos: self.nanos.get() }
    }
}

/// A histogram as it was at one moment, or the difference of two such.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    counts: [u64; BUCKETS],
    nanos: u64,
}

impl Distribution {
    /// How many are in each bucket.
    pub fn counts(&self) -> impl Iterator<Item = u64> + '_ {
        self.counts.iter().copied()
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How long they took together.
    pub const fn sum(&self) -> Duration {
        Duration::from_nanos(self.nanos)
    }

    /// Adds those of another thread.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.nanos = self.nanos.wrapping_add(other.nanos);
    }

    /// What has come since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut counts = self.counts;
        for (count, less) in counts.iter_mut().zip(before.counts) {
            *count = count.saturating_sub(less);
        }
        Self { counts, nanos: self.nanos.wrapping_sub(before.nanos) }
    }

    /// The time that this share of them took at most, as well as the buckets tell: inside a bucket
    /// they are taken to lie evenly. `None` if there are none.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        #[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
        let as_float = |count: u64| count as f64;
        let rank = as_float(self.count()) * share;
        let mut below = 0.0;
        for (index, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let lower = index.checked_sub(1).map_or(0, |index| BOUNDS[index].0);
            // Of what is longer than the last bound, no more is known.
            let upper = BOUNDS.get(index).map_or(lower, |bound| bound.0);
            let within = ((rank - below) / as_float(*count)).clamp(0.0, 1.0);
            below += as_float(*count);
            if below >= rank {
                let width = Duration::from_nanos(upper - lower).mul_f64(within);
                return Some(Duration::from_nanos(lower) + width);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(millis: &[u64]) -> Distribution {
        let histogram = Histogram::default();
        for it in millis {
            histogram.observe(Duration::from_millis(*it));
        }
        histogram.read()
    }

    #[test]
    fn bounds_rise_and_are_written_as_they_are() {
        for pair in BOUNDS.windows(2) {
            assert!(pair[0].0 < pair[1].0);
        }
        for (nanos, text) in BOUNDS {
            let seconds: f64 = text.parse().unwrap();
            assert_eq!(Duration::from_secs_f64(seconds), Duration::from_nanos(nanos), "{text}");
        }
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let seen = of(&[0, 1, 2, 60_000, 60_001]);
        let full: Vec<_> = seen.counts().enumerate().filter(|(_, count)| *count > 0).collect();
        assert_eq!(full, [(0, 1), (6, 1), (7, 1), (20, 1), (21, 1)]);
        assert_eq!(seen.sum(), Duration::from_millis(120_004));
    }

    #[test]
    fn the_short_way_to_a_bucket_leads_where_the_long_one_does() {
        let near = |nanos: u64| [nanos.saturating_sub(1), nanos, nanos.saturating_add(1)];
        let powers = (0..64).map(|bit| 1_u64 << bit);
        let all = BOUNDS.iter().map(|bound| bound.0).chain(powers).chain([0, u64::MAX]);
        for nanos in all.flat_map(near) {
            let searched = BOUNDS.partition_point(|(bound, _)| *bound < nanos);
            assert_eq!(bucket(nanos), searched, "{nanos}");
        }
    }

    #[test]
    fn differences_and_sums_undo_each_other() {
        let (mut all, later) = (of(&[1, 5]), of(&[5, 700]));
        let before = all;
        all.add(&later);
        assert_eq!((all.count(), all.since(&before)), (4, later));
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        assert_eq!(of(&[]).quantile(0.5), None);
        // All four are above 2.5 ms and at most 5 ms.
        let same = of(&[4, 4, 4, 4]);
        assert_eq!(same.quantile(0.5), Some(Duration::from_micros(3750)));
        assert_eq!(same.quantile(1.0), Some(Duration::from_millis(5)));
        let mixed = of(&[1, 1, 1, 100]);
        assert_eq!(mixed.quantile(0.75), Some(Duration::from_millis(1)));
        assert_eq!(mixed.quantile(0.99), Some(Duration::from_millis(98)));
        assert_eq!(of(&[90_000]).quantile(0.5), Some(Duration::from_secs(60)));
    }
}
