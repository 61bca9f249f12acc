//! Several proxies that share the sessions of one identity.

use std::time::Duration;

use ringbearer::clock::Clock;
use ringbearer::sandbox::Rules;
use ringbearer::service::Service;
use ringbearer::token::Generation;
use ringbearer::token::lifecycle::Standing;

use crate::redis_server::RedisServer;
use crate::support::{
    ECHO, Environment, LONG_IDLE, PATIENT, REFRESH_IDENTITY, Wishes, client, sends, sessions,
    settle,
};

const REPLICAS: usize = 4;
const SECOND: Duration = Duration::from_secs(1);

/// Replicas of the proxy of an [`Environment`], itself the first.
struct Fleet {
    first: Environment,
    others: Vec<Service>,
}

impl Fleet {
    async fn with(wishes: Wishes) -> Self {
        let first = Environment::with(wishes).await;
        let start = |_| Service::start(first.settings(), &first.clock).unwrap();
        let others = (1..REPLICAS).map(start).collect();
        Self { first, others }
    }

    fn replicas(&self) -> impl Iterator<Item = &Service> {
        std::iter::once(self.first.proxy()).chain(&self.others)
    }

    fn clock(&self) -> &Clock {
        &self.first.clock
    }

    /// The generation that each replica has.
    fn generations(&self) -> Vec<u64> {
        let status = |replica: &Service| {
            let identities = replica.identities();
            identities.keeper(identities.only().unwrap()).status()
        };
        self.replicas()
            .map(|replica| status(replica).generation.map_or(0, Generation::number))
            .collect()
    }

    /// Returns when every replica has this generation. The clock goes on slowly meanwhile: a
    /// replica that finds the lease held looks again after half a second.
    async fn all_have(&self, generation: u64) {
        let mut rounds = 0_u32;
        while self.generations() != [generation; REPLICAS] {
            settle().await;
            rounds += 1;
            if rounds.is_multiple_of(200) {
                self.clock().advance(Duration::from_millis(100));
            }
            assert!(rounds < 200_000, "{:?}, not {generation}", self.generations());
        }
    }

    /// Sends `each` requests to every replica at once, and returns the statuses.
    async fn call(&self, round: usize, each: usize) -> Vec<u16> {
        // A kept connection may have idled out meanwhile, unnoticed by the client.
        let (client, mut calls) = (client(), Vec::new());
        for (index, replica) in self.replicas().enumerate() {
            for n in 0..each {
                let target = format!("{ECHO}?call={round}-{index}-{n}");
                let url = format!("http://{}{target}", replica.addresses()[0]);
                calls.push(tokio::spawn(client.get(url).send()));
            }
        }
        let mut statuses = Vec::new();
        for call in calls {
            statuses.push(call.await.unwrap().unwrap().status().as_u16());
        }
        statuses
    }

    async fn finish(self) {
        let mut stops = Vec::new();
        for replica in self.others {
            stops.push(tokio::spawn(replica.stop()));
        }
        while stops.iter().any(|stop| !stop.is_finished()) {
            self.first.clock.advance(Duration::from_millis(500));
            settle().await;
        }
        for stop in stops {
            stop.await.unwrap();
        }
        self.first.finish().await;
    }
}

fn refreshing(rules: Rules) -> Wishes {
    Wishes {
        rules,
        identity: REFRESH_IDENTITY.into(),
        proxy: LONG_IDLE.into(),
        upstream: PATIENT.into(),
        ..Wishes::default()
    }
}

/// Renews `times` times under load, and checks what every generation cost.
async fn renew_under_load(fleet: &Fleet, times: u64, each: usize) {
    let requests = fleet.first.control().counts().token_requests;
    fleet.all_have(1).await;
    let spent = fleet.first.control().counts().token_requests - requests;
    assert!(spent <= 1, "{spent} token requests for the first generation");
    let before = fleet.first.control().counts().token_requests;
    for generation in 1..=times {
        let round = usize::try_from(generation).unwrap();
        assert!(fleet.call(2 * round, each).await.iter().all(|status| *status == 200));
        // Past the time of every replica's renewal, before the end of the token.
        fleet.clock().advance(3300 * SECOND);
        let statuses = fleet.call(2 * round + 1, each).await;
        assert!(statuses.iter().all(|status| *status == 200), "{generation}: {statuses:?}");
        fleet.all_have(generation + 1).await;
        let asked = fleet.first.control().counts().token_requests - before;
        assert_eq!(asked, generation, "one token request per generation");
    }
}

#[tokio::test]
async fn four_replicas_refresh_a_session_once_per_generation() {
    let fleet = Fleet::with(refreshing(Rules::unlimited())).await;
    renew_under_load(&fleet, 100, 20).await;
    let log = fleet.first.control().log();
    assert_eq!(sessions(&log), [1], "the session that it began with");
    let most = sends(&log).values().map(Vec::len).max();
    assert!(most <= Some(2), "{most:?} sends of one request");
    assert_eq!(fleet.first.control().counts().token_repeats, 0, "no refresh token came twice");
    fleet.finish().await;
}

#[tokio::test]
async fn four_replicas_survive_a_server_that_ends_the_session_when_a_refresh_token_comes_twice() {
    let strict = Rules { strict_rotation: true, ..Rules::unlimited() };
    let fleet = Fleet::with(refreshing(strict)).await;
    renew_under_load(&fleet, 25, 5).await;
    assert_eq!(sessions(&fleet.first.control().log()), [1]);
    fleet.finish().await;
}

#[tokio::test]
async fn five_hundred_clients_of_four_replicas_cost_one_token_request_per_generation() {
    let fleet = Fleet::with(refreshing(Rules::unlimited())).await;
    renew_under_load(&fleet, 5, 125).await;
    assert_eq!(sessions(&fleet.first.control().log()), [1]);
    fleet.finish().await;
}

#[tokio::test]
async fn four_replicas_open_one_session_per_generation() {
    let wishes = Wishes { upstream: PATIENT.into(), ..Wishes::default() };
    let fleet = Fleet::with(wishes).await;
    renew_under_load(&fleet, 10, 10).await;
    assert_eq!(fleet.first.control().counts().api_401, 0, "make before break");
    fleet.finish().await;
}

#[tokio::test]
async fn a_store_that_lost_the_session_gets_it_back() {
    let fleet = Fleet::with(refreshing(Rules::unlimited())).await;
    renew_under_load(&fleet, 1, 2).await;
    let file = fleet.first.store().join("test.json");
    let session = std::fs::read(&file).unwrap();
    // As a failover to a stale copy would: the generation before is there again.
    std::fs::rename(fleet.first.store().join("test.previous"), &file).unwrap();
    while std::fs::read(&file).ok().as_ref() != Some(&session) {
        settle().await;
    }
    assert_eq!(fleet.call(90, 2).await, [200; 2 * REPLICAS]);
    let status = fleet.first.status();
    assert_eq!(status.state, Standing::Resting);
    fleet.finish().await;
}

#[tokio::test]
async fn four_replicas_on_one_redis_refresh_once_per_generation() {
    let Some(mut server) = RedisServer::start().await else { return };
    let store = Some(format!("redis = {:?}", server.url()));
    let fleet = Fleet::with(Wishes { store, ..refreshing(Rules::unlimited()) }).await;
    renew_under_load(&fleet, 20, 20).await;
    assert_eq!(sessions(&fleet.first.control().log()), [1]);
    assert_eq!(fleet.first.control().counts().token_repeats, 0);
    // Flushed and then gone for a moment: the session is put back, and renewals go on.
    server.run(&["FLUSHALL"]).await;
    server.restart().await;
    fleet.clock().advance(3300 * SECOND);
    assert_eq!(fleet.call(900, 5).await, [200; 5 * REPLICAS]);
    fleet.all_have(22).await;
    assert_eq!(sessions(&fleet.first.control().log()), [1]);
    fleet.finish().await;
}
