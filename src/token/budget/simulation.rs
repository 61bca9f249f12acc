//! A week of an application's token requests in virtual time: the lifecycles, budgets and the ledger
//! themselves, against RingCentral's rule of five requests in any sixty seconds. Deterministic.

use std::time::Duration;

use crate::clock::Timestamp;

mod world;

use world::World;

const START: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Who wants tokens, for how long.
#[derive(Clone, Debug)]
struct Plan {
    processes: usize,
    /// Identities in use all the time, in every process. So many of them are waited for at the start.
    active: usize,
    wanted: usize,
    /// Whether their tokens are used once they are there.
    used: bool,
    /// Sessions that only have to be kept alive, and the time between their openings.
    idle: usize,
    opened_every: Duration,
    /// How long the token endpoint takes.
    latency: Duration,
    time: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
struct Report {
    token_requests: usize,
    /// Token requests that the server answered with 429.
    refused: usize,
    /// API requests that met an expired token, and the longest that one waited for the next.
    expired: usize,
    longest_wait: Duration,
    /// Sessions whose refresh token ended.
    lost: usize,
    /// How many of those who waited at the start had their token before all others.
    waited_first: usize,
    /// When each identity had its first token.
    first_tokens: Vec<Duration>,
}

fn active(processes: usize, active: usize, latency: u64) -> Plan {
    Plan {
        processes,
        active,
        wanted: active,
        used: true,
        idle: 0,
        opened_every: Duration::ZERO,
        latency: Duration::from_millis(latency),
        time: 7 * DAY,
    }
}

/// Tokens live for 3,599 or 3,598 s here, and each request occupies the budget for 60 s and as long as
/// it takes: 59 rounds of five fit. The queue is never empty then, and whoever comes to its
/// front is renewed in time.
#[test]
fn two_hundred_and_ninety_five_identities_in_use_never_meet_an_expired_token() {
    for (latency, time) in [(0, DAY), (200, 7 * DAY), (900, DAY)] {
        let report = World::new(Plan { time, ..active(1, 295, latency) }).run();
        assert_eq!((report.expired, report.refused), (0, 0), "{latency} ms");
    }
    let report = World::new(Plan { time: DAY, ..active(4, 295, 200) }).run();
    assert_eq!((report.expired, report.refused), (0, 0), "four processes");
}

/// One more than fits in 59 rounds, and some requests wait for the 60th to end; never longer.
#[test]
fn with_three_hundred_a_request_waits_for_fourteen_seconds_at_most() {
    for (count, processes, latency, longest) in
        [(296, 1, 200, 13_999), (300, 1, 0, 1_999), (300, 1, 200, 13_999), (300, 4, 200, 14_999)]
    {
        let time = if processes == 1 { DAY } else { DAY / 4 };
        let report = World::new(Plan { time, ..active(processes, count, latency) }).run();
        let waited = report.longest_wait.as_millis();
        assert!(report.expired > 0, "{count} fit, too");
        assert!(waited <= longest, "{count} at {latency} ms: {waited} ms");
        assert_eq!(report.refused, 0);
    }
}

/// Twenty thousand sessions that were opened as fast as the budget allows.
#[test]
fn no_idle_session_is_lost_in_a_week_beside_fifty_identities_in_use() {
    for (processes, idle) in [(1, 20_000), (4, 4_000)] {
        let opened_every = Duration::from_secs(12);
        let plan = Plan { idle, opened_every, ..active(processes, 50, 200) };
        let report = World::new(plan).run();
        assert_eq!((report.lost, report.expired, report.refused), (0, 0, 0), "{processes}");
    }
}

/// They all come due within seventeen hours, and what is left a quarter of their life is 42.
#[test]
fn ten_thousand_sessions_opened_in_one_moment_outlive_the_week() {
    let at_once = Plan { idle: 10_000, opened_every: Duration::ZERO, ..active(1, 50, 200) };
    let report = World::new(at_once).run();
    assert_eq!((report.lost, report.refused), (0, 0));
    assert!(report.longest_wait <= Duration::from_secs(3600), "{:?}", report.longest_wait);
}

/// More identities in use than the budget carries leave nothing over, and yet no session is lost.
#[test]
fn idle_sessions_do_not_starve_behind_identities_in_use() {
    for (count, longest) in [(270, 0), (300, 600), (400, 1_800)] {
        let ten_minutes = Duration::from_secs(600);
        let plan = Plan { idle: 300, opened_every: ten_minutes, ..active(1, count, 200) };
        let report = World::new(plan).run();
        assert_eq!((report.lost, report.refused), (0, 0), "{count}");
        assert!(report.longest_wait.as_secs() <= longest, "{count}: {:?}", report.longest_wait);
    }
}

/// 1,000 at five a minute take 199 further windows, each as long as a request more.
#[test]
fn a_cold_start_of_a_thousand_serves_those_who_wait_first_and_never_gets_a_429() {
    for processes in [1, 4] {
        for wanted in [100, 1000] {
            let plan = Plan { time: DAY, wanted, used: false, ..active(processes, 1000, 200) };
            let report = World::new(plan).run();
            assert_eq!((report.token_requests, report.refused), (1000, 0));
            let at = |n: usize| report.first_tokens[n - 1].as_secs();
            assert!((19 * 60..20 * 60).contains(&at(100)), "the waiting: {} s", at(100));
            assert!((199 * 60..200 * 60).contains(&at(1000)), "all: {} s", at(1000));
            assert_eq!(report.waited_first, wanted, "those who waited came first");
        }
    }
}
