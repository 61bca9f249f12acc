//! Token sets in Redis or Valkey, for proxies on several machines.
//!
//! A session is a hash of its generation and its sealed document, changed by one script that
//! compares the generation: whoever stalled past its lease has its late write refused. The lease is
//! a key of its own that lapses unless a heartbeat extends it, and only its owner gives it back.
//! Every change is published. All keys of an identity share a hash tag.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, FromRedisValue, RedisError, Script, TlsCertificates};
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use super::seal::Seal;
use super::{
    Change, Enrolment, Entry, Hold, Lease, Outline, StoreError, StoreFuture, Stored, Surveyed,
    TokenStore, document,
};
use crate::clock::{Clock, Stopwatch, Timestamp};
use crate::secret::SecretKey;
use crate::settings::RedisSettings;
use crate::telemetry::chain;
use crate::token::Generation;
use crate::token::ledger::Ledger;

/// No answer within this time counts as none.
const PATIENCE: Duration = Duration::from_secs(2);

/// A lease lapses so long after its last extension.
const LEASE: Duration = Duration::from_secs(15);
const HEARTBEAT: Duration = Duration::from_secs(4);
/// So long before it lapses, its holder does not rely on it any more.
const MARGIN: Duration = Duration::from_secs(3);

/// The mark of a logout is kept for so long: no process that was away knows an older session.
const MARK_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
const LEDGER_KEPT: Duration = Duration::from_secs(2 * 3600);

/// How often a ledger is tried that others keep changing.
const LEDGER_TRIES: u32 = 50;

/// Between two attempts to subscribe.
const RESUBSCRIBE: Duration = Duration::from_secs(1);

/// KEYS: session, names. ARGV: expected, generation, document, name, channel.
const SAVE: &str = r"
local found = tonumber(redis.call('HGET', KEYS[1], 'g') or '0')
if found ~= tonumber(ARGV[1]) then return found end
redis.call('HSET', KEYS[1], 'g', ARGV[2], 'd', ARGV[3])
redis.call('PERSIST', KEYS[1])
redis.call('PUBLISH', ARGV[5], ARGV[2] .. ' ' .. ARGV[4])
return -1";

/// KEYS: session. ARGV: expected, generation, name, channel, milliseconds to keep the mark.
const ERASE: &str = r"
local found = tonumber(redis.call('HGET', KEYS[1], 'g') or '0')
if found ~= tonumber(ARGV[1]) then return found end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'g', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('PUBLISH', ARGV[4], ARGV[2] .. ' ' .. ARGV[3])
return -1";

/// KEYS: lease. ARGV: owner, milliseconds.
const EXTEND: &str = r"
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0";

/// KEYS: lease. ARGV: owner.
const RELEASE: &str = r"
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0";

/// KEYS: ledger. ARGV: what was read, what to write, milliseconds to keep it.
const EXCHANGE: &str = r"
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1";

/// Token sets on a Redis or Valkey server.
#[derive(Clone)]
pub struct RedisStore {
    client: Client,
    connection: ConnectionManager,
    address: String,
    prefix: String,
    seal: Seal,
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RedisStore").field(&self.address).finish()
    }
}

impl RedisStore {
    /// Connects when it is first used. Wants to be called on a tokio runtime.
    pub fn open(settings: &RedisSettings, seal: Seal) -> Result<Self, StoreError> {
        let failed = |action, source: RedisError| StoreError::Server {
            address: settings.address.clone(),
            action,
            source: source.into(),
        };
        let url = settings.url.expose();
        let client = if let Some(ca) = &settings.ca_pem {
            let certificates =
                TlsCertificates { client_tls: None, root_cert: Some(ca.as_bytes().to_vec()) };
            Client::build_with_tls(url, certificates)
        } else {
            Client::open(url)
        };
        let client = client.map_err(|error| failed("be configured", error))?;
        let patience = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE))
            .set_number_of_retries(1)
            .set_max_delay(Duration::from_millis(200));
        let connection = ConnectionManager::new_lazy_with_config(client.clone(), patience)
            .map_err(|error| failed("be configured", error))?;
        let (address, prefix) = (settings.address.clone(), settings.prefix.clone());
        Ok(Self { client, connection, address, prefix, seal })
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
        move |source| StoreError::Server { address, action, source: source.into() }
    }

    async fn run<T: FromRedisValue>(
        &self,
        action: &'static str,
        command: &redis::Cmd,
    ) -> Result<T, StoreError> {
        command.query_async(&mut self.connection.clone()).await.map_err(self.failed(action))
    }

    async fn run_script<T: FromRedisValue>(
        &self,
        action: &'static str,
        script: &str,
        keys: &[String],
        arguments: &[&[u8]],
    ) -> Result<T, StoreError> {
        let script = Script::new(script);
        let mut call = script.prepare_invoke();
        for key in keys {
            call.key(key);
        }
        for argument in arguments {
            call.arg(*argument);
        }
        call.invoke_async(&mut self.connection.clone()).await.map_err(self.failed(action))
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

    /// Says 'somebody else has' unless the script has done it.
    fn concluded(expected: Generation, found: i64) -> Result<(), StoreError> {
        match u64::try_from(found) {
            Err(_) => Ok(()),
            Ok(found) => Err(StoreError::Conflict { expected, found: Generation::new(found) }),
        }
    }

    /// Listens until the connection breaks or nobody wants to know.
    async fn listen(&self, tell: &UnboundedSender<Change>, away: bool) -> Result<(), RedisError> {
        let mut subscription = self.client.get_async_pubsub().await?;
        subscription.subscribe(self.channel()).await?;
        if away {
            // An error says that nobody listens.
            let _ = tell.send(Change::Anything);
        }
        let mut messages = subscription.into_on_message();
        loop {
            let message = tokio::select! {
                message = messages.next() => message,
                () = tell.closed() => return Ok(()),
            };
            let Some(message) = message else { return Ok(()) };
            let text: String = message.get_payload()?;
            let change = match text.split_once(' ') {
                Some((generation, name)) => {
                    let generation = generation.parse().ok().map(Generation::new);
                    Change::Identity(name.to_owned(), generation)
                }
                None => Change::Identity(text, None),
            };
            let _ = tell.send(change);
        }
    }
}

impl TokenStore for RedisStore {
    fn load<'a>(&'a self, identity: &'a str) -> StoreFuture<'a, Entry> {
        Box::pin(async move {
            let mut command = redis::cmd("HMGET");
            command.arg(self.key(identity, "session")).arg("g").arg("d");
            self.entry(identity, self.run("read a session", &command).await?)
        })
    }

    fn lease<'a>(&'a self, identity: &'a str) -> StoreFuture<'a, Option<Lease>> {
        Box::pin(async move {
            let key = self.key(identity, "lease");
            let owner = format!("{:032x}", fastrand::u128(..));
            let watch = Stopwatch::start();
            let mut command = redis::cmd("SET");
            command.arg(&key).arg(&owner).arg("NX").arg("PX").arg(millis(LEASE));
            let taken: Option<String> = self.run("lease a session", &command).await?;
            let held = || Leased::new(self.clone(), key, owner, watch);
            Ok(taken.map(|_| Lease::new(identity, held())))
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
            let name = lease.identity();
            let mut index = redis::cmd("SADD");
            index.arg(self.names()).arg(name);
            self.run::<()>("write a session", &index).await?;
            let content = self.seal.close(name, &document::write(stored));
            let (expecting, generation) =
                (expected.number().to_string(), stored.set.generation.number().to_string());
            let (keys, channel) = ([self.key(name, "session")], self.channel());
            let arguments: [&[u8]; 5] = [
                expecting.as_bytes(),
                generation.as_bytes(),
                &content,
                name.as_bytes(),
                channel.as_bytes(),
            ];
            let found = self.run_script("write a session", SAVE, &keys, &arguments).await?;
            Self::concluded(expected, found)
        })
    }

    fn erase<'a>(&'a self, lease: &'a Lease, expected: Generation) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let name = lease.identity();
            let (expecting, generation) =
                (expected.number().to_string(), expected.next().number().to_string());
            let (keys, channel) = ([self.key(name, "session")], self.channel());
            let kept = millis(MARK_KEPT).to_string();
            let arguments: [&[u8]; 5] = [
                expecting.as_bytes(),
                generation.as_bytes(),
                name.as_bytes(),
                channel.as_bytes(),
                kept.as_bytes(),
            ];
            let found = self.run_script("erase a session", ERASE, &keys, &arguments).await?;
            Self::concluded(expected, found)
        })
    }

    fn changes(&self) -> UnboundedReceiver<Change> {
        let (tell, changes) = unbounded_channel();
        let store = self.clone();
        tokio::spawn(async move {
            let mut away = false;
            while !tell.is_closed() {
                if let Err(error) = store.listen(&tell, away).await {
                    debug!(address = store.address, cause = chain(&error), "not subscribed");
                }
                if !away {
                    warn!(
                        address = store.address,
                        "the store does not tell of changes: it is asked until it does"
                    );
                }
                away = true;
                Clock::system().sleep(RESUBSCRIBE).await;
            }
        });
        changes
    }

    fn enrol<'a>(
        &'a self,
        identity: &'a str,
        enrolment: Option<&'a Enrolment>,
    ) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let (action, key) = ("write an identity", self.key(identity, "enrolment"));
            let mut pipe = redis::pipe();
            if let Some(enrolment) = enrolment {
                let content = document::write_enrolment(enrolment);
                let sealed = self.seal.close(&format!("{identity}/enrolment"), &content);
                pipe.sadd(self.names(), identity).ignore().set(key, sealed).ignore();
            } else {
                pipe.del(key).ignore();
            }
            pipe.publish(self.channel(), identity).ignore();
            let mut connection = self.connection.clone();
            pipe.query_async::<()>(&mut connection).await.map_err(self.failed(action))
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
            let mut command = redis::cmd("SMEMBERS");
            command.arg(self.names());
            let mut names: Vec<String> = self.run("list the sessions", &command).await?;
            names.sort_unstable();
            let mut lines = Vec::with_capacity(names.len());
            for identity in names {
                let session = self.load(&identity).await?.session();
                let mut exists = redis::cmd("EXISTS");
                exists.arg(self.key(&identity, "enrolment"));
                let enrolled: bool = self.run("list the sessions", &exists).await?;
                let session = session.map(|stored| Outline::of(&stored.set));
                if enrolled || session.is_some() {
                    lines.push(Surveyed { identity, session, enrolled });
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
            for _ in 0..LEDGER_TRIES {
                let mut read = redis::cmd("GET");
                read.arg(&key);
                let before: Option<String> = self.run(action, &read).await?;
                let before = before.unwrap_or_default();
                let (seconds, micros): (u64, u64) = self.run(action, &redis::cmd("TIME")).await?;
                let now = Timestamp::from_unix_millis(seconds * 1000 + micros / 1000);
                let mut ledger = serde_json::from_str(&before).unwrap_or_default();
                change(&mut ledger, now);
                let after = serde_json::to_string(&ledger).expect("strings and numbers are JSON");
                let kept = millis(LEDGER_KEPT).to_string();
                let arguments = [before.as_bytes(), after.as_bytes(), kept.as_bytes()];
                let keys = [key.clone()];
                if self.run_script::<bool>(action, EXCHANGE, &keys, &arguments).await? {
                    return Ok(());
                }
            }
            let source = "other processes change it all the time".into();
            Err(StoreError::Server { address: self.address.clone(), action, source })
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
                source: format!("what is stored under {key:?} is damaged: delete it").into(),
            })
        })
    }

    fn check(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move { self.run("be reached", &redis::cmd("PING")).await })
    }
}

/// A lease that a heartbeat keeps.
struct Leased {
    store: RedisStore,
    key: String,
    owner: String,
    watch: Stopwatch,
    /// When the last extension that succeeded was asked for, in milliseconds of `watch`.
    extended: Arc<AtomicU64>,
    heartbeat: JoinHandle<()>,
}

impl Leased {
    fn new(store: RedisStore, key: String, owner: String, watch: Stopwatch) -> Self {
        let extended = Arc::new(AtomicU64::new(0));
        let heartbeat = tokio::spawn({
            let (store, keys) = (store.clone(), [key.clone()]);
            let (owner, extended) = (owner.clone(), Arc::clone(&extended));
            async move {
                loop {
                    Clock::system().sleep(HEARTBEAT).await;
                    let asked = millis(watch.elapsed());
                    let lease = millis(LEASE).to_string();
                    let arguments = [owner.as_bytes(), lease.as_bytes()];
                    let kept = store.run_script("extend a lease", EXTEND, &keys, &arguments).await;
                    match kept {
                        Ok(true) => extended.store(asked, Ordering::Relaxed),
                        // Somebody else may have it: nothing is extended any more.
                        Ok(false) => return,
                        Err(error) => debug!(cause = chain(&error), "a lease was not extended"),
                    }
                }
            }
        });
        Self { store, key, owner, watch, extended, heartbeat }
    }
}

impl Hold for Leased {
    fn is_live(&self) -> bool {
        let age = millis(self.watch.elapsed()) - self.extended.load(Ordering::Relaxed);
        age < millis(LEASE.saturating_sub(MARGIN))
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        self.heartbeat.abort();
        let (store, keys, owner) = (self.store.clone(), [self.key.clone()], self.owner.clone());
        // Without a runtime the process is ending, and the lease lapses.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                let arguments = [owner.as_bytes()];
                let freed = store.run_script::<i64>("free a lease", RELEASE, &keys, &arguments);
                if let Err(error) = freed.await {
                    debug!(cause = chain(&error), "a lease was not freed, and lapses");
                }
            });
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
