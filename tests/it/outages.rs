//! The store of several proxies goes away under load, in every way a Redis server can.
//!
//! Whatever happens to it: one token request per generation, none while it is away, no request of a
//! client fails while the cached token lives, and everything goes on by itself with the same session.

use std::time::Duration;

use ringbearer::sandbox::Rules;
use ringbearer::store::TokenStore;

use crate::fleet::{Fleet, REPLICAS, SECOND, refreshing, renew_under_load};
use crate::forwarder::Forwarder;
use crate::redis_server::{RedisServer, open_store_of_proxies};
use crate::support::{Wishes, sessions, settle};

/// Four proxies, one Redis, and the network between them.
struct Stage {
    server: RedisServer,
    network: Forwarder,
    fleet: Fleet,
    round: usize,
}

impl Stage {
    async fn set() -> Option<Self> {
        let server = RedisServer::start().await?;
        let network = Forwarder::to(server.port()).await;
        let store = Some(format!("redis = {:?}", network.url()));
        let fleet = Fleet::with(Wishes { store, ..refreshing(Rules::unlimited()) }).await;
        renew_under_load(&fleet, 2, 5).await;
        // What nobody uses is not renewed.
        assert_eq!(fleet.call(999, 5).await, [200; 5 * REPLICAS]);
        Some(Self { server, network, fleet, round: 1000 })
    }

    fn token_requests(&self) -> u64 {
        self.fleet.first.control().counts().token_requests
    }

    /// Time passes under load, and every request succeeds.
    async fn serves_for(&mut self, time: Duration) {
        for _ in 0..time.as_secs() / 10 {
            self.fleet.clock().advance(10 * SECOND);
            self.round += 1;
            let statuses = self.fleet.call(self.round, 5).await;
            assert_eq!(statuses, [200; 5 * REPLICAS]);
        }
    }

    /// Returns when every replica knows that it cannot renew now.
    async fn all_notice(&self) {
        while self.fleet.statuses().iter().any(|status| status.last_error.is_none()) {
            settle().await;
            self.fleet.clock().advance(Duration::from_millis(1));
        }
    }

    async fn check_fails(&self, named: &str) {
        for replica in self.fleet.replicas() {
            let error = replica.identities().check_store().await.unwrap_err().to_string();
            let store = self.network.address();
            let begin = format!("the store at {store} cannot be reached: ");
            assert_eq!(error.strip_prefix(&begin), Some(named), "{error}");
        }
    }

    /// Calls every replica, which has no token, and returns what all were told.
    async fn is_refused(&mut self) -> String {
        self.round += 1;
        let mut told = Vec::new();
        for (status, retry_after, body) in self.fleet.call_in_time(self.round, 3).await {
            assert_eq!(status, 503);
            let wait: u64 = retry_after.expect("it says when to come again").parse().unwrap();
            assert!((1..=40).contains(&wait), "Retry-After: {wait}");
            assert_eq!(body["errorCode"], "RBR-201");
            told.push(body["message"].as_str().unwrap().to_owned());
        }
        told.dedup();
        assert_eq!(told.len(), 1, "{told:?}");
        told.remove(0)
    }

    /// Goes on as if nothing had been, at the cost of one token request.
    async fn recovers_with(&mut self, generation: u64, spent_before: u64) {
        self.fleet.all_have(generation).await;
        assert_eq!(self.token_requests() - spent_before, 1, "one token request for {generation}");
        self.round += 1;
        assert_eq!(self.fleet.call(self.round, 5).await, [200; 5 * REPLICAS]);
        for replica in self.fleet.replicas() {
            replica.identities().check_store().await.unwrap();
        }
        let spent = self.token_requests();
        self.fleet.clock().advance(3300 * SECOND);
        assert_eq!(self.fleet.call(self.round + 500, 5).await, [200; 5 * REPLICAS]);
        self.fleet.all_have(generation + 1).await;
        assert_eq!(self.token_requests() - spent, 1, "and for the next");
        assert_eq!(self.fleet.first.control().counts().token_repeats, 0);
        let log = self.fleet.first.control().log();
        assert_eq!(sessions(&log), [1], "the session that it began with");
    }
}

const SILENT: &str = "it gives no answer in time: check that it runs, that the network lets it through, and that \
     it speaks TLS if store.redis says rediss://";

#[tokio::test]
async fn a_server_that_stands_still_is_waited_for() {
    let Some(mut stage) = Stage::set().await else { return };
    let spent = stage.token_requests();
    stage.server.pause();
    stage.fleet.clock().advance(3100 * SECOND);
    stage.all_notice().await;
    stage.serves_for(400 * SECOND).await;
    stage.check_fails(SILENT).await;
    // The token ends.
    stage.fleet.clock().advance(200 * SECOND);
    let told = stage.is_refused().await;
    let store = stage.network.address();
    let named = format!("and without it no token is requested: the store at {store} cannot ");
    assert!(told.contains(&named) && told.contains("no answer in time"), "{told}");
    assert_eq!(stage.token_requests(), spent, "nothing is renewed blindly");
    stage.server.go_on();
    stage.recovers_with(4, spent).await;
    stage.fleet.finish().await;
}

#[tokio::test]
async fn a_server_that_restarts_in_the_middle_of_renewals_is_not_noticed() {
    let Some(mut stage) = Stage::set().await else { return };
    for generation in 4..8 {
        let spent = stage.token_requests();
        stage.fleet.clock().advance(3300 * SECOND);
        stage.round += 1;
        let (statuses, ()) =
            tokio::join!(stage.fleet.call(stage.round, 20), stage.server.restart());
        assert_eq!(statuses, [200; 20 * REPLICAS]);
        stage.fleet.all_have(generation).await;
        assert_eq!(stage.token_requests() - spent, 1, "{generation}");
    }
    assert_eq!(sessions(&stage.fleet.first.control().log()), [1]);
    assert_eq!(stage.fleet.first.control().counts().token_repeats, 0);
    stage.fleet.finish().await;
}

#[tokio::test]
async fn a_server_that_was_emptied_gets_the_session_back_within_half_a_minute() {
    let Some(mut stage) = Stage::set().await else { return };
    let spent = stage.token_requests();
    // No connection breaks, and nobody tells.
    stage.server.run(&["FLUSHALL"]).await;
    stage.fleet.clock().advance(30 * SECOND);
    stage.server.until(&["EVAL", GENERATION, "0"], "3").await;
    assert_eq!(stage.token_requests(), spent, "it was no reason to renew");
    stage.fleet.clock().advance(3300 * SECOND);
    stage.recovers_with(4, spent).await;
    stage.fleet.finish().await;
}

/// The generation that is stored, or nothing.
const GENERATION: &str = "return redis.call('HGET', 'ringbearer:{test}:session', 'g') or ''";

#[tokio::test]
async fn a_network_that_is_cut_for_ten_minutes_costs_nothing_while_the_token_lives() {
    let Some(mut stage) = Stage::set().await else { return };
    let spent = stage.token_requests();
    // Before its renewal is due until after it is, whatever the spread.
    stage.fleet.clock().advance(2600 * SECOND);
    stage.network.cut();
    stage.serves_for(600 * SECOND).await;
    stage.check_fails(CLOSED).await;
    assert_eq!(stage.token_requests(), spent, "nothing is renewed blindly");
    stage.network.lead_to(stage.server.port());
    stage.serves_for(60 * SECOND).await;
    stage.recovers_with(4, spent).await;
    stage.fleet.finish().await;
}

const CLOSED: &str = "it closed the connection: if it speaks TLS there, write rediss://";

#[tokio::test]
async fn a_network_that_is_cut_until_after_the_end_of_the_token_heals_by_itself() {
    let Some(mut stage) = Stage::set().await else { return };
    let spent = stage.token_requests();
    stage.fleet.clock().advance(2990 * SECOND);
    stage.network.cut();
    stage.serves_for(600 * SECOND).await;
    stage.fleet.clock().advance(20 * SECOND);
    for _ in 0..3 {
        let told = stage.is_refused().await;
        assert!(told.contains(&format!("the store at {}", stage.network.address())), "{told}");
        stage.fleet.clock().advance(120 * SECOND);
    }
    assert_eq!(stage.token_requests(), spent, "nothing is renewed blindly");
    stage.network.lead_to(stage.server.port());
    stage.recovers_with(4, spent).await;
    stage.fleet.finish().await;
}

#[tokio::test]
async fn a_lease_that_somebody_holds_is_no_outage() {
    let Some(mut stage) = Stage::set().await else { return };
    let spent = stage.token_requests();
    let stranger = open_store_of_proxies(&format!("redis = {:?}", stage.server.url()));
    let lease = loop {
        if let Some(lease) = stranger.lease("test").await.unwrap() {
            break lease;
        }
    };
    stage.fleet.clock().advance(3700 * SECOND);
    stage.all_notice().await;
    let told = stage.is_refused().await;
    assert!(told.ends_with("another process is renewing this identity: its result is awaited"));
    for replica in stage.fleet.replicas() {
        replica.identities().check_store().await.unwrap();
    }
    assert_eq!(stage.token_requests(), spent);
    drop(lease);
    stage.recovers_with(4, spent).await;
    stage.fleet.finish().await;
}

#[tokio::test]
async fn a_hundred_expiries_for_five_hundred_clients_of_four_replicas_cost_a_hundred_requests() {
    let Some(server) = RedisServer::start().await else { return };
    let store = Some(format!("redis = {:?}", server.url()));
    let fleet = Fleet::with(Wishes { store, ..refreshing(Rules::unlimited()) }).await;
    fleet.all_have(1).await;
    assert_eq!(fleet.call(0, 1).await, [200; REPLICAS]);
    let before = fleet.first.control().counts().token_requests;
    for generation in 1..=100 {
        fleet.clock().advance(3300 * SECOND);
        let round = usize::try_from(generation).unwrap();
        assert_eq!(fleet.call(round, 125).await, [200; 125 * REPLICAS], "{generation}");
        fleet.all_have(generation + 1).await;
        let asked = fleet.first.control().counts().token_requests - before;
        assert_eq!(asked, generation, "one token request per generation");
    }
    assert_eq!(sessions(&fleet.first.control().log()), [1]);
    assert_eq!(fleet.first.control().counts().token_repeats, 0);
    fleet.finish().await;
}
