//! `logout`: end a session, here at once and then at RingCentral.

use clap::Args;

use super::login::{registrar, say};
use super::{Failure, SourceFlags, serve};
use crate::audit::{self, AuditLog, SessionChange};
use crate::login::registrar::{Ended, Registrar};
use crate::secret::Environment;
use crate::settings::{ApplicationSettings, Settings};
use crate::store::Enrolment;
use crate::telemetry::chain;

/// Whose session ends.
#[derive(Debug, Args)]
pub(super) struct LogoutFlags {
    /// The identity
    name: String,
    /// Keep an identity that was added by `login`: only its session ends
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    source: SourceFlags,
}

pub(super) fn run(flags: &LogoutFlags, environment: Environment<'_>) -> Result<(), Failure> {
    let (source, overrides) = flags.source.split();
    let (settings, _) = Settings::load(&source, overrides, environment)?;
    let audit = super::audit(&settings)?;
    serve::runtime()?.block_on(async {
        let registrar = registrar(&settings)?;
        let ended = log_out(&settings, &registrar, &flags.name, flags.keep, &audit).await;
        audit.close();
        ended
    })
}

async fn log_out(
    settings: &Settings,
    registrar: &Registrar,
    name: &str,
    keep: bool,
    audit: &AuditLog,
) -> Result<(), Failure> {
    let known = registrar.known(name).await?;
    let configured = settings.identities.iter().find(|it| it.name == name);
    // First here, whatever the network does: proxies stop using it at once.
    let ended = registrar.end(name, keep).await?;
    if ended.session.is_none() && known.is_none() && configured.is_none() {
        return Err(Failure::NobodyToLogOut { identity: name.to_owned() });
    }
    let (change, by) = (SessionChange::Ended, "logout");
    let session = audit::Session { identity: name, change, grant: None, generation: None, by };
    audit.note(&audit::Event::Session(session));
    say(&outcome(name, &ended))?;
    if let Some(session) = &ended.session {
        let revoked = match application(settings, name, known.as_ref()) {
            Some(application) => registrar.revoke(application, session).await,
            None => return say(NO_APPLICATION),
        };
        match revoked {
            Ok(()) => say("It is ended at RingCentral too.")?,
            Err(error) => say(&format!(
                "It is not ended at RingCentral, and ends there by itself: {}",
                chain(&error)
            ))?,
        }
    }
    let reopens = configured.is_some_and(|identity| identity.credential.reopens())
        || keep && known.is_some_and(|enrolment| enrolment.jwt.is_some());
    if reopens {
        say(&format!("What {name} is configured with opens a new session with the next request."))?;
    }
    Ok(())
}

fn outcome(name: &str, ended: &Ended) -> String {
    let session = match ended.session {
        Some(_) => "is logged out: no proxy with this store uses the session any more",
        None => "had no session",
    };
    let removed = if ended.removed { ", and the identity is forgotten" } else { "" };
    format!("{name} {session}{removed}.")
}

/// Whose session it is to RingCentral.
fn application<'s>(
    settings: &'s Settings,
    name: &str,
    known: Option<&Enrolment>,
) -> Option<&'s ApplicationSettings> {
    if let Some(identity) = settings.identities.iter().find(|it| it.name == name) {
        return Some(&*identity.application);
    }
    let mut applications = settings.applications.iter();
    match known {
        Some(known) => applications.find(|it| it.client_id == known.client_id).map(|it| &**it),
        None if settings.applications.len() == 1 => settings.applications.first().map(|it| &**it),
        None => None,
    }
}

const NO_APPLICATION: &str = "Its application is not configured, so it is not ended at RingCentral; it ends there by itself.";
