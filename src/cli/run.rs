//! `run`: a proxy for one command, for as long as it runs.
//!
//! The command finds the proxy under the names by which RingCentral's samples look for the server,
//! and stand-ins where its secrets were: what it never had, it cannot leak. Its end is ours: the exit
//! code is the command's, and no way leads out of here that leaves it behind.

use std::ffi::OsString;
use std::fs::File;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as Listener, SignalKind, signal};
use tracing::{debug, warn};

use super::{ConfigurationFlags, Failure, serve};
use crate::clock::Clock;
use crate::dumps;
use crate::key::KeyDigest;
use crate::secret::{Environment, Secret, SecretKey, process_variables};
use crate::service::Service;
use crate::settings::{Bound, ClientSettings, IdentitySettings, Overrides, PeerSettings, Settings};
use crate::telemetry;

mod environment;

use environment::StandIns;

#[derive(Debug, Args)]
pub(super) struct RunFlags {
    #[command(flatten)]
    configuration: ConfigurationFlags,
    /// Everything that the command sends is this identity's
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    /// What to run, and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs the command, and gives its exit code.
pub(super) fn run(
    flags: RunFlags,
    environment: Environment<'_>,
    before: dumps::Before,
) -> Result<ExitCode, Failure> {
    let asked = environment::Asked::default();
    let (source, overrides) = flags.configuration.split();
    let mut listen = overrides.listen;
    if !listen.iter().any(|place| place.address().is_some()) {
        // The command has to be told a URL.
        listen.push(ANY_PORT.into());
    }
    let overrides = Overrides {
        listen,
        // Standard error is the command's, too.
        log_filter: overrides.log_filter.or_else(|| Some("warn".to_owned())),
        ..overrides
    };
    let recording = |name: &str| asked.ask(name, environment);
    let (mut settings, warnings) = Settings::load(&source, overrides, &recording)?;
    narrow(&mut settings, flags.identity.as_deref())?;
    // Our memory stays ours; the command's limits are its own.
    if settings.proxy.core_dumps {
        before.restore();
    } else {
        before.restore_limit();
    }
    let key = let_in(&mut settings);
    telemetry::start(&settings.log);
    for warning in warnings {
        warn!("{warning}");
    }
    serve::runtime()?.block_on(async {
        // From here on a signal is passed on instead of ending us.
        let mut signals = Signals::listen().map_err(Failure::Signals)?;
        let service = Service::start(&settings, &Clock::system())?;
        let stand_ins = StandIns {
            url: format!("http://{}", service.addresses()[0]),
            client_id: flags.identity.clone(),
            client_secret: key,
        };
        let variables = environment::of_child(process_variables(), &stand_ins, &settings, &asked);
        let ended = match start(&flags.command, variables) {
            Ok(child) => signals.until_ended(child).await,
            Err(failure) => Err(failure),
        };
        tokio::select! {
            () = service.stop() => {}
            () = signals.any() => {}
        }
        ended.map(|status| exit_code(status).into())
    })
}

/// Only the command is to come in, without TLS, because it would not know the certificate.
fn narrow(settings: &mut Settings, identity: Option<&str>) -> Result<(), Failure> {
    let known = |identity: &Arc<IdentitySettings>| identity.name.clone();
    if let Some(name) = identity
        && !settings.identities.iter().any(|identity| identity.name == name)
    {
        let known = settings.identities.iter().map(known).collect();
        return Err(Failure::UnknownIdentity { name: name.to_owned(), known });
    }
    settings.proxy.tls = None;
    // Another proxy with this configuration listens there.
    settings.admin = None;
    settings.proxy.sockets.retain(|socket| socket.identity.is_none());
    for socket in &mut settings.proxy.sockets {
        socket.identity = identity.map(str::to_owned);
    }
    let all = std::mem::take(&mut settings.proxy.listen);
    for its in settings.identities.iter_mut().map(Arc::make_mut) {
        let chosen = identity == Some(&*its.name);
        // What it listens on otherwise is where another proxy with this configuration does.
        its.listen = if chosen { all.clone() } else { Vec::new() };
    }
    if identity.is_none() {
        settings.proxy.listen = all;
    }
    Ok(())
}

/// Where clients show a key, the command gets one that nobody else knows.
fn let_in(settings: &mut Settings) -> Option<Secret> {
    if settings.clients.is_empty() {
        return None;
    }
    let key = SecretKey::generate();
    settings.clients.push(ClientSettings {
        // No configured one can be called so.
        name: "ringbearer run".to_owned(),
        keys: vec![KeyDigest::of(key.expose().as_bytes())],
        peers: PeerSettings::default(),
        identities: Bound::Any,
        client_id: None,
        rewrite_links: true,
        priority: NonZeroU32::MIN,
        policy: None,
    });
    Some(key)
}

fn start(command: &[OsString], variables: Vec<(OsString, OsString)>) -> Result<Child, Failure> {
    let (program, arguments) = command.split_first().expect("the command line demands it");
    Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(variables)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| Failure::Command { command: program.clone(), source })
}

/// What a shell would say of it.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// What a shell says of a command that cannot be run.
pub(super) fn code_of(error: &std::io::Error) -> u8 {
    if error.kind() == ErrorKind::NotFound { 127 } else { 126 }
}

/// The signals that are passed on.
struct Signals {
    terminate: Listener,
    interrupt: Listener,
    hang_up: Listener,
    quit: Listener,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            Some(()) = self.terminate.recv() => Signal::TERM,
            Some(()) = self.interrupt.recv() => Signal::INT,
            Some(()) = self.hang_up.recv() => Signal::HUP,
            Some(()) = self.quit.recv() => Signal::QUIT,
            else => std::future::pending().await,
        }
    }

    /// Returns at the next signal that is meant for us alone.
    async fn any(&mut self) {
        self.next().await;
    }

    /// Passes signals on until the command has ended.
    async fn until_ended(&mut self, mut child: Child) -> Result<ExitStatus, Failure> {
        loop {
            let signal = tokio::select! {
                ended = child.wait() => return ended.map_err(Failure::Wait),
                signal = self.next() => signal,
            };
            if signal != Signal::TERM && is_in_foreground() {
                // The terminal has sent it to the command as well, and twice is something else.
                continue;
            }
            let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
            if let Some(Err(error)) = pid.map(|pid| kill_process(pid, signal)) {
                debug!(%error, ?signal, "not passed on");
            }
        }
    }
}

/// Whether what is typed at the terminal reaches us, and the command with us.
fn is_in_foreground() -> bool {
    let foreground = File::open("/dev/tty").ok().and_then(|tty| {
        // An error says that the terminal is somebody else's.
        rustix::termios::tcgetpgrp(tty).ok()
    });
    foreground == Some(rustix::process::getpgrp())
}

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
