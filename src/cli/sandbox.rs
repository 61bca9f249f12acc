//! `ringbearer sandbox`: the stand-in for RingCentral, for a terminal of its own.

use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::EXTENSION;
use crate::clock::{Clock, Timestamp};
use crate::sandbox::{Application, Rules, Sandbox, SandboxError, SandboxOptions, User};

/// Options of the sandbox command.
#[derive(Args, Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(super) struct SandboxArgs {
    /// Where plain HTTP is served
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8081")]
    listen: SocketAddr,
    /// Where HTTPS is served, with a certificate of the sandbox's own authority
    #[arg(long, value_name = "ADDR")]
    tls_listen: Option<SocketAddr>,
    /// Where the authority's certificate is written, for clients of the HTTPS listener
    #[arg(long, value_name = "FILE", requires = "tls_listen")]
    ca_file: Option<PathBuf>,
    /// Where the control surface is served
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8082")]
    control: SocketAddr,
    /// The origin that links lead to, instead of the one that the caller used
    #[arg(long, value_name = "URL")]
    public_base: Option<String>,
    /// How long access tokens live [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    access_token_ttl: Option<Duration>,
    /// How long refresh tokens live [default: 7days]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    refresh_token_ttl: Option<Duration>,
    /// Limit neither API nor token requests
    #[arg(long)]
    no_rate_limits: bool,
    /// End a session when one of its refresh tokens comes a second time
    #[arg(long)]
    strict_rotation: bool,
    /// Let the old access token live on after a refresh
    #[arg(long)]
    old_access_token_lives: bool,
    /// Keep RingCentral's own hosts in links
    #[arg(long)]
    ringcentral_links: bool,
    /// Ask the user on a page before a login is granted
    #[arg(long)]
    consent_page: bool,
    /// Stand still in time, except when the control surface moves the clock
    #[arg(long)]
    manual_clock: bool,
}

impl SandboxArgs {
    /// The options that these arguments mean.
    fn options(&self) -> SandboxOptions {
        SandboxOptions {
            clock: self.clock(),
            listen: self.listen,
            tls_listen: self.tls_listen,
            control_listen: Some(self.control),
            rules: self.rules(),
            public_base: self.public_base.clone(),
        }
    }

    fn clock(&self) -> Clock {
        if self.manual_clock { Clock::manual(now()) } else { Clock::system() }
    }

    fn rules(&self) -> Rules {
        let rules = if self.no_rate_limits { Rules::unlimited() } else { Rules::default() };
        let access_token_ttl = self.access_token_ttl.unwrap_or(rules.access_token_ttl);
        Rules {
            access_token_ttl,
            access_token_ttl_min: rules.access_token_ttl_min.min(access_token_ttl),
            refresh_token_ttl: self.refresh_token_ttl.unwrap_or(rules.refresh_token_ttl),
            strict_rotation: self.strict_rotation,
            old_access_token_lives: self.old_access_token_lives,
            own_links: !self.ringcentral_links,
            consent_page: self.consent_page,
            ..rules
        }
    }
}

/// Serves until `shutdown` is done.
pub(super) async fn run(
    args: SandboxArgs,
    shutdown: impl Future<Output = ()>,
) -> Result<(), SandboxError> {
    let sandbox = Sandbox::start(args.options()).await?;
    if let (Some(file), Some(pem)) = (&args.ca_file, sandbox.ca_pem()) {
        let failed = |source| SandboxError::CaFile { file: file.clone(), source };
        std::fs::write(file, pem).map_err(failed)?;
    }
    introduce(&sandbox, &mut io::stdout().lock()).map_err(SandboxError::Print)?;
    shutdown.await;
    sandbox.stop().await;
    Ok(())
}

/// Tells where the sandbox is, what opens it, and how to try it.
fn introduce(sandbox: &Sandbox, to: &mut impl Write) -> io::Result<()> {
    let (rules, url) = (sandbox.control().rules(), sandbox.url());
    writeln!(to, "This sandbox plays RingCentral. What RingCentral's sample apps need to use it:")?;
    writeln!(to, "RC_SERVER_URL={url}")?;
    let (app, user) = (Application::demo(), User::demo());
    let (id, secret) = (app.client_id, app.client_secret.unwrap_or_default());
    let jwt = user.jwt.unwrap_or_default();
    writeln!(to, "RC_APP_CLIENT_ID={id}\nRC_APP_CLIENT_SECRET={secret}\nRC_USER_JWT={jwt}\n")?;
    writeln!(to, "more users: the JWTs sandbox-jwt-1, sandbox-jwt-2, …")?;
    for user in &rules.users {
        let extension = user.extension.as_deref().unwrap_or_default();
        writeln!(to, "password login: {} ext {extension} {}", user.username, user.password)?;
    }
    for public in rules.applications.iter().filter(|app| app.client_secret.is_none()) {
        writeln!(to, "client id without secret, for PKCE: {}", public.client_id)?;
    }
    if let Some(url) = sandbox.tls_url() {
        writeln!(to, "HTTPS: {url}")?;
    }
    if let Some(url) = sandbox.control_url() {
        writeln!(to, "control: {url}/")?;
    }
    writeln!(to, "\nTry it: a token, then a request with it")?;
    writeln!(
        to,
        "  TOKEN=$(curl -s -u {id}:{secret} -d grant_type={JWT_BEARER} -d assertion={jwt} \
         {url}/restapi/oauth/token | sed 's/.*\"access_token\": *\"\\([^\"]*\\).*/\\1/')"
    )?;
    writeln!(to, "  curl -s -H \"Authorization: Bearer $TOKEN\" {url}{EXTENSION}")?;
    writeln!(to, "\nCtrl-C ends it.")
}

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

fn now() -> Timestamp {
    Clock::system().now()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: SandboxArgs,
    }

    fn options(line: &str) -> SandboxOptions {
        Line::parse_from(line.split(' ')).args.options()
    }

    #[test]
    fn without_flags_it_is_ringcentral_on_loopback() {
        let options = options("sandbox");
        assert_eq!(options.rules, Rules::default());
        assert_eq!(options.listen.to_string(), "127.0.0.1:8081");
        assert_eq!(options.control_listen.unwrap().to_string(), "127.0.0.1:8082");
        assert!(!options.clock.is_manual());
    }

    #[test]
    fn every_flag_reaches_its_rule() {
        let rules = options(
            "sandbox --access-token-ttl 20s --refresh-token-ttl 1h --no-rate-limits \
             --strict-rotation --old-access-token-lives --ringcentral-links --consent-page",
        )
        .rules;
        let expected = Rules {
            access_token_ttl: Duration::from_secs(20),
            access_token_ttl_min: Duration::from_secs(20),
            refresh_token_ttl: Duration::from_secs(3600),
            strict_rotation: true,
            old_access_token_lives: true,
            own_links: false,
            consent_page: true,
            ..Rules::unlimited()
        };
        assert_eq!(rules, expected);
    }

    #[tokio::test]
    async fn it_says_where_it_is_and_what_opens_it() {
        let args = options("sandbox --listen 127.0.0.1:0 --control 127.0.0.1:0");
        let sandbox = Sandbox::start(args).await.unwrap();
        let mut text = Vec::new();
        introduce(&sandbox, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        for line in [
            &format!("RC_SERVER_URL={}", sandbox.url()),
            "RC_APP_CLIENT_ID=sandbox-client",
            "RC_APP_CLIENT_SECRET=sandbox-secret",
            "RC_USER_JWT=sandbox-jwt",
            &format!("control: {}/", sandbox.control_url().unwrap()),
        ] {
            assert!(text.lines().any(|said| said == line), "{line} in {text}");
        }
    }
}
