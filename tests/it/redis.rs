//! The store in Redis, against the real server.

use std::time::Duration;

use ringbearer::clock::{Stopwatch, Timestamp};
use ringbearer::secret::Secret;
use ringbearer::store::redis::RedisStore;
use ringbearer::store::{Change, Enrolment, Entry, Provenance, StoreError, Stored, TokenStore};
use ringbearer::token::budget::Class;
use ringbearer::token::ledger::Ledger;
use ringbearer::token::{AccessToken, Generation, TokenSet};

use crate::forwarder::Forwarder;
use crate::redis_server::{RedisServer, open_store, open_store_of_proxies};
use crate::support::settle;

const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);

pub(crate) fn stored(generation: u64) -> Stored {
    let set = TokenSet {
        generation: Generation::new(generation),
        access_token: AccessToken::new(format!("access-{generation}")),
        issued_at: NOW,
        expires_at: NOW + Duration::from_secs(3600),
        refresh: None,
        previous_refresh: None,
        scope: None,
        owner_id: None,
        endpoint_id: None,
    };
    Stored { set, provenance: Provenance::from_bytes([1; 32]) }
}

fn open(server: &RedisServer) -> RedisStore {
    open_store(&format!("redis = {:?}", server.url()))
}

async fn save(store: &RedisStore, generation: u64, expected: u64) -> Result<(), StoreError> {
    save_as(store, "sales", generation, expected).await
}

pub(crate) async fn save_as(
    store: &RedisStore,
    identity: &str,
    generation: u64,
    expected: u64,
) -> Result<(), StoreError> {
    let lease = loop {
        // Given back in a task, and therefore not at once.
        if let Some(lease) = store.lease(identity).await? {
            break lease;
        }
    };
    store.save(&lease, &stored(generation), Generation::new(expected)).await
}

/// Everything that a proxy does with a store, as far as it can be told from the outside.
pub(crate) async fn use_every_operation(store: &RedisStore) -> Result<(), StoreError> {
    let mut changes = store.changes();
    save(store, 1, 0).await?;
    let lease = loop {
        if let Some(lease) = store.lease("sales").await? {
            break lease;
        }
    };
    store.probe_writable(&lease).await?;
    store.save(&lease, &stored(2), Generation::new(1)).await?;
    assert_eq!(store.load("sales").await?.generation().number(), 2);
    let found = store.generations(&["sales", "nobody"]).await?;
    assert_eq!(found.map_numbers(), [2, 0]);
    let enrolment = Enrolment { client_id: "client".into(), jwt: None };
    store.enrol("support", Some(&enrolment)).await?;
    assert_eq!(store.enrolment("support").await?.unwrap().client_id, "client");
    assert_eq!(store.survey().await?.len(), 2);
    store.enrol("support", None).await?;
    let mut change = |ledger: &mut Ledger, now| {
        ledger.ask("process", "request", Class::Idle, 5, now);
    };
    store.post("client", &mut change).await?;
    store.check().await?;
    // The subscription begins in a task, and hears what comes after that.
    while changes.try_recv().is_err() {
        store.enrol("support", None).await?;
        settle().await;
    }
    store.erase(&lease, Generation::new(2)).await
}

trait Numbers {
    fn map_numbers(&self) -> Vec<u64>;
}

impl Numbers for Vec<Generation> {
    fn map_numbers(&self) -> Vec<u64> {
        self.iter().map(|generation| generation.number()).collect()
    }
}

#[tokio::test]
async fn a_session_is_changed_by_generation_and_its_end_leaves_a_mark() {
    let Some(server) = RedisServer::start().await else { return };
    let store = open(&server);
    assert!(matches!(store.load("sales").await.unwrap(), Entry::Absent));
    save(&store, 1, 0).await.unwrap();
    save(&store, 2, 1).await.unwrap();
    let late = save(&store, 2, 1).await.unwrap_err();
    assert_eq!(
        late.to_string(),
        "the stored session is of generation 2, not 1: somebody else has renewed"
    );
    let there = open(&server).load("sales").await.unwrap().session().unwrap();
    assert_eq!(there.set.access_token.expose(), "access-2");
    let lease = loop {
        if let Some(lease) = store.lease("sales").await.unwrap() {
            break lease;
        }
    };
    store.probe_writable(&lease).await.unwrap();
    store.erase(&lease, Generation::new(2)).await.unwrap();
    let there = store.load("sales").await.unwrap();
    assert!(matches!(there, Entry::Erased(generation) if generation.number() == 3));
    assert!(store.save(&lease, &stored(3), Generation::new(2)).await.is_err(), "it is over");
}

#[tokio::test]
async fn a_lease_is_held_once_and_given_back_by_its_owner_only() {
    let Some(server) = RedisServer::start().await else { return };
    let (one, other) = (open(&server), open(&server));
    let lease = one.lease("sales").await.unwrap().expect("free");
    assert!(lease.is_live());
    assert!(other.lease("sales").await.unwrap().is_none(), "held");
    assert!(other.lease("support").await.unwrap().is_some(), "another identity's");
    // As if it had lapsed: somebody else takes it, and the first owner's end does not free it.
    server.run(&["DEL", "test:{sales}:lease"]).await;
    let theirs = other.lease("sales").await.unwrap().expect("lapsed");
    drop(lease);
    for _ in 0..20 {
        assert!(one.lease("sales").await.unwrap().is_none(), "theirs");
    }
    drop(theirs);
    while one.lease("sales").await.unwrap().is_none() {}
}

#[tokio::test]
async fn others_hear_of_a_change_and_of_a_return() {
    let Some(mut server) = RedisServer::start().await else { return };
    let (one, other) = (open(&server), open(&server));
    let mut changes = other.changes();
    let mut generation = 0;
    // The subscription begins in a task; what was published before it goes unheard.
    let heard = loop {
        save(&one, generation + 1, generation).await.unwrap();
        generation += 1;
        if let Ok(change) = changes.try_recv() {
            break change;
        }
    };
    assert!(matches!(heard, Change::Identity(name, Some(_)) if name == "sales"));
    server.restart().await;
    while changes.recv().await.expect("it goes on") != Change::Anything {}
    assert_eq!(other.load("sales").await.unwrap().generation().number(), generation, "synced");
}

#[tokio::test]
async fn a_server_that_stands_still_is_an_error_within_seconds_and_names_it() {
    let Some(server) = RedisServer::start().await else { return };
    let store = open(&server);
    save(&store, 1, 0).await.unwrap();
    server.pause();
    let watch = Stopwatch::start();
    let error = store.check().await.unwrap_err().to_string();
    let took = watch.elapsed();
    server.go_on();
    assert_eq!(
        error,
        format!(
            "the store at 127.0.0.1:{} cannot be reached: it gives no answer in time: check that it \
             runs, that the network lets it through, and that it speaks TLS if store.redis says \
             rediss://",
            server.port()
        )
    );
    assert!(took < Duration::from_secs(4), "{took:?}");
    while store.check().await.is_err() {}
    assert_eq!(store.load("sales").await.unwrap().generation().number(), 1);
}

#[tokio::test]
async fn every_operation_does_its_work() {
    let Some(server) = RedisServer::start().await else { return };
    use_every_operation(&open(&server)).await.unwrap();
}

#[tokio::test]
async fn a_network_that_swallows_everything_costs_seconds_and_is_left_behind() {
    let Some(server) = RedisServer::start().await else { return };
    let network = Forwarder::to(server.port()).await;
    let store = open_store(&format!("redis = {:?}", network.url()));
    save(&store, 1, 0).await.unwrap();
    network.swallow();
    let watch = Stopwatch::start();
    // Callers do not queue up one behind the other.
    let calls = (0..50).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.load("sales").await.map(drop) })
    });
    for call in calls.collect::<Vec<_>>() {
        let error = call.await.unwrap().unwrap_err().to_string();
        assert!(error.contains("gives no answer in time"), "{error}");
    }
    assert!(watch.elapsed() < Duration::from_secs(5), "{:?}", watch.elapsed());
    network.lead_to(server.port());
    while store.check().await.is_err() {}
    assert_eq!(store.load("sales").await.unwrap().generation().number(), 1);
}

#[tokio::test]
async fn a_connection_that_ended_while_nobody_used_it_costs_no_error() {
    let Some(mut server) = RedisServer::start().await else { return };
    let store = open(&server);
    save(&store, 1, 0).await.unwrap();
    for _ in 0..3 {
        server.restart().await;
        assert_eq!(store.load("sales").await.unwrap().generation().number(), 1);
    }
}

#[tokio::test]
async fn what_a_server_refuses_is_told_with_its_cure() {
    let Some(server) = RedisServer::start().await else { return };
    let store = open(&server);
    let told = |error: StoreError| {
        let error = error.to_string();
        error.split_once(" cannot ").unwrap().1.to_owned()
    };
    server.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert_eq!(
        told(save(&store, 1, 0).await.unwrap_err()),
        "lease a session: its memory is full: raise maxmemory, or let it evict other keys"
    );
    server.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    save(&store, 1, 0).await.unwrap();
    server.run(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    assert_eq!(
        told(save(&store, 2, 1).await.unwrap_err()),
        "lease a session: too few replicas are connected to it: see min-replicas-to-write"
    );
    server.run(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    server.run(&["REPLICAOF", "127.0.0.1", "1"]).await;
    assert_eq!(
        told(save(&store, 2, 1).await.unwrap_err()),
        "lease a session: it is a replica: name the primary in store.redis, or the sentinels \
         that know it"
    );
    server.run(&["REPLICAOF", "NO", "ONE"]).await;
    let cluster = open_store(&format!("redis = \"redis+cluster://127.0.0.1:{}\"", server.port()));
    assert_eq!(
        told(cluster.check().await.unwrap_err()),
        "be reached: it is no cluster: write redis:// or rediss://"
    );
    server.run(&["CONFIG", "SET", "requirepass", "canary"]).await;
    assert_eq!(
        told(open(&server).check().await.unwrap_err()),
        "be reached: it wants a password: write it into store.redis"
    );
}

#[tokio::test]
async fn no_ledger_entry_of_many_processes_is_lost() {
    let Some(server) = RedisServer::start().await else { return };
    let posts = (0..4).map(|process| {
        let store = open(&server);
        tokio::spawn(async move {
            for n in 0..10 {
                let request = format!("{process}-{n}");
                let mut change = |ledger: &mut Ledger, now| {
                    ledger.ask("all", &request, Class::Waiting, 1000, now);
                    ledger.settle(&request, true, now);
                };
                store.post("client", &mut change).await.unwrap();
            }
        })
    });
    for task in posts.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let mut left = 0;
    let mut look = |ledger: &mut Ledger, now| left = ledger.left(1000, now);
    open(&server).post("client", &mut look).await.unwrap();
    assert_eq!(left, 1000 - 4 * 10);
}

#[tokio::test]
async fn fifty_thousand_sessions_are_surveyed_and_compared_within_seconds() {
    let Some(server) = RedisServer::with("").await else { return };
    let store = open_store_of_proxies(&format!("redis = {:?}", server.url()));
    save_as(&store, "model", 1, 0).await.unwrap();
    server.run(&["EVAL", COPY, "0", "50000"]).await;
    let watch = Stopwatch::start();
    let found = store.survey().await.unwrap();
    assert_eq!(found.iter().filter(|line| line.session.is_some()).count(), 50_001);
    let names: Vec<&str> = found.iter().map(|line| line.identity.as_str()).collect();
    let generations = store.generations(&names).await.unwrap();
    assert_eq!(generations, vec![Generation::new(1); 50_001]);
    assert!(watch.elapsed() < Duration::from_secs(60), "{:?}", watch.elapsed());
}

/// Copies the session of `model`, which is not sealed, to so many names.
const COPY: &str = r"
local model = redis.call('HGET', 'ringbearer:{model}:session', 'd')
for n = 1, ARGV[1] do
  redis.call('HSET', 'ringbearer:{copy-' .. n .. '}:session', 'g', '1', 'd', model)
  redis.call('SADD', 'ringbearer:names', 'copy-' .. n)
end
return 1";

#[tokio::test]
async fn identities_that_were_added_are_listed_with_the_sessions() {
    let Some(server) = RedisServer::start().await else { return };
    let store = open(&server);
    let jwt = Some(Secret::new("assertion"));
    let enrolment = Enrolment { client_id: "client".into(), jwt };
    store.enrol("support", Some(&enrolment)).await.unwrap();
    save(&store, 1, 0).await.unwrap();
    let there = store.enrolment("support").await.unwrap().unwrap();
    assert_eq!(there.jwt.unwrap().expose(), "assertion");
    let found = store.survey().await.unwrap();
    let found: Vec<_> = found.iter().map(|it| (it.identity.as_str(), it.enrolled)).collect();
    assert_eq!(found, [("sales", false), ("support", true)]);
    store.enrol("support", None).await.unwrap();
    assert!(store.enrolment("support").await.unwrap().is_none());
}

#[tokio::test]
async fn all_who_ask_for_a_shared_key_get_the_same_one() {
    let Some(server) = RedisServer::start().await else { return };
    let stores: Vec<_> = (0..4).map(|_| open(&server)).collect();
    let asked = stores.iter().map(|store| store.shared_key("facade"));
    let keys = futures_util::future::try_join_all(asked).await.unwrap();
    assert!(keys.iter().all(|key| key.expose() == keys[0].expose()));
    server.run(&["SET", "test:key:facade", "torn"]).await;
    let error = stores[0].shared_key("facade").await.unwrap_err();
    let message = ringbearer::telemetry::chain(&error);
    let complaint = "cannot keep a shared key: delete it, and a new one is made: what is stored under \
                     \"test:key:facade\" is damaged";
    assert!(message.ends_with(complaint), "{message}");
}
