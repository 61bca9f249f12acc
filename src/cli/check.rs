//! `check`: say what the configuration means. Masks and names only, no secret.

use std::io::{self, Write};

use humantime::format_duration;

use crate::policy::Policy;
use crate::settings::{
    AdminSettings, ApplicationSettings, ClientSettings, Credential, FacadeSettings, HostNames,
    IdentitySettings, LogFormat, LogSettings, PeerSettings, ProxySettings, Settings, StoreSettings,
    UpstreamSettings, Warning,
};

pub(super) mod explain;
pub(super) mod online;

/// Prints the summary and the warnings to `out`. A reader that has enough (`| head`) is no failure.
pub(super) fn run(
    settings: &Settings,
    warnings: &[Warning],
    out: &mut impl Write,
) -> io::Result<()> {
    match summary(settings, warnings, out).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

fn summary(settings: &Settings, warnings: &[Warning], out: &mut impl Write) -> io::Result<()> {
    proxy(&settings.proxy, out)?;
    upstream(&settings.upstream, out)?;
    for used in &settings.applications {
        application(used, out)?;
    }
    for identity in &settings.identities {
        writeln!(out, "identity     {}", described(identity))?;
        chosen_by(identity, out)?;
    }
    for client in &settings.clients {
        let ClientSettings { name, identities, .. } = client;
        let links = if client.rewrite_links { "" } else { ", links are left alone" };
        writeln!(out, "client       {name}: may call as {identities}{links}")?;
        writeln!(out, "             is known by {}", ways_in(client))?;
        if let Some(policy) = &client.policy {
            writeln!(out, "             its requests are judged: {}", rules(policy))?;
        }
    }
    if let Some(policy) = &settings.policy {
        writeln!(out, "policy       everybody's requests are judged: {}", rules(policy))?;
    }
    facade(&settings.facade, out)?;
    let files = matches!(settings.store, StoreSettings::File { .. });
    writeln!(out, "store        {}{}", if files { "files in " } else { "" }, settings.store)?;
    if let Some(admin) = &settings.admin {
        operated(admin, out)?;
    }
    if let Some(audit) = &settings.audit {
        writeln!(out, "audit        lines are appended to {}", audit.file.display())?;
    }
    log(&settings.log, out)?;
    for warning in warnings {
        writeln!(out, "warning      {warning}")?;
    }
    writeln!(out, "The configuration is good.")
}

fn rules(policy: &Policy) -> String {
    let (allowing, denying) = policy.counts();
    let rules = |count| format!("{count} rule{}", if count == 1 { "" } else { "s" });
    match (allowing, denying) {
        (0, denying) => format!("{} to deny", rules(denying)),
        (allowing, 0) => format!("{} to allow", rules(allowing)),
        (allowing, denying) => format!("{} to allow, {} to deny", rules(allowing), rules(denying)),
    }
}

fn proxy(proxy: &ProxySettings, out: &mut impl Write) -> io::Result<()> {
    let scheme = if proxy.tls.is_some() { "https" } else { "http" };
    for address in &proxy.listen {
        writeln!(out, "listen       {scheme}://{address}")?;
    }
    for socket in &proxy.sockets {
        write!(out, "listen       unix:{}, mode {:04o}", socket.path.display(), socket.mode)?;
        if let Some(group) = socket.group {
            write!(out, ", group {group}")?;
        }
        if let Some(identity) = &socket.identity {
            write!(out, ", all that comes in is {identity}'s")?;
        }
        writeln!(out)?;
    }
    if let Some(ca) = proxy.tls.as_ref().and_then(|tls| tls.client_ca.as_ref()) {
        let demand = if ca.is_required { "have to show" } else { "may show" };
        let file = ca.file.display();
        writeln!(out, "             clients {demand} a certificate that {file} has signed")?;
    }
    for origin in &proxy.cors_origins {
        writeln!(out, "             pages of {origin} may call")?;
    }
    if let HostNames::AndThese(hosts) = &proxy.hosts {
        writeln!(out, "             may be called {} as well", hosts.join(", "))?;
    }
    let workers = proxy.workers;
    let wait = format_duration(proxy.token_wait);
    writeln!(out, "             {workers} workers, a request waits up to {wait} for a token")
}

fn upstream(upstream: &UpstreamSettings, out: &mut impl Write) -> io::Result<()> {
    let protocol = if upstream.http2 { "HTTP/2 if offered" } else { "HTTP/1.1" };
    write!(out, "upstream     {}, {protocol}", upstream.origin)?;
    if let Some(proxy) = &upstream.http_proxy {
        write!(out, ", by way of {proxy}")?;
    }
    if let Some(file) = &upstream.ca_file {
        write!(out, ", trusting {}", file.display())?;
    }
    if let Some(own) = &upstream.client_certificate {
        write!(out, ", showing {}", own.certificate_file.display())?;
    }
    writeln!(out)
}

fn application(application: &ApplicationSettings, out: &mut impl Write) -> io::Result<()> {
    let ApplicationSettings { name, client_id, token_url, token_requests_per_minute, .. } =
        application;
    let secret = if application.client_secret.is_some() { "with" } else { "without" };
    writeln!(out, "application  {name}: client id {client_id:?} {secret} secret")?;
    writeln!(out, "             {token_requests_per_minute} token requests a minute to {token_url}")
}

fn described(identity: &IdentitySettings) -> String {
    let credential = match &identity.credential {
        Credential::Jwt(_) => "a JWT".to_owned(),
        Credential::RefreshToken(_) => "a refresh token, good once".to_owned(),
        Credential::AuthorizationCode { .. } => "an authorization code, good once".to_owned(),
        Credential::Password { username, .. } => format!("the password of {username:?}"),
        Credential::ClientCredentials => "client credentials".to_owned(),
        Credential::Login => "the session of `ringbearer login`".to_owned(),
    };
    let fallback = match &identity.fallback {
        Some(Credential::Jwt(_)) => ", then with a JWT when that session is lost",
        _ => "",
    };
    let IdentitySettings { name, application, .. } = identity;
    format!("{name}: logs in to {} with {credential}{fallback}", application.name)
}

/// What else than `X-Ringbearer-Identity` leads to this identity.
fn chosen_by(identity: &IdentitySettings, out: &mut impl Write) -> io::Result<()> {
    for address in &identity.listen {
        writeln!(out, "             all that comes in by {address} is its")?;
    }
    for host in &identity.hosts {
        writeln!(out, "             requests for the host {host} are its")?;
    }
    Ok(())
}

/// Each of which is enough.
fn ways_in(client: &ClientSettings) -> String {
    fn list<T: ToString>(all: &[T]) -> String {
        all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
    let PeerSettings { subjects, users, groups, networks } = &client.peers;
    let keys = match client.keys.len() {
        0 => String::new(),
        1 => "its key".to_owned(),
        several => format!("{several} keys"),
    };
    let named = |what: &str, all: String| {
        if all.is_empty() { all } else { format!("{what} {all}") }
    };
    let ways = [
        keys,
        named("a certificate of", list(subjects)),
        named("uid", list(users)),
        named("gid", list(groups)),
        named("network", list(networks)),
    ];
    ways.into_iter().filter(|way| !way.is_empty()).collect::<Vec<_>>().join("; or ")
}

fn facade(facade: &FacadeSettings, out: &mut impl Write) -> io::Result<()> {
    if !facade.answers {
        return writeln!(out, "logins       are refused");
    }
    let access = format_duration(facade.access_token_ttl);
    let refresh = format_duration(facade.refresh_token_ttl);
    let key =
        if facade.keys.is_empty() { "a key kept in the store" } else { "the configured keys" };
    writeln!(
        out,
        "logins       are answered here: tokens live {access}, refresh tokens {refresh}"
    )?;
    writeln!(out, "             sealed with {key}")?;
    for uri in &facade.redirect_uris {
        writeln!(out, "             a browser may be sent to {uri}")?;
    }
    Ok(())
}

fn operated(admin: &AdminSettings, out: &mut impl Write) -> io::Result<()> {
    let changes = match admin.key {
        Some(_) => "changes with the key",
        None => "no changes: there is no admin.key_sha256",
    };
    for address in &admin.listen {
        writeln!(out, "admin        http://{address}, {changes}")?;
    }
    for socket in &admin.sockets {
        writeln!(out, "admin        unix:{}, {changes}", socket.path.display())?;
    }
    Ok(())
}

fn log(log: &LogSettings, out: &mut impl Write) -> io::Result<()> {
    let format = match log.format {
        LogFormat::Text => "text",
        LogFormat::Json => "JSON",
    };
    let requests = if log.requests { "a line for each request" } else { "no lines for requests" };
    writeln!(out, "log          {format}, filter {:?}, {requests}", log.filter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{ConfigSource, Overrides};

    fn settings() -> (Settings, Vec<Warning>) {
        let toml = "[proxy]\nlisten = ['127.0.0.1:8080', '0.0.0.0:80']\nallow_remote_clients = true\nworkers = 2\n\
             hosts = ['rc.test', 'a.test:81']\ncors_origins = 'https://app.test'\n\
             [application.crm]\nclient_id = 'id'\nclient_secret = 'canary'\n\
             [identity.bot]\nclient_credentials = true\n[identity.sales]\njwt = 'canary'\nhosts = 'Sales.test'\n\
             listen = '127.0.0.1:8081'\n[client.bill]\nidentities = ['sales', 'bot']\n\
             key_sha256 = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'\nrewrite_links = false\npreset = 'read-only'\ndeny = 'Heavy'\n\
             [policy]\ndeny = ['DELETE *', 'DELETE /restapi/v1.0/acount/**']\n\
             [identity.support]\njwt = 'canary'\nrefresh_token = 'canary'\n\
             [store]\ndirectory = '/var/lib/ringbearer'\n[admin]\nlisten = '127.0.0.1:9090'";
        let source = ConfigSource::Text(toml.to_owned());
        Settings::load(&source, Overrides::default(), &|_| None).unwrap()
    }

    #[test]
    fn the_summary_says_what_serve_would_do_without_the_secrets() {
        let (settings, warnings) = settings();
        let mut out = Vec::new();
        run(&settings, &warnings, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\
listen       http://127.0.0.1:8080
listen       http://0.0.0.0:80
             pages of https://app.test may call
             may be called rc.test, a.test:81 as well
             2 workers, a request waits up to 15s for a token
upstream     https://platform.ringcentral.com, HTTP/1.1
application  crm: client id \"id\" with secret
             5 token requests a minute to https://platform.ringcentral.com/restapi/oauth/token
identity     bot: logs in to crm with client credentials
identity     sales: logs in to crm with a JWT
             all that comes in by 127.0.0.1:8081 is its
             requests for the host sales.test are its
identity     support: logs in to crm with a refresh token, good once, then with a JWT when that session is lost
client       bill: may call as sales, bot, links are left alone
             is known by its key
             its requests are judged: 9 rules to allow, 1 rule to deny
policy       everybody's requests are judged: 2 rules to deny
logins       are answered here: tokens live 1day, refresh tokens 7days
             sealed with a key kept in the store
store        files in /var/lib/ringbearer
admin        http://127.0.0.1:9090, no changes: there is no admin.key_sha256
log          text, filter \"info\", a line for each request
warning      0.0.0.0:80 speaks plain HTTP to other machines, so that client keys and answers cross the network in clear text: add [proxy.tls]
warning      policy: \"DELETE /restapi/v1.0/acount/**\" of deny is no operation that is known here: is the path misspelt?
warning      policy: \"DELETE /restapi/v1.0/acount/**\" of deny says nothing that \"DELETE *\" of deny does not say as well
The configuration is good.
"
        );
    }

    #[test]
    fn only_a_reader_that_has_enough_is_forgiven() {
        struct Refusing(io::ErrorKind);
        impl Write for Refusing {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (settings, warnings) = settings();
        assert!(run(&settings, &warnings, &mut Refusing(io::ErrorKind::BrokenPipe)).is_ok());
        assert!(run(&settings, &warnings, &mut Refusing(io::ErrorKind::StorageFull)).is_err());
    }
}
