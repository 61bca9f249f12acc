//! One line per identity, from the store and, where a keeper is at work, from that: what operators
//! read, as JSON and as a table. No line holds a secret.
//!
//! [`State::of`] is PURE. [`page`] asks the store, and only for what is shown: identities may be many.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::keeper::KeeperStatus;
use super::lifecycle::{Dying, Means, RefreshLife, Standing};
use crate::clock::Timestamp;
use crate::settings::{ApplicationSettings, IdentitySettings};
use crate::store::{Entry, Outline, StoreError, Surveyed, TokenStore};
use crate::telemetry::chain;

/// What is known of one identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// Its application's name, if that is configured.
    pub application: Option<String>,
    /// How it came to be there.
    pub origin: Origin,
    /// Where it stands.
    pub state: State,
    /// Its latest token set.
    pub generation: Option<u64>,
    /// When that was issued: the last renewal.
    pub issued_at: Option<Moment>,
    /// When its access token ends.
    pub expires_at: Option<Moment>,
    /// When its refresh token ends, if it has one.
    pub refresh_expires_at: Option<Moment>,
    /// That the refresh token is about to die, if everything hangs on it.
    pub note: Option<String>,
    /// What only a running proxy knows.
    pub live: Option<Live>,
}

/// What only a running proxy knows of an identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// Whether there is a token to send now.
    pub usable: bool,
    /// How many requests wait for a token.
    pub waiting: usize,
    /// When it goes on, if it waits for a penalty, a back-off or a cool-down to end.
    pub until: Option<Moment>,
    /// The last failure since the latest set was obtained, with its cure.
    pub last_error: Option<String>,
}

/// How an identity came to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// It stands in the configuration.
    Configured,
    /// It was added while the proxy ran.
    Added,
    /// There is a session of that name, and nothing else: it was configured once, or elsewhere.
    LeftOver,
}

/// Where an identity stands, in a word or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// There is an access token that lives.
    Live,
    /// The access token has ended; the next one is obtained when somebody asks.
    Expired,
    /// There is no session; one is opened when somebody asks.
    NoSession,
    /// Nothing goes on before a person acts.
    NeedsLogin,
    /// A token is being obtained.
    Renewing,
    /// The token endpoint asked for silence.
    Penalised,
    /// A failure is slept on.
    BackingOff,
    /// New tokens were refused too.
    CoolingDown,
}

/// A time as JSON has it: RFC 3339, whole seconds, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(pub Timestamp);

impl State {
    /// Of an identity with these means and this stored session, and what its keeper says.
    pub fn of(
        means: Means,
        session: Option<&Outline>,
        keeper: Option<&KeeperStatus>,
        now: Timestamp,
    ) -> Self {
        let stored = Self::stored(means, session, now);
        match keeper.map(|keeper| (keeper.usable, keeper.state)) {
            Some((true, _)) => Self::Live,
            Some((_, Standing::NeedsLogin(_))) => Self::NeedsLogin,
            Some((_, Standing::Penalised(_))) => Self::Penalised,
            Some((_, Standing::BackingOff(_))) => Self::BackingOff,
            Some((_, Standing::CoolingDown(_))) => Self::CoolingDown,
            Some((_, Standing::Renewing | Standing::Starting)) => Self::Renewing,
            // Its token was refused, or has ended.
            Some((_, Standing::Resting)) if stored == Self::Live => Self::Expired,
            Some((_, Standing::Resting)) | None => stored,
        }
    }

    fn stored(means: Means, session: Option<&Outline>, now: Timestamp) -> Self {
        let Some(session) = session else {
            return if means == Means::Login { Self::NeedsLogin } else { Self::NoSession };
        };
        let refreshable = session.has_refresh && now < life(session).ends();
        match () {
            () if now < session.expires_at => Self::Live,
            () if means == Means::Reopens || refreshable => Self::Expired,
            () => Self::NeedsLogin,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Live => "live",
            Self::Expired => "expired",
            Self::NoSession => "no session",
            Self::NeedsLogin => "needs login",
            Self::Renewing => "renewing",
            Self::Penalised => "penalised",
            Self::BackingOff => "backing off",
            Self::CoolingDown => "cooling down",
        })
    }
}

impl Line {
    /// From what is stored and, if there is one, from the keeper.
    pub fn of(known: &Known, keeper: Option<&KeeperStatus>, now: Timestamp) -> Self {
        let session = known.session.as_ref();
        let of_keeper = |part: fn(&KeeperStatus) -> Option<Timestamp>| keeper.and_then(part);
        let latest = keeper.and_then(|keeper| keeper.generation);
        // Whichever has the later set; a store that is away has none.
        let stored = session.filter(|session| latest.is_none_or(|it| it <= session.generation));
        let either = |stored: Option<Timestamp>, live| stored.or(live).map(Moment);
        let state = if known.erased && known.means != Means::Reopens && keeper.is_none() {
            State::NeedsLogin
        } else {
            State::of(known.means, session, keeper, now)
        };
        Self {
            name: known.name.clone(),
            application: known.application.clone(),
            origin: known.origin,
            state,
            generation: stored.map(|it| it.generation).or(latest).map(super::Generation::number),
            issued_at: either(stored.map(|it| it.issued_at), of_keeper(|it| it.issued_at)),
            expires_at: either(stored.map(|it| it.expires_at), of_keeper(|it| it.expires_at)),
            refresh_expires_at: match stored {
                Some(session) => session.has_refresh.then(|| Moment(life(session).ends())),
                None => of_keeper(|it| it.refresh_expires_at).map(Moment),
            },
            note: known.dying(keeper, now).map(|dying| dying.of(&known.name).to_string()),
            live: keeper.map(Live::of),
        }
    }
}

impl Line {
    /// Whether it stays as it is until a person acts. What is left over waits for nobody.
    pub fn needs_somebody(&self) -> bool {
        self.state == State::NeedsLogin && self.origin != Origin::LeftOver
    }
}

impl Live {
    fn of(keeper: &KeeperStatus) -> Self {
        let until = match keeper.state {
            Standing::Penalised(at) | Standing::BackingOff(at) | Standing::CoolingDown(at) => {
                Some(Moment(at))
            }
            _ => None,
        };
        let last_error = keeper.last_error.as_deref().map(|error| chain(error));
        Self { usable: keeper.usable, waiting: keeper.waiting, until, last_error }
    }
}

/// What configuration and store know of an identity.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its name.
    pub name: String,
    /// Its application's name, if that is configured.
    pub application: Option<String>,
    /// How it came to be there.
    pub origin: Origin,
    /// What opens its sessions.
    pub means: Means,
    /// Its session.
    pub session: Option<Outline>,
    /// Whether its last session was ended on purpose.
    pub erased: bool,
}

impl Known {
    /// Of an identity whose store cannot be asked.
    pub fn from_settings(settings: &IdentitySettings, origin: Origin) -> Self {
        Self {
            name: settings.name.clone(),
            application: Some(settings.application.name.clone()),
            origin,
            means: Means::of(&settings.credential),
            session: None,
            erased: false,
        }
    }

    fn dying(&self, keeper: Option<&KeeperStatus>, now: Timestamp) -> Option<Dying> {
        if let Some(keeper) = keeper.filter(|keeper| keeper.generation.is_some()) {
            return keeper.dying;
        }
        let lives_by_it = self.means != Means::Reopens && self.origin != Origin::LeftOver;
        let session = self.session.as_ref().filter(|it| lives_by_it && it.has_refresh)?;
        life(session).dying(now)
    }
}

/// Which lines are wanted: so many, after this name.
#[derive(Clone, Debug)]
pub struct Range {
    /// The name before the first one.
    pub after: Option<String>,
    /// At most so many.
    pub limit: usize,
}

impl Range {
    /// All there are.
    pub const ALL: Self = Self { after: None, limit: usize::MAX };
}

/// The identities of a range by name, and the `after` of the next range if there are more.
pub async fn page(
    store: &dyn TokenStore,
    configured: &[Arc<IdentitySettings>],
    applications: &[Arc<ApplicationSettings>],
    range: &Range,
) -> Result<(Vec<Known>, Option<String>), StoreError> {
    let mut lines: BTreeMap<String, (Option<&Arc<IdentitySettings>>, Option<Surveyed>)> =
        configured.iter().map(|it| (it.name.clone(), (Some(it), None))).collect();
    for found in store.survey().await? {
        let name = found.identity.clone();
        lines.entry(name).or_default().1 = Some(found);
    }
    let wanted = |name: &&String| range.after.as_ref().is_none_or(|after| *name > after);
    let names: Vec<_> = lines.keys().filter(wanted).cloned().collect();
    let mut known = Vec::new();
    for name in names.iter().take(range.limit) {
        let (settings, found) = lines.remove(name).expect("it is one of the keys");
        known.push(one(store, applications, name, settings, found).await?);
    }
    let more = names.len() > range.limit;
    Ok((known, names.into_iter().take(range.limit).next_back().filter(|_| more)))
}

/// One identity, if there is one of that name.
pub async fn find(
    store: &dyn TokenStore,
    configured: &[Arc<IdentitySettings>],
    applications: &[Arc<ApplicationSettings>],
    name: &str,
) -> Result<Option<Known>, StoreError> {
    let settings = configured.iter().find(|it| it.name == name);
    let session = store.load(name).await?.session().map(|stored| Outline::of(&stored.set));
    let enrolled = store.enrolment(name).await?.is_some();
    if settings.is_none() && session.is_none() && !enrolled {
        return Ok(None);
    }
    let found = Surveyed { identity: name.to_owned(), session, enrolled };
    one(store, applications, name, settings, Some(found)).await.map(Some)
}

async fn one(
    store: &dyn TokenStore,
    applications: &[Arc<ApplicationSettings>],
    name: &str,
    settings: Option<&Arc<IdentitySettings>>,
    found: Option<Surveyed>,
) -> Result<Known, StoreError> {
    let enrolled = found.as_ref().is_some_and(|found| found.enrolled);
    let session = found.and_then(|found| found.session);
    let erased = session.is_none() && matches!(store.load(name).await?, Entry::Erased(_));
    if let Some(settings) = settings {
        let known = Known::from_settings(settings, Origin::Configured);
        return Ok(Known { session, erased, ..known });
    }
    let enrolment = if enrolled { store.enrolment(name).await? } else { None };
    let origin = if enrolment.is_some() { Origin::Added } else { Origin::LeftOver };
    let of_client = |client_id: &str| applications.iter().find(|it| it.client_id == client_id);
    let application = enrolment.as_ref().and_then(|it| of_client(&it.client_id));
    let application = application.map(|it| it.name.clone());
    let reopens = enrolment.is_some_and(|it| it.jwt.is_some());
    let means = if reopens { Means::Reopens } else { Means::Login };
    Ok(Known { name: name.to_owned(), application, origin, means, session, erased })
}

fn life(session: &Outline) -> RefreshLife {
    RefreshLife::new(session.issued_at, session.refresh_expires_at)
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_rfc3339_seconds(self.0.into()))
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let time = humantime::parse_rfc3339(&text).map_err(serde::de::Error::custom)?;
        let since = time.duration_since(std::time::UNIX_EPOCH).map_err(serde::de::Error::custom)?;
        Ok(Self(Timestamp::from_unix_millis(0) + since))
    }
}

#[cfg(test)]
mod tests;
