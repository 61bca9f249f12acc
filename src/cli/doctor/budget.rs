//! Whether an application's token requests suffice for its identities. PURE.

use std::num::NonZeroU32;
use std::time::Duration;

use super::finding::Finding;
use crate::settings::{ApplicationSettings, Settings, StoreSettings};

/// What RingCentral gives unless asked for less.
const HOUR: Duration = Duration::from_secs(3600);

/// How long before its end a token is renewed at the latest when turns are scarce.
const SPARE: Duration = Duration::from_secs(60);

/// Each application's.
pub(super) fn judge(settings: &Settings) -> Vec<Finding> {
    let forgets = matches!(settings.store, StoreSettings::Memory);
    let of = |application: &ApplicationSettings| {
        let its = settings.identities.iter();
        let its = its.filter(|identity| identity.application.name == application.name);
        let lives: Vec<_> = its.map(|it| it.access_token_ttl.unwrap_or(HOUR)).collect();
        budget(&application.name, application.token_requests_per_minute, &lives, forgets)
    };
    settings.applications.iter().map(|application| of(application)).collect()
}

fn budget(name: &str, limit: NonZeroU32, lives: &[Duration], forgets: bool) -> Finding {
    let limit = limit.get();
    // A token of an hour takes a turn every 59 minutes at the least.
    let needed: f64 = lives.iter().map(|life| 60.0 / used(*life).as_secs_f64()).sum();
    let count = lives.len();
    let finding = format!(
        "{count} {} {needed:.1} token requests a minute of {limit}",
        if count == 1 { "identity in use needs" } else { "identities in use need" }
    );
    if needed > f64::from(limit) + 1e-9 {
        let cure = "requests will wait for tokens: spread the identities over several applications, \
                    or have RingCentral raise the limit";
        return Finding::warning("budget", name, finding, cure);
    }
    let minutes = count.div_ceil(limit as usize);
    if forgets && minutes > 1 {
        let finding = format!("{finding}, and about {minutes} minutes after each start");
        let cure = "store.memory forgets all sessions: keep them in store.directory or store.redis";
        return Finding::warning("budget", name, finding, cure);
    }
    Finding::ok("budget", name, finding)
}

fn used(life: Duration) -> Duration {
    life.saturating_sub(SPARE).max(SPARE)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    const FIVE: NonZeroU32 = NonZeroU32::new(5).unwrap();

    fn said(count: usize, life: Duration, forgets: bool) -> (Level, String) {
        let finding = budget("crm", FIVE, &vec![life; count], forgets);
        (finding.level, finding.says)
    }

    #[test]
    fn as_many_identities_suffice_as_the_simulation_has_shown() {
        let need = |count: usize, needed| {
            format!("{count} identities in use need {needed} token requests a minute of 5")
        };
        assert_eq!(said(295, HOUR, false), (Level::Ok, need(295, "5.0")));
        assert_eq!(said(300, HOUR, false), (Level::Warning, need(300, "5.1")));
        let ten_minutes = Duration::from_secs(600);
        assert_eq!(said(45, ten_minutes, false).0, Level::Ok);
        assert_eq!(said(46, ten_minutes, false).0, Level::Warning);
        let one = "1 identity in use needs 0.0 token requests a minute of 5";
        assert_eq!(said(1, HOUR, false), (Level::Ok, one.to_owned()));
    }

    #[test]
    fn who_forgets_everything_asks_for_everything_at_each_start() {
        assert_eq!(said(5, HOUR, true).0, Level::Ok);
        let (level, finding) = said(100, HOUR, true);
        assert_eq!(level, Level::Warning);
        assert!(finding.ends_with("of 5, and about 20 minutes after each start"), "{finding}");
    }
}
