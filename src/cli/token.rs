//! `token`: an access token on standard output, and nothing else there.
//!
//! A stored one that lives for a minute yet is taken as it is. Otherwise the same keepers as those of
//! `serve` obtain one, within budget and lease, and store it: a running proxy adopts it.

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use tokio::sync::oneshot;

use super::{ConfigurationFlags, Failure, serve};
use crate::audit::{self, AuditLog};
use crate::clock::Clock;
use crate::secret::{Environment, Secret};
use crate::service::{self, StartError};
use crate::settings::Settings;
use crate::store::{Entry, Provenance};
use crate::token::Generation;
use crate::token::identities::{Identities, IdentityId};
use crate::token::keeper::{Keeper, Unavailable};
use crate::token::slot::LocalBearer;

/// Time enough for whatever the script does next.
const LEAST_LIFE: Duration = Duration::from_secs(60);

/// Long enough for a turn in the budget, which comes within a minute, and for an answer.
const PATIENCE: Duration = Duration::from_secs(75);

/// Whose token, and in which form.
#[derive(Debug, Args)]
pub(super) struct TokenFlags {
    /// Whose; may be left out where there is only one
    name: Option<String>,
    /// Print it as the line `Authorization: Bearer …`
    #[arg(long)]
    header: bool,
    #[command(flatten)]
    configuration: ConfigurationFlags,
}

/// Prints the token.
pub(super) fn run(flags: TokenFlags, environment: Environment<'_>) -> Result<(), Failure> {
    let (source, overrides) = flags.configuration.split();
    let (settings, _) = Settings::load(&source, overrides, environment)?;
    let audit = super::audit(&settings)?;
    let had = serve::runtime()?.block_on(bearer(&settings, flags.name.as_deref(), &audit));
    audit.close();
    let bearer = had?;
    let text = bearer.expose();
    let mut out = io::stdout().lock();
    let written = if flags.header {
        writeln!(out, "Authorization: {text}")
    } else {
        writeln!(out, "{}", text.trim_start_matches("Bearer "))
    };
    written.and_then(|()| out.flush()).map_err(Failure::Output)
}

async fn bearer(
    settings: &Settings,
    name: Option<&str>,
    audit: &AuditLog,
) -> Result<Secret, Failure> {
    let clock = Clock::system();
    let tls = service::tls(settings).map_err(StartError::from)?;
    let identities = service::identities_on_demand(settings, &tls, &clock)?;
    let identities = identities.audited(audit, "token");
    let keeper = identities.keeper(choose(&identities, settings, name).await?);
    audit.note(&audit::Event::Token(audit::Printed { identity: keeper.name() }));
    let there = identities.store().load(keeper.name()).await.map_err(StartError::from)?;
    if let Some(token) = stored(&there, keeper, &clock) {
        return Ok(token);
    }
    let (end, ending) = oneshot::channel::<()>();
    let obtained = async {
        let obtained = tokio::select! {
            obtained = obtain(keeper, there.generation(), &clock) => {
                let no_token = |why: Unavailable| {
                    Failure::NoToken { identity: keeper.name().to_owned(), why: why.reason }
                };
                obtained.map_err(no_token)
            }
            () = clock.sleep(PATIENCE) => {
                Err(Failure::Late { identity: keeper.name().to_owned(), within: PATIENCE })
            }
        };
        drop(end);
        obtained
    };
    tokio::join!(identities.run(async { drop(ending.await) }), obtained).1
}

async fn choose(
    identities: &Identities,
    settings: &Settings,
    name: Option<&str>,
) -> Result<IdentityId, Failure> {
    let Some(name) = name else {
        return identities.only().ok_or_else(|| Failure::WhichIdentity {
            known: settings.identities.iter().map(|it| it.name.clone()).collect(),
        });
    };
    let found = match identities.find(name) {
        Some(id) => Some(id),
        None => identities.discover(name).await.map_err(StartError::from)?,
    };
    found.ok_or_else(|| Failure::Stranger { name: name.to_owned() })
}

/// Without a keeper, which would renew what is due by its own lights, and a refresh ends the token
/// that was just printed.
fn stored(there: &Entry, keeper: &Keeper, clock: &Clock) -> Option<Secret> {
    let Entry::Session(stored) = there else { return None };
    let ours = stored.provenance == Provenance::of(keeper.settings());
    let lives = clock.now().until(stored.set.expires_at) >= LEAST_LIFE;
    let bearer = || Secret::new(format!("Bearer {}", stored.set.access_token.expose()));
    (ours && lives).then(bearer)
}

async fn obtain(keeper: &Keeper, stored: Generation, clock: &Clock) -> Result<Secret, Unavailable> {
    keeper.first_outcome().await?;
    if keeper.slot().generation().is_none_or(|generation| generation <= stored) {
        keeper.renew().await?;
    }
    let mut local = LocalBearer::default();
    let bearer = local.current(keeper.slot(), clock.now());
    let bearer = bearer.ok_or_else(|| keeper.unavailable())?;
    Ok(Secret::new(bearer.value.to_str().expect("a token is visible ASCII")))
}
