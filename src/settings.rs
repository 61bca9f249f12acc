//! Settings: what was configured, ready to use. Secrets have been read, defaults applied, names
//! resolved and contradictions refused; nothing later has to ask "what if it is missing".

use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;

use crate::key::KeyDigest;
use crate::mark::Marked;
use crate::policy::Policy;
use crate::secret::{Secret, SecretKey};
use crate::store::seal::Seal;

pub use self::error::{SettingsError, UrlProblem, Warning};
pub use self::limits::{ClientLimits, Http2Limits};
pub use self::load::{ConfigSource, Overrides};
pub use self::network::{Network, NetworkProblem};
pub use self::origin::Origin;
pub use self::redis::{RedisLogin, RedisSettings, RedisTopology};
pub use self::sources::{SecretPlace, Source};
pub use self::subject::SubjectName;
pub use crate::config::{ConfigError, NoPlace, Place};

mod admin;
mod client;
mod error;
mod facade;
mod host;
mod identity;
mod limits;
mod load;
mod network;
mod origin;
mod policy;
mod redis;
mod resolve;
mod socket;
mod sources;
mod subject;
#[cfg(test)]
mod tests;
mod tls;
mod trace;

/// Everything `serve` needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The side that apps talk to.
    pub proxy: ProxySettings,
    /// The side that RingCentral is on.
    pub upstream: UpstreamSettings,
    /// The apps that sessions are opened with, used or not.
    pub applications: Vec<Arc<ApplicationSettings>>,
    /// Whose tokens there are; the names are unique. Empty only where there is an application, whose
    /// identities are added by a login.
    pub identities: Vec<Arc<IdentitySettings>>,
    /// Who may call. Empty where whoever reaches a listener may.
    pub clients: Vec<ClientSettings>,
    /// What everybody may ask for, clients included; `None` for anything.
    pub policy: Option<Arc<Policy>>,
    /// How the proxy answers the OAuth endpoints.
    pub facade: FacadeSettings,
    /// Where token sets are kept.
    pub store: StoreSettings,
    /// Where the proxy is watched and operated, if anywhere.
    pub admin: Option<AdminSettings>,
    /// Where it is noted who did what, if anywhere.
    pub audit: Option<AuditSettings>,
    /// How to log.
    pub log: LogSettings,
    /// Where traces go, if anywhere.
    pub trace: Option<TraceSettings>,
    /// The files that all this was read from: who changes one wants a reload.
    pub files: Vec<Marked>,
}

/// `[proxy]`: the side that apps talk to.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct ProxySettings {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// Unix sockets to listen on, those of identities among them.
    pub sockets: Vec<SocketSettings>,
    /// By which hosts it may be called.
    pub hosts: HostNames,
    /// The origins whose web pages may call.
    pub cors_origins: Vec<Origin>,
    /// Certificate and key, if apps speak TLS to the proxy.
    pub tls: Option<InboundTls>,
    /// Whether clear-text HTTP/2 (prior knowledge) is accepted.
    pub h2c: bool,
    /// Whether links in answers are led back to the proxy.
    pub rewrite_links: bool,
    /// Where clients reach the proxy, if their own word is not to count.
    pub public_url: Option<Origin>,
    /// Worker threads, each with its own runtime, listener and upstream pool.
    pub workers: NonZeroUsize,
    /// How long a request may wait for a token before it gets 503.
    pub token_wait: Duration,
    /// The longest request body that is kept for a replay.
    pub max_replay_bytes: usize,
    /// Memory that all kept bodies together may use.
    pub replay_memory: usize,
    /// How long a connection may idle.
    pub client_idle_timeout: Duration,
    /// How long each request's head may take, from its first byte on.
    pub request_head_timeout: Duration,
    /// How long a WebSocket may be silent.
    pub websocket_idle_timeout: Duration,
    /// How long the end waits for requests in flight.
    pub drain_timeout: Duration,
    /// How RingCentral's limits are kept; `None` if that is the apps' affair.
    pub throttle: Option<ThrottleSettings>,
    /// What clients may ask for, and how long they may take.
    pub limits: ClientLimits,
    /// Whether a changed file of the configuration is read by itself.
    pub reload_on_change: bool,
    /// Whether the process may leave its memory behind when it crashes, and show it to debuggers.
    pub core_dumps: bool,
}

/// How RingCentral's limits are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThrottleSettings {
    /// How requests wait for their turns, if they do.
    pub pacing: Option<PacingSettings>,
}

/// How requests wait for their turns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacingSettings {
    /// How long, unless the request says otherwise.
    pub max_wait: Duration,
    /// How many at a time.
    pub max_queue: usize,
}

/// `proxy.hosts`: the names by which clients may call the proxy. A web page can make a name of its own
/// lead here (DNS rebinding), and then its browser takes the proxy for part of its site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostNames {
    /// Those of this machine, of identities and of `public_url`, where anybody may call by loopback;
    /// elsewhere any.
    Usual,
    /// The usual ones and these, in lower case, with or without a port; everywhere.
    AndThese(Vec<String>),
    /// Any.
    Any,
}

/// A Unix socket to listen on. Clear text is spoken there, for it does not leave the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketSettings {
    /// Where it is in the file system.
    pub path: PathBuf,
    /// Who may open it, as `chmod` has it.
    pub mode: u32,
    /// The group that it belongs to, if not the process's own.
    pub group: Option<u32>,
    /// The identity that everything is which comes in there.
    pub identity: Option<String>,
}

/// `[proxy.tls]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundTls {
    /// PEM file with the certificate chain.
    pub certificate_file: PathBuf,
    /// PEM file with the private key.
    pub key_file: PathBuf,
    /// Who issues the certificates of clients, where they are asked for one.
    pub client_ca: Option<ClientCa>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
}

/// `proxy.tls.client_ca_file` and `client_certificates`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCa {
    /// PEM file with the certificate authorities.
    pub file: PathBuf,
    /// Whether a client without a certificate is turned away.
    pub is_required: bool,
}

/// A version of TLS. Older ones are not spoken at all (RFC 8996).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// RFC 5246.
    V1_2,
    /// RFC 8446.
    V1_3,
}

/// What the proxy shows to RingCentral, or to what stands before it.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    /// PEM file with the certificate chain.
    pub certificate_file: PathBuf,
    /// PEM file with the private key.
    pub key_file: PathBuf,
}

/// `[upstream]`: the side that RingCentral is on.
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    /// Where requests go. With `hosts`, the only origins that a token is sent to.
    pub origin: Origin,
    /// Its other hosts, by name.
    pub hosts: Vec<HostSettings>,
    /// A PEM file with the CAs to trust instead of the platform's.
    pub ca_file: Option<PathBuf>,
    /// The certificate that is shown when one is asked for.
    pub client_certificate: Option<ClientCertificate>,
    /// Where the keys of connections are written to, for whoever has to look into them.
    pub tls_key_log_file: Option<PathBuf>,
    /// An HTTP proxy to reach the origin through (CONNECT). Never taken from the environment.
    pub http_proxy: Option<Uri>,
    /// Whether to offer HTTP/2 by ALPN.
    pub http2: bool,
    /// How long a connection may take, TLS included.
    pub connect_timeout: Duration,
    /// How long RingCentral may take to begin an answer once it has the whole request.
    pub response_timeout: Duration,
    /// How long an unused connection is kept.
    pub idle_timeout: Duration,
    /// How long nothing may come of an answer that has begun.
    pub stall_timeout: Duration,
    /// Connections to each host.
    pub max_connections: usize,
}

/// `[host.NAME]`: another host of RingCentral's, at `/.ringbearer/NAME/` of the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSettings {
    /// Its name in the configuration and in paths.
    pub name: String,
    /// Where it is.
    pub origin: Origin,
    /// Whether it takes WebSockets, which carry tokens of their own, and nothing else.
    pub websocket: bool,
    /// Whether links to it, and those in its answers, are led back to the proxy.
    pub rewrite_links: bool,
}

/// `[application.NAME]`: a RingCentral app, to whom the budget of token requests belongs.
#[derive(Clone, Debug)]
pub struct ApplicationSettings {
    /// Its name in the configuration.
    pub name: String,
    /// `client_id` from the developer console.
    pub client_id: String,
    /// The client secret; a public client (PKCE) has none.
    pub client_secret: Option<Secret>,
    /// The token endpoint.
    pub token_url: Uri,
    /// The revocation endpoint.
    pub revoke_url: Uri,
    /// The authorization endpoint, where a person logs in.
    pub authorize_url: Uri,
    /// The device authorization endpoint (RFC 8628).
    pub device_authorization_url: Uri,
    /// Where a login sends the browser, exactly as it is registered for the app.
    pub redirect_uri: String,
    /// Token requests allowed in any 60 s, over all identities.
    pub token_requests_per_minute: NonZeroU32,
}

/// `[identity.NAME]`: whose tokens.
#[derive(Clone, Debug)]
pub struct IdentitySettings {
    /// Its name in the configuration, in logs and in the store.
    pub name: String,
    /// The application it logs in with.
    pub application: Arc<ApplicationSettings>,
    /// What opens a session.
    pub credential: Credential,
    /// Requests for these hosts are this identity's, with or without a port, in lower case.
    pub hosts: Vec<String>,
    /// Addresses on which every request is this identity's.
    pub listen: Vec<SocketAddr>,
    /// What opens a new one when that session is lost: a credential that does so any time.
    pub fallback: Option<Credential>,
    /// `endpoint_id`: one stable name for this instance of the application.
    pub endpoint_id: Option<String>,
    /// `access_token_ttl` to ask for.
    pub access_token_ttl: Option<Duration>,
    /// `refresh_token_ttl` to ask for; zero means that no refresh token is wanted.
    pub refresh_token_ttl: Option<Duration>,
    /// `scope` to ask for.
    pub scope: Option<String>,
}

/// `[client.NAME]`: who calls.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Its name in the configuration and in logs.
    pub name: String,
    /// The digests of its keys.
    pub keys: Vec<KeyDigest>,
    /// The connections that it is known by without a key.
    pub peers: PeerSettings,
    /// As whom it may call.
    pub identities: Bound,
    /// The client id that it has to log in with; without one it may use any.
    pub client_id: Option<String>,
    /// Whether links in its answers are led back to the proxy.
    pub rewrite_links: bool,
    /// What it may ask for; `None` for anything.
    pub policy: Option<Arc<Policy>>,
    /// Turns per round, where requests wait for them.
    pub priority: NonZeroU32,
}

/// What tells a client by its connection. One of these is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerSettings {
    /// Names in a verified certificate.
    pub subjects: Vec<SubjectName>,
    /// Users of this machine, at a Unix socket.
    pub users: Vec<u32>,
    /// Their groups.
    pub groups: Vec<u32>,
    /// Where the connection comes from.
    pub networks: Vec<Network>,
}

/// `[facade]`: the OAuth endpoints, answered by the proxy itself.
#[derive(Clone, Debug)]
pub struct FacadeSettings {
    /// Whether they are answered, or refused.
    pub answers: bool,
    /// What the proxy's own tokens are sealed with: the first one seals, each of them opens. Empty
    /// where a key of the store's is to be used.
    pub keys: Vec<SecretKey>,
    /// How long an access token of the proxy's own lives.
    pub access_token_ttl: Duration,
    /// How long a refresh token of the proxy's own lives.
    pub refresh_token_ttl: Duration,
    /// Where `authorize` may lead besides this machine.
    pub redirect_uris: Vec<String>,
}

/// The identities that a client is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// All of them.
    Any,
    /// These. Never empty; the first is meant where a request names none.
    To(Vec<String>),
}

/// What opens a session (RFC 6749 §1.3, RFC 7523).
#[derive(Clone, Debug)]
pub enum Credential {
    /// A JWT from the developer console: opens a new session any time.
    Jwt(Secret),
    /// A refresh token from elsewhere: good once, to adopt its session.
    RefreshToken(Secret),
    /// An authorization code: good once.
    AuthorizationCode {
        /// The code.
        code: Secret,
        /// The redirect URI it was issued to.
        redirect_uri: String,
        /// The PKCE verifier (RFC 7636), if a challenge was sent.
        code_verifier: Option<Secret>,
    },
    /// User name and password (legacy): opens a new session any time.
    Password {
        /// Phone number or e-mail address.
        username: String,
        /// Extension number, if the user name is a phone number.
        extension: Option<String>,
        /// The password.
        password: Secret,
    },
    /// The application's own session: opens a new one any time.
    ClientCredentials,
    /// None here: the session of `ringbearer login`, taken from the store.
    Login,
}

/// `[store]`: where token sets are kept.
#[derive(Clone, Debug)]
pub enum StoreSettings {
    /// One file per identity in this directory.
    File {
        /// The directory, created with mode 0700 if absent.
        directory: PathBuf,
        /// What seals the files.
        seal: Seal,
    },
    /// Nowhere: sessions end with the process, and each identity opens its next.
    Memory,
    /// A Redis or Valkey server.
    Redis {
        /// Which, and how to get in.
        server: Box<RedisSettings>,
        /// What seals the sessions.
        seal: Seal,
    },
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any identity"),
            Self::To(names) => f.write_str(&names.join(", ")),
        }
    }
}

impl fmt::Display for StoreSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { directory, .. } => directory.display().fmt(f),
            Self::Memory => f.write_str("memory"),
            Self::Redis { server, .. } => {
                write!(f, "{}://{}", server.topology.scheme(), server.address)
            }
        }
    }
}

/// `[admin]`: the side that operators and monitoring talk to.
#[derive(Clone, Debug)]
pub struct AdminSettings {
    /// Addresses to listen on. Not empty where `sockets` is.
    pub listen: Vec<SocketAddr>,
    /// Unix sockets to listen on.
    pub sockets: Vec<SocketSettings>,
    /// The digest of the key that allows changes; without it none is allowed.
    pub key: Option<KeyDigest>,
    /// Names it is called by, besides its address and `localhost`.
    pub hosts: Vec<String>,
}

/// `[trace]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceSettings {
    /// The collector.
    pub collector: Origin,
    /// Of requests whose callers trace nothing, one in so many is traced.
    pub sample_one_in: NonZeroU32,
}

/// `[audit]`.
#[derive(Clone, Debug)]
pub struct AuditSettings {
    /// The file that lines are appended to.
    pub file: PathBuf,
}

/// `[log]`.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// Levels by target, in the syntax of `tracing-subscriber`'s `Targets`.
    pub filter: String,
    /// Text for people or JSON for machines.
    pub format: LogFormat,
    /// Whether each request gets its line (at info).
    pub requests: bool,
}

/// `log.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}
