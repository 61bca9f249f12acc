//! `status`: every identity in a line, from the store, and from a running proxy where one answers.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{ConfigurationFlags, Failure, serve};
use crate::clock::{Clock, Timestamp};
use crate::oauth::endpoint::http_client;
use crate::secret::Environment;
use crate::service::{self, StartError};
use crate::settings::{AdminSettings, ApplicationSettings, Settings};
use crate::token::roster::{self, Line, Range};
use crate::upstream::{Trust, client_config};

mod ready;
mod table;

/// A proxy that runs answers at once; one that does not is no reason to wait.
const PATIENCE: Duration = Duration::from_secs(2);

/// How to show it.
#[derive(Debug, Args)]
pub(super) struct StatusFlags {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Ask only a running proxy, at `admin.listen`, whether it should get requests; exits with 1 if
    /// not: for health checks
    #[arg(long, conflicts_with = "json")]
    ready: bool,
    #[command(flatten)]
    configuration: ConfigurationFlags,
}

/// What there is to show.
#[derive(Debug, Serialize)]
struct Report {
    identities: Vec<Line>,
    applications: Vec<Budget>,
    /// Whether a running proxy has told what it knows.
    live: bool,
    /// Where nobody answered, though the configuration says that somebody should.
    silent: Option<String>,
}

/// What is left of an application's token requests.
#[derive(Debug, Serialize)]
struct Budget {
    name: String,
    left: usize,
    limit: usize,
}

/// Shows it, and fails if an identity needs somebody.
pub(super) fn run(flags: StatusFlags, environment: Environment<'_>) -> Result<(), Failure> {
    let (source, overrides) = flags.configuration.split();
    let (settings, _) = Settings::load(&source, overrides, environment)?;
    if flags.ready {
        let (admin, mut out) = (settings.admin.as_ref(), io::stdout().lock());
        return serve::runtime()?.block_on(ready::ask(admin, &mut out));
    }
    let clock = Clock::system();
    let report = serve::runtime()?.block_on(report(&settings, &clock))?;
    match show(&report, flags.json, clock.now(), &mut io::stdout().lock()) {
        // Who has seen enough has seen it.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(Failure::Output(error));
        }
        _ => {}
    }
    report.verdict()
}

async fn report(settings: &Settings, clock: &Clock) -> Result<Report, Failure> {
    let store = service::store(settings, clock)?;
    let applications = applications(settings);
    let found = roster::page(&*store, &settings.identities, &applications, &Range::ALL).await;
    let (known, _) = found.map_err(StartError::from)?;
    let mut identities: Vec<_> =
        known.iter().map(|known| Line::of(known, None, clock.now())).collect();
    let mut budgets = Vec::new();
    for application in &applications {
        let ledger = store.ledger(&application.client_id).await;
        let (ledger, now) = ledger.map_err(StartError::from)?;
        let limit = application.token_requests_per_minute.get() as usize;
        let (name, left) = (application.name.clone(), ledger.left(limit, now));
        budgets.push(Budget { name, left, limit });
    }
    let (mut live, mut silent) = (false, None);
    if let Some(url) = settings.admin.as_ref().and_then(address) {
        match ask(&url).await {
            Some(lines) => {
                merge(&mut identities, lines);
                live = true;
            }
            None => silent = Some(url),
        }
    }
    Ok(Report { identities, applications: budgets, live, silent })
}

fn applications(settings: &Settings) -> Vec<Arc<ApplicationSettings>> {
    let mut applications: Vec<Arc<ApplicationSettings>> = Vec::new();
    for identity in &settings.identities {
        if !applications.iter().any(|known| known.client_id == identity.application.client_id) {
            applications.push(Arc::clone(&identity.application));
        }
    }
    applications
}

/// Where a proxy with this configuration is asked; nowhere if the system chose the port.
fn address(admin: &AdminSettings) -> Option<String> {
    let address = admin.listen.iter().find(|address| address.port() != 0)?;
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Some(format!("http://{}", SocketAddr::new(ip, address.port())))
}

/// What a running proxy knows; `None` if none answers, or something else does.
async fn ask(url: &str) -> Option<Vec<Line>> {
    #[derive(Deserialize)]
    struct Page {
        identities: Vec<Line>,
        next: Option<String>,
    }
    let http = http_client(client_config(&Trust::Nobody).ok()?, None, PATIENCE).ok()?;
    let (mut lines, mut after) = (Vec::new(), String::new());
    loop {
        let from = if after.is_empty() { String::new() } else { format!("&after={after}") };
        let request = http.get(format!("{url}/identities?limit=1000{from}"));
        let answer = request.send().await.ok()?.error_for_status().ok()?;
        let page: Page = serde_json::from_slice(&answer.bytes().await.ok()?).ok()?;
        lines.extend(page.identities);
        match page.next {
            Some(next) if next > after => after = next,
            _ => return Some(lines),
        }
    }
}

/// A proxy's line has everything that ours has; which identities there are, the store says.
fn merge(lines: &mut [Line], live: Vec<Line>) {
    for theirs in live {
        if let Some(ours) = lines.iter_mut().find(|ours| ours.name == theirs.name) {
            *ours = theirs;
        }
    }
}

fn show(report: &Report, json: bool, now: Timestamp, out: &mut impl Write) -> io::Result<()> {
    if json {
        serde_json::to_writer_pretty(&mut *out, report)?;
        writeln!(out)?;
    } else {
        table::write(report, now, out)?;
    }
    out.flush()
}

impl Report {
    fn verdict(&self) -> Result<(), Failure> {
        let needy = self.identities.iter().filter(|line| line.needs_somebody());
        let needy: Vec<_> = needy.map(|line| line.name.clone()).collect();
        match needy.len() {
            0 => Ok(()),
            _ => Err(Failure::Needy { needy, all: self.identities.len() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_everywhere_is_asked_here() {
        let at = |listen: &[&str]| {
            let listen = listen.iter().map(|it| it.parse().unwrap()).collect();
            let sockets = Vec::new();
            address(&AdminSettings { listen, sockets, key: None, hosts: Vec::new() })
        };
        assert_eq!(at(&["127.0.0.1:9090"]).as_deref(), Some("http://127.0.0.1:9090"));
        assert_eq!(at(&["0.0.0.0:9090"]).as_deref(), Some("http://127.0.0.1:9090"));
        assert_eq!(at(&["[::]:9090"]).as_deref(), Some("http://[::1]:9090"));
        assert_eq!(at(&["127.0.0.1:0", "[::1]:9091"]).as_deref(), Some("http://[::1]:9091"));
        assert_eq!(at(&["127.0.0.1:0"]), None);
    }
}
