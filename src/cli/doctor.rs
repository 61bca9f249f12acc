//! `doctor`: whether this machine, this configuration and what lies between them and RingCentral will
//! do, before somebody has to find out at night.
//!
//! Facts are gathered by thin functions, and judged by pure ones: every finding says the thing and the
//! cure. No token is requested and none used, nothing secret is printed, and nothing is left behind.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use futures_util::future::join_all;

use super::{ConfigurationFlags, Failure, serve};
use crate::clock::Clock;
use crate::secret::Environment;
use crate::service;
use crate::settings::{
    ConfigSource, Overrides, RedisSettings, RedisTopology, SecretPlace, Settings, Source,
    StoreSettings, Warning,
};
use crate::store::StoreError;
use crate::store::redis::{Examined, RedisStore};
use crate::store::seal::Seal;
use crate::telemetry::chain;
use crate::token::roster::{self, Line, Range};

mod budget;
mod certificate;
mod finding;
mod machine;
mod network;
mod process;
mod reach;
mod store;

use finding::{Finding, Level};

/// How to show it.
#[derive(Debug, Args)]
pub(super) struct DoctorFlags {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    configuration: ConfigurationFlags,
}

/// Shows what was found; the exit code is 0 if all is well, 1 for warnings, 2 for a failure.
pub(super) fn run(flags: DoctorFlags, environment: Environment<'_>) -> Result<ExitCode, Failure> {
    let (source, overrides) = flags.configuration.split();
    let findings = serve::runtime()?.block_on(examine(&source, overrides, environment));
    match finding::show(&findings, flags.json, &mut io::stdout().lock()) {
        // Who has seen enough has seen it.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(Failure::Output(error));
        }
        _ => {}
    }
    Ok(match finding::worst(&findings) {
        Level::Ok => ExitCode::SUCCESS,
        Level::Warning => ExitCode::from(1),
        Level::Failure => ExitCode::from(2),
    })
}

async fn examine(
    source: &ConfigSource,
    overrides: Overrides,
    environment: Environment<'_>,
) -> Vec<Finding> {
    let process = machine::process();
    // Where the configuration cannot be read, the settings say so.
    let sources = Settings::sources(source, environment).unwrap_or_default();
    let loaded = Settings::load(source, overrides, environment);
    let mut findings = configuration(&loaded, &sources);
    findings.extend(sources.iter().map(|source| secret(source, process.user)));
    findings.extend(process::judge(process));
    if let Ok((settings, _)) = &loaded {
        let clock = Clock::system();
        findings.extend(own_key(settings, process.user));
        findings.extend(listening(settings).await);
        findings.extend(kept(settings, process.user, &clock).await);
        findings.extend(network(settings, &clock).await);
        findings.extend(budget::judge(settings));
    }
    findings
}

fn configuration(
    loaded: &Result<(Settings, Vec<Warning>), crate::settings::SettingsError>,
    sources: &[Source],
) -> Vec<Finding> {
    // What is said of each secret's file need not be said twice.
    let is_said = |warning: &&Warning| match warning {
        Warning::WorldReadable { path } => {
            sources.iter().any(|source| source.place == SecretPlace::File(path.clone()))
        }
        _ => false,
    };
    let whole = "configuration";
    match loaded {
        Err(error) => vec![Finding::failure(whole, whole, chain(error), "")],
        Ok((_, warnings)) => {
            let warnings = warnings.iter().filter(|warning| !is_said(warning));
            let warnings = warnings.map(|it| Finding::warning(whole, whole, it.to_string(), ""));
            [Finding::ok(whole, whole, "good; `ringbearer check` says what it means")]
                .into_iter()
                .chain(warnings)
                .collect()
        }
    }
}

fn secret(source: &Source, us: u32) -> Finding {
    let file = match &source.place {
        SecretPlace::File(path) => Some(machine::secret_file(path)),
        _ => None,
    };
    process::secret(source, file.as_ref(), us)
}

fn own_key(settings: &Settings, us: u32) -> Option<Finding> {
    let path = settings.proxy.tls.as_ref()?.key_file.clone();
    Some(secret(
        &Source { key: "proxy.tls.key_file".to_owned(), place: SecretPlace::File(path) },
        us,
    ))
}

async fn listening(settings: &Settings) -> Vec<Finding> {
    let tls = settings.proxy.tls.is_some();
    let apps = settings.proxy.listen.iter().map(|it| ("proxy.listen".to_owned(), *it, tls));
    let own = settings.identities.iter().flat_map(|identity| {
        let key = format!("listen of {}", identity.name);
        identity.listen.iter().map(move |it| (key.clone(), *it, tls))
    });
    let admin = settings.admin.iter().flat_map(|admin| &admin.listen);
    let admin = admin.map(|it| ("admin.listen".to_owned(), *it, false));
    let all: Vec<(String, SocketAddr, bool)> = apps.chain(own).chain(admin).collect();
    let mut findings = Vec::new();
    for (key, address, tls) in all {
        findings.push(process::listen(&key, address, &machine::port(address).await, tls));
    }
    findings
}

async fn kept(settings: &Settings, us: u32, clock: &Clock) -> Vec<Finding> {
    match &settings.store {
        StoreSettings::Memory => vec![Finding::ok(
            "store",
            "memory",
            "nothing is kept; each identity opens another session",
        )],
        StoreSettings::File { directory: path, .. } => {
            let directory = machine::directory(path);
            let mut findings = store::directory(&path.display().to_string(), &directory, us);
            // Opening it would make it, or ask for what was refused just now.
            let is_there = matches!(directory, machine::Directory::There(_));
            if is_there && finding::worst(&findings) < Level::Failure {
                findings.extend(sessions(settings, clock).await);
            }
            findings
        }
        StoreSettings::Redis { server, seal } => {
            let mut findings = servers(server, seal).await;
            if finding::worst(&findings) < Level::Failure {
                findings.extend(sessions(settings, clock).await);
            }
            findings
        }
    }
}

async fn sessions(settings: &Settings, clock: &Clock) -> Vec<Finding> {
    let store = match service::store(settings, clock) {
        Ok(store) => store,
        Err(error) => return vec![Finding::failure("sessions", "all", chain(&error), "")],
    };
    let page =
        roster::page(&*store, &settings.identities, &settings.applications, &Range::ALL).await;
    match page {
        Ok((known, _)) => {
            let lines = known.iter().map(|known| Line::of(known, None, clock.now()));
            store::sessions(&lines.collect::<Vec<_>>())
        }
        Err(error) => vec![Finding::failure("sessions", "all", chain(&error), "")],
    }
}

/// Of a cluster each node that is named, for each is set up on its own.
async fn servers(server: &RedisSettings, seal: &Seal) -> Vec<Finding> {
    let scheme = server.topology.scheme();
    if !matches!(server.topology, RedisTopology::Cluster) {
        let address = format!("{scheme}://{}", server.address);
        return examined(&address, examined_at(server, seal).await, server.wait_replicas);
    }
    let mut findings = Vec::new();
    for (host, port) in &server.hosts {
        let address = format!("{host}:{port}");
        let node = RedisSettings {
            topology: RedisTopology::One,
            hosts: vec![(host.clone(), *port)],
            address: address.clone(),
            ..server.clone()
        };
        let address = format!("{scheme}://{address}");
        findings.extend(examined(&address, examined_at(&node, seal).await, server.wait_replicas));
    }
    findings
}

async fn examined_at(server: &RedisSettings, seal: &Seal) -> Result<Examined, StoreError> {
    RedisStore::open(server, seal.clone())?.examine().await
}

fn examined(
    address: &str,
    examined: Result<Examined, StoreError>,
    wait_replicas: u32,
) -> Vec<Finding> {
    match examined {
        Ok(examined) => store::server(address, &examined, wait_replicas),
        Err(error) => vec![Finding::failure("store", address, chain(&error), "")],
    }
}

async fn network(settings: &Settings, clock: &Clock) -> Vec<Finding> {
    let tls = match service::tls(settings) {
        Ok(tls) => Arc::new(tls),
        Err(error) => return vec![Finding::failure("network", "TLS", chain(&error), "")],
    };
    let upstream = &settings.upstream;
    let http_proxy = upstream.http_proxy.as_ref();
    let way = reach::Way { tls, http_proxy, patience: upstream.connect_timeout, clock };
    let means =
        network::Means { ca_file: upstream.ca_file.is_some(), http_proxy: http_proxy.is_some() };
    let hosts = network::hosts(settings);
    let looks = join_all(hosts.iter().map(|host| way.look(&host.origin))).await;
    let judged = hosts.iter().zip(&looks);
    judged.flat_map(|(host, seen)| network::judge(host, seen, means, clock.now())).collect()
}
