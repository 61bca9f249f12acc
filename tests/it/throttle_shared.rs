//! RingCentral's limits, shared by several proxies through a real Redis.

use std::collections::BTreeMap;
use std::time::Duration;

use ringbearer::clock::Timestamp;
use ringbearer::metrics::Throttling;
use ringbearer::sandbox::Rules;
use ringbearer::service::Service;
use ringbearer::settings::{ConfigSource, Overrides, Settings, StoreSettings};
use ringbearer::store::redis::limits::{Contact, Grant, HOLD, SharedLimits, Told};
use tokio::task::JoinSet;

use crate::fleet::{Fleet, REPLICAS};
use crate::redis_server::RedisServer;
use crate::support::{Environment, LONG_IDLE, PATIENT, START, Wishes, settle};

/// Ten a minute.
const HEAVY: &str = "/restapi/v1.0/account/~/call-log";
/// Fifty a minute.
const LIGHT: &str = "/restapi/v1.0/account/~";
const MINUTE: Duration = Duration::from_secs(60);

async fn fleet(server: &RedisServer, more: &str) -> Fleet {
    let rules = Rules { token_budget: false, log_capacity: 100_000, ..Rules::default() };
    let proxy = format!("{LONG_IDLE}token_wait = \"5m\"\n{more}");
    let store = Some(format!("redis = {:?}", server.url()));
    let wishes = Wishes { rules, proxy, store, upstream: PATIENT.into(), ..Wishes::default() };
    Fleet::with(wishes).await
}

/// Lets everything happen that can without time passing: the store answers in real time.
async fn rest() {
    for _ in 0..300 {
        settle().await;
    }
}

/// Sends requests to replicas, so many to each, and moves the clock by tenths of seconds until all are
/// answered. How many of each replica's were answered 200.
async fn send(fleet: &Fleet, each: &[usize], target: &str, max_wait: &str) -> Vec<usize> {
    let mut calls = JoinSet::new();
    for (index, (replica, count)) in fleet.replicas().zip(each).enumerate() {
        for n in 0..*count {
            let url = format!("http://{}{target}?n={index}-{n}", replica.addresses()[0]);
            let call = fleet.first.client.get(url).header("x-ringbearer-max-wait", max_wait);
            calls.spawn(async move { (index, call.send().await.unwrap().status().as_u16()) });
        }
    }
    let (mut succeeded, mut quiet) = (vec![0; each.len()], 0);
    while !calls.is_empty() {
        if let Some(call) = calls.try_join_next() {
            let (index, status) = call.unwrap();
            assert!([200, 429].contains(&status), "{status}");
            succeeded[index] += usize::from(status == 200);
            quiet = 0;
            continue;
        }
        settle().await;
        quiet = if is_quiet(fleet, calls.len()) { quiet + 1 } else { 0 };
        if quiet > 5 {
            fleet.clock().advance(Duration::from_millis(100));
            quiet = 0;
        }
    }
    succeeded
}

/// Whether so many requests wait for their turns, and nothing but time can bring them on.
fn is_quiet(fleet: &Fleet, requests: usize) -> bool {
    let mut waiting = 0;
    for replica in fleet.replicas() {
        let (throttle, identities) = (replica.throttle().unwrap(), replica.identities());
        let figures = throttle.sharing_figures().unwrap();
        if figures.asked > figures.answered + figures.failed {
            return false;
        }
        waiting +=
            throttle.figures(identities.only().unwrap().number()).map_or(0, Throttling::waiting);
    }
    waiting == requests as u64
}

fn is_up(replica: &Service) -> bool {
    replica.throttle().unwrap().sharing_figures().unwrap().is_up
}

fn replicas_known(fleet: &Fleet) -> Vec<u32> {
    let known = |replica: &Service| replica.throttle().unwrap().sharing_figures().unwrap().replicas;
    fleet.replicas().map(known).collect()
}

/// Lets time pass until it is so.
async fn until(fleet: &Fleet, is_so: impl Fn() -> bool) {
    let mut rounds = 0_u32;
    while !is_so() {
        rounds += 1;
        if rounds.is_multiple_of(100) {
            fleet.clock().advance(Duration::from_millis(500));
        }
        settle().await;
    }
}

fn passed(fleet: &Fleet) -> f64 {
    START.until(fleet.clock().now()).as_secs_f64()
}

#[tokio::test]
async fn four_replicas_use_one_limit_up_and_never_exceed_it() {
    let Some(server) = RedisServer::start().await else { return };
    let fleet = fleet(&server, "pacing = true\n").await;
    // Two have most of the work, and one nearly none: 300 requests, fifty a minute.
    let succeeded = send(&fleet, &[160, 110, 25, 5], LIGHT, "600").await;
    let counts = fleet.first.control().counts();
    assert_eq!(succeeded, [160, 110, 25, 5]);
    assert_eq!(counts.api_429, 0);
    // Six lots of fifty: at the very least five minutes, and a window more if a place was missed.
    let mut lots = BTreeMap::new();
    for arrival in fleet.first.control().log().iter().filter(|it| it.target.contains("?n=")) {
        let second = (arrival.at_unix_millis - START.unix_millis()) / 1000;
        *lots.entry(second).or_insert(0) += 1;
    }
    assert!((300.0..=372.0).contains(&passed(&fleet)), "{} s: {lots:?}", passed(&fleet));
    let figures = fleet.replicas().map(|it| it.throttle().unwrap().sharing_figures().unwrap());
    let (answered, failed) = figures.fold((0, 0), |(answered, failed), figures| {
        (answered + figures.answered, failed + figures.failed)
    });
    assert_eq!(failed, 0);
    assert!(answered < 600, "{answered} exchanges for 300 requests");
    fleet.finish().await;
}

#[tokio::test]
async fn a_penalty_that_one_replica_meets_holds_all_of_them() {
    let Some(server) = RedisServer::start().await else { return };
    let fleet = fleet(&server, "").await;
    let addresses: Vec<_> = fleet.replicas().map(|it| it.addresses()[0]).collect();
    let get = async |replica: usize, target: &str| {
        let url = format!("http://{}{target}", addresses[replica]);
        fleet.first.client.get(url).send().await.unwrap()
    };
    while server.run(&["PUBSUB", "NUMSUB", "ringbearer:silences"]).await
        != redis::Value::Array(vec![
            redis::Value::BulkString(b"ringbearer:silences".to_vec()),
            redis::Value::Int(i64::try_from(REPLICAS).unwrap()),
        ])
    {
        settle().await;
    }
    for _ in 0..10 {
        assert_eq!(get(0, HEAVY).await.status(), 200);
    }
    assert_eq!(get(0, HEAVY).await.status(), 429);
    let heard = |it: &Service| it.throttle().unwrap().sharing_figures().unwrap().heard;
    while fleet.replicas().skip(1).any(|replica| heard(replica) < 1) {
        settle().await;
    }
    for replica in 0..REPLICAS {
        let answer = get(replica, HEAVY).await;
        assert_eq!(answer.headers()["x-ringbearer-error"], "RBR-160", "replica {replica}");
        assert_eq!(answer.headers()["retry-after"], "60");
        assert_eq!(get(replica, LIGHT).await.status(), 200, "another group flows on");
    }
    assert_eq!(fleet.first.control().counts().api_429, 1, "met once, by one of four");
    // One that starts later asks what it has missed.
    let late = Service::start(fleet.first.settings(), fleet.clock()).unwrap();
    while heard(&late) < 1 {
        settle().await;
    }
    let url = format!("http://{}{HEAVY}", late.addresses()[0]);
    let answer = fleet.first.client.get(url).send().await.unwrap();
    assert_eq!(answer.headers()["x-ringbearer-error"], "RBR-160");
    fleet.clock().advance(MINUTE + Duration::from_millis(20));
    assert_eq!(get(3, HEAVY).await.status(), 200, "a minute later");
    assert_eq!(fleet.first.control().counts().api_429, 1);
    let stopping = tokio::spawn(late.stop());
    while !stopping.is_finished() {
        fleet.clock().advance(Duration::from_millis(500));
        settle().await;
    }
    stopping.await.unwrap();
    fleet.finish().await;
}

#[tokio::test]
async fn while_redis_is_away_each_replica_keeps_to_its_part_and_then_all_share_again() {
    let Some(mut server) = RedisServer::start().await else { return };
    let fleet = fleet(&server, "pacing = true\n").await;
    until(&fleet, || replicas_known(&fleet) == [4; REPLICAS]).await;
    assert_eq!(send(&fleet, &[1; REPLICAS], HEAVY, "60").await, [1; REPLICAS]);
    fleet.clock().advance(2 * MINUTE);
    rest().await;

    server.kill();
    until(&fleet, || !fleet.replicas().any(is_up)).await;
    // Ten a minute, four replicas: two each, and two are left.
    assert_eq!(send(&fleet, &[6; REPLICAS], HEAVY, "20").await, [2; REPLICAS]);
    assert_eq!(fleet.first.control().counts().api_429, 0);

    server.revive().await;
    until(&fleet, || fleet.replicas().all(is_up)).await;
    fleet.clock().advance(2 * MINUTE);
    rest().await;
    assert_eq!(send(&fleet, &[10, 0, 0, 0], HEAVY, "20").await, [10, 0, 0, 0], "all of it");
    assert_eq!(fleet.first.control().counts().api_429, 0);
    fleet.finish().await;
}

fn limits(server: &RedisServer) -> SharedLimits {
    let text = format!(
        "[application.a]\nclient_id = 'a'\nclient_secret = 'a'\n[identity.test]\njwt = 'a'\n\
         [store]\nredis = {:?}\nencryption_keys = ['AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=']\n",
        server.url()
    );
    let source = ConfigSource::Text(text);
    let (settings, _) = Settings::load(&source, Overrides::default(), &|_| None).unwrap();
    let StoreSettings::Redis { server, .. } = &settings.store else { panic!("it is Redis") };
    SharedLimits::open(server).unwrap()
}

fn contact(now: Option<Timestamp>) -> Contact {
    Contact {
        identity: "test".into(),
        group: "heavy".into(),
        life: 1,
        now,
        held: 0,
        first: 0,
        ages: Vec::new(),
        told: None,
        need: 0,
        spare: 0,
    }
}

fn ten(remaining: u32) -> Told {
    Told { limit: 10, remaining, window: MINUTE, age: Duration::ZERO }
}

#[tokio::test]
async fn a_place_counts_in_the_hand_and_a_window_after_its_answer_and_no_answer_is_lost_twice() {
    let Some(server) = RedisServer::start().await else { return };
    let (one, two) = (limits(&server), limits(&server));
    let at = |secs: u64| Some(START + Duration::from_secs(secs));
    let limit = Some((10, MINUTE));
    let ask = |now, held, need| Contact { held, need, ..contact(now) };
    let grant = |places, opens_in: Option<u64>| Grant {
        places,
        limit,
        opens_in: opens_in.map(Duration::from_millis),
    };
    // Nobody knows the limit: one goes to find out, and the others wait for what it finds.
    let unknown = Grant { places: 1, limit: None, opens_in: None };
    assert_eq!(one.exchange(&ask(at(0), 0, 5)).await.unwrap(), unknown);
    let none = Grant { places: 0, ..unknown };
    assert_eq!(two.exchange(&ask(at(0), 0, 5)).await.unwrap(), none);
    let ages = vec![Duration::from_secs(1)];
    let found = Contact { told: Some(ten(9)), ages, ..ask(at(2), 0, 7) };
    assert_eq!(one.exchange(&found).await.unwrap(), grant(5, Some(0)), "half of nine, rounded up");
    // That answer was lost, and it asks again in the same words.
    assert_eq!(one.exchange(&found).await.unwrap(), grant(5, Some(0)));
    assert_eq!(two.exchange(&ask(at(2), 0, 5)).await.unwrap(), grant(2, Some(0)));
    assert_eq!(two.exchange(&ask(at(2), 2, 5)).await.unwrap(), grant(1, Some(0)));
    assert_eq!(two.exchange(&ask(at(2), 3, 5)).await.unwrap(), grant(1, Some(59_010)));
    // The first is never heard of again: what it had may have been sent until it lapsed.
    let lapsed = 2 + HOLD.as_secs();
    let back = two.exchange(&ask(at(lapsed), 4, 5)).await.unwrap();
    assert_eq!(back, grant(0, Some(61_010 - lapsed * 1000)));
    assert_eq!(
        two.exchange(&ask(at(62), 4, 5)).await.unwrap(),
        grant(1, Some((lapsed - 2) * 1000 + 10))
    );
    let free = two.exchange(&ask(at(lapsed + 61), 5, 9)).await.unwrap();
    assert_eq!(free, grant(5, None), "all that the other had");
}

#[tokio::test]
async fn spare_places_are_given_while_there_are_plenty_and_strangers_take_theirs() {
    let Some(server) = RedisServer::start().await else { return };
    let one = limits(&server);
    let ask = |told, held, need| Contact { told, held, need, spare: 3, ..contact(Some(START)) };
    let places = async |contact: &Contact| one.exchange(contact).await.unwrap().places;
    assert_eq!(places(&ask(Some(ten(10)), 0, 1)).await, 4);
    assert_eq!(places(&ask(None, 4, 1)).await, 1, "more than half would be gone");
    // Ten less three that are left are seven, five of which are ours.
    assert_eq!(places(&ask(Some(ten(3)), 5, 9)).await, 3);
    let none = Told { limit: 0, ..ten(0) };
    let grant = one.exchange(&ask(Some(none), 0, 1)).await.unwrap();
    assert_eq!(grant, Grant { places: 0, limit: Some((0, MINUTE)), opens_in: None }, "none needed");
}

#[tokio::test]
async fn by_the_servers_own_clock_it_is_the_same() {
    let Some(server) = RedisServer::start().await else { return };
    let one = limits(&server);
    let ages = vec![Duration::from_secs(59)];
    let first = Contact { told: Some(ten(9)), ages, need: 9, ..contact(None) };
    assert_eq!(one.exchange(&first).await.unwrap().places, 9);
    let next = one.exchange(&Contact { held: 9, need: 1, ..contact(None) }).await.unwrap();
    let opens_in = next.opens_in.expect("it is known");
    assert_eq!(next.places, 0);
    assert!(opens_in <= Duration::from_millis(1010) && !opens_in.is_zero(), "{opens_in:?}");
    assert_eq!(one.beat().await.unwrap(), 1);
    assert_eq!(limits(&server).beat().await.unwrap(), 2);
}

/// One process in the test below.
struct Process {
    limits: SharedLimits,
    life: u64,
    hand: Vec<Timestamp>,
    /// Requests under way: when they arrive, and when they are answered.
    flying: Vec<(Timestamp, Timestamp)>,
    answered: Vec<Timestamp>,
    told_of: usize,
}

/// What RingCentral counts, by when requests arrive, whatever is lost on the way.
#[tokio::test]
async fn in_two_thousand_random_steps_no_window_ever_counts_more_than_its_limit() {
    let Some(server) = RedisServer::start().await else { return };
    let mut random = fastrand::Rng::with_seed(160);
    let process = || Process {
        limits: limits(&server),
        life: 1,
        hand: Vec::new(),
        flying: Vec::new(),
        answered: Vec::new(),
        told_of: 0,
    };
    let mut processes: Vec<_> = (0..3).map(|_| process()).collect();
    let (mut now, mut arrivals) = (START, Vec::new());
    for _ in 0..2000 {
        now = now + Duration::from_millis(random.u64(0..1500));
        let at = random.usize(0..processes.len());
        if random.u32(0..100) == 0 {
            // It dies. What it had in its hands may have been sent at the last moment.
            let last = |good: &Timestamp| {
                Timestamp::from_unix_millis(
                    random.u64(now.unix_millis()..=good.unix_millis().max(now.unix_millis())),
                )
            };
            arrivals.extend(
                processes[at].hand.iter().filter(|good| **good > now).map(last).collect::<Vec<_>>(),
            );
            arrivals.extend(processes[at].flying.iter().map(|(arrival, _)| *arrival));
            processes[at] = process();
        }
        let process = &mut processes[at];
        process.hand.retain(|good| now < *good);
        for _ in 0..random.usize(0..=process.hand.len()) {
            process.hand.pop();
            let trip = random.u64(1..3000);
            let arrival = now + Duration::from_millis(random.u64(0..=trip));
            process.flying.push((arrival, now + Duration::from_millis(trip)));
        }
        process.flying.sort_unstable_by_key(|(_, answer)| *answer);
        while process.flying.first().is_some_and(|(_, answer)| *answer <= now) {
            let (arrival, answer) = process.flying.remove(0);
            arrivals.push(arrival);
            process.answered.push(answer);
        }
        let held = u32::try_from(process.hand.len() + process.flying.len()).unwrap();
        let ages = process.answered[process.told_of..].iter().map(|at| at.until(now)).collect();
        let first = process.told_of as u64;
        let (need, spare) = (random.u32(0..8), random.u32(0..3));
        let told = Some(Told { limit: 10, remaining: 10, window: MINUTE, age: Duration::ZERO });
        let life = process.life;
        let contact = Contact { life, held, first, ages, told, need, spare, ..contact(Some(now)) };
        let grant = process.limits.exchange(&contact).await.unwrap();
        if random.u32(0..10) > 0 {
            // Else the answer is lost.
            process.told_of = process.answered.len();
            process.hand.extend((0..grant.places).map(|_| now + HOLD));
        }
    }
    arrivals.sort_unstable();
    let inside =
        |at: &Timestamp| arrivals.iter().filter(|it| **it >= *at && **it < *at + MINUTE).count();
    let most = arrivals.iter().map(inside).max().unwrap();
    assert_eq!(most, 10, "used up, and never exceeded, by {} requests", arrivals.len());
    assert!(arrivals.len() > 150, "{} requests", arrivals.len());
}

#[tokio::test]
async fn proxies_that_share_nothing_are_not_asked() {
    let environment = Environment::new().await;
    let throttle = environment.proxy().throttle().expect("it is on by default");
    assert_eq!(throttle.sharing_figures(), None);
    environment.finish().await;
}
