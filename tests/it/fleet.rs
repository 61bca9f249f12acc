//! Several proxies that share the sessions of one identity, in one process.

use std::time::Duration;

use reqwest::Response;
use ringbearer::clock::Clock;
use ringbearer::sandbox::Rules;
use ringbearer::service::Service;
use ringbearer::token::Generation;
use ringbearer::token::keeper::KeeperStatus;
use tokio::task::JoinHandle;

use crate::support::{
    ECHO, Environment, LONG_IDLE, PATIENT, REFRESH_IDENTITY, Wishes, client, json, settle,
};

pub(crate) const REPLICAS: usize = 4;
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// Replicas of the proxy of an [`Environment`], itself the first.
pub(crate) struct Fleet {
    pub(crate) first: Environment,
    others: Vec<Service>,
}

impl Fleet {
    pub(crate) async fn with(wishes: Wishes) -> Self {
        let first = Environment::with(wishes).await;
        let start = |_| Service::start(first.settings(), &first.clock).unwrap();
        let others = (1..REPLICAS).map(start).collect();
        Self { first, others }
    }

    pub(crate) fn replicas(&self) -> impl Iterator<Item = &Service> {
        std::iter::once(self.first.proxy()).chain(&self.others)
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.first.clock
    }

    /// How the identity is doing at each replica.
    pub(crate) fn statuses(&self) -> Vec<KeeperStatus> {
        let status = |replica: &Service| {
            let identities = replica.identities();
            identities.keeper(identities.only().unwrap()).status()
        };
        self.replicas().map(status).collect()
    }

    /// The generation that each replica has.
    pub(crate) fn generations(&self) -> Vec<u64> {
        let number = |status: &KeeperStatus| status.generation.map_or(0, Generation::number);
        self.statuses().iter().map(number).collect()
    }

    /// Returns when every replica has this generation. The clock goes on slowly meanwhile: a
    /// replica that finds the lease held looks again after half a second.
    pub(crate) async fn all_have(&self, generation: u64) {
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
    pub(crate) async fn call(&self, round: usize, each: usize) -> Vec<u16> {
        let mut statuses = Vec::new();
        for call in self.send(round, each) {
            statuses.push(call.await.unwrap().unwrap().status().as_u16());
        }
        statuses
    }

    /// Sends requests that are answered only when their time is over, and returns status,
    /// `Retry-After` and content of each.
    pub(crate) async fn call_in_time(
        &self,
        round: usize,
        each: usize,
    ) -> Vec<(u16, Option<String>, serde_json::Value)> {
        let calls = self.send(round, each);
        while self.statuses().iter().any(|status| status.waiting < each) {
            settle().await;
        }
        while !calls.iter().all(JoinHandle::is_finished) {
            self.clock().advance(Duration::from_millis(500));
            for _ in 0..50 {
                settle().await;
            }
        }
        let mut answers = Vec::new();
        for call in calls {
            let answer = call.await.unwrap().unwrap();
            let retry_after = answer.headers().get("retry-after");
            let retry_after = retry_after.map(|value| value.to_str().unwrap().to_owned());
            answers.push((answer.status().as_u16(), retry_after, json(answer).await));
        }
        answers
    }

    fn send(&self, round: usize, each: usize) -> Vec<JoinHandle<reqwest::Result<Response>>> {
        // A kept connection may have idled out meanwhile, unnoticed by its client.
        let (client, mut calls) = (client(), Vec::new());
        for (index, replica) in self.replicas().enumerate() {
            for n in 0..each {
                let target = format!("{ECHO}?call={round}-{index}-{n}");
                let url = format!("http://{}{target}", replica.addresses()[0]);
                calls.push(tokio::spawn(client.get(url).send()));
            }
        }
        calls
    }

    pub(crate) async fn finish(self) {
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

pub(crate) fn refreshing(rules: Rules) -> Wishes {
    Wishes {
        rules,
        identity: REFRESH_IDENTITY.into(),
        proxy: LONG_IDLE.into(),
        upstream: PATIENT.into(),
        ..Wishes::default()
    }
}

/// Renews `times` times under load, and checks what every generation cost.
pub(crate) async fn renew_under_load(fleet: &Fleet, times: u64, each: usize) {
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
