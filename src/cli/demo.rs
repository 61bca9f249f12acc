//! `demo`: the sandbox and the proxy in one process, to see what the proxy does.
//!
//! The proxy is the real one, configured like any other. Only the clock of its tokens runs fast:
//! they live for seconds, so that renewals can be watched.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use clap::Args;
use tempfile::TempDir;

use super::{EXTENSION, Failure, serve};
use crate::clock::Clock;
use crate::sandbox::{Rules, Sandbox, SandboxOptions};
use crate::server::{ListenError, ServerError};
use crate::service::{Service, StartError};
use crate::settings::{ConfigSource, Overrides, Settings};
use crate::telemetry;

/// How the demo differs from what it is on its own.
#[derive(Debug, Args)]
pub(super) struct DemoFlags {
    /// Where the proxy listens [default: 127.0.0.1:8080, or any free port if that is taken]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// How long access tokens live, in whole seconds
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = whole_seconds)]
    access_token_ttl: Duration,
}

/// Runs both until it is asked to end.
pub(super) fn run(flags: &DemoFlags) -> Result<(), Failure> {
    serve::runtime()?.block_on(async {
        let files =
            TempDir::with_prefix("ringbearer-demo-").map_err(Failure::TemporaryDirectory)?;
        let sandbox = Sandbox::start(sandbox_options(flags.access_token_ttl)).await?;
        let mut settings = settings(flags.listen, &sandbox, files.path())?;
        telemetry::start(&settings.log);
        let service = match Service::start(&settings, &Clock::system()) {
            Err(error) if flags.listen.is_none() && is_port_in_use(&error) => {
                settings.proxy.listen = vec![ANY_PORT];
                Service::start(&settings, &Clock::system())?
            }
            result => result?,
        };
        introduce(&service, &sandbox, flags, &mut io::stdout().lock()).map_err(Failure::Output)?;
        serve::until_asked_to_end(service, || ()).await?;
        sandbox.stop().await;
        files.close().map_err(Failure::TemporaryDirectory)
    })
}

fn sandbox_options(access_token_ttl: Duration) -> SandboxOptions {
    let rules =
        Rules { access_token_ttl, access_token_ttl_min: access_token_ttl, ..Rules::unlimited() };
    SandboxOptions { control_listen: Some(ANY_PORT), rules, ..SandboxOptions::default() }
}

/// The state directory is the only thing that the settings take from the environment.
fn settings(
    listen: Option<SocketAddr>,
    sandbox: &Sandbox,
    files: &Path,
) -> Result<Settings, Failure> {
    let state = files.to_str().map(str::to_owned);
    let environment = |name: &str| state.clone().filter(|_| name == "XDG_STATE_HOME");
    let overrides = Overrides {
        listen: listen.into_iter().map(Into::into).collect(),
        // Whoever gets in finds a sandbox.
        allow_remote_clients: true,
        upstream: Some(sandbox.url()),
        ..Overrides::default()
    };
    // Its notification socket passes the proxy too.
    let socket = sandbox.url().replacen("http", "ws", 1);
    let text = format!("{CONFIGURATION}\n[host.ws]\nurl = \"{socket}\"\n");
    let source = ConfigSource::Text(text);
    Ok(Settings::load(&source, overrides, &environment)?.0)
}

fn is_port_in_use(error: &StartError) -> bool {
    matches!(error, StartError::Server(ServerError::Listen(ListenError::InUse(_))))
}

fn introduce(
    service: &Service,
    sandbox: &Sandbox,
    flags: &DemoFlags,
    to: &mut impl Write,
) -> io::Result<()> {
    let address = service.addresses()[0];
    let url = format!("http://{address}{EXTENSION}");
    let ttl = flags.access_token_ttl.as_secs();
    writeln!(to, "This is Ringbearer, and behind it a sandbox that plays RingCentral.")?;
    writeln!(to, "Nothing leaves this machine.\n")?;
    if flags.listen.is_none() && address.port() != DEFAULT_PORT {
        writeln!(to, "Port {DEFAULT_PORT} is taken, so the proxy has port {}.\n", address.port())?;
    }
    writeln!(to, "In another terminal, ask without any token; the proxy adds it:\n")?;
    writeln!(to, "  curl -s {url}\n")?;
    writeln!(to, "Tokens live {ttl} s here. Go on asking, and see them renewed below in time:\n")?;
    writeln!(to, "  while sleep 1; do curl -s -o /dev/null -w '%{{http_code}}\\n' {url}; done\n")?;
    if let Some(control) = sandbox.control_url() {
        writeln!(to, "End every token early; the next request is sent twice, and answered:\n")?;
        writeln!(to, "  curl -s -X POST {control}/revoke\n")?;
    }
    writeln!(to, "Ctrl-C ends the demo.\n")?;
    to.flush()
}

fn whole_seconds(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match duration {
        Duration::ZERO => Err("it must be at least 1s".to_owned()),
        duration if duration.subsec_nanos() > 0 => {
            Err("RingCentral counts whole seconds".to_owned())
        }
        duration => Ok(duration),
    }
}

const DEFAULT_PORT: u16 = 8080;
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The sandbox's own credentials, which are no secrets, and a budget that short lives fit in.
const CONFIGURATION: &str = "
[application.demo]
client_id = 'sandbox-client'
client_secret = 'sandbox-secret'
token_requests_per_minute = 1000
[identity.demo]
jwt = 'sandbox-jwt'
";
