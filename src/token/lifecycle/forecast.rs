//! When a refresh token is about to die under an identity that lives by it. PURE.
//!
//! A session that is looked after is refreshed long before: after 75 to 85 % of its refresh token's
//! life at the latest. Whoever comes nearer to the end than that has lost the means to renew, and a
//! person should know while there is a day left to act, not when requests begin to fail.

use std::fmt;
use std::time::Duration;

use super::pace::USUAL_REFRESH_LIFETIME;
use crate::clock::Timestamp;

const HOUR: Duration = Duration::from_secs(3600);

/// How long before the end it is said, each once.
const NOTICES: [Duration; 3] =
    [Duration::from_secs(24 * 3600), Duration::from_secs(6 * 3600), HOUR];

/// The life of a refresh token: from its issue to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshLife {
    issued_at: Timestamp,
    ends: Timestamp,
}

/// A refresh token that dies soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dying {
    /// When.
    pub at: Timestamp,
    /// How long that is from now; zero if it is over.
    pub left: Duration,
    /// The tightest notice that it has come within.
    notice: Duration,
}

impl RefreshLife {
    /// Of a refresh token issued then, whose end the server may have left open.
    pub fn new(issued_at: Timestamp, ends: Option<Timestamp>) -> Self {
        Self { issued_at, ends: ends.unwrap_or(issued_at + USUAL_REFRESH_LIFETIME) }
    }

    /// When it ends.
    pub const fn ends(&self) -> Timestamp {
        self.ends
    }

    /// Whether it dies soon.
    pub fn dying(&self, now: Timestamp) -> Option<Dying> {
        let left = now.until(self.ends);
        let notice = self.notices().filter(|notice| left <= *notice).last()?;
        Some(Dying { at: self.ends, left, notice })
    }

    /// The next moment at which there is something to say.
    pub fn next_notice(&self, now: Timestamp) -> Option<Timestamp> {
        self.notices().map(|notice| self.ends - notice).find(|at| now < *at)
    }

    /// Those that lie after the time at which it should have been refreshed: a token that lives for
    /// an hour is not about to die all its life.
    fn notices(&self) -> impl Iterator<Item = Duration> {
        let life = self.issued_at.until(self.ends);
        NOTICES.into_iter().filter(move |notice| *notice <= life * 3 / 20)
    }
}

impl Dying {
    /// In words, with what to do.
    pub fn of<'a>(&'a self, identity: &'a str) -> impl fmt::Display + 'a {
        Said { dying: self, identity }
    }
}

struct Said<'a> {
    dying: &'a Dying,
    identity: &'a str,
}

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.dying.left.as_secs() / 60;
        write!(f, "refresh token of {} ", self.identity)?;
        match minutes {
            _ if self.dying.left.is_zero() => return write!(f, "has died: log in again"),
            0..60 => write!(f, "dies in {minutes} min")?,
            _ => write!(f, "dies in {} h", minutes / 60)?,
        }
        write!(
            f,
            ": the identity lives by it, and no renewal has replaced it; cure what its last error \
             names, or log in again"
        )
    }
}

/// What has been said already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Notices(Option<(Timestamp, Duration)>);

impl Notices {
    /// Whether this has not been said yet. It counts as said then.
    pub fn is_news(&mut self, dying: &Dying) -> bool {
        let said = (dying.at, dying.notice);
        self.0.replace(said) != Some(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);
    const TICK: Duration = Duration::from_millis(1);

    fn week() -> RefreshLife {
        RefreshLife::new(NOW, None)
    }

    #[test]
    fn it_is_said_at_24_6_and_1_hours_to_the_millisecond_and_once_each() {
        let (life, mut notices) = (week(), Notices::default());
        for (hours, before) in [(24, None), (6, Some(24)), (1, Some(6))] {
            let at = life.ends() - hours * HOUR;
            let hours_of = |dying: Dying| dying.notice.as_secs() / 3600;
            assert_eq!(life.dying(at - TICK).map(hours_of), before, "a tick before {hours} h");
            assert_eq!(life.next_notice(at - TICK), Some(at));
            let dying = life.dying(at).expect("said");
            assert_eq!((dying.left, hours_of(dying)), (hours * HOUR, u64::from(hours)));
            assert!(notices.is_news(&dying), "{hours} h");
            assert!(!notices.is_news(&life.dying(at + TICK).unwrap()), "{hours} h, again");
        }
        assert_eq!(life.next_notice(life.ends() - HOUR), None);
        assert!(!notices.is_news(&life.dying(life.ends()).unwrap()), "nothing new at the end");
    }

    #[test]
    fn another_token_is_another_notice() {
        let mut notices = Notices::default();
        let later = RefreshLife::new(NOW + HOUR, None);
        for life in [week(), later] {
            assert!(notices.is_news(&life.dying(life.ends() - HOUR).unwrap()));
        }
    }

    #[test]
    fn a_short_life_is_not_dying_before_its_refresh_is_overdue() {
        let short = |hours: u32| RefreshLife::new(NOW, Some(NOW + hours * HOUR));
        assert_eq!(short(6).dying(NOW), None, "an hour is more than 15 % of six");
        assert_eq!(short(6).next_notice(NOW), None);
        assert_eq!(short(12).next_notice(NOW), Some(NOW + 11 * HOUR));
        assert_eq!(short(48).next_notice(NOW), Some(NOW + 42 * HOUR));
        assert_eq!(short(160).next_notice(NOW), Some(NOW + 136 * HOUR));
    }

    #[test]
    fn the_words_name_identity_time_and_cure() {
        let life = week();
        let said = |left: Duration| life.dying(life.ends() - left).unwrap().of("sales").to_string();
        let cure = ": the identity lives by it, and no renewal has replaced it; cure what its last \
                    error names, or log in again";
        assert_eq!(
            said(18 * HOUR + HOUR / 2),
            format!("refresh token of sales dies in 18 h{cure}")
        );
        assert_eq!(said(HOUR), format!("refresh token of sales dies in 1 h{cure}"));
        assert_eq!(said(59 * HOUR / 60), format!("refresh token of sales dies in 59 min{cure}"));
        assert_eq!(said(Duration::ZERO), "refresh token of sales has died: log in again");
    }
}
