//! The command line: which commands there are, what they have in common, and how they fail.
//!
//! There is no flag for a secret, because every user of a machine can list arguments (threat 40).

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::audit::AuditLog;
use crate::clock::Clock;
use crate::dumps;
use crate::login::LoginError;
use crate::login::transfer::TransferError;
use crate::oauth::TokenError;
use crate::sandbox::SandboxError;
use crate::secret::{Environment, Secret, SecretSource, Sources};
use crate::service::StartError;
use crate::settings::{ConfigSource, NoPlace, Overrides, Place, Settings, SettingsError, Warning};
use crate::store::archive::ArchiveError;
use crate::store::seal::SealError;
use crate::telemetry;
use reload::ReloadError;

mod check;
mod demo;
mod doctor;
mod keygen;
mod login;
mod logout;
mod manual;
mod open_files;
mod reign;
mod reload;
mod run;
mod sandbox;
mod serve;
mod status;
mod token;
mod transfer;
mod watch;

/// What was written on the command line.
#[derive(Debug, Parser)]
#[command(version, about, long_about = LONG_ABOUT, after_help = AFTER_HELP)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ConfigurationFlags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy (the default)
    Serve(ConfigurationFlags),
    /// Log a person in with RingCentral, in the browser; or add an identity by its JWT
    ///
    /// The session is kept in the store, where a running proxy finds it at once and renews it.
    Login(login::LoginFlags),
    /// End the session of an identity, for all proxies with this store and at RingCentral
    Logout(logout::LogoutFlags),
    /// Write sessions into a sealed archive, to go on with them in another store
    ///
    /// A session can live in one place only; see --move.
    Export(transfer::ExportFlags),
    /// Take sessions out of a sealed archive into the store
    ///
    /// A session can live in one place only: do not import what is still in use where it comes from.
    Import(transfer::ImportFlags),
    /// Show the proxy at work, with a stand-in for RingCentral: no account, no network
    Demo(demo::DemoFlags),
    /// Say what the configuration means, and with --online whether RingCentral agrees
    ///
    /// Reads the configuration and every secret that it names, checks the whole, and prints what
    /// `serve` would do, without the secrets. Exits with 2 if `serve` would refuse it.
    Check(CheckFlags),
    /// Look for what may go wrong: clock, network, certificates, store, secrets, limits, ports
    ///
    /// Every finding has its cure. No token is requested, and nothing is changed. Exits with 0 if all
    /// is well, 1 for warnings, 2 for a failure.
    Doctor(doctor::DoctorFlags),
    /// Run a command with a proxy of its own
    ///
    /// The command finds the proxy in `RC_SERVER_URL` and `RINGCENTRAL_SERVER_URL`, and stand-ins
    /// where its secrets were. Signals are passed on to it, and its exit code is passed back.
    Run(run::RunFlags),
    /// Show every identity: its state, when its tokens end, and what is left of the budget
    ///
    /// Reads the store, so no proxy has to run; what one knows that answers at `admin.listen` is
    /// merged in. Exits with 1 if an identity needs somebody.
    Status(status::StatusFlags),
    /// Have a running proxy read its configuration again, and say what came of it
    ///
    /// Asks at `admin.listen`. Everything is validated before anything changes; if it is refused, the
    /// proxy goes on as it was and this exits with 1. SIGHUP does the same without an answer.
    Reload(reload::ReloadFlags),
    /// Print an identity's access token, for scripts; it is good for a minute at least
    Token(token::TokenFlags),
    /// Print a new random key and its digest for `key_sha256`
    Keygen,
    /// Print the completions of a shell
    ///
    /// For bash: `ringbearer completions bash > ~/.local/share/bash-completion/completions/ringbearer`
    Completions(manual::CompletionsFlags),
    /// Print the manual page
    Man(manual::ManFlags),
    /// Run the stand-in for RingCentral alone, to test apps against
    Sandbox(sandbox::SandboxArgs),
}

#[derive(Debug, Args)]
struct CheckFlags {
    #[command(flatten)]
    configuration: ConfigurationFlags,
    /// Also get a token for each identity and make one request with it; exits with 1 if one fails
    ///
    /// Sessions are kept in the store, so that `serve` goes on with them.
    #[arg(long)]
    online: bool,
    /// Say who may send this request and by which rule; exits with 1 if somebody may not
    ///
    /// Method and target, as in "GET /restapi/v1.0/account/~/call-log".
    #[arg(long, value_name = "REQUEST", conflicts_with = "online")]
    explain: Option<String>,
    /// Explain it for this client only
    #[arg(long, value_name = "NAME", requires = "explain")]
    client: Option<String>,
    /// List the presets of policies with their rules, and no more
    #[arg(long, conflicts_with_all = ["online", "explain"])]
    presets: bool,
}

/// Where the configuration is, for commands that serve nobody.
#[derive(Debug, Args)]
struct SourceFlags {
    /// Configuration in TOML; see proxy.example.toml
    ///
    /// Without it the variables of RingCentral's sample apps make one application: `RC_APP_CLIENT_ID`,
    /// `RC_APP_CLIENT_SECRET` and, if not production, `RC_SERVER_URL`.
    #[arg(long, value_name = "FILE", env = "RINGBEARER_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    /// Use this server instead of `upstream.url`
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
}

impl SourceFlags {
    fn split(&self) -> (ConfigSource, Overrides) {
        let source = self.config.clone().map_or(ConfigSource::Environment, ConfigSource::File);
        (source, Overrides { upstream: self.upstream.clone(), ..Overrides::default() })
    }
}

/// Where the configuration is, and what the command line says instead.
#[derive(Debug, Args)]
struct ConfigurationFlags {
    /// Configuration in TOML; see proxy.example.toml
    ///
    /// Without it the variables of RingCentral's sample apps make one identity: `RC_APP_CLIENT_ID`,
    /// `RC_APP_CLIENT_SECRET`, `RC_USER_JWT` and, if not production, `RC_SERVER_URL`.
    #[arg(long, value_name = "FILE", env = "RINGBEARER_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    /// Listen here instead of `proxy.listen`, as in 127.0.0.1:8080 or `unix:/run/ringbearer.sock`;
    /// may be repeated
    #[arg(long, value_name = "ADDR", value_parser = place)]
    listen: Vec<Place>,
    /// Let other machines in: anyone who reaches the port acts as the identity
    #[arg(long)]
    allow_remote_clients: bool,
    /// Send requests here instead of to `upstream.url`
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Lines for people or for machines
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"])]
    log_format: Option<String>,
    /// What to log, as in "warn" or "info,ringbearer=debug"
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

impl Cli {
    /// Runs the command; `serve` if none was named.
    pub fn run(self, environment: Environment<'_>) -> Result<ExitCode, Failure> {
        let before = dumps::forbid();
        match self.command.unwrap_or(Command::Serve(self.serve)) {
            Command::Serve(flags) => {
                let (source, overrides) = flags.split();
                let (settings, warnings) = Settings::load(&source, overrides.clone(), environment)?;
                if settings.proxy.core_dumps {
                    before.restore();
                }
                serve::run(&settings, &warnings, &source, overrides, environment)?;
            }
            Command::Check(CheckFlags { presets: true, .. }) => {
                check::explain::presets(&mut io::stdout().lock()).map_err(Failure::Output)?;
            }
            Command::Check(CheckFlags { configuration, online, explain, client, .. }) => {
                let (source, overrides) = configuration.split();
                let (settings, warnings) = Settings::load(&source, overrides, environment)?;
                let mut out = io::stdout().lock();
                if let Some(request) = explain {
                    return check::explain::run(&settings, &request, client.as_deref(), &mut out);
                }
                check::run(&settings, &warnings, &mut out).map_err(Failure::Output)?;
                if online {
                    if settings.identities.is_empty() {
                        return Err(SettingsError::NoIdentity.into());
                    }
                    check::online::run(&settings, &mut out)?;
                }
            }
            Command::Login(flags) => login::run(&flags, environment)?,
            Command::Logout(flags) => logout::run(&flags, environment)?,
            Command::Export(flags) => transfer::export(flags, environment)?,
            Command::Import(flags) => transfer::import(&flags, environment)?,
            Command::Demo(flags) => demo::run(&flags)?,
            Command::Doctor(flags) => return doctor::run(flags, environment),
            Command::Run(flags) => return run::run(flags, environment, before),
            Command::Status(flags) => status::run(flags, environment)?,
            Command::Reload(flags) => reload::run(flags, environment)?,
            Command::Token(flags) => token::run(flags, environment)?,
            Command::Keygen => keygen::run(&mut io::stdout().lock())?,
            Command::Completions(flags) => manual::completions(&flags, &mut io::stdout().lock())?,
            Command::Man(flags) => manual::man(&flags, &mut io::stdout().lock())?,
            Command::Sandbox(args) => {
                serve::runtime()?.block_on(async {
                    let mut signals = serve::Signals::listen()?;
                    let until_asked = async move {
                        signals.end().await;
                    };
                    sandbox::run(args, until_asked).await.map_err(Failure::from)
                })?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl ConfigurationFlags {
    fn split(self) -> (ConfigSource, Overrides) {
        let source = self.config.map_or(ConfigSource::Environment, ConfigSource::File);
        let overrides = Overrides {
            listen: self.listen,
            allow_remote_clients: self.allow_remote_clients,
            upstream: self.upstream,
            log_format: self.log_format,
            log_filter: self.log,
        };
        (source, overrides)
    }
}

/// Where to listen; a path starts here, and not where the configuration is.
fn place(text: &str) -> Result<Place, String> {
    match text.parse() {
        Ok(Place::Unix(path)) => {
            std::path::absolute(path).map(Place::Unix).map_err(|error| error.to_string())
        }
        parsed => parsed.map_err(|error: NoPlace| error.to_string()),
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration is refused.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// What the command had to say could not be written.
    #[error("standard output cannot be written")]
    Output(#[source] io::Error),
    /// The proxy did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The sandbox did not start, or could not say that it did.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The demo has nowhere to keep its tokens.
    #[error("a temporary directory cannot be made: set TMPDIR to one with room")]
    TemporaryDirectory(#[source] io::Error),
    /// `check --online` found something wrong, and has said what.
    #[error("{failed} of {checked} identities cannot be used")]
    Online {
        /// How many have something wrong.
        failed: usize,
        /// How many there are.
        checked: usize,
    },
    /// Nobody is logged in or out.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// There is nothing to log out.
    #[error("there is no identity {identity:?}: neither configured nor in the store")]
    NobodyToLogOut {
        /// The name that was given.
        identity: String,
    },
    /// The store is empty.
    #[error("the store has neither a session nor an added identity: there is nothing to export")]
    NothingToExport,
    /// Something could not be collected.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// What was to be imported is no archive, or another key's.
    #[error(transparent)]
    Archived(#[from] ArchiveError),
    /// The archive cannot be written.
    #[error("the archive {path:?} cannot be written")]
    Archive {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `man --all` names no directory, or one that cannot be written.
    #[error("the manual page {path:?} cannot be written: name a directory that is there")]
    Manual {
        /// The page.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `--key-file` holds something else.
    #[error("--key-file {path:?} holds no key")]
    Key {
        /// The file.
        path: PathBuf,
        /// What a key is.
        source: SealError,
    },
    /// Some of the archive was left out, and it was said why.
    #[error("{refused} of {of} identities are not imported")]
    NotImported {
        /// How many were left out.
        refused: usize,
        /// How many the archive has.
        of: usize,
    },
    /// `status` has shown identities that need somebody.
    #[error("{} of {all} identities {} somebody: {}", needy.len(), if needy.len() == 1 { "needs" } else { "need" }, needy.join(", "))]
    Needy {
        /// Which.
        needy: Vec<String>,
        /// How many there are.
        all: usize,
    },
    /// `status --ready` has nowhere to ask.
    #[error(
        "there is no admin.listen with a port to ask at: set it, as in admin.listen = \"127.0.0.1:9090\""
    )]
    NobodyToAsk,
    /// `status --ready` met no proxy.
    #[error("no proxy answers at {url} (admin.listen)")]
    Silent {
        /// Where it asked.
        url: String,
    },
    /// `status --ready` was told no.
    #[error("the proxy is not ready: {reasons}")]
    Unready {
        /// What it said.
        reasons: String,
    },
    /// `token` was asked for a stranger's.
    #[error("there is no identity \"{name}\": `ringbearer status` lists them")]
    Stranger {
        /// The name.
        name: String,
    },
    /// `token` was not told whose.
    #[error("there are several identities: name one of {}", known.join(", "))]
    WhichIdentity {
        /// Those of the configuration.
        known: Vec<String>,
    },
    /// A running proxy has not read its configuration again.
    #[error(transparent)]
    Reload(#[from] ReloadError),
    /// No token was to be had.
    #[error("identity \"{identity}\" has no token")]
    NoToken {
        /// Whose.
        identity: String,
        /// Why not.
        #[source]
        why: Arc<TokenError>,
    },
    /// No token was to be had in time.
    #[error(
        "identity \"{identity}\" got no token within {} s: the budget of token requests may be used up; \
         try again in a minute", within.as_secs()
    )]
    Late {
        /// Whose.
        identity: String,
        /// The time there was.
        within: Duration,
    },
    /// The system gives no random numbers.
    #[error("the system has no random numbers to make a key of")]
    Randomness,
    /// The system gives no event queue.
    #[error("the runtime cannot be started")]
    Runtime(#[source] io::Error),
    /// The system gives no signals.
    #[error("signals cannot be listened for")]
    Signals(#[source] io::Error),
    /// `run --identity` names nobody.
    #[error("identity {name:?} is not configured: the names are {}", known.join(", "))]
    UnknownIdentity {
        /// Whom it names.
        name: String,
        /// Who there is.
        known: Vec<String>,
    },
    /// `check --client` names nobody.
    #[error("client {name:?} is not configured: the names are {}", known.join(", "))]
    UnknownClient {
        /// Whom it names.
        name: String,
        /// Who there is.
        known: Vec<String>,
    },
    /// `check --explain` was given something else.
    #[error("--explain needs method and target, as in \"GET /restapi/v1.0/account/~/call-log\"")]
    NoRequest,
    /// The command of `run` cannot be started.
    #[error("{command:?} cannot be run: check its name and PATH")]
    Command {
        /// Which.
        command: OsString,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The command of `run` cannot be waited for.
    #[error("the command's end cannot be waited for")]
    Wait(#[source] io::Error),
    /// A second signal came while draining.
    #[error("ended while requests were in progress, because it was asked for twice")]
    Cut,
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_)
            | Self::Key { .. }
            | Self::UnknownIdentity { .. }
            | Self::UnknownClient { .. }
            | Self::NoRequest => REFUSED,
            Self::Command { source, .. } => run::code_of(source),
            _ => FAILED,
        }
    }
}

/// Prints a failure with all its causes in one line, and gives its exit code.
pub fn report(failure: &Failure) -> ExitCode {
    complain(failure);
    ExitCode::from(failure.exit_code())
}

/// Prints the help that was asked for (0), or what is wrong with the command line (2).
pub fn show(help_or_usage: &clap::Error) -> ExitCode {
    // Who closed the output does not want it.
    let _ = help_or_usage.print();
    ExitCode::from(if help_or_usage.use_stderr() { REFUSED } else { 0 })
}

/// The secret in a file of the command line, `-` for standard input.
fn secret_file(
    flag: &'static str,
    path: &Path,
    environment: Environment<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<Secret, SettingsError> {
    let path = if path == Path::new("-") { Path::new("/dev/stdin") } else { path };
    let mut sources = Sources::new(environment, Path::new(""));
    let secret = sources.read(flag, &SecretSource::File(path.to_owned()))?;
    let readable = sources.into_world_readable().into_iter();
    warnings.extend(readable.map(|path| Warning::WorldReadable { path }));
    Ok(secret)
}

/// Where the settings want it to be noted what a command does.
fn audit(settings: &Settings) -> Result<AuditLog, Failure> {
    let log = AuditLog::open(settings.audit.as_ref(), &Clock::system());
    log.map_err(|error| StartError::from(error).into())
}

fn warn_of(warnings: &[Warning]) {
    for warning in warnings {
        // Nobody is left to tell if standard error is closed.
        let _ = writeln!(io::stderr(), "ringbearer: {warning}");
    }
}

fn complain(error: &(dyn Error + 'static)) {
    // Nobody is left to tell if standard error is closed.
    let _ = writeln!(io::stderr(), "ringbearer: {}", telemetry::chain(error));
}

/// Exit code of a command that failed while it ran.
const FAILED: u8 = 1;
/// Exit code for a command line or a configuration that is refused.
const REFUSED: u8 = 2;

/// What everybody with a token may ask for: themselves.
const EXTENSION: &str = "/restapi/v1.0/account/~/extension/~";

const LONG_ABOUT: &str = "\
A transparent authenticating reverse proxy for the RingCentral API.

Apps send plain requests to it; it adds the access token, renews it ahead of its end, and sends a
request again when RingCentral refused its token.";

const AFTER_HELP: &str = "\
Examples:
  ringbearer demo                                   see it work, without an account
  ringbearer --config proxy.toml                    run the proxy
  ringbearer check --config proxy.toml              what does this file mean, is it good?
  ringbearer check --config proxy.toml --online     … and does RingCentral agree?
  ringbearer --config proxy.toml --log debug        what is going on?
  ringbearer doctor --config proxy.toml             will this machine and its network do?
  ringbearer run --config proxy.toml -- python app.py
                                                    an app with a proxy of its own
  ringbearer status --config proxy.toml             how is every identity doing?
  ringbearer token sales --config proxy.toml        its access token, for a script
  ringbearer reload --config proxy.toml             take a changed configuration, lose nothing
  RC_APP_CLIENT_ID=… RC_APP_CLIENT_SECRET=… RC_USER_JWT=… ringbearer
                                                    run without a file
  ringbearer login sales --config proxy.toml        log a person in, in the browser
  ringbearer login sales --paste                    … without a browser on this machine
  ringbearer logout sales                           end that session
  ringbearer export sales --move --key-file key --output sales.archive
                                                    take it to another machine; there: import
  curl http://127.0.0.1:8080/restapi/v1.0/account/~ try it

Exit codes:
  0  done
  1  failed while running
  2  the command line or the configuration is refused; the message says how to cure it
  `doctor` has 1 for warnings, 2 for failures
  `run` gives the command's own, 127 if there is no such command, 126 if it cannot be run

Secrets come from files, the environment or systemd credentials, never from the command line.";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Cli {
        Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serve_is_the_default_and_takes_the_same_flags_either_way() {
        let flags = "--config a.toml --listen 127.0.0.1:1 --listen [::1]:2 --upstream https://x --log debug";
        let bare = parse(&format!("ringbearer {flags}"));
        assert!(bare.command.is_none());
        let Some(Command::Serve(named)) = parse(&format!("ringbearer serve {flags}")).command
        else {
            panic!("serve was named");
        };
        for flags in [bare.serve, named] {
            assert_eq!(flags.config.as_deref(), Some(Path::new("a.toml")));
            assert_eq!(flags.listen.len(), 2);
            assert_eq!(
                (flags.upstream.as_deref(), flags.log.as_deref()),
                (Some("https://x"), Some("debug"))
            );
        }
    }

    #[test]
    fn a_socket_on_the_command_line_starts_where_that_is_typed() {
        let listen = |place: &str| parse(&format!("ringbearer --listen {place}")).serve.listen;
        let here = std::env::current_dir().unwrap();
        assert_eq!(listen("unix:a.sock"), [Place::Unix(here.join("a.sock"))]);
        assert_eq!(listen("unix:/run/a.sock"), [Place::Unix("/run/a.sock".into())]);
        let refused = Cli::try_parse_from(["ringbearer", "--listen", "localhost:80"]).unwrap_err();
        let cure = "write an IP address and port such as 127.0.0.1:8080, or a socket such as \
                    unix:/run/ringbearer.sock";
        assert!(refused.to_string().contains(cure), "{refused}");
    }

    #[test]
    fn a_bad_command_line_is_told_from_help() {
        for (line, is_error) in [
            ("ringbearer --help", false),
            ("ringbearer --version", false),
            ("ringbearer --listen here", true),
            ("ringbearer --log-format xml", true),
            ("ringbearer --listen 127.0.0.1:1 check", true),
        ] {
            let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
            assert_eq!(error.use_stderr(), is_error, "{line}");
        }
    }

    #[test]
    fn no_flag_takes_a_secret_and_one_that_is_tried_is_not_repeated() {
        for flag in ["--jwt", "--client-secret", "--password", "--refresh-token"] {
            let error = Cli::try_parse_from(["ringbearer", &format!("{flag}=canary")]);
            let message = error.expect_err(flag).to_string();
            assert!(
                message.contains("unexpected argument") && !message.contains("canary"),
                "{message}"
            );
        }
    }

    #[test]
    fn a_refused_configuration_exits_with_2() {
        let failure = parse("ringbearer check --config /nonexistent").run(&|_| None).unwrap_err();
        assert_eq!(failure.exit_code(), REFUSED);
        assert_eq!(
            telemetry::chain(&failure),
            "configuration file \"/nonexistent\" is not readable: no such file or directory"
        );
    }
}
