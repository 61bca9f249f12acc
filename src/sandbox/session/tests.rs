use proptest::prelude::*;

use super::*;

const START: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);
const LIVES: Lives =
    Lives { access: Duration::from_secs(3600), refresh: Some(Duration::from_secs(604_800)) };

/// Sessions under given rules, and the seconds that have passed.
struct Bench {
    sessions: Sessions,
    rules: Rules,
    now: Timestamp,
}

impl Bench {
    fn new(rules: Rules) -> Self {
        Self { sessions: Sessions::new(1), rules, now: START }
    }

    fn pass(&mut self, secs: u64) {
        self.now = self.now + Duration::from_secs(secs);
    }

    fn open(&mut self, user: u64) -> Granted {
        let opening = Opening {
            application: "app".into(),
            user,
            endpoint_id: None,
            scope: None,
            lives: LIVES,
        };
        self.sessions.open(opening, &self.rules, self.now)
    }

    fn refresh(&mut self, pair: &Granted) -> Result<Granted, Lost> {
        let (token, _) = pair.refresh.as_ref().unwrap();
        self.sessions.refresh(token, "app", LIVES, &self.rules, self.now)
    }

    fn check(&mut self, pair: &Granted) -> Result<u64, Lost> {
        let caller = self.sessions.authenticate(&pair.access, &self.rules, self.now);
        caller.map(|caller| caller.serial)
    }
}

#[test]
fn a_killed_token_is_corrupted_for_ten_seconds_and_then_not_found() {
    let mut bench = Bench::new(Rules::default());
    let old = bench.open(1);
    let new = bench.refresh(&old).unwrap();
    assert_eq!(bench.check(&old), Err(Lost::Corrupted));
    assert_eq!(bench.check(&new), Ok(2));
    bench.pass(9);
    assert_eq!(bench.check(&old), Err(Lost::Corrupted));
    bench.pass(1);
    assert_eq!(bench.check(&old), Err(Lost::NotFound));
}

#[test]
fn the_old_access_token_may_be_let_live_until_its_own_expiry() {
    let mut bench = Bench::new(Rules { old_access_token_lives: true, ..Rules::default() });
    let old = bench.open(1);
    bench.refresh(&old).unwrap();
    bench.pass(3599);
    assert_eq!(bench.check(&old), Ok(1));
    bench.pass(1);
    assert_eq!(bench.check(&old), Err(Lost::Expired));
}

#[test]
fn an_unused_pair_is_repeated_for_an_hour_and_a_used_one_for_ten_seconds() {
    let mut bench = Bench::new(Rules::default());
    let first = bench.open(1);
    let second = bench.refresh(&first).unwrap();
    bench.pass(3599);
    let again = bench.refresh(&first).unwrap();
    assert_eq!((again.serial, again.repeated), (2, true));
    assert_eq!(again.expires_in, Duration::from_secs(1));
    let third = bench.refresh(&second).unwrap();
    assert_eq!(bench.refresh(&first), Err(Lost::NotFound), "two generations old");
    bench.check(&third).unwrap();
    bench.pass(9);
    assert_eq!(bench.refresh(&second).unwrap().access, third.access);
    bench.pass(1);
    assert_eq!(bench.refresh(&second), Err(Lost::NotFound));
    assert_eq!(bench.check(&third), Ok(3), "a refused refresh harms nobody");
}

#[test]
fn strict_rotation_ends_the_session_on_reuse_even_two_generations_later() {
    for generations in 1..4 {
        let mut bench = Bench::new(Rules { strict_rotation: true, ..Rules::default() });
        let first = bench.open(1);
        let mut last = first.clone();
        for _ in 0..generations {
            last = bench.refresh(&last).unwrap();
        }
        assert_eq!(bench.refresh(&first), Err(Lost::NotFound));
        assert_eq!(bench.check(&last), Err(Lost::Corrupted), "after {generations} generations");
        assert_eq!(bench.refresh(&last), Err(Lost::NotFound));
    }
}

#[test]
fn the_oldest_of_six_sessions_dies() {
    let mut bench = Bench::new(Rules::default());
    let other = bench.open(2);
    let pairs: Vec<Granted> = (0..6).map(|_| bench.open(1)).collect();
    assert_eq!(bench.sessions.alive(&bench.rules, bench.now), 6);
    assert_eq!(bench.check(&pairs[0]), Err(Lost::Corrupted));
    assert_eq!(bench.check(&pairs[1]), Ok(3));
    assert_eq!(bench.check(&other), Ok(1));
}

#[test]
fn another_application_cannot_use_a_refresh_token() {
    let mut bench = Bench::new(Rules::default());
    let pair = bench.open(1);
    let token = &pair.refresh.as_ref().unwrap().0;
    let stolen = bench.sessions.refresh(token, "other", LIVES, &bench.rules, bench.now);
    assert_eq!(stolen, Err(Lost::NotFound));
}

#[test]
fn an_absolute_timeout_ends_a_session_that_is_refreshed_all_the_time() {
    let timeout = Some(Duration::from_secs(7200));
    let mut bench = Bench::new(Rules { absolute_session_timeout: timeout, ..Rules::default() });
    let first = bench.open(1);
    bench.pass(3000);
    let second = bench.refresh(&first).unwrap();
    bench.pass(3000);
    let third = bench.refresh(&second).unwrap();
    bench.pass(1199);
    assert_eq!(bench.check(&third), Ok(3));
    bench.pass(1);
    assert_eq!(bench.check(&third), Err(Lost::NotFound));
    assert_eq!(bench.refresh(&third), Err(Lost::NotFound));
}

#[test]
fn a_year_of_hourly_logins_does_not_grow_the_tables() {
    let mut bench = Bench::new(Rules::default());
    for _ in 0..8760 {
        bench.open(1);
        bench.pass(3600);
    }
    assert!(bench.sessions.access.len() < 2048, "{} access tokens", bench.sessions.access.len());
    assert!(bench.sessions.refresh.len() < 2048, "{}", bench.sessions.refresh.len());
}

#[derive(Clone, Debug)]
enum Step {
    Open,
    Refresh(usize),
    Use(usize),
    Revoke(usize),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Open),
        (0usize..20).prop_map(Step::Refresh),
        (0usize..20).prop_map(Step::Use),
        (0usize..20).prop_map(Step::Revoke),
        (0u64..2000).prop_map(Step::Pass),
    ]
}

proptest! {
    /// Whatever happens: at most five sessions live, and of each session at most one access
    /// token is good.
    #[test]
    fn no_history_breaks_the_limits(steps in prop::collection::vec(step(), 1..120)) {
        let mut bench = Bench::new(Rules::default());
        let mut pairs: Vec<Granted> = Vec::new();
        for step in steps {
            let pick = |n: usize| pairs.get(n % pairs.len().max(1)).cloned();
            match step {
                Step::Open => pairs.push(bench.open(1)),
                Step::Pass(secs) => bench.pass(secs),
                Step::Refresh(n) => {
                    let pair = pick(n).and_then(|pair| bench.refresh(&pair).ok());
                    pairs.extend(pair.filter(|pair| !pair.repeated));
                }
                Step::Use(n) => drop(pick(n).map(|pair| bench.check(&pair))),
                Step::Revoke(n) => {
                    pick(n).map(|pair| bench.sessions.revoke(&pair.access, bench.now));
                }
            }
            prop_assert!(bench.sessions.alive(&bench.rules, bench.now) <= 5);
        }
        let mut good = Vec::new();
        for pair in &pairs {
            if bench.check(pair).is_ok() {
                prop_assert!(!good.contains(&pair.session), "two tokens of {}", pair.session);
                good.push(pair.session);
            }
        }
    }
}

#[test]
fn a_pair_with_less_than_a_second_left_is_replaced_and_not_repeated() {
    let mut bench = Bench::new(Rules::default());
    let first = bench.open(1);
    let second = bench.refresh(&first).unwrap();
    bench.now = bench.now + Duration::from_millis(3_599_001);
    bench.rules.old_refresh_token_unused = Duration::from_secs(7200);
    let third = bench.refresh(&first).unwrap();
    assert_eq!((third.serial, third.repeated), (second.serial + 1, false));
    assert_eq!(third.expires_in, Duration::from_secs(3600));
}
