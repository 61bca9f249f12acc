//! Token sets in Redis or Valkey, for proxies on several machines.
//!
//! A session is a hash of its generation and its sealed document, changed by one script that
//! compares the generation: whoever stalled past its lease has its late write refused. The lease is
//! a key of its own that lapses unless a heartbeat extends it, and only its owner gives it back.
//! Every change is published. All keys of an identity share a hash tag, and no command spans
//! identities, so that a cluster will do.

use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use redis::{Cmd, FromRedisValue, Pipeline, RedisError};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tracing::warn;

use self::connect::Link;
pub use self::examine::Examined;
use self::lease::Leased;
use self::subscription::Subject;
use super::seal::Seal;
use super::{
    Change, Enrolment, Entry, Lease, Outline, StoreError, StoreFuture, Stored, Surveyed,
    TokenStore, document,
};
use crate::clock::Timestamp;
use crate::secret::SecretKey;
use crate::settings::RedisSettings;
use crate::token::Generation;
use crate::token::ledger::Ledger;

mod connect;
mod examine;
mod fault;
mod lease;
pub mod limits;
mod scripts;
mod subscription;

/// The mark of a logout is kept for so long: no process that was away knows an older session.
const MARK_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
const LEDGER_KEPT: Duration = Duration::from_secs(2 * 3600);

/// How often a ledger is tried that others keep changing.
const LEDGER_TRIES: u32 = 50;

/// How long the replicas may take to have a session. Others wait on the same connection meanwhile.
const REPLICATION: Duration = Duration::from_millis(500);

/// Identities that are asked about at a time.
const AT_A_TIME: usize = 256;

/// Token sets on a Redis or Valkey server.
#[derive(Clone)]
pub struct RedisStore {
    link: Link,
    address: String,
    prefix: String,
    wait_replicas: u32,
    seal: Seal,
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RedisStore").field(&self.address).finish()
    }
}

impl RedisStore {
    /// Connects when it is first used.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn open(settings: &RedisSettings, seal: Seal) -> Result<Self, StoreError> {
        let (address, prefix) = (settings.address.clone(), settings.prefix.clone());
        let failed = |error| failure(address.clone(), "be configured", error);
        let link = Link::new(settings).map_err(failed)?;
        Ok(Self { link, address, prefix, wait_replicas: settings.wait_replicas, seal })
    }

    fn key(&self, identity: &str, kind: &str) -> String {
        format!("{}{{{identity}}}:{kind}", self.prefix)
    }

    fn channel(&self) -> String {
        format!("{}changes", self.prefix)
    }

    fn names(&self) -> String {
        format!("{}names", self.prefix)
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(RedisError) -> StoreError {
        let address = self.address.clone();
        move |source| failure(address, action, source)
    }

    async fn run<T: FromRedisValue>(
        &self,
        action: &'static str,
        command: &Cmd,
    ) -> Result<T, StoreError> {
        self.link.run(command).await.map_err(self.failed(action))
    }

    async fn pipe<T: FromRedisValue>(
        &self,
        action: &'static str,
        commands: &Pipeline,
    ) -> Result<T, StoreError> {
        self.link.pipe(commands).await.map_err(self.failed(action))
    }

    async fn script<T: FromRedisValue>(
        &self,
        action: &'static str,
        script: &str,
        key: &str,
        arguments: &[&[u8]],
    ) -> Result<T, StoreError> {
        let mut call = redis::cmd("EVAL");
        call.arg(script).arg(1).arg(key);
        for argument in arguments {
            call.arg(*argument);
        }
        self.run(action, &call).await
    }

    fn entry(
        &self,
        identity: &str,
        found: (Option<u64>, Option<Vec<u8>>),
    ) -> Result<Entry, StoreError> {
        let (Some(generation), Some(content)) = found else {
            return Ok(found.0.map_or(Entry::Absent, |it| Entry::Erased(Generation::new(it))));
        };
        let content = self.seal.open(identity, &content)?;
        Ok(document::parse(&content).unwrap_or_else(|_| {
            warn!(identity, "the stored session is damaged; a new one is needed");
            Entry::Erased(Generation::new(generation))
        }))
    }

    /// Returns when enough replicas have the session of this generation, and tells the others of it.
    ///
    /// The write in front of `WAIT` comes after the session's, whoever wrote that, and a replica
    /// that has the one has the other.
    async fn replicate(&self, identity: &str, generation: u64) -> Result<(), StoreError> {
        let (action, key) = ("keep a session safe", self.key(identity, "session"));
        let mut pipe = redis::pipe();
        pipe.cmd("EVAL").arg(scripts::TOUCH).arg(1).arg(&key).arg(generation).ignore();
        pipe.cmd("WAIT").arg(self.wait_replicas).arg(millis(REPLICATION));
        let (replicas,): (u32,) = self.pipe(action, &pipe).await?;
        if replicas < self.wait_replicas {
            return Err(StoreError::Server {
                address: self.address.clone(),
                action,
                cure: "see that its replicas keep up, or lower store.redis_wait_replicas",
                source: format!("{replicas} of {} replicas have it", self.wait_replicas).into(),
            });
        }
        let (generation, channel) = (generation.to_string(), self.channel());
        let arguments = [generation.as_bytes(), identity.as_bytes(), channel.as_bytes()];
        self.script::<i64>(action, scripts::CONFIRM, &key, &arguments).await.map(drop)
    }

    /// Says 'somebody else has' unless the script has done it.
    fn concluded(expected: Generation, found: i64) -> Result<(), StoreError> {
        match u64::try_from(found) {
            Err(_) => Ok(()),
            Ok(found) => Err(StoreError::Conflict { expected, found: Generation::new(found) }),
        }
    }

    /// Asks about many identities without waiting for each answer. The answers come in order.
    async fn of_each<T: FromRedisValue>(
        &self,
        action: &'static str,
        identities: &[&str],
        question: impl Fn(&str) -> Pipeline,
    ) -> Result<Vec<T>, StoreError> {
        let ask = |identity: &&str| {
            let question = question(identity);
            async move { self.pipe(action, &question).await }
        };
        let questions: Vec<_> = identities.iter().map(ask).collect();
        stream::iter(questions).buffered(AT_A_TIME).try_collect().await
    }
}

impl TokenStore for RedisStore {
    fn load<'a>(&'a self, identity: &'a str) -> StoreFuture<'a, Entry> {
        Box::pin(async move {
            let mut command = redis::cmd("HMGET");
            command.arg(self.key(identity, "session")).arg("g").arg("d").arg("w");
            let (generation, content, unconfirmed): (Option<u64>, _, Option<u64>) =
                self.run("read a session", &command).await?;
            if let Some(generation) = unconfirmed.filter(|_| self.wait_replicas > 0) {
                self.replicate(identity, generation).await?;
            }
            self.entry(identity, (generation, content))
        })
    }

    fn lease<'a>(&'a self, identity: &'a str) -> StoreFuture<'a, Option<Lease>> {
        Box::pin(async move {
            let taken = Leased::take(self, self.key(identity, "lease")).await?;
            Ok(taken.map(|leased| Lease::new(identity, leased)))
        })
    }

    /// A write like those of a save: a replica, a full memory and a disk that cannot be written
    /// refuse it.
    fn probe_writable<'a>(&'a self, lease: &'a Lease) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let mut command = redis::cmd("SET");
            command.arg(self.key(lease.identity(), "probe")).arg("1").arg("PX").arg(1000);
            self.run("be written to", &command).await
        })
    }

    fn save<'a>(
        &'a self,
        lease: &'a Lease,
        stored: &'a Stored,
        expected: Generation,
    ) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let (action, name) = ("write a session", lease.identity());
            let mut index = redis::cmd("SADD");
            index.arg(self.names()).arg(name);
            self.run::<()>(action, &index).await?;
            let content = self.seal.close(name, &document::write(stored));
            let number = stored.set.generation.number();
            let [expecting, generation, replicas] =
                [expected.number(), number, self.wait_replicas.into()].map(|it| it.to_string());
            let (key, channel) = (self.key(name, "session"), self.channel());
            let arguments: [&[u8]; 6] = [
                expecting.as_bytes(),
                generation.as_bytes(),
                &content,
                name.as_bytes(),
                channel.as_bytes(),
                replicas.as_bytes(),
            ];
            let found = self.script(action, scripts::SAVE, &key, &arguments).await?;
            Self::concluded(expected, found)?;
            if self.wait_replicas > 0 { self.replicate(name, number).await } else { Ok(()) }
        })
    }

    fn erase<'a>(&'a self, lease: &'a Lease, expected: Generation) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let name = lease.identity();
            let (expecting, generation) =
                (expected.number().to_string(), expected.next().number().to_string());
            let (key, channel) = (self.key(name, "session"), self.channel());
            let kept = millis(MARK_KEPT).to_string();
            let arguments: [&[u8]; 5] = [
                expecting.as_bytes(),
                generation.as_bytes(),
                name.as_bytes(),
                channel.as_bytes(),
                kept.as_bytes(),
            ];
            let found = self.script("erase a session", scripts::ERASE, &key, &arguments).await?;
            Self::concluded(expected, found)
        })
    }

    fn changes(&self) -> UnboundedReceiver<Change> {
        let (tell, changes) = unbounded_channel();
        let (link, address, channel) = (self.link.clone(), self.address.clone(), self.channel());
        let (read, anew) = (subscription::change, Change::Anything);
        let subject = Subject { channel, what: "changes", read, anew };
        tokio::spawn(subscription::follow(link, address, subject, false, tell));
        changes
    }

    fn generations<'a>(&'a self, identities: &'a [&'a str]) -> StoreFuture<'a, Vec<Generation>> {
        Box::pin(async move {
            let ask = |identity: &str| {
                let mut pipe = redis::pipe();
                pipe.hget(self.key(identity, "session"), "g");
                pipe
            };
            let found: Vec<(Option<u64>,)> =
                self.of_each("compare the sessions", identities, ask).await?;
            let generation = |(found,): (Option<u64>,)| found.map(Generation::new);
            Ok(found.into_iter().map(|it| generation(it).unwrap_or(Generation::NONE)).collect())
        })
    }

    fn enrol<'a>(
        &'a self,
        identity: &'a str,
        enrolment: Option<&'a Enrolment>,
    ) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let action = "write an identity";
            let sealed = enrolment.map(|enrolment| {
                let content = document::write_enrolment(enrolment);
                self.seal.close(&format!("{identity}/enrolment"), &content)
            });
            if sealed.is_some() {
                let mut index = redis::cmd("SADD");
                index.arg(self.names()).arg(identity);
                self.run::<()>(action, &index).await?;
            }
            let (sealed, channel) = (sealed.unwrap_or_default(), self.channel());
            let arguments = [&*sealed, identity.as_bytes(), channel.as_bytes()];
            let key = self.key(identity, "enrolment");
            self.script::<i64>(action, scripts::ENROL, &key, &arguments).await.map(drop)
        })
    }

    fn enrolment<'a>(&'a self, identity: &'a str) -> StoreFuture<'a, Option<Enrolment>> {
        Box::pin(async move {
            let mut command = redis::cmd("GET");
            command.arg(self.key(identity, "enrolment"));
            let found: Option<Vec<u8>> = self.run("read an identity", &command).await?;
            let Some(sealed) = found else { return Ok(None) };
            let content = self.seal.open(&format!("{identity}/enrolment"), &sealed)?;
            let enrolment = document::parse_enrolment(&content);
            if enrolment.is_none() {
                warn!(identity, "what is stored of this identity is damaged: add it again");
            }
            Ok(enrolment)
        })
    }

    fn survey(&self) -> StoreFuture<'_, Vec<Surveyed>> {
        Box::pin(async move {
            let action = "list the sessions";
            let mut command = redis::cmd("SMEMBERS");
            command.arg(self.names());
            let mut names: Vec<String> = self.run(action, &command).await?;
            names.sort_unstable();
            let mut lines = Vec::with_capacity(names.len());
            // In pieces: a document is a few hundred times as long as what is kept of it.
            for piece in names.chunks(8 * AT_A_TIME) {
                let piece: Vec<&str> = piece.iter().map(String::as_str).collect();
                let ask = |identity: &str| {
                    let mut pipe = redis::pipe();
                    pipe.cmd("HMGET").arg(self.key(identity, "session")).arg("g").arg("d");
                    pipe.exists(self.key(identity, "enrolment"));
                    pipe
                };
                let found = self.of_each(action, &piece, ask).await?;
                for (identity, (session, enrolled)) in piece.into_iter().zip(found) {
                    let session = self.entry(identity, session)?.session();
                    let session = session.map(|stored| Outline::of(&stored.set));
                    if enrolled || session.is_some() {
                        lines.push(Surveyed { identity: identity.to_owned(), session, enrolled });
                    }
                }
            }
            Ok(lines)
        })
    }

    fn post<'a>(
        &'a self,
        application: &'a str,
        change: &'a mut (dyn FnMut(&mut Ledger, Timestamp) + Send),
    ) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let action = "keep the ledger of token requests";
            let digest = Sha256::digest(application);
            let tag = format!(
                "application {:02x}{:02x}{:02x}{:02x}",
                digest[0], digest[1], digest[2], digest[3]
            );
            let key = self.key(&tag, "ledger");
            // The clock is that of the server which has the ledger.
            let mut read = redis::pipe();
            read.get(&key).cmd("TIME");
            for _ in 0..LEDGER_TRIES {
                let (before, (seconds, micros)): (Option<String>, (u64, u64)) =
                    self.pipe(action, &read).await?;
                let before = before.unwrap_or_default();
                let now = Timestamp::from_unix_millis(seconds * 1000 + micros / 1000);
                let mut ledger = serde_json::from_str(&before).unwrap_or_default();
                change(&mut ledger, now);
                let after = serde_json::to_string(&ledger).expect("strings and numbers are JSON");
                let kept = millis(LEDGER_KEPT).to_string();
                let arguments = [before.as_bytes(), after.as_bytes(), kept.as_bytes()];
                if self.script::<bool>(action, scripts::EXCHANGE, &key, &arguments).await? {
                    return Ok(());
                }
            }
            Err(StoreError::Server {
                address: self.address.clone(),
                action,
                cure: "see who else uses its key",
                source: "other processes change it all the time".into(),
            })
        })
    }

    fn shared_key<'a>(&'a self, name: &'a str) -> StoreFuture<'a, SecretKey> {
        Box::pin(async move {
            let (action, key) = ("keep a shared key", format!("{}key:{name}", self.prefix));
            let record = super::key_record(name);
            let new = SecretKey::generate();
            let mut offer = redis::cmd("SET");
            offer.arg(&key).arg(self.seal.close(&record, new.expose().as_bytes())).arg("NX");
            self.run::<Option<String>>(action, &offer).await?;
            let kept: Vec<u8> = self.run(action, redis::cmd("GET").arg(&key)).await?;
            super::key_in(&self.seal.open(&record, &kept)?).ok_or_else(|| StoreError::Server {
                address: self.address.clone(),
                action,
                cure: "delete it, and a new one is made",
                source: format!("what is stored under {key:?} is damaged").into(),
            })
        })
    }

    fn check(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move { self.run("be reached", &redis::cmd("PING")).await })
    }
}

fn failure(address: String, action: &'static str, error: RedisError) -> StoreError {
    let cure = fault::cure(&error);
    StoreError::Server { address, action, cure, source: error.into() }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
