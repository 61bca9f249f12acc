//! What proxies share of RingCentral's limits on API requests: one window per identity and group, and
//! the penalties that each of them has met.
//!
//! A window's places are handed out, never lent twice: whoever asks says how many it still holds, so an
//! answer that was lost costs nothing, and a place whose holder has gone silent counts as used at the
//! last moment at which it may have been. All of it is told in spans of time, by the server's clock:
//! clocks of different machines need not agree. It has a connection of its own, because the sessions'
//! may wait for replicas.

use std::time::Duration;

use redis::{Cmd, FromRedisValue, RedisError};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::connect::Link;
use super::subscription::{self, Subject};
use super::{failure, millis, scripts};
use crate::clock::Timestamp;
use crate::settings::RedisSettings;
use crate::store::StoreError;

/// A process that does not ask for so long has lost what it holds.
pub const HOLD: Duration = Duration::from_secs(30);

/// A process that has not been heard for so long counts no more.
const HEARD: Duration = Duration::from_secs(300);

/// The shared limits on a Redis or Valkey server.
#[derive(Clone)]
pub struct SharedLimits {
    link: Link,
    address: String,
    prefix: String,
    process: String,
}

impl std::fmt::Debug for SharedLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SharedLimits").field(&self.address).finish()
    }
}

/// What a process tells of one window, and asks of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// Whose window it is.
    pub identity: String,
    /// Of which group.
    pub group: String,
    /// Tells this life of the window in this process from others.
    pub life: u64,
    /// The time, where a test says what it is.
    pub now: Option<Timestamp>,
    /// Places that it has: for requests under way, and unused ones.
    pub held: u32,
    /// The number of the first in `ages`.
    pub first: u64,
    /// How long ago requests were answered that have not been told of.
    pub ages: Vec<Duration>,
    /// What an answer has said, and how long ago.
    pub told: Option<Told>,
    /// Places that are waited for.
    pub need: u32,
    /// Places that would be welcome while there are plenty.
    pub spare: u32,
}

/// A limit, as RingCentral has told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Requests per window; 0 for no limit.
    pub limit: u32,
    /// How many are left.
    pub remaining: u32,
    /// The window's length.
    pub window: Duration,
    /// How long ago that was.
    pub age: Duration,
}

/// What a process gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// So many places more.
    pub places: u32,
    /// The limit and the window's length, if anybody knows; a limit of 0 is none.
    pub limit: Option<(u32, Duration)>,
    /// When the next place opens, where there are not enough; `None` where others will tell.
    pub opens_in: Option<Duration>,
}

/// A penalty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silence {
    /// Whose.
    pub identity: String,
    /// Of which group, or `*` for all.
    pub group: String,
    /// For how long from now.
    pub length: Duration,
}

/// What is heard from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// One of them has met a penalty.
    Silence(Silence),
    /// Listening has begun: what was told before has to be [asked for](SharedLimits::silences).
    Anew,
    /// Not meant for this process.
    Nothing,
}

impl SharedLimits {
    /// Connects when it is first used.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn open(settings: &RedisSettings) -> Result<Self, StoreError> {
        let (address, prefix) = (settings.address.clone(), settings.prefix.clone());
        let failed = |error| failure(address.clone(), "be configured", error);
        let link = Link::new(settings).map_err(failed)?;
        let process = format!("{:016x}", fastrand::u64(..));
        Ok(Self { link, address, prefix, process })
    }

    /// Tells and asks.
    pub async fn exchange(&self, contact: &Contact) -> Result<Grant, StoreError> {
        let Contact { identity, group, .. } = contact;
        let key = format!("{}{{{identity}}}:limit:{group}", self.prefix);
        let mut call = redis::cmd("EVAL");
        call.arg(scripts::WINDOW).arg(2).arg(&key).arg(format!("{key}:answered"));
        call.arg(contact.now.map(Timestamp::unix_millis).map_or_else(String::new, text));
        call.arg(&self.process).arg(contact.life).arg(contact.held).arg(contact.need);
        call.arg(contact.spare).arg(millis(HOLD));
        match &contact.told {
            Some(told) => {
                call.arg(told.limit).arg(told.remaining);
                call.arg(millis(told.window)).arg(millis(told.age));
            }
            None => {
                call.arg("").arg("").arg("").arg("");
            }
        }
        call.arg(contact.first);
        for age in &contact.ages {
            call.arg(millis(*age));
        }
        let (places, limit, window, opens_in): (u32, i64, u64, i64) =
            self.run("share a limit", &call).await?;
        let limit = u32::try_from(limit).ok().map(|it| (it, Duration::from_millis(window)));
        let opens_in = u64::try_from(opens_in).ok().map(Duration::from_millis);
        Ok(Grant { places, limit, opens_in })
    }

    /// Tells the others of a penalty.
    pub async fn silence(&self, silence: &Silence) -> Result<(), StoreError> {
        let Silence { identity, group, length } = silence;
        let mut call = redis::cmd("EVAL");
        call.arg(scripts::SILENCE).arg(1).arg(self.key("penalties"));
        call.arg(format!("{identity} {group}")).arg(millis(*length));
        call.arg(self.channel()).arg(&self.process);
        self.run("tell of a penalty", &call).await
    }

    /// The penalties that others have told of.
    pub async fn silences(&self) -> Result<Vec<Silence>, StoreError> {
        let mut call = redis::cmd("EVAL");
        call.arg(scripts::SILENCES).arg(1).arg(self.key("penalties"));
        let all: Vec<(String, u64)> = self.run("tell of penalties", &call).await?;
        Ok(all.iter().filter_map(|(whose, millis)| silence(whose, *millis)).collect())
    }

    /// Hears of penalties as they come.
    pub fn listen(&self) -> UnboundedReceiver<Heard> {
        let (tell, heard) = unbounded_channel();
        let process = self.process.clone();
        let read = move |text: &str| read(text, &process);
        let subject =
            Subject { channel: self.channel(), what: "penalties", read, anew: Heard::Anew };
        let (link, address) = (self.link.clone(), self.address.clone());
        tokio::spawn(subscription::follow(link, address, subject, true, tell));
        heard
    }

    /// Says that this process is there, and asks how many are.
    pub async fn beat(&self) -> Result<u32, StoreError> {
        let mut call = redis::cmd("EVAL");
        call.arg(scripts::BEAT).arg(1).arg(self.key("replicas"));
        call.arg(&self.process).arg(millis(HEARD));
        self.run("count the replicas", &call).await
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn channel(&self) -> String {
        self.key("silences")
    }

    async fn run<T: FromRedisValue>(
        &self,
        action: &'static str,
        command: &Cmd,
    ) -> Result<T, StoreError> {
        let failed = |error: RedisError| failure(self.address.clone(), action, error);
        self.link.run(command).await.map_err(failed)
    }
}

fn text(number: u64) -> String {
    number.to_string()
}

/// What another process has published: `process millis identity group`.
fn read(message: &str, process: &str) -> Heard {
    let silence = || {
        let (by, rest) = message.split_once(' ')?;
        let (millis, whose) = rest.split_once(' ')?;
        if by == process { None } else { silence(whose, millis.parse().ok()?) }
    };
    silence().map_or(Heard::Nothing, Heard::Silence)
}

fn silence(whose: &str, millis: u64) -> Option<Silence> {
    let (identity, group) = whose.split_once(' ')?;
    let length = Duration::from_millis(millis);
    Some(Silence { identity: identity.to_owned(), group: group.to_owned(), length })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_penalty_of_another_process_is_understood_and_ones_own_is_not_news() {
        let (identity, group) = ("sales".to_owned(), "heavy".to_owned());
        let length = Duration::from_secs(60);
        let silence = Heard::Silence(Silence { identity, group, length });
        assert_eq!(read("other 60000 sales heavy", "me"), silence);
        for nothing in ["me 60000 sales heavy", "other soon sales heavy", "other 60000 sales", ""] {
            assert_eq!(read(nothing, "me"), Heard::Nothing, "{nothing:?}");
        }
    }
}
