//! A replica takes over from the primary, also one that is behind.

use ringbearer::sandbox::Rules;
use ringbearer::store::{Entry, StoreError, TokenStore};
use ringbearer::token::Generation;

use crate::fleet::{Fleet, REPLICAS, SECOND, refreshing, renew_under_load};
use crate::forwarder::Forwarder;
use crate::redis::save_as;
use crate::redis_server::{RedisServer, free_port, open_store};
use crate::support::{Wishes, sessions, settle};

/// A replica that has everything.
async fn replica_of(primary: &RedisServer) -> RedisServer {
    let replica = RedisServer::with(&format!("replicaof 127.0.0.1 {}\n", primary.port())).await;
    let replica = replica.expect("the primary runs");
    replica.until(&["INFO", "replication"], "master_link_status:up").await;
    primary.until(&["INFO", "replication"], "state=online").await;
    replica
}

async fn generation_at(server: &RedisServer) -> String {
    server.text(&["HGET", "ringbearer:{test}:session", "g"]).await
}

#[tokio::test]
async fn a_replica_that_is_behind_gets_the_session_back_from_the_proxies() {
    let Some(mut primary) = RedisServer::start().await else { return };
    let replica = replica_of(&primary).await;
    let network = Forwarder::to(primary.port()).await;
    let store = Some(format!("redis = {:?}", network.url()));
    let fleet = Fleet::with(Wishes { store, ..refreshing(Rules::unlimited()) }).await;
    renew_under_load(&fleet, 3, 10).await;
    replica.until(&["HGET", "ringbearer:{test}:session", "g"], "4").await;
    // It hears no more, and is promoted as it is.
    replica.run(&["REPLICAOF", "NO", "ONE"]).await;
    fleet.clock().advance(3300 * SECOND);
    assert_eq!(fleet.call(900, 10).await, [200; 10 * REPLICAS]);
    fleet.all_have(5).await;
    assert_eq!(generation_at(&primary).await, "5");
    assert_eq!(generation_at(&replica).await, "4", "it lags");
    primary.kill();
    network.lead_to(replica.port());
    // The proxies notice that they are ahead, and one of them writes.
    while generation_at(&replica).await != "5" {
        assert_eq!(fleet.call(901, 1).await, [200; REPLICAS]);
    }
    for generation in 6..9 {
        let before = fleet.first.control().counts().token_requests;
        fleet.clock().advance(3300 * SECOND);
        let round = usize::try_from(generation).unwrap();
        assert_eq!(fleet.call(1000 + round, 10).await, [200; 10 * REPLICAS]);
        fleet.all_have(generation).await;
        assert_eq!(fleet.first.control().counts().token_requests - before, 1, "{generation}");
        assert_eq!(generation_at(&replica).await, generation.to_string());
    }
    assert_eq!(sessions(&fleet.first.control().log()), [1], "one session through it all");
    assert_eq!(fleet.first.control().counts().token_repeats, 0, "no refresh token came twice");
    fleet.finish().await;
}

#[tokio::test]
async fn sentinels_lead_to_the_new_primary() {
    let Some(mut primary) = RedisServer::start().await else { return };
    let replica = replica_of(&primary).await;
    let mut sentinels = Vec::new();
    for _ in 0..3 {
        let watch = format!("sentinel monitor main 127.0.0.1 {} 2\n", primary.port());
        let hurry = "sentinel down-after-milliseconds main 500\n\
                     sentinel failover-timeout main 3000\n";
        let Some(sentinel) = RedisServer::sentinel(&format!("{watch}{hurry}")).await else {
            return;
        };
        sentinels.push(sentinel);
    }
    for sentinel in &sentinels {
        sentinel.until(&["INFO", "sentinel"], "slaves=1,sentinels=3").await;
    }
    // The first one is dead, and is passed over.
    let ports = [free_port(), sentinels[0].port(), sentinels[1].port()];
    let hosts = ports.map(|port| format!("127.0.0.1:{port}")).join(",");
    let store = open_store(&format!("redis = \"redis+sentinel://{hosts}/main\""));
    let unknown = open_store(&format!("redis = \"redis+sentinel://{hosts}/other\""));
    assert_eq!(
        unknown.check().await.unwrap_err().to_string(),
        format!(
            "the store at {hosts}/other cannot be reached: the sentinels know no such server, or \
             none that is up: check the name at the end of store.redis"
        )
    );
    let mut changes = store.changes();
    save_as(&store, "sales", 1, 0).await.unwrap();
    replica.until(&["HGET", "test:{sales}:session", "g"], "1").await;
    primary.kill();
    let mut outcome = save_as(&store, "sales", 2, 1).await;
    while let Err(error) = outcome {
        assert!(matches!(error, StoreError::Server { .. }), "{error}");
        outcome = save_as(&store, "sales", 2, 1).await;
    }
    let there = replica.text(&["HGET", "test:{sales}:session", "g"]).await;
    assert_eq!(there, "2", "it went to the new primary");
    // Changes are heard of there.
    while changes.try_recv().is_err() {
        store.enrol("support", None).await.unwrap();
        settle().await;
    }
}

#[tokio::test]
async fn a_session_is_not_used_before_enough_replicas_have_it() {
    let Some(primary) = RedisServer::start().await else { return };
    let lines = format!("redis = {:?}\nredis_wait_replicas = 1", primary.url());
    let (store, other) = (open_store(&lines), open_store(&lines));
    let lacking = format!(
        "the store at 127.0.0.1:{} cannot keep a session safe: see that its replicas keep up, or \
         lower store.redis_wait_replicas",
        primary.port()
    );
    assert_eq!(save_as(&store, "sales", 1, 0).await.unwrap_err().to_string(), lacking);
    assert_eq!(other.load("sales").await.unwrap_err().to_string(), lacking, "nobody's");
    let replica = replica_of(&primary).await;
    assert_eq!(other.load("sales").await.unwrap().generation().number(), 1, "it is safe now");
    save_as(&store, "sales", 2, 1).await.unwrap();
    assert_eq!(replica.text(&["HGET", "test:{sales}:session", "g"]).await, "2");
    replica.pause();
    assert_eq!(save_as(&store, "sales", 3, 2).await.unwrap_err().to_string(), lacking);
    replica.go_on();
    while let Err(error) = other.load("sales").await {
        assert_eq!(error.to_string(), lacking);
    }
    let there = other.load("sales").await.unwrap();
    assert!(matches!(there, Entry::Session(it) if it.set.generation == Generation::new(3)));
}

#[tokio::test]
async fn a_renewal_waits_for_the_replicas_and_costs_one_request_all_the_same() {
    let Some(primary) = RedisServer::start().await else { return };
    let replica = replica_of(&primary).await;
    let store = Some(format!("redis = {:?}\nredis_wait_replicas = 1", primary.url()));
    let fleet = Fleet::with(Wishes { store, ..refreshing(Rules::unlimited()) }).await;
    renew_under_load(&fleet, 3, 5).await;
    // What nobody uses is not renewed.
    assert_eq!(fleet.call(900, 5).await, [200; 5 * REPLICAS]);
    let before = fleet.first.control().counts().token_requests;
    replica.pause();
    fleet.clock().advance(3300 * SECOND);
    fleet.first.control().wait_until(|counts| counts.token_requests == before + 1).await;
    // Granted, written, but on one machine only: the set before it is used as long as it lives.
    while fleet.statuses().iter().all(|status| status.last_error.is_none()) {
        settle().await;
    }
    assert_eq!(fleet.generations(), [4; REPLICAS]);
    replica.go_on();
    fleet.all_have(5).await;
    assert_eq!(fleet.first.control().counts().token_requests, before + 1);
    assert_eq!(sessions(&fleet.first.control().log()), [1]);
    fleet.finish().await;
}
