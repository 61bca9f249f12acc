//! `Config` → `Settings`: defaults applied, secrets fetched, contradictions refused.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use http::Uri;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tracing_subscriber::filter::Targets;
use zeroize::Zeroizing;

use super::admin::admin;
use super::client::{Surroundings, clients};
use super::facade::facade;
use super::host::hosts;
use super::identity::{self, Endpoints, applications, identities};
use super::limits::{count, limits};
use super::policy::policy;
use super::socket::{self, Access};
use super::trace::trace;
use super::{
    AuditSettings, HostNames, IdentitySettings, LogFormat, LogSettings, Origin, PacingSettings,
    Place, ProxySettings, RedisSettings, Settings, SettingsError, SocketSettings, StoreSettings,
    ThrottleSettings, UpstreamSettings, UrlProblem, Warning, tls,
};
use crate::config::{Config, IdentityConfig, LogConfig, ProxyConfig, StoreConfig, UpstreamConfig};
use crate::mark::{Mark, Marked};
use crate::secret::{Environment, Sources};
use crate::store::seal::Seal;

/// Turns what was written into what is ready to use. Relative paths start at `directory`.
pub(super) fn settings(
    config: Config,
    environment: Environment<'_>,
    directory: &Path,
) -> Result<(Settings, Vec<Warning>), SettingsError> {
    let mut warnings = Vec::new();
    let mut sources = Sources::new(environment, directory);
    let allow_plain_http = config.upstream.allow_plain_http.unwrap_or(false);
    let places = config.identity.values().flat_map(|it| it.listen.iter().flatten());
    let own: Vec<_> = places.filter_map(Place::address).collect();
    let access = Access::new(config.proxy.socket_mode.as_deref(), config.proxy.socket_group)?;
    let sockets = sockets(&config.proxy, &config.identity, access, directory)?;
    let callers = Callers {
        are_anybody: config.client.is_empty(),
        may_be_known_by_network: config.client.values().any(|it| it.networks.is_some()),
    };
    let proxy = proxy(config.proxy, &own, sockets, callers, directory, &mut warnings)?;
    let mut upstream = upstream(config.upstream, directory, &mut warnings)?;
    let refuse_own = |key, origin: &Origin| {
        refuse_own_address(key, origin, proxy.listen.iter().chain(&own).copied())
    };
    refuse_own("upstream.url", &upstream.origin)?;
    upstream.hosts =
        hosts(config.host, &upstream.origin, allow_plain_http, &refuse_own, &mut warnings)?;
    let endpoints =
        Endpoints { upstream: &upstream.origin, allow_plain_http, refuse_own: &refuse_own };
    let applications = applications(config.application, &endpoints, &mut sources, &mut warnings)?;
    let identities = identities(config.identity, &applications, &mut sources)?;
    let known: Vec<_> = identities.iter().map(|identity| identity.name.as_str()).collect();
    let surroundings = Surroundings {
        identities: &known,
        tls: proxy.tls.as_ref(),
        has_address: !proxy.listen.is_empty() || !own.is_empty(),
        has_socket: !proxy.sockets.is_empty(),
        has_public_url: proxy.public_url.is_some(),
    };
    let clients = clients(config.client, &surroundings, &mut warnings)?;
    let policy = policy(config.policy, "policy", &mut warnings)?;
    let facade = facade(config.facade, &mut sources)?;
    if identities.is_empty() {
        warnings.push(Warning::NoIdentity);
    } else {
        let unused = applications.values().filter(|application| {
            !identities.iter().any(|identity| identity.application.name == application.name)
        });
        warnings.extend(unused.map(|it| Warning::UnusedApplication { name: it.name.clone() }));
    }
    let store = store(config.store, &identities, &mut sources, environment, directory)?;
    let served: Vec<_> = proxy.listen.iter().chain(&own).copied().collect();
    let admin = admin(config.admin, &served, access, directory, &mut warnings)?;
    let operated = admin.iter().flat_map(|admin| &admin.sockets);
    socket::refuse_same(proxy.sockets.iter().chain(operated))?;
    let files = files_of(&upstream, sources.files());
    let world_readable = sources.into_world_readable().into_iter();
    warnings.extend(world_readable.map(|path| Warning::WorldReadable { path }));
    let audit = file("audit.file", config.audit.file, directory)?;
    let audit = audit.map(|file| AuditSettings { file });
    let log = log(config.log)?;
    let trace = trace(config.trace)?;
    let applications = applications.into_values().collect();
    let settings = Settings {
        proxy,
        upstream,
        applications,
        identities,
        clients,
        policy,
        facade,
        store,
        admin,
        audit,
        log,
        trace,
        files,
    };
    Ok((settings, warnings))
}

/// Who calls, as far as the listeners have to know.
#[derive(Clone, Copy)]
struct Callers {
    /// No client is configured.
    are_anybody: bool,
    /// A browser in the right place is taken for a client.
    may_be_known_by_network: bool,
}

/// All Unix sockets where apps are served.
fn sockets(
    proxy: &ProxyConfig,
    identities: &BTreeMap<String, IdentityConfig>,
    access: Access,
    directory: &Path,
) -> Result<Vec<SocketSettings>, SettingsError> {
    let everybodys = proxy.listen.iter().flatten().map(|place| (place, None));
    let own = identities.iter().flat_map(|(name, identity)| {
        identity.listen.iter().flatten().map(move |place| (place, Some(name.as_str())))
    });
    let paths = everybodys.chain(own).filter_map(|(place, its)| Some((place.path()?, its)));
    paths.map(|(path, its)| access.socket(path, directory, its)).collect()
}

/// Those of `[proxy.tls]` are looked after by the server itself.
fn files_of(upstream: &UpstreamSettings, secrets: &[Marked]) -> Vec<Marked> {
    let own = upstream.client_certificate.iter();
    let own = own.flat_map(|own| [&own.certificate_file, &own.key_file]);
    // Read after this.
    let others = own.chain(&upstream.ca_file).map(|path| (path.clone(), Mark::of(path)));
    secrets.iter().cloned().chain(others).collect()
}

fn proxy(
    config: ProxyConfig,
    own: &[SocketAddr],
    sockets: Vec<SocketSettings>,
    callers: Callers,
    directory: &Path,
    warnings: &mut Vec<Warning>,
) -> Result<ProxySettings, SettingsError> {
    let throttle = throttle(&config)?;
    let limits = limits(&config)?;
    let usual = || vec![Place::Tcp(SocketAddr::from(([127, 0, 0, 1], 8080)))];
    let places = config.listen.unwrap_or_else(usual);
    let listen: Vec<_> = places.iter().filter_map(Place::address).collect();
    if places.is_empty() && own.is_empty() && sockets.is_empty() {
        return Err(SettingsError::NoAddress);
    }
    let tls = config.tls.map(|config| tls::inbound(config, directory, warnings)).transpose()?;
    let client_ca = tls.as_ref().and_then(|tls| tls.client_ca.as_ref());
    let addresses: Vec<_> = listen.iter().chain(own).copied().collect();
    let open = Open {
        to_everybody: callers.are_anybody && !client_ca.is_some_and(|ca| ca.is_required),
        to_other_machines: config.allow_remote_clients.unwrap_or(false),
        in_clear_text: tls.is_none(),
    };
    check_addresses(&addresses, open, warnings)?;
    let (max_replay_bytes, replay_memory) = replay(config.max_replay_bytes, config.replay_memory)?;
    let workers = config.workers.map_or_else(available_cores, |count| {
        NonZeroUsize::try_from(count).unwrap_or(NonZeroUsize::MAX)
    });
    let most = NonZeroUsize::new(1024).expect("it is not zero");
    within("proxy.workers", &workers, &NonZeroUsize::MIN, &most, ToString::to_string)?;
    Ok(ProxySettings {
        limits,
        tls,
        listen,
        sockets,
        hosts: host_names(config.hosts, callers, warnings)?,
        cors_origins: cors_origins(config.cors_origins.unwrap_or_default())?,
        h2c: config.h2c.unwrap_or(false),
        rewrite_links: config.rewrite_links.unwrap_or(true),
        public_url: config.public_url.as_deref().map(public_url).transpose()?,
        workers,
        token_wait: time("proxy.token_wait", config.token_wait, 15 * SECOND, 10 * MINUTE)?,
        max_replay_bytes,
        replay_memory,
        client_idle_timeout: time(
            "proxy.client_idle_timeout",
            config.client_idle_timeout,
            2 * MINUTE,
            HOUR,
        )?,
        request_head_timeout: time(
            "proxy.request_head_timeout",
            config.request_head_timeout,
            15 * SECOND,
            HOUR,
        )?,
        websocket_idle_timeout: time(
            "proxy.websocket_idle_timeout",
            config.websocket_idle_timeout,
            10 * MINUTE,
            24 * HOUR,
        )?,
        reload_on_change: config.reload_on_change.unwrap_or(true),
        drain_timeout: time("proxy.drain_timeout", config.drain_timeout, 30 * SECOND, HOUR)?,
        core_dumps: config.core_dumps.unwrap_or(false),
        throttle,
    })
}

fn host_names(
    written: Option<Vec<String>>,
    callers: Callers,
    warnings: &mut Vec<Warning>,
) -> Result<HostNames, SettingsError> {
    let Some(written) = written else { return Ok(HostNames::Usual) };
    if written.iter().any(|host| host == "*") {
        let has_no_key = callers.are_anybody || callers.may_be_known_by_network;
        warnings.extend(has_no_key.then_some(Warning::AnyHost));
        return Ok(HostNames::Any);
    }
    identity::hosts(Some(written)).map(HostNames::AndThese)
}

fn cors_origins(written: Vec<String>) -> Result<Vec<Origin>, SettingsError> {
    let origin = |text: String| Origin::parse(&text).map_err(|_| SettingsError::CorsOrigin);
    written.into_iter().map(origin).collect()
}

fn throttle(config: &ProxyConfig) -> Result<Option<ThrottleSettings>, SettingsError> {
    let paces = config.pacing.unwrap_or(false);
    let max_wait = time("proxy.max_wait", config.max_wait, 10 * SECOND, 10 * MINUTE)?;
    let max_queue = config.max_queue.map_or(1000, NonZeroU32::get);
    within("proxy.max_queue", &max_queue, &1, &100_000, ToString::to_string)?;
    if !config.throttle.unwrap_or(true) {
        let (key, with) = ("proxy.pacing", "proxy.throttle = true");
        return if paces { Err(SettingsError::UselessWithout { key, with }) } else { Ok(None) };
    }
    let max_queue = usize::try_from(max_queue).unwrap_or(usize::MAX);
    let pacing = paces.then_some(PacingSettings { max_wait, max_queue });
    Ok(Some(ThrottleSettings { pacing }))
}

/// Whom the listeners let in.
#[derive(Clone, Copy)]
struct Open {
    /// Nobody has to be known.
    to_everybody: bool,
    /// That is meant to include other machines.
    to_other_machines: bool,
    /// Without TLS.
    in_clear_text: bool,
}

fn check_addresses(
    listen: &[SocketAddr],
    open: Open,
    warnings: &mut Vec<Warning>,
) -> Result<(), SettingsError> {
    for (index, &address) in listen.iter().enumerate() {
        if address.port() != 0 && listen[..index].contains(&address) {
            return Err(SettingsError::AddressTwice { address });
        }
        if address.ip().to_canonical().is_loopback() {
            continue;
        }
        match open {
            Open { to_everybody: false, in_clear_text: false, .. } => {}
            Open { to_everybody: false, .. } => warnings.push(Warning::PlainClients { address }),
            Open { to_other_machines: true, .. } => {
                warnings.push(Warning::RemoteClients { address });
            }
            Open { .. } => return Err(SettingsError::RemoteClients { address }),
        }
    }
    Ok(())
}

fn refuse_own_address(
    key: &'static str,
    origin: &Origin,
    mut listen: impl Iterator<Item = SocketAddr>,
) -> Result<(), SettingsError> {
    match listen.find(|listener| origin.is_served_by(*listener)) {
        Some(address) => Err(SettingsError::OwnAddress { key, url: origin.to_string(), address }),
        None => Ok(()),
    }
}

fn replay(
    body: Option<ByteSize>,
    memory: Option<ByteSize>,
) -> Result<(usize, usize), SettingsError> {
    let body = body.unwrap_or(ByteSize::mib(1));
    let memory = memory.unwrap_or(ByteSize::mib(64));
    let size = |size: &ByteSize| size.to_string();
    within("proxy.max_replay_bytes", &body, &ByteSize(0), &ByteSize::gib(1), size)?;
    within("proxy.replay_memory", &memory, &ByteSize(0), &ByteSize::gib(64), size)?;
    if memory < body {
        let (memory, body) = (memory.to_string(), body.to_string());
        return Err(SettingsError::ReplayMemory { memory, body });
    }
    let bytes = |size: ByteSize| usize::try_from(size.0).unwrap_or(usize::MAX);
    Ok((bytes(body), bytes(memory)))
}

fn upstream(
    config: UpstreamConfig,
    directory: &Path,
    warnings: &mut Vec<Warning>,
) -> Result<UpstreamSettings, SettingsError> {
    let key = "upstream.url";
    let url = config.url.as_deref().unwrap_or(RINGCENTRAL);
    let refuse = |problem| SettingsError::Url { key, problem };
    let origin = Origin::parse(url).map_err(refuse)?;
    if origin.is_clear_text_to_another_machine() {
        if !config.allow_plain_http.unwrap_or(false) {
            return Err(refuse(UrlProblem::PlainHttp));
        }
        warnings.push(Warning::PlainHttp { key, url: origin.to_string() });
    }
    let ca_file = file("upstream.ca_file", config.ca_file, directory)?;
    if let Some(path) = &ca_file {
        check_certificates("upstream.ca_file", path)?;
    }
    let key_log = file("upstream.tls_key_log_file", config.tls_key_log_file, directory)?;
    warnings.extend(key_log.clone().map(|path| Warning::KeyLog { path }));
    let (certificate, key) = (config.client_certificate_file, config.client_key_file);
    let connect = config.connect_timeout;
    let response = config.response_timeout;
    let connections = config.max_connections.map(u32::from);
    Ok(UpstreamSettings {
        origin,
        hosts: Vec::new(),
        ca_file,
        client_certificate: tls::client_certificate(certificate, key, directory, warnings)?,
        tls_key_log_file: key_log,
        http_proxy: config.http_proxy.as_deref().map(http_proxy).transpose()?,
        http2: config.http2.unwrap_or(false),
        connect_timeout: time("upstream.connect_timeout", connect, 5 * SECOND, 5 * MINUTE)?,
        response_timeout: time("upstream.response_timeout", response, MINUTE, HOUR)?,
        idle_timeout: time("upstream.idle_timeout", config.idle_timeout, 50 * SECOND, HOUR)?,
        stall_timeout: time("upstream.stall_timeout", config.stall_timeout, 5 * MINUTE, HOUR)?,
        max_connections: count(("upstream.max_connections", connections), 1000, 100_000)?,
    })
}

fn public_url(text: &str) -> Result<Origin, SettingsError> {
    Origin::parse(text).map_err(|problem| SettingsError::Url { key: "proxy.public_url", problem })
}

fn http_proxy(text: &str) -> Result<Uri, SettingsError> {
    let refuse = |problem| SettingsError::Url { key: "upstream.http_proxy", problem };
    let origin = Origin::parse(text).map_err(refuse)?;
    if origin.tls { Err(refuse(UrlProblem::ProxyScheme)) } else { Ok(origin.uri("/")) }
}

fn store(
    config: StoreConfig,
    identities: &[Arc<IdentitySettings>],
    sources: &mut Sources<'_>,
    environment: Environment<'_>,
    directory: &Path,
) -> Result<StoreSettings, SettingsError> {
    let keys = config.encryption_keys.as_deref().unwrap_or_default();
    let keys: Vec<_> = keys
        .iter()
        .map(|key| sources.read("store.encryption_keys", key))
        .collect::<Result<_, _>>()?;
    let seal = Seal::new(&keys).map_err(SettingsError::EncryptionKey)?;
    let in_memory = config.memory.unwrap_or(false);
    let given: Vec<_> = [
        ("store.directory", config.directory.is_some()),
        ("store.redis", config.redis.is_some()),
        ("store.memory", in_memory),
    ]
    .into_iter()
    .filter_map(|(key, given)| given.then_some(key))
    .collect();
    if given.len() > 1 {
        return Err(SettingsError::SeveralStores { given });
    }
    if in_memory {
        let mut lost = identities.iter().filter(|identity| !identity.credential.reopens());
        return match lost.next() {
            Some(it) => Err(SettingsError::Forgetful { identity: it.name.clone() }),
            None => Ok(StoreSettings::Memory),
        };
    }
    let written = config.directory.clone();
    if let Some(url) = &config.redis {
        let url = sources.read("store.redis", url)?;
        let server = Box::new(redis(url.expose(), config, directory)?);
        return Ok(StoreSettings::Redis { server, seal });
    }
    if let Some(directory) = file("store.directory", written, directory)? {
        return Ok(StoreSettings::File { directory, seal });
    }
    // The XDG base directory specification: a relative path counts as not set.
    let absolute =
        |name: &str| environment(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .ok_or(SettingsError::NoStateDirectory)?;
    Ok(StoreSettings::File { directory: state.join("ringbearer"), seal })
}

fn redis(url: &str, config: StoreConfig, directory: &Path) -> Result<RedisSettings, SettingsError> {
    let mut server = super::redis::parse(url, config.allow_plain_redis.unwrap_or(false))?;
    let key = "store.redis_ca_file";
    let ca_file = file(key, config.redis_ca_file, directory)?;
    if let Some(path) = &ca_file {
        if !server.tls {
            return Err(SettingsError::UselessWithout { key, with: "rediss:// in store.redis" });
        }
        check_certificates(key, path)?;
    }
    let ca = ca_file.map(|path| read(key, &path)).transpose()?;
    server.ca_pem = ca.map(|pem| String::from_utf8_lossy(&pem).into_owned());
    let prefix = non_empty("store.redis_prefix", config.redis_prefix)?;
    server.prefix = prefix.unwrap_or_else(|| "ringbearer:".to_owned());
    let wait = config.redis_wait_replicas.unwrap_or(0);
    within("store.redis_wait_replicas", &wait, &0, &10, ToString::to_string)?;
    server.wait_replicas = wait;
    Ok(server)
}

fn log(config: LogConfig) -> Result<LogSettings, SettingsError> {
    let filter = non_empty("log.filter", config.filter)?.unwrap_or_else(|| "info".to_owned());
    filter.parse::<Targets>().map_err(SettingsError::LogFilter)?;
    let format = match config.format.as_deref() {
        None | Some("text") => LogFormat::Text,
        Some("json") => LogFormat::Json,
        Some(_) => return Err(SettingsError::LogFormat),
    };
    Ok(LogSettings { filter, format, requests: config.requests.unwrap_or(true) })
}

/// Refuses what is outside `min..=max`, saying so in the unit it is written in.
pub(super) fn within<T: PartialOrd>(
    key: &'static str,
    value: &T,
    min: &T,
    max: &T,
    show: impl Fn(&T) -> String,
) -> Result<(), SettingsError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(SettingsError::OutOfRange { key, value: show(value), min: show(min), max: show(max) })
}

/// A duration as it is written in the configuration.
pub(super) fn duration(duration: &Duration) -> String {
    humantime::format_duration(*duration).to_string()
}

/// Refuses an empty string: whoever writes one means something else.
pub(super) fn non_empty(
    key: &'static str,
    value: Option<String>,
) -> Result<Option<String>, SettingsError> {
    match value {
        Some(text) if text.trim().is_empty() => Err(SettingsError::Empty { key }),
        value => Ok(value),
    }
}

pub(super) fn time(
    key: &'static str,
    value: Option<Duration>,
    default: Duration,
    max: Duration,
) -> Result<Duration, SettingsError> {
    let value = value.unwrap_or(default);
    within(key, &value, &Duration::from_millis(1), &max, duration)?;
    Ok(value)
}

pub(super) fn file(
    key: &'static str,
    value: Option<PathBuf>,
    directory: &Path,
) -> Result<Option<PathBuf>, SettingsError> {
    match value {
        Some(path) if path.as_os_str().is_empty() => Err(SettingsError::Empty { key }),
        Some(path) if path.starts_with("~") => Err(SettingsError::Tilde { key }),
        value => Ok(value.map(|path| directory.join(path))),
    }
}

pub(super) fn check_certificates(what: &'static str, path: &Path) -> Result<(), SettingsError> {
    let pem = read(what, path)?;
    match CertificateDer::pem_slice_iter(&pem).next() {
        Some(Ok(_)) => Ok(()),
        _ => Err(SettingsError::NoPem { what, path: path.to_owned(), wanted: "certificate" }),
    }
}

pub(super) fn read(what: &'static str, path: &Path) -> Result<Zeroizing<Vec<u8>>, SettingsError> {
    let unreadable = |source| SettingsError::Unreadable { what, path: path.to_owned(), source };
    fs::read(path).map(Zeroizing::new).map_err(unreadable)
}

pub(super) fn is_world_readable(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o004 != 0)
}

fn available_cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

const RINGCENTRAL: &str = "https://platform.ringcentral.com";
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
