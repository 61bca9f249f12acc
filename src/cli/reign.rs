//! One proxy after another, each from the configuration as it was when it was read.
//!
//! A reload is asked for by SIGHUP, by the admin listener, or by a change of one of the files that the
//! configuration was read from. It is validated wholly; then the new proxy takes the old one's sockets
//! over, and the old one finishes what it has begun. If anything is wrong, the old one stays and the log
//! says why. SIGHUP has the audit log go on in a new file, too, if it was renamed away, whatever comes of
//! the rest. What becomes of the process's memory is settled at its start, and a reload changes nothing
//! about that.

use std::future::pending;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use super::Failure;
use super::open_files;
use super::serve::{Asked, Signals};
use super::watch::Files;
use crate::admin::reload::ReloadOrder;
use crate::audit::{self, Decision, Reconfiguration};
use crate::clock::Clock;
use crate::secret::Environment;
use crate::service::{Service, SuccessionError};
use crate::settings::{ConfigSource, Overrides, Settings, SettingsError};
use crate::telemetry::chain;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// How the configuration is read, every time anew.
pub(super) struct Reading<'a> {
    pub(super) source: &'a ConfigSource,
    pub(super) overrides: Overrides,
    pub(super) environment: Environment<'a>,
}

/// The proxy that serves, and those that finish what they have begun.
pub(super) struct Reign<'a> {
    service: Service,
    retiring: JoinSet<()>,
    hasten: watch::Sender<bool>,
    reading: Reading<'a>,
    files: Files,
    watches: bool,
    clock: Clock,
}

/// Why the old configuration stays.
#[derive(Debug, thiserror::Error)]
enum NotReloaded {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Succession(#[from] SuccessionError),
}

/// What happens next.
enum Event {
    End(&'static str),
    Reload(&'static str, Option<ReloadOrder>),
}

impl<'a> Reign<'a> {
    pub(super) fn new(
        service: Service,
        settings: &Settings,
        reading: Reading<'a>,
        clock: Clock,
    ) -> Self {
        Self {
            service,
            retiring: JoinSet::new(),
            hasten: watch::Sender::new(false),
            reading,
            files: Files::new(settings.files.clone()),
            watches: settings.proxy.reload_on_change,
            clock,
        }
    }

    /// Serves until a signal, then ends in the order that loses nothing; at once on a second signal.
    /// Calls `draining` in between.
    pub(super) async fn until_asked_to_end(
        mut self,
        mut signals: Signals,
        draining: impl FnOnce(),
    ) -> Result<(), Failure> {
        let signal = loop {
            let event = tokio::select! {
                biased;
                asked = signals.any() => match asked {
                    Asked::ToEnd(signal) => Event::End(signal),
                    Asked::ToReload => {
                        self.follow_renames();
                        Event::Reload("SIGHUP", None)
                    }
                },
                order = self.service.reload_ordered() => Event::Reload("an operator", Some(order)),
                () = changed(&mut self.files, self.watches, &self.clock) => {
                    Event::Reload("a changed file", None)
                }
                Some(ended) = self.retiring.join_next() => {
                    ended.expect("a proxy's end does not panic");
                    continue;
                }
            };
            match event {
                Event::End(signal) => break signal,
                Event::Reload(by, order) => {
                    // To end is possible while a new proxy waits for its tokens.
                    let outcome = tokio::select! {
                        biased;
                        signal = signals.end() => break signal,
                        outcome = self.reload(by) => outcome,
                    };
                    if let Some(order) = order {
                        order.answer(outcome.map_err(|why| chain(&why)));
                    }
                }
            }
        };
        draining();
        info!(signal, "draining: what is under way is finished; once more to end at once");
        self.hasten.send_replace(true);
        let Self { service, mut retiring, .. } = self;
        let all = async {
            service.stop().await;
            while let Some(ended) = retiring.join_next().await {
                ended.expect("a proxy's end does not panic");
            }
        };
        tokio::select! {
            () = all => {}
            _ = signals.end() => return Err(Failure::Cut),
        }
        info!("ended");
        Ok(())
    }

    fn follow_renames(&self) {
        let audit = self.service.audit();
        if audit.is_on() {
            info!(signal = "SIGHUP", "the audit log goes on in a new file if it was renamed");
            audit.reopen();
        }
    }

    async fn reload(&mut self, by: &'static str) -> Result<(), NotReloaded> {
        let outcome = self.succeed().await;
        if let Err(why) = &outcome {
            self.service.reloads().refused();
            error!(by, error = %chain(why), "not reloaded: the old configuration stays");
        } else {
            self.service.reloads().loaded();
            info!(by, "reloaded: the configuration as it is now is in force");
        }
        // In the log that is in force now.
        let decision = if outcome.is_ok() { Decision::Allowed } else { Decision::Failed };
        let what = Reconfiguration { what: "reload", by, decision };
        self.service.audit().note(&audit::Event::Reload(what));
        outcome
    }

    async fn succeed(&mut self) -> Result<(), NotReloaded> {
        // If they are refused, they are not tried again before they change.
        self.files.look();
        let Reading { source, overrides, environment } = &self.reading;
        let (settings, warnings) = Settings::load(source, overrides.clone(), *environment)?;
        for warning in warnings {
            warn!("{warning}");
        }
        let successor = self.service.succeed(&settings, &self.clock).await?;
        open_files::raise(&settings);
        self.files = Files::new(settings.files.clone());
        self.watches = settings.proxy.reload_on_change;
        let mut old = std::mem::replace(&mut self.service, successor);
        old.cede().await;
        let mut hasten = self.hasten.subscribe();
        self.retiring.spawn(old.retire(async move {
            // An error says that this end is here.
            let _ = hasten.wait_for(|hasten| *hasten).await;
        }));
        Ok(())
    }
}

/// Returns when one of the files has changed and stayed so for a moment.
async fn changed(files: &mut Files, watches: bool, clock: &Clock) {
    if !watches {
        pending::<()>().await;
    }
    loop {
        clock.sleep(LOOK).await;
        if files.have_settled_otherwise() {
            return;
        }
    }
}
