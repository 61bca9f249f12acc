//! SIGSTOP in every phase of a renewal: the others go on, and the late one harms nothing.

use std::fs::{File, OpenOptions};
use std::time::Duration;

use ringbearer::clock::Clock;
use ringbearer::sandbox::{Fault, FaultKind, Place, Rules};
use rustix::fs::{FlockOperation, flock};

use crate::process::{Process, Site};
use crate::redis_server::RedisServer;
use crate::relay::{Gate, Relay};
use crate::support::{ECHO, PATIENT, sessions};

/// How far the holder of the lease has come when it is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It has the lease, and has sent no request.
    Connecting,
    /// It has sent the request, and RingCentral has answered.
    Answered,
    /// It has read the answer, and has not stored it.
    Read,
}

/// Three replicas on one store; the first is the one that is stopped.
struct Stage {
    site: Site,
    redis: Option<RedisServer>,
    relay: Relay,
    holder: Process,
    others: [Process; 2],
}

impl Stage {
    async fn set(phase: Phase, redis: Option<RedisServer>) -> Self {
        let mut rules = Rules::unlimited();
        // Nothing may be asked for twice, where that can be helped.
        rules.strict_rotation = phase == Phase::Connecting;
        let mut site = Site::with(Clock::system(), rules).await;
        let server = match phase {
            Phase::Connecting => site.sandbox.tls_url().unwrap(),
            _ => site.sandbox.url(),
        };
        let port = server.rsplit(':').next().unwrap().parse().unwrap();
        let relay = Relay::before(([127, 0, 0, 1], port).into()).await;
        let scheme = server.split(':').next().unwrap();
        let ca = site.file("ca.pem");
        std::fs::write(&ca, site.sandbox.ca_pem().unwrap()).unwrap();
        site.upstream = format!("{PATIENT}ca_file = {:?}", ca.to_str().unwrap());
        site.application =
            format!("token_url = \"{scheme}://{}/restapi/oauth/token\"", relay.address());
        if let Some(server) = &redis {
            site.store = format!("redis = {:?}", server.url());
        }
        let (holder, others) = (site.start().await, [site.start().await, site.start().await]);
        let stage = Self { site, redis, relay, holder, others };
        for process in [&stage.holder, &stage.others[0], &stage.others[1]] {
            assert_eq!(stage.status(process).await, 200);
        }
        stage
    }

    async fn status(&self, process: &Process) -> u16 {
        self.site.get(process, ECHO).send().await.unwrap().status().as_u16()
    }

    /// Asks all the others at once.
    async fn others_serve(&self) {
        let [one, other] = &self.others;
        let statuses = tokio::join!(self.status(one), self.status(other));
        assert_eq!(statuses, (200, 200));
    }

    /// Has the holder renew, and stops it in that phase.
    async fn stop_in(&self, phase: Phase) -> tokio::task::JoinHandle<u16> {
        let control = self.site.control();
        let answers = control.counts().token_answers;
        let gate = if phase == Phase::Connecting { Gate::Accepted } else { Gate::Sent };
        self.relay.hold_next(gate);
        control.inject(Fault::once(Place::Api, FaultKind::Unauthorized { code: None }));
        let request = self.site.get(&self.holder, ECHO).send();
        let cut = tokio::spawn(async { request.await.unwrap().status().as_u16() });
        self.relay.holds().await;
        if phase != Phase::Connecting {
            control.wait_until(|counts| counts.token_answers > answers).await;
        }
        if phase == Phase::Read {
            let blocked = self.block_store();
            self.relay.release();
            self.relay.closed().await;
            self.holder.stand_still();
            drop(blocked);
            self.redis.iter().for_each(RedisServer::go_on);
        }
        self.holder.stand_still();
        cut
    }

    /// Keeps the holder from storing what it reads: it tells the ledger first.
    fn block_store(&self) -> Option<File> {
        if let Some(server) = &self.redis {
            server.pause();
            return None;
        }
        let mut files = std::fs::read_dir(self.site.directory()).unwrap().map(Result::unwrap);
        let lock = files.find(|file| file.path().extension().is_some_and(|it| it == "ledger-lock"));
        let lock = OpenOptions::new().write(true).open(lock.unwrap().path()).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        Some(lock)
    }
}

async fn survives(phase: Phase, redis: Option<RedisServer>) {
    let stage = Stage::set(phase, redis).await;
    let control = stage.site.control();
    let before = control.counts();
    let cut = stage.stop_in(phase).await;

    if phase == Phase::Connecting {
        // The token that all have is good still, and served without delay.
        stage.others_serve().await;
        assert_eq!(control.counts().api_401, before.api_401 + 1, "the holder's one");
    }
    if phase != Phase::Answered {
        control.expire_access_tokens();
    }
    // The lease lapses, one of them takes over.
    stage.others_serve().await;
    let theirs = control.counts();
    let sent = u64::from(phase != Phase::Connecting);
    assert_eq!(theirs.token_requests, before.token_requests + 1 + sent, "{phase:?}");
    // A pair that nobody had used is given again, one that has expired is replaced.
    let repeats = u64::from(phase == Phase::Answered);
    assert_eq!(theirs.token_repeats, before.token_repeats + repeats, "{phase:?}");

    stage.holder.go_on();
    stage.relay.release();
    assert_eq!(cut.await.unwrap(), 200, "{phase:?}: it adopts the others' token");
    for _ in 0..3 {
        assert_eq!(stage.status(&stage.holder).await, 200);
        stage.others_serve().await;
    }
    let after = control.counts();
    assert_eq!(after.token_requests, theirs.token_requests, "{phase:?}: it has asked for nothing");
    assert_eq!((after.token_refusals, after.sessions_alive), (0, 1), "{phase:?}");
    assert_eq!(after.api_401, theirs.api_401, "{phase:?}: all have the latest token");
    assert_eq!(sessions(&control.log()), [1], "{phase:?}");
    if stage.redis.is_none() {
        assert!(!stage.site.directory().join("test.tmp").exists(), "{phase:?}: a token lies about");
    }

    // It has given back what it held: whoever comes renews without waiting for anything to lapse.
    control.expire_access_tokens();
    let newcomer = stage.site.start().await;
    assert_eq!(stage.status(&newcomer).await, 200);
    assert_eq!(control.counts().token_requests, after.token_requests + 1, "{phase:?}");
    assert_eq!(sessions(&control.log()), [1], "{phase:?}");
}

const PHASES: [Phase; 3] = [Phase::Connecting, Phase::Answered, Phase::Read];

/// They wait for a lease to lapse, which takes 6 s by the machine's clock: all at once.
async fn in_every_phase(stores: [Option<RedisServer>; 3]) {
    let stages = PHASES.into_iter().zip(stores).map(|(phase, store)| survives(phase, store));
    tokio::time::timeout(BOUND, futures_util::future::join_all(stages)).await.expect("in time");
}

#[tokio::test]
async fn a_replica_that_stands_still_in_any_phase_costs_no_session_in_files() {
    in_every_phase([None, None, None]).await;
}

#[tokio::test]
async fn a_replica_that_stands_still_in_any_phase_costs_no_session_in_redis() {
    let Some(server) = RedisServer::start().await else { return };
    let more = [RedisServer::start().await, RedisServer::start().await];
    let [second, third] = more;
    in_every_phase([Some(server), second, third]).await;
}

/// Far more than it takes.
const BOUND: Duration = Duration::from_secs(120);
