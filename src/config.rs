//! Exactly the TOML: what was written, before defaults, before secrets are read and names resolved.
//!
//! Every key is optional here; [`crate::settings`] knows what must be there and what it means when
//! it is not. `proxy.example.toml` describes each key. No error made here repeats a value, because
//! any value may be a secret in the wrong place.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;
use serde::de::value::{I64Deserializer, StrDeserializer};
use serde::de::{Deserializer, Error as _, SeqAccess, Unexpected, Visitor};
use toml::de::DeTable;

use crate::secret::SecretSource;

pub(crate) mod keys;
mod place;
mod sources;

pub use place::{NoPlace, Place};

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    pub(crate) proxy: ProxyConfig,
    pub(crate) upstream: UpstreamConfig,
    pub(crate) host: BTreeMap<String, HostConfig>,
    pub(crate) application: BTreeMap<String, ApplicationConfig>,
    pub(crate) identity: BTreeMap<String, IdentityConfig>,
    pub(crate) client: BTreeMap<String, ClientConfig>,
    pub(crate) policy: PolicyConfig,
    pub(crate) facade: FacadeConfig,
    pub(crate) store: StoreConfig,
    pub(crate) admin: AdminConfig,
    pub(crate) audit: AuditConfig,
    pub(crate) log: LogConfig,
    pub(crate) trace: TraceConfig,
}

/// `[proxy]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ProxyConfig {
    #[serde(deserialize_with = "several")]
    pub(crate) listen: Option<Vec<Place>>,
    pub(crate) socket_mode: Option<String>,
    pub(crate) socket_group: Option<u32>,
    pub(crate) allow_remote_clients: Option<bool>,
    #[serde(deserialize_with = "texts")]
    pub(crate) hosts: Option<Vec<String>>,
    #[serde(deserialize_with = "texts")]
    pub(crate) cors_origins: Option<Vec<String>>,
    pub(crate) tls: Option<TlsConfig>,
    pub(crate) h2c: Option<bool>,
    pub(crate) rewrite_links: Option<bool>,
    pub(crate) public_url: Option<String>,
    #[serde(deserialize_with = "count")]
    pub(crate) workers: Option<NonZeroU32>,
    #[serde(deserialize_with = "duration")]
    pub(crate) token_wait: Option<Duration>,
    #[serde(deserialize_with = "size")]
    pub(crate) max_replay_bytes: Option<ByteSize>,
    #[serde(deserialize_with = "size")]
    pub(crate) replay_memory: Option<ByteSize>,
    #[serde(deserialize_with = "duration")]
    pub(crate) client_idle_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub(crate) request_head_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub(crate) websocket_idle_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub(crate) drain_timeout: Option<Duration>,
    pub(crate) throttle: Option<bool>,
    pub(crate) pacing: Option<bool>,
    #[serde(deserialize_with = "duration")]
    pub(crate) max_wait: Option<Duration>,
    #[serde(deserialize_with = "count")]
    pub(crate) max_queue: Option<NonZeroU32>,
    pub(crate) reload_on_change: Option<bool>,
    pub(crate) core_dumps: Option<bool>,
    #[serde(deserialize_with = "count")]
    pub(crate) max_connections: Option<NonZeroU32>,
    #[serde(deserialize_with = "count")]
    pub(crate) max_in_flight: Option<NonZeroU32>,
    #[serde(deserialize_with = "size")]
    pub(crate) max_request_bytes: Option<ByteSize>,
    #[serde(deserialize_with = "duration")]
    pub(crate) handshake_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub(crate) client_stall_timeout: Option<Duration>,
    #[serde(deserialize_with = "size")]
    pub(crate) client_stall_bytes: Option<ByteSize>,
    pub(crate) http2: Http2Config,
}

/// `[proxy.http2]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Http2Config {
    #[serde(deserialize_with = "count")]
    pub(crate) max_streams: Option<NonZeroU32>,
    #[serde(deserialize_with = "size")]
    pub(crate) max_header_bytes: Option<ByteSize>,
    #[serde(deserialize_with = "count")]
    pub(crate) max_pending_resets: Option<NonZeroU32>,
    #[serde(deserialize_with = "count")]
    pub(crate) max_error_resets: Option<NonZeroU32>,
    #[serde(deserialize_with = "duration")]
    pub(crate) ping_interval: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub(crate) ping_timeout: Option<Duration>,
}

/// `[proxy.tls]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TlsConfig {
    pub(crate) certificate_file: Option<PathBuf>,
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) client_ca_file: Option<PathBuf>,
    pub(crate) client_certificates: Option<String>,
    pub(crate) min_version: Option<String>,
}

/// `[upstream]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct UpstreamConfig {
    pub(crate) url: Option<String>,
    pub(crate) allow_plain_http: Option<bool>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) client_certificate_file: Option<PathBuf>,
    pub(crate) client_key_file: Option<PathBuf>,
    pub(crate) tls_key_log_file: Option<PathBuf>,
    pub(crate) http_proxy: Option<String>,
    pub(crate) http2: Option<bool>,
    #[serde(deserialize_with = "duration")]
    pub(crate) connect_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub(crate) response_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub(crate) stall_timeout: Option<Duration>,
    #[serde(deserialize_with = "count")]
    pub(crate) max_connections: Option<NonZeroU32>,
    #[serde(deserialize_with = "duration")]
    pub(crate) idle_timeout: Option<Duration>,
}

/// `[host.NAME]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct HostConfig {
    pub(crate) url: Option<String>,
    pub(crate) rewrite_links: Option<bool>,
}

/// `[application.NAME]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ApplicationConfig {
    pub(crate) client_id: Option<SecretSource>,
    pub(crate) client_secret: Option<SecretSource>,
    pub(crate) token_url: Option<String>,
    pub(crate) revoke_url: Option<String>,
    pub(crate) authorize_url: Option<String>,
    pub(crate) device_authorization_url: Option<String>,
    pub(crate) redirect_uri: Option<String>,
    #[serde(deserialize_with = "count")]
    pub(crate) token_requests_per_minute: Option<NonZeroU32>,
}

/// `[identity.NAME]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct IdentityConfig {
    pub(crate) application: Option<String>,
    #[serde(deserialize_with = "texts")]
    pub(crate) hosts: Option<Vec<String>>,
    #[serde(deserialize_with = "several")]
    pub(crate) listen: Option<Vec<Place>>,
    pub(crate) jwt: Option<SecretSource>,
    pub(crate) refresh_token: Option<SecretSource>,
    pub(crate) authorization_code: Option<SecretSource>,
    pub(crate) redirect_uri: Option<String>,
    pub(crate) code_verifier: Option<SecretSource>,
    pub(crate) username: Option<String>,
    pub(crate) extension: Option<String>,
    pub(crate) password: Option<SecretSource>,
    pub(crate) client_credentials: Option<bool>,
    pub(crate) login: Option<bool>,
    pub(crate) endpoint_id: Option<String>,
    pub(crate) scope: Option<String>,
    #[serde(deserialize_with = "duration")]
    pub(crate) access_token_ttl: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub(crate) refresh_token_ttl: Option<Duration>,
}

/// `[client.NAME]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ClientConfig {
    #[serde(deserialize_with = "texts")]
    pub(crate) key_sha256: Option<Vec<String>>,
    #[serde(deserialize_with = "texts")]
    pub(crate) tls_subject: Option<Vec<String>>,
    #[serde(deserialize_with = "several")]
    pub(crate) uid: Option<Vec<u32>>,
    #[serde(deserialize_with = "several")]
    pub(crate) gid: Option<Vec<u32>>,
    #[serde(deserialize_with = "texts")]
    pub(crate) networks: Option<Vec<String>>,
    #[serde(deserialize_with = "texts")]
    pub(crate) identities: Option<Vec<String>>,
    pub(crate) client_id: Option<String>,
    pub(crate) rewrite_links: Option<bool>,
    #[serde(deserialize_with = "count")]
    pub(crate) priority: Option<NonZeroU32>,
    #[serde(deserialize_with = "texts")]
    pub(crate) preset: Option<Vec<String>>,
    #[serde(deserialize_with = "texts")]
    pub(crate) allow: Option<Vec<String>>,
    #[serde(deserialize_with = "texts")]
    pub(crate) deny: Option<Vec<String>>,
}

/// `[policy]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PolicyConfig {
    #[serde(deserialize_with = "texts")]
    pub(crate) preset: Option<Vec<String>>,
    #[serde(deserialize_with = "texts")]
    pub(crate) allow: Option<Vec<String>>,
    #[serde(deserialize_with = "texts")]
    pub(crate) deny: Option<Vec<String>>,
}

/// `[facade]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct FacadeConfig {
    pub(crate) mode: Option<String>,
    pub(crate) keys: Option<Vec<SecretSource>>,
    #[serde(deserialize_with = "duration")]
    pub(crate) access_token_ttl: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub(crate) refresh_token_ttl: Option<Duration>,
    #[serde(deserialize_with = "texts")]
    pub(crate) redirect_uris: Option<Vec<String>>,
}

/// `[store]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct StoreConfig {
    pub(crate) directory: Option<PathBuf>,
    pub(crate) memory: Option<bool>,
    pub(crate) redis: Option<SecretSource>,
    pub(crate) redis_ca_file: Option<PathBuf>,
    pub(crate) redis_prefix: Option<String>,
    pub(crate) allow_plain_redis: Option<bool>,
    pub(crate) redis_wait_replicas: Option<u32>,
    pub(crate) encryption_keys: Option<Vec<SecretSource>>,
}

/// `[admin]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AdminConfig {
    #[serde(deserialize_with = "several")]
    pub(crate) listen: Option<Vec<Place>>,
    pub(crate) allow_remote: Option<bool>,
    pub(crate) key_sha256: Option<String>,
    #[serde(deserialize_with = "texts")]
    pub(crate) hosts: Option<Vec<String>>,
}

/// `[audit]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AuditConfig {
    pub(crate) file: Option<PathBuf>,
}

/// `[log]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct LogConfig {
    pub(crate) filter: Option<String>,
    pub(crate) format: Option<String>,
    pub(crate) requests: Option<bool>,
}

/// `[trace]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TraceConfig {
    pub(crate) otlp_url: Option<String>,
    #[serde(deserialize_with = "count")]
    pub(crate) sample_one_in: Option<NonZeroU32>,
}

impl Config {
    /// Reads TOML. A key that nothing here knows is an error, and comes before any other.
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        let table = DeTable::parse(text).map_err(|error| ConfigError {
            line: line_of(text, error.span().map_or(0, |span| span.start)),
            problem: Problem::Syntax(error.message().to_owned()),
        })?;
        if let Some(misfit) = keys::first_misfit(table.get_ref()) {
            return Err(ConfigError { line: line_of(text, misfit.at), problem: misfit.into() });
        }
        let places = table.clone();
        Self::deserialize(toml::Deserializer::from(table)).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let path = keys::path_at(places.get_ref(), at);
            ConfigError { line: line_of(text, at), problem: Problem::of(&error, &path) }
        })
    }

    /// Whether a secret stands in the file itself. (A client id is none.)
    pub(crate) fn holds_secrets(&self) -> bool {
        let applications = self.application.values().map(|it| &it.client_secret);
        let identities = self.identity.values().flat_map(|it| {
            [&it.jwt, &it.refresh_token, &it.authorization_code, &it.code_verifier, &it.password]
        });
        let store = &self.store;
        let keys = store.encryption_keys.iter().chain(&self.facade.keys).flatten();
        let keys = keys.chain(&store.redis);
        applications
            .chain(identities)
            .filter_map(Option::as_ref)
            .chain(keys)
            .any(|source| matches!(source, SecretSource::Text(_)))
    }
}

/// What is wrong with the TOML, and where. Never holds a value from the file.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct ConfigError {
    line: usize,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("this is not TOML: {0}")]
    Syntax(String),
    #[error("unknown key `{path}`: {cure}")]
    UnknownKey { path: String, cure: String },
    #[error("`{path}` has to stand in a table with a name of your choice, as in [{table}.NAME]")]
    NameMissing { path: String, table: String },
    #[error("`{path}` needs {expected}")]
    WrongValue { path: String, expected: String },
}

impl From<keys::Misfit> for Problem {
    fn from(misfit: keys::Misfit) -> Self {
        let path = dotted(&misfit.path);
        match &misfit.path[..] {
            [table, _] if misfit.should_be_table && table != "proxy" => {
                Self::NameMissing { path, table: table.clone() }
            }
            [table] if misfit.should_be_table && keys::NAMED.contains(&table.as_str()) => {
                Self::NameMissing { path, table: table.clone() }
            }
            _ if misfit.should_be_table => {
                Self::WrongValue { path, expected: "a table".to_owned() }
            }
            unknown => Self::UnknownKey { path, cure: keys::cure(unknown) },
        }
    }
}

impl Problem {
    /// Keeps what was expected; what was found stands before it, and may be a secret.
    fn of(error: &toml::de::Error, path: &[String]) -> Self {
        let expected = match error.message().rsplit_once(", expected ") {
            Some((_, "a boolean")) => "true or false",
            Some((_, "a string" | "path string")) => "text in quotes",
            Some((_, ours)) => ours,
            None => "another value",
        };
        Self::WrongValue { path: dotted(path), expected: expected.to_owned() }
    }
}

/// A key's path as one word that no terminal takes for a command.
fn dotted(path: &[String]) -> String {
    path.join(".").escape_debug().to_string()
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let parse = |text: &str| humantime::parse_duration(text).ok();
    from.deserialize_str(Text { parse, expected: "a duration such as \"5s\" or \"2m\"" }).map(Some)
}

fn size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ByteSize>, D::Error> {
    let parse = |text: &str| text.parse().ok();
    from.deserialize_str(Text { parse, expected: "a size such as \"64KiB\" or \"1MiB\"" }).map(Some)
}

fn count<'de, D: Deserializer<'de>>(from: D) -> Result<Option<NonZeroU32>, D::Error> {
    from.deserialize_i64(Count).map(Some)
}

fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    several(from)
}

/// One of them, or an array.
fn several<'de, D: Deserializer<'de>, T: OneOf>(from: D) -> Result<Option<Vec<T>>, D::Error> {
    from.deserialize_any(Several(PhantomData)).map(Some)
}

/// A string that has to parse.
struct Text<T> {
    parse: fn(&str) -> Option<T>,
    expected: &'static str,
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).ok_or_else(|| E::invalid_value(Unexpected::Other("text"), &self))
    }
}

struct Count;

impl Visitor<'_> for Count {
    type Value = NonZeroU32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number, at least 1")
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<NonZeroU32, E> {
        let count = u32::try_from(number).ok().and_then(NonZeroU32::new);
        count.ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
    }
}

/// What may stand alone or in an array.
trait OneOf: for<'de> Deserialize<'de> {
    const EXPECTED: &'static str;
}

impl OneOf for String {
    const EXPECTED: &'static str = "text in quotes, or an array of such";
}

impl OneOf for Place {
    const EXPECTED: &'static str = place::EXPECTED;
}

impl OneOf for u32 {
    const EXPECTED: &'static str = "a number such as `id -u NAME` prints, or an array of such";
}

struct Several<T>(PhantomData<T>);

impl<'de, T: OneOf> Visitor<'de> for Several<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vec<T>, E> {
        let one = T::deserialize(StrDeserializer::<E>::new(text));
        Ok(vec![one.map_err(|_| E::invalid_value(Unexpected::Other("text"), &self))?])
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Vec<T>, E> {
        let one = T::deserialize(I64Deserializer::<E>::new(number));
        Ok(vec![one.map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))?])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
        let mut all = Vec::new();
        while let Some(one) =
            seq.next_element().map_err(|_| A::Error::invalid_value(Unexpected::Seq, &self))?
        {
            all.push(one);
        }
        Ok(all)
    }
}
