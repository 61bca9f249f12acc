//! `login`: a person's session, or a JWT, into the store.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use humantime::format_duration;

use super::{Failure, SourceFlags, serve, warn_of};
use crate::audit::{self, AuditLog, SessionChange};
use crate::clock::{Clock, Timestamp};
use crate::login::callback::Listener;
use crate::login::registrar::{Opened, Registrar};
use crate::login::subject::{Subject, Wish, usual_name};
use crate::login::{LoginError, PATIENCE, browser};
use crate::oauth::authorization::Authorization;
use crate::oauth::grant::Grant;
use crate::secret::{Environment, Secret};
use crate::service::{self, StartError};
use crate::settings::{Credential, Settings};
use crate::store::Outline;
use crate::telemetry::chain;
use crate::token::budget::Class;

/// Who logs in, and how.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(super) struct LoginFlags {
    /// The identity: one with `login = true`, or a new one, which is added to the store
    ///
    /// May be left out where only one identity has `login = true`, or where none is configured.
    name: Option<String>,
    /// The application of a new identity, where there are several
    #[arg(long, value_name = "APP")]
    application: Option<String>,
    /// Paste the address that the browser shows after the login, where no browser reaches this machine
    #[arg(long, conflicts_with_all = ["device", "jwt_file", "no_browser"])]
    paste: bool,
    /// Show a code to enter in a browser elsewhere (RFC 8628)
    #[arg(long, conflicts_with_all = ["jwt_file", "no_browser"])]
    device: bool,
    /// Add an identity by the JWT in this file, `-` for standard input, instead of a person's login
    #[arg(long, value_name = "FILE", conflicts_with = "no_browser")]
    jwt_file: Option<PathBuf>,
    /// Only print the address, and wait for a browser on this machine to come back from it
    #[arg(long)]
    no_browser: bool,
    #[command(flatten)]
    source: SourceFlags,
}

/// How the session is come by.
enum Way {
    Browser { open: bool },
    Paste,
    Device,
    Jwt(Secret),
}

pub(super) fn run(flags: &LoginFlags, environment: Environment<'_>) -> Result<(), Failure> {
    let (source, overrides) = flags.source.split();
    let (settings, _) = Settings::load(&source, overrides, environment)?;
    let mut warnings = Vec::new();
    let jwt = match &flags.jwt_file {
        Some(path) => Some(super::secret_file("--jwt-file", path, environment, &mut warnings)?),
        None => None,
    };
    warn_of(&warnings);
    let is_terminal = io::stdin().is_terminal();
    let way = way(flags, jwt, is_terminal || browser::is_likely(environment))?;
    let name = match &flags.name {
        Some(name) => name,
        None => usual_name(&settings).map_err(LoginError::from)?,
    };
    let audit = super::audit(&settings)?;
    serve::runtime()?.block_on(async {
        let ceremony = Ceremony {
            registrar: &registrar(&settings)?,
            clock: Clock::system(),
            environment,
            application: flags.application.as_deref(),
            audit: &audit,
        };
        let held = ceremony.hold(&settings, name, way).await;
        audit.close();
        held
    })
}

/// What logins and logouts need of the settings. Wants to be called on a runtime.
pub(super) fn registrar(settings: &Settings) -> Result<Registrar, Failure> {
    let clock = Clock::system();
    let tls = service::tls(settings).map_err(StartError::from)?;
    let endpoint = service::endpoint(settings, &tls)?;
    Ok(Registrar::new(service::lasting_store(settings, &clock)?, endpoint, clock))
}

/// Nobody is waited for who cannot come.
fn way(flags: &LoginFlags, jwt: Option<Secret>, has_person: bool) -> Result<Way, LoginError> {
    match jwt {
        Some(jwt) => Ok(Way::Jwt(jwt)),
        None if flags.paste => Ok(Way::Paste),
        None if flags.device => Ok(Way::Device),
        None if flags.no_browser => Ok(Way::Browser { open: false }),
        None if has_person => Ok(Way::Browser { open: true }),
        None => Err(LoginError::Nobody),
    }
}

struct Ceremony<'a> {
    registrar: &'a Registrar,
    clock: Clock,
    environment: Environment<'a>,
    application: Option<&'a str>,
    audit: &'a AuditLog,
}

impl Ceremony<'_> {
    async fn hold(&self, settings: &Settings, name: &str, way: Way) -> Result<(), Failure> {
        let jwt = if let Way::Jwt(jwt) = &way { Some(jwt.clone()) } else { None };
        let wish = Wish { application: self.application, jwt };
        let known = self.registrar.known(name).await?;
        let subject = Subject::choose(settings, name, wish, known.as_ref());
        let subject = subject.map_err(LoginError::from)?;
        let opened = match way {
            Way::Browser { open } => self.by_browser(&subject, open).await?,
            Way::Paste => self.by_paste(&subject).await?,
            Way::Device => self.by_device(&subject).await?,
            Way::Jwt(_) => {
                let grant = Grant::Open(&subject.identity.credential);
                self.registrar.open(&subject, grant, Class::Waiting).await?
            }
        };
        self.note(name, &opened);
        self.welcome(&subject, &opened)?;
        self.end_replaced(&subject, &opened).await
    }

    fn note(&self, identity: &str, opened: &Opened) {
        let generation = Some(opened.session.generation.number());
        let change = SessionChange::Opened;
        let session = audit::Session { identity, change, grant: None, generation, by: "login" };
        self.audit.note(&audit::Event::Session(session));
    }

    async fn by_browser(&self, subject: &Subject, open: bool) -> Result<Opened, Failure> {
        let redirect_uri = &subject.identity.application.redirect_uri;
        let listener = Listener::bind(redirect_uri).await?;
        self.registrar.prepare(subject).await?;
        let login = Authorization::begin(redirect_uri);
        let url = login.url(&subject.identity);
        let opened = open && browser::open(&url, self.environment);
        let how = if opened { "in the browser that opens" } else { "in a browser on this machine" };
        say(&format!(
            "Log in to RingCentral {how}; the address is\n\n  {url}\n\nIt comes back to {redirect_uri}, \
             within {}. (No browser here? Ctrl-C, and run it with --paste.)",
            format_duration(PATIENCE)
        ))?;
        let code = listener.wait(&login, &self.clock, PATIENCE).await?;
        self.exchange(subject, &login, code).await
    }

    async fn by_paste(&self, subject: &Subject) -> Result<Opened, Failure> {
        let redirect_uri = &subject.identity.application.redirect_uri;
        self.registrar.prepare(subject).await?;
        let login = Authorization::begin(redirect_uri);
        say(&format!(
            "Log in to RingCentral in any browser; the address is\n\n  {}\n\nThe browser ends at an \
             address that begins with {redirect_uri}, and may show an error there.\nPaste that address, \
             whole, within a minute:",
            login.url(&subject.identity)
        ))?;
        let pasted = line().map_err(LoginError::Input)?;
        let code = login.read_pasted(pasted.expose()).map_err(LoginError::from)?;
        self.exchange(subject, &login, code).await
    }

    async fn exchange(
        &self,
        subject: &Subject,
        login: &Authorization,
        code: Secret,
    ) -> Result<Opened, Failure> {
        let credential = login.credential(code);
        let grant = Grant::Open(&credential);
        Ok(self.registrar.open(subject, grant, Class::Waiting).await?)
    }

    async fn by_device(&self, subject: &Subject) -> Result<Opened, Failure> {
        let codes = self.registrar.begin_device(subject).await?;
        let complete = match &codes.verification_uri_complete {
            Some(uri) => format!("\n\nor open {uri}"),
            None => String::new(),
        };
        say(&format!(
            "In a browser on any machine open\n\n  {}\n\nand enter the code\n\n  {}{complete}\n\nIt is \
             good for {}.",
            codes.verification_uri,
            codes.user_code,
            span(self.clock.now(), codes.expires_at)
        ))?;
        Ok(self.registrar.await_device(subject, &codes).await?)
    }

    fn welcome(&self, subject: &Subject, opened: &Opened) -> Result<(), Failure> {
        let identity = &subject.identity;
        let whose = match &opened.owner_id {
            Some(owner) => format!(" as extension {}", owner.escape_debug()),
            None => String::new(),
        };
        let added = if subject.enrolment.is_some() { ", and is kept in the store" } else { "" };
        say(&format!(
            "{} is logged in to {}{whose}{added}. {}\nA running proxy with this store uses it at once; \
             requests name it in the field X-Ringbearer-Identity: {}",
            identity.name,
            identity.application.name,
            prospects(&opened.session, &identity.credential, self.clock.now()),
            identity.name
        ))
    }

    async fn end_replaced(&self, subject: &Subject, opened: &Opened) -> Result<(), Failure> {
        let Some(replaced) = &opened.replaced else { return Ok(()) };
        let application = &subject.identity.application;
        match self.registrar.revoke(application, replaced).await {
            Ok(()) => say("The session before it is ended."),
            Err(error) => say(&format!(
                "The session before it is not ended at RingCentral, and ends by itself: {}",
                chain(&error)
            )),
        }
    }
}

/// What is to be expected of a session.
fn prospects(session: &Outline, credential: &Credential, now: Timestamp) -> String {
    let life = span(now, session.expires_at);
    match (credential, session.has_refresh, session.refresh_expires_at) {
        (Credential::Jwt(_), ..) => {
            format!("Its token lives for {life}; its JWT gets the next one any time.")
        }
        (_, true, Some(end)) => format!(
            "It is renewed from now on; unused and without a running proxy it ends in {}.",
            span(now, end)
        ),
        (_, true, None) => "It is renewed from now on.".to_owned(),
        (_, false, _) => format!(
            "It ends in {life} and CANNOT BE RENEWED: let the app issue refresh tokens, in the \
             RingCentral developer console."
        ),
    }
}

/// A length of time in whole seconds.
fn span(from: Timestamp, to: Timestamp) -> String {
    format_duration(Duration::from_secs(from.until(to).as_secs())).to_string()
}

pub(super) fn say(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(Failure::Output)
}

/// A line of standard input; of what is no line, as much as could be an address.
fn line() -> io::Result<Secret> {
    let mut text = zeroize::Zeroizing::new(Vec::new());
    io::Read::take(io::stdin().lock(), MOST_PASTED_BYTES).read_until(b'\n', &mut text)?;
    Ok(Secret::new(String::from_utf8_lossy(&text)))
}

const MOST_PASTED_BYTES: u64 = 16 * 1024;

const AFTER_HELP: &str = "\
Examples:
  ringbearer login --config proxy.toml            the identity with `login = true`, in the browser
  ringbearer login sales --config proxy.toml      add identity sales, without any [identity.sales]
  ringbearer login sales --paste                  on a machine without a browser
  ringbearer login bot --jwt-file /run/secrets/jwt
                                                  add identity bot, by its JWT

The app needs the redirect URI http://127.0.0.1:8765/callback (or its redirect_uri) in the RingCentral
developer console, letter by letter, and the grant that is used.";

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::token::Generation;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: LoginFlags,
    }

    fn chosen(line: &str, jwt: bool, has_person: bool) -> String {
        let flags = Line::try_parse_from(line.split(' ')).unwrap().flags;
        match way(&flags, jwt.then(|| Secret::new("j")), has_person) {
            Ok(Way::Browser { open }) => format!("browser {open}"),
            Ok(Way::Paste) => "paste".to_owned(),
            Ok(Way::Device) => "device".to_owned(),
            Ok(Way::Jwt(_)) => "jwt".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn nobody_is_waited_for_who_cannot_come() {
        assert_eq!(chosen("login", false, true), "browser true");
        assert_eq!(
            chosen("login", false, false),
            "there is neither a terminal nor a browser here: say how with --paste, --device, \
             --jwt-file or --no-browser"
        );
        assert_eq!(chosen("login --no-browser", false, false), "browser false");
        assert_eq!(chosen("login --paste", false, false), "paste");
        assert_eq!(chosen("login --device", false, false), "device");
        assert_eq!(chosen("login --jwt-file j", true, false), "jwt");
    }

    #[test]
    fn the_ways_exclude_each_other() {
        for line in ["--paste --device", "--paste --jwt-file j", "--device --no-browser"] {
            let line = format!("login {line}");
            let error = Line::try_parse_from(line.split(' ')).expect_err(&line);
            assert_eq!(error.kind(), clap::error::ErrorKind::ArgumentConflict, "{line}");
        }
    }

    #[test]
    fn a_session_that_cannot_be_renewed_is_announced_as_such() {
        let now = Timestamp::from_unix_millis(1_700_000_000_000);
        let mut session = Outline {
            generation: Generation::new(1),
            issued_at: now,
            expires_at: now + Duration::from_secs(3600),
            has_refresh: true,
            refresh_expires_at: Some(now + Duration::from_secs(604_800)),
        };
        assert_eq!(
            prospects(&session, &Credential::Login, now),
            "It is renewed from now on; unused and without a running proxy it ends in 7days."
        );
        session.has_refresh = false;
        assert_eq!(
            prospects(&session, &Credential::Login, now),
            "It ends in 1h and CANNOT BE RENEWED: let the app issue refresh tokens, in the RingCentral \
             developer console."
        );
    }
}
