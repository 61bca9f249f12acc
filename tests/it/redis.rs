//! The store in Redis, against the real server.

use std::time::Duration;

use ringbearer::clock::Timestamp;
use ringbearer::secret::Secret;
use ringbearer::settings::RedisSettings;
use ringbearer::store::redis::RedisStore;
use ringbearer::store::seal::Seal;
use ringbearer::store::{Change, Enrolment, Entry, Provenance, StoreError, Stored, TokenStore};
use ringbearer::token::budget::Class;
use ringbearer::token::ledger::Ledger;
use ringbearer::token::{AccessToken, Generation, TokenSet};

use crate::redis_server::RedisServer;

const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);

fn stored(generation: u64) -> Stored {
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
    let settings = RedisSettings {
        url: Secret::new(server.url()),
        address: "127.0.0.1".into(),
        ca_pem: None,
        prefix: "test:".into(),
    };
    let key = Secret::new("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
    RedisStore::open(&settings, Seal::new(&[key]).unwrap()).unwrap()
}

async fn save(store: &RedisStore, generation: u64, expected: u64) -> Result<(), StoreError> {
    let lease = loop {
        // Given back in a task, and therefore not at once.
        if let Some(lease) = store.lease("sales").await? {
            break lease;
        }
    };
    store.save(&lease, &stored(generation), Generation::new(expected)).await
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
    let error = store.check().await.unwrap_err().to_string();
    server.go_on();
    assert_eq!(
        error,
        "the store at 127.0.0.1 cannot be reached: check that it runs, its address and its password"
    );
    while store.check().await.is_err() {}
    assert_eq!(store.load("sales").await.unwrap().generation().number(), 1);
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
    assert_eq!(
        ringbearer::telemetry::chain(&error),
        "the store at 127.0.0.1 cannot keep a shared key: check that it runs, its address and its \
         password: what is stored under \"test:key:facade\" is damaged: delete it"
    );
}
