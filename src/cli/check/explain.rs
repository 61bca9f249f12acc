//! `check --explain`: who may send a request, and by which rule; `check --presets`: what presets say.

use std::io::{self, Write};
use std::process::ExitCode;

use http::{HeaderMap, Method, Uri, Version};

use super::super::{FAILED, Failure};
use crate::operations;
use crate::policy::preset::PRESETS;
use crate::policy::{Policy, Refusal};
use crate::proxy::access;
use crate::proxy::headers::Found;
use crate::proxy::routes::{Routes, take_identity};
use crate::settings::{ClientSettings, Settings};

/// A request as the proxy would send it.
#[derive(Debug)]
struct Asked {
    method: Method,
    target: Uri,
    /// Which of RingCentral's hosts it is for; `None` for the platform.
    host: Option<String>,
}

/// Says to `out` who may send `request`, which is method and target. 1 if somebody who was asked about
/// may not.
pub(in super::super) fn run(
    settings: &Settings,
    request: &str,
    client: Option<&str>,
    out: &mut impl Write,
) -> Result<ExitCode, Failure> {
    let clients = chosen(&settings.clients, client)?;
    let asked = asked(settings, request)?;
    describe(&asked, out).map_err(Failure::Output)?;
    let all_may = if passes(&asked) {
        verdicts(settings, &clients, &asked, out).map_err(Failure::Output)?
    } else {
        let never = "does not pass: the proxy answers it itself, or refuses it to everybody";
        writeln!(out, "verdict      {never}").map_err(Failure::Output)?;
        false
    };
    out.flush().map_err(Failure::Output)?;
    Ok(if all_may { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// Every preset with its rules.
pub(in super::super) fn presets(out: &mut impl Write) -> io::Result<()> {
    for preset in PRESETS {
        writeln!(out, "{}: {}", preset.name, preset.meaning)?;
        for (key, rules) in [("allow", preset.allow), ("deny", preset.deny)] {
            for rule in rules {
                writeln!(out, "    {key:5}  {rule}")?;
            }
        }
    }
    out.flush()
}

fn chosen<'s>(
    all: &'s [ClientSettings],
    wanted: Option<&str>,
) -> Result<Vec<&'s ClientSettings>, Failure> {
    let chosen: Vec<_> =
        all.iter().filter(|client| wanted.is_none_or(|name| name == client.name)).collect();
    match wanted {
        Some(name) if chosen.is_empty() => Err(Failure::UnknownClient {
            name: name.to_owned(),
            known: all.iter().map(|client| client.name.clone()).collect(),
        }),
        _ => Ok(chosen),
    }
}

/// Takes off what the proxy takes off.
fn asked(settings: &Settings, request: &str) -> Result<Asked, Failure> {
    let words: Vec<_> = request.split_whitespace().collect();
    let [method, target] = words[..] else { return Err(Failure::NoRequest) };
    let method = method.parse().map_err(|_| Failure::NoRequest)?;
    let mut target: Uri = target.parse().map_err(|_| Failure::NoRequest)?;
    take_identity(&mut target).map_err(|_| Failure::NoRequest)?;
    let routes = Routes::new(&settings.upstream.hosts);
    let site = routes.find(&mut target).map_err(|_| Failure::NoRequest)?;
    let host = site.index().checked_sub(1).map(|at| settings.upstream.hosts[at].name.clone());
    Ok(Asked { method, target, host })
}

fn describe(asked: &Asked, out: &mut impl Write) -> io::Result<()> {
    let Asked { method, target, host } = asked;
    write!(out, "request      {method} {}", target.path())?;
    match host {
        Some(name) => writeln!(out, " at the host {name}")?,
        None => writeln!(out)?,
    }
    match operations::find(method.as_str(), target.path()) {
        Some(it) => writeln!(
            out,
            "operation    {} ({}), rate-limit group {}",
            it.name, it.summary, it.group
        ),
        None => {
            writeln!(out, "operation    none of the {} that are known", operations::all().len())
        }
    }
}

/// Whether it would go to RingCentral at all.
fn passes(asked: &Asked) -> bool {
    let (fields, found) = (HeaderMap::new(), Found::default());
    access::admit(&asked.method, &asked.target, Version::HTTP_10, &fields, &found).is_ok()
}

fn verdicts(
    settings: &Settings,
    clients: &[&ClientSettings],
    asked: &Asked,
    out: &mut impl Write,
) -> io::Result<bool> {
    let judge = |policy: &Option<std::sync::Arc<Policy>>| {
        let policy = policy.as_deref()?;
        Some(
            policy.judge(&asked.method, &asked.target, &HeaderMap::new()).map(Option::<&_>::cloned),
        )
    };
    let everybodys = judge(&settings.policy);
    if everybodys.is_some() || settings.clients.is_empty() {
        writeln!(out, "everybody    {}", said(everybodys.as_ref()))?;
    }
    let mut all_may = !matches!(everybodys, Some(Err(_)));
    for client in clients {
        let verdict = judge(&client.policy);
        all_may &= !matches!(verdict, Some(Err(_)));
        writeln!(out, "client       {}: {}", client.name, said(verdict.as_ref()))?;
    }
    Ok(all_may)
}

fn said(verdict: Option<&Result<Option<crate::policy::Named>, Refusal>>) -> String {
    match verdict {
        None => "allowed, there is no policy".to_owned(),
        Some(Ok(None)) => "allowed, no rule denies it".to_owned(),
        Some(Ok(Some(rule))) => format!("allowed by {rule}"),
        Some(Err(Refusal::Denied(rule))) => format!("refused by {rule}"),
        Some(Err(Refusal::NotAllowed)) => "refused, no rule allows it".to_owned(),
        Some(Err(other)) => format!("refused: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{ConfigSource, Overrides};

    const DIGESTS: [&str; 3] = [
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "2911fe3c4361be2e42af6dd58d233c0b0f77d83d6c687488b240ec09f5c6c025",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ];

    fn settings(more: &str) -> Settings {
        let client = |name: &str, digest: &str, policy: &str| {
            format!("[client.{name}]\nidentities = 'sales'\nkey_sha256 = '{digest}'\n{policy}\n")
        };
        let toml = format!(
            "[application.crm]\nclient_id = 'id'\n[identity.sales]\njwt = 'x'\n\
             [store]\nmemory = true\n{}{}{}{more}",
            client("any", DIGESTS[0], ""),
            client("bill", DIGESTS[1], "preset = ['no-sms', 'no-recordings']"),
            client("read", DIGESTS[2], "preset = 'read-only'\nallow = 'createSMSMessage'"),
        );
        let source = ConfigSource::Text(toml);
        Settings::load(&source, Overrides::default(), &|_| None).unwrap().0
    }

    fn explained(settings: &Settings, request: &str, client: Option<&str>) -> (String, bool) {
        let mut out = Vec::new();
        let code = run(settings, request, client, &mut out).unwrap();
        (String::from_utf8(out).unwrap(), code == ExitCode::SUCCESS)
    }

    #[test]
    fn everyone_is_told_with_the_rule_as_it_is_written() {
        let (said, all_may) =
            explained(&settings(""), "POST /restapi/v1.0/account/~/extension/~/sms", None);
        assert_eq!(
            said,
            "\
request      POST /restapi/v1.0/account/~/extension/~/sms
operation    createSMSMessage (Send SMS), rate-limit group Medium
client       any: allowed, there is no policy
client       bill: refused by \"POST /restapi/**/sms/**\" of preset no-sms
client       read: allowed by \"createSMSMessage\" of allow
"
        );
        assert!(!all_may);
    }

    #[test]
    fn one_client_is_told_what_the_proxy_would_send_for_it() {
        let settings = settings("[policy]\ndeny = 'DELETE *'");
        let recording = "GET http://localhost:8080/.ringbearer/as/sales/.ringbearer/media/restapi/v1.0/account/~/recording/1/content?x=1";
        assert_eq!(
            explained(&settings, recording, Some("bill")),
            (
                "\
request      GET /restapi/v1.0/account/~/recording/1/content at the host media
operation    listCallRecordingData (Get Call Recordings Data), rate-limit group Heavy
everybody    allowed, no rule denies it
client       bill: refused by \"GET /**/recording/**\" of preset no-recordings
"
                .to_owned(),
                false
            )
        );
        let (said, may) = explained(&settings, recording, Some("read"));
        assert!(
            may && said.ends_with("read: allowed by \"GET *\" of preset read-only\n"),
            "{said}"
        );
        let (said, may) = explained(&settings, "DELETE /restapi/v1.0/x", Some("any"));
        assert!(!may, "{said}");
        assert_eq!(
            said,
            "\
request      DELETE /restapi/v1.0/x
operation    none of the 395 that are known
everybody    refused by \"DELETE *\" of deny
client       any: allowed, there is no policy
"
        );
    }

    #[test]
    fn odd_requests_and_those_that_never_pass_are_told_as_such() {
        let settings = settings("");
        let (said, may) = explained(&settings, "POST /restapi/v1.0/a%2fb", Some("bill"));
        assert!(!may && said.contains("refused: the path has an escape that servers"), "{said}");
        let (said, may) = explained(&settings, "POST /restapi/oauth/token", Some("any"));
        assert!(!may && said.contains("verdict      does not pass"), "{said}");
        let refused = |request, client| {
            run(&settings, request, client, &mut Vec::new()).unwrap_err().to_string()
        };
        assert_eq!(
            refused("POST", None),
            "--explain needs method and target, as in \"GET /restapi/v1.0/account/~/call-log\""
        );
        assert_eq!(
            refused("GET /", Some("nobody")),
            "client \"nobody\" is not configured: the names are any, bill, read"
        );
    }

    #[test]
    fn every_preset_is_listed_with_every_rule() {
        let mut out = Vec::new();
        presets(&mut out).unwrap();
        let said = String::from_utf8(out).unwrap();
        let rules = PRESETS.iter().map(|it| 1 + it.allow.len() + it.deny.len());
        assert_eq!(said.lines().count(), rules.sum::<usize>());
        assert!(said.starts_with("read-only: GET and HEAD, and the searches"), "{said}");
        assert!(said.contains("\n    deny   POST /restapi/**/sms/**\n"), "{said}");
    }
}
