//! Why a configuration is refused, and what is accepted with a warning.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::NetworkProblem;
use crate::config::ConfigError;
use crate::policy::{PolicyError, Remark};
use crate::secret::{NoKey, SecretError};
use crate::store::seal::SealError;

/// Why there are no [`Settings`](super::Settings). Each message names the thing and the cure, and
/// none repeats a secret; the causes follow by [`source`](std::error::Error::source).
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum SettingsError {
    #[error(
        "no configuration: {} not set; set {}, or name a file with --config; `ringbearer demo` needs neither",
        is_or_are(missing), if missing.len() == 1 { "it" } else { "them" }
    )]
    NoConfiguration { missing: Vec<&'static str> },
    #[error("{what} {path:?} is not readable")]
    Unreadable { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{}", path.display())]
    Config { path: PathBuf, source: ConfigError },
    #[error("{what} {path:?} holds no {wanted} in PEM form")]
    NoPem { what: &'static str, path: PathBuf, wanted: &'static str },
    #[error("{key} is {value}: it must be between {min} and {max}")]
    OutOfRange { key: &'static str, value: String, min: String, max: String },
    #[error("{key} is empty: give it a value or remove it")]
    Empty { key: &'static str },
    #[error("{key} is missing: {cure}")]
    Missing { key: &'static str, cure: &'static str },
    #[error("{key} starts with ~, which only a shell knows: write the path in full")]
    Tilde { key: &'static str },

    #[error("proxy.listen is empty: name an address, or remove it to listen on 127.0.0.1:8080")]
    NoAddress,
    #[error("listen names {address} twice: keep one")]
    AddressTwice { address: SocketAddr },
    #[error("listen names unix:{} twice: keep one", path.display())]
    SocketTwice { path: PathBuf },
    #[error(
        "unix:{} cannot be a socket: its path is longer than the {longest} bytes that a socket's may \
         have: choose a shorter one", path.display()
    )]
    SocketPath { path: PathBuf, longest: usize },
    #[error(
        "proxy.socket_mode is no mode that leaves the owner in: write it in octal, such as \"0660\""
    )]
    SocketMode,
    #[error(
        "proxy.listen {address} can be reached from other machines, and whoever reaches it acts as \
         the identity: listen on 127.0.0.1 or on a Unix socket, add a [client.NAME] so that callers \
         are known (by key, certificate or network), ask for certificates with \
         proxy.tls.client_ca_file, or set proxy.allow_remote_clients = true if the network keeps \
         strangers out"
    )]
    RemoteClients { address: SocketAddr },
    #[error(
        "proxy.replay_memory ({memory}) is smaller than proxy.max_replay_bytes ({body}): \
         raise the one or lower the other"
    )]
    ReplayMemory { memory: String, body: String },

    #[error("{key} {problem}")]
    Url { key: &'static str, problem: UrlProblem },
    #[error(
        "{key} {url} is this proxy's own address (proxy.listen {address}): \
         name RingCentral's, such as https://platform.ringcentral.com"
    )]
    OwnAddress { key: &'static str, url: String, address: SocketAddr },

    #[error("{table} {name:?}")]
    In { table: &'static str, name: String, source: Box<SettingsError> },
    #[error(
        "this cannot be a name: use up to 64 letters, digits, - and _, a letter or digit first"
    )]
    Name,
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(
        "it has the same client_id as application {other:?}, and RingCentral counts requests by client_id: declare it once"
    )]
    SameClientId { other: String },

    #[error(
        "no identity is configured: add [identity.NAME] with what opens its session, such as jwt, or \
         [application.NAME] and run `ringbearer login NAME`"
    )]
    NoIdentity,
    #[error(
        "no application is configured: add [application.NAME] with client_id and client_secret"
    )]
    NoApplication,
    #[error("it may log in with any of the applications {}: choose with application = \"NAME\"", known.join(", "))]
    WhichApplication { known: Vec<String> },
    #[error("application {name:?} is not configured: the names are {}", known.join(", "))]
    UnknownApplication { name: String, known: Vec<String> },
    #[error(
        "nothing opens its session: give it jwt, refresh_token, authorization_code, username with \
         password, client_credentials = true, or login = true"
    )]
    NoCredential,
    #[error("it has {}, each of which opens a session: keep one", given.join(" and "))]
    SeveralCredentials { given: Vec<&'static str> },
    #[error("{key} is of use only with {with}: add {with} or remove {key}")]
    UselessWithout { key: &'static str, with: &'static str },
    #[error("client_credentials needs a client_secret in application {application:?}")]
    PublicClientCredentials { application: String },
    #[error(
        "refresh_token_ttl = \"0s\" asks for no further refresh token, but it has nothing else to renew with: remove it"
    )]
    NoRefreshToRenewWith,
    #[error("{key} is {value}: RingCentral counts it in whole seconds")]
    PartOfSecond { key: &'static str, value: String },
    #[error(
        "it has the same {credential} as identity {other:?}, and that is good only once: one of them must go"
    )]
    SameCredential { credential: &'static str, other: String },

    #[error(
        "hosts has {host:?}, which is no host name: write it like \"sales.example.com\" or \"localhost:8080\""
    )]
    HostName { host: String },
    #[error(
        "proxy.cors_origins has an entry that is no origin: write scheme, host and port as a browser \
         does, such as \"https://app.example.com\"; there is no \"*\""
    )]
    CorsOrigin,
    #[error("this name is taken: /.ringbearer/as/NAME/ leads to an identity")]
    ReservedHost,
    #[error("identity {other:?} has the host {host:?} too: it can lead to one of them only")]
    SameHost { host: String, other: String },
    #[error("client {other:?} has the same key: give each its own, or nobody can tell them apart")]
    SameKey { other: String },
    #[error(
        "client {other:?} has {mark} too, and a connection can be only one client's: keep it in one"
    )]
    SameMark { other: String, mark: String },
    #[error(
        "nothing says how it is known: give it key_sha256 (`ringbearer keygen` makes a key and its \
         digest), tls_subject, uid, gid or networks"
    )]
    Unknowable,
    #[error(
        "tls_subject has {text:?}: write the kind of name before it, as in \"DNS:app.example.com\", \
         \"URI:spiffe://example.com/app\", \"email:app@example.com\" or \"CN:app\""
    )]
    TlsSubject { text: String },
    #[error("networks has {network:?}: {problem}")]
    Network { network: String, problem: NetworkProblem },
    #[error("proxy.tls.client_certificates must be \"required\" or \"optional\"")]
    ClientCertificates,
    #[error("proxy.tls.min_version must be \"1.2\" or \"1.3\": older ones are broken")]
    TlsVersion,
    #[error("identities has {name:?}, which can be no identity's name")]
    BoundName { name: String },
    #[error("policy: {0}")]
    Policy(PolicyError),

    #[error(
        "store.directory has no default because neither XDG_STATE_HOME nor HOME is set: set it"
    )]
    NoStateDirectory,
    #[error("store.redis is not usable: write it as rediss://user:password@host:port")]
    RedisUrl,
    #[error(
        "store.redis is redis:// to another machine, which shows sessions to the network: use rediss://, or set store.allow_plain_redis = true"
    )]
    PlainRedis,
    #[error(
        "store.redis names several servers: write rediss+cluster://host,host for a cluster, or \
         rediss+sentinel://host,host/PRIMARY for sentinels"
    )]
    RedisHosts,
    #[error("store.redis names sentinels but not the server that they watch: end it with /PRIMARY")]
    RedisPrimary,
    #[error("store.redis names database 1 or higher of a cluster, which has only 0: leave it out")]
    RedisClusterDatabase,
    #[error(
        "store.redis has a parameter that is not known: only sentinels have any, \
         sentinel_username and sentinel_password"
    )]
    RedisQuery,
    #[error("{} are {} stores: keep one", given.join(" and "), given.len())]
    SeveralStores { given: Vec<&'static str> },
    #[error(
        "store.memory forgets sessions when the process ends, and identity {identity:?} has nothing \
         that opens another: keep sessions in store.directory or store.redis, or give it a jwt"
    )]
    Forgetful { identity: String },
    #[error("store.encryption_keys: {0}")]
    EncryptionKey(SealError),
    #[error("facade.mode must be \"answer\" or \"refuse\"")]
    FacadeMode,
    #[error("facade.keys: {0}")]
    FacadeKey(NoKey),
    #[error(
        "facade.redirect_uris has {uri:?}: write whole URIs without #, such as \"https://app.example.com/callback\""
    )]
    RedirectUri { uri: String },
    #[error(
        "trace.otlp_url needs a program that was built with traces: cargo build --release --features otlp"
    )]
    NoTraces,
    #[error(
        "admin.listen {address} can be reached from other machines: listen on 127.0.0.1, or set \
         admin.allow_remote = true if the network keeps strangers out"
    )]
    RemoteAdmin { address: SocketAddr },
    #[error("admin.listen {address} is where apps are served (proxy.listen): choose another port")]
    AdminAddress { address: SocketAddr },
    #[error("admin.hosts holds \"{host}\": write host names without scheme, port or path")]
    AdminHost { host: String },
    #[error(
        "{key} is not a digest of 64 hexadecimal digits: `ringbearer keygen` prints a key and its digest"
    )]
    KeyDigest { key: &'static str },
    #[error("log.format must be \"text\" or \"json\"")]
    LogFormat,
    #[error("log.filter is not a filter such as \"info\" or \"warn,ringbearer=debug\"")]
    LogFilter(#[source] tracing_subscriber::filter::ParseError),
}

impl SettingsError {
    /// Says in which table it happened.
    pub(super) fn within(self, table: &'static str, name: &str) -> Self {
        Self::In { table, name: name.to_owned(), source: Box::new(self) }
    }
}

fn is_or_are(names: &[&str]) -> String {
    format!("{} {}", names.join(", "), if names.len() == 1 { "is" } else { "are" })
}

/// What is wrong with a URL. The URL itself is not repeated: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message explains its variant")]
pub enum UrlProblem {
    #[error("is not an absolute URL: write it like https://platform.ringcentral.com")]
    NotAbsolute,
    #[error("has another scheme than https or http")]
    Scheme,
    #[error("holds a user name or password: leave them out, a URL is printed in logs")]
    UserInfo,
    #[error("has a port that does not exist: it must be a number from 1 to 65535")]
    Port,
    #[error("has a path: apps send whole paths, so write scheme, host and port only")]
    Path,
    #[error("has a query or fragment: leave it out")]
    Query,
    #[error(
        "is no address that a login may send the browser to: write https://…, or http:// on this \
         machine such as http://127.0.0.1:8765/callback, without a fragment"
    )]
    Redirect,
    #[error(
        "is plain http to another machine, which shows tokens to the network: use https, or set \
         upstream.allow_plain_http = true"
    )]
    PlainHttp,
    #[error(
        "must begin with http://: the proxy itself is spoken to in clear text, and TLS to RingCentral passes through it"
    )]
    ProxyScheme,
}

/// Something that works but ought to be changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum Warning {
    #[error("every user of this machine can read {path:?}, which holds a secret: chmod 600 it")]
    WorldReadable { path: PathBuf },
    #[error("whoever reaches {address} acts as the identity (proxy.allow_remote_clients)")]
    RemoteClients { address: SocketAddr },
    #[error(
        "{address} speaks plain HTTP to other machines, so that client keys and answers cross the network in clear text: add [proxy.tls]"
    )]
    PlainClients { address: SocketAddr },
    #[error("whoever reaches {address} sees the state of every identity (admin.allow_remote)")]
    RemoteAdmin { address: SocketAddr },
    #[error(
        "proxy.hosts is \"*\": a web page may make a name of its own lead here, and then call as the \
         identity (DNS rebinding): name the hosts that clients use"
    )]
    AnyHost,
    #[error("{key} {url} is plain http: tokens cross the network in clear text")]
    PlainHttp { key: &'static str, url: String },
    #[error(
        "client {client:?} may call as {identity:?}, which is not configured: it may be added later, or its name is misspelt"
    )]
    StrangeIdentity { client: String, identity: String },
    #[error(
        "no identity is configured: requests are refused until `ringbearer login NAME` has added one"
    )]
    NoIdentity,
    #[error(
        "client {client:?} is known by uid or gid, which nobody has who comes by an address: add a unix: \
         socket to proxy.listen"
    )]
    NoSocketFor { client: String },
    #[error(
        "client {client:?} is known by networks, and nobody comes from one by a Unix socket: add an \
         address to proxy.listen"
    )]
    NoAddressFor { client: String },
    #[error(
        "client {client:?} has key_sha256 and networks, each of which is enough: whoever calls from \
         those networks needs no key"
    )]
    KeyOrNetwork { client: String },
    #[error(
        "client {client:?} is known by networks, and proxy.public_url says that apps come by another \
         address: behind a load balancer it is the balancer's address that counts, for everybody \
         alike"
    )]
    NetworkBehind { client: String },
    #[error(
        "upstream.tls_key_log_file {path:?} gets the keys of every connection to RingCentral, and \
         whoever reads them reads tokens: remove it as soon as you have seen what you wanted"
    )]
    KeyLog { path: PathBuf },
    #[error("no identity uses application {name:?}")]
    UnusedApplication { name: String },
    #[error("{whom}: {remark}")]
    Policy { whom: String, remark: Remark },
}
