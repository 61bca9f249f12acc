//! Where token sets outlive the process: load, compare-and-set by generation, and the lease that
//! gives one process at a time the right to renew.
//!
//! Whoever saves or erases must show the [`Lease`]: two processes then never exchange the same
//! refresh token, and one that stalled past its lease has its late write refused by generation.
//! "The lease is held" (`Ok(None)`) and "the store is down" (`Err`) are different answers.
//! What one process changes, the others learn through [`TokenStore::changes`].

use std::any::Any;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::clock::Timestamp;
use crate::secret::{Secret, SecretKey};
use crate::settings::{Credential, IdentitySettings};
use crate::token::ledger::Ledger;
use crate::token::{Generation, TokenSet};

pub mod archive;
mod document;
pub mod file;
pub mod memory;
mod pulse;
pub mod redis;
pub mod seal;

/// The mark of a logout is kept for so long: no process that was away knows an older session.
const MARK_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// What an operation of a [`TokenStore`] returns.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A place where token sets are kept durably, one per identity.
pub trait TokenStore: Send + Sync {
    /// What is stored of an identity's session.
    fn load<'a>(&'a self, identity: &'a str) -> StoreFuture<'a, Entry>;

    /// The right to renew an identity, or `None` if somebody else has it now. Never waits for them.
    fn lease<'a>(&'a self, identity: &'a str) -> StoreFuture<'a, Option<Lease>>;

    /// Fails if [`save`](Self::save) could not write now. To be asked *before* a token is
    /// requested: an answer that cannot be stored is a session lost.
    fn probe_writable<'a>(&'a self, lease: &'a Lease) -> StoreFuture<'a, ()>;

    /// Replaces the stored session durably, if what is there is still of generation `expected`
    /// ([`Generation::NONE`] where nothing is). The replaced session can be recovered until the
    /// next save.
    fn save<'a>(
        &'a self,
        lease: &'a Lease,
        stored: &'a Stored,
        expected: Generation,
    ) -> StoreFuture<'a, ()>;

    /// Forgets the session of an identity, older copies included, if it is still of generation
    /// `expected`. [`Entry::Erased`] of the next generation stays in its place, so that no process
    /// that still knows the session writes it back.
    fn erase<'a>(&'a self, lease: &'a Lease, expected: Generation) -> StoreFuture<'a, ()>;

    /// What other processes change from now on. Changes of this process may be among them.
    fn changes(&self) -> UnboundedReceiver<Change>;

    /// The stored generation of each identity, [`Generation::NONE`] where nothing is; for a look at
    /// all of them that tells whether the store has lost something. Nothing at all, where
    /// [`changes`](Self::changes) tells of a loss too.
    fn generations<'a>(&'a self, _: &'a [&'a str]) -> StoreFuture<'a, Vec<Generation>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Keeps an identity that was added while the proxy ran; `None` removes it. Its session is not
    /// touched.
    fn enrol<'a>(
        &'a self,
        identity: &'a str,
        enrolment: Option<&'a Enrolment>,
    ) -> StoreFuture<'a, ()>;

    /// An identity that was added while the proxy ran.
    fn enrolment<'a>(&'a self, identity: &'a str) -> StoreFuture<'a, Option<Enrolment>>;

    /// Every identity that has a session or an enrolment here, by name.
    fn survey(&self) -> StoreFuture<'_, Vec<Surveyed>>;

    /// Changes the ledger of an application's token requests, alone among all processes. `change`
    /// is given the ledger and the store's time, and may be run more than once; its last run
    /// counts, and what it captured is then of that run.
    fn post<'a>(
        &'a self,
        application: &'a str,
        change: &'a mut (dyn FnMut(&mut Ledger, Timestamp) + Send),
    ) -> StoreFuture<'a, ()>;

    /// A key of that name, which all processes share: made by whoever asks first, the same for ever
    /// after. A name is short and of lower-case letters.
    fn shared_key<'a>(&'a self, name: &'a str) -> StoreFuture<'a, SecretKey>;

    /// The ledger of an application as it is, and the store's time.
    fn ledger<'a>(&'a self, application: &'a str) -> StoreFuture<'a, (Ledger, Timestamp)> {
        Box::pin(async move {
            let mut seen = (Ledger::default(), Timestamp::from_unix_millis(0));
            let mut look = |ledger: &mut Ledger, now| seen = (ledger.clone(), now);
            self.post(application, &mut look).await?;
            Ok(seen)
        })
    }

    /// Whether the store answers at all.
    fn check(&self) -> StoreFuture<'_, ()>;
}

/// What is stored under an identity's name.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly every entry is a session")]
pub enum Entry {
    /// Nothing: there never was a session, or the store has lost it.
    Absent,
    /// The session was ended on purpose.
    Erased(Generation),
    /// A session.
    Session(Stored),
}

impl Entry {
    /// What a [`TokenStore::save`] has to expect.
    pub const fn generation(&self) -> Generation {
        match self {
            Self::Absent => Generation::NONE,
            Self::Erased(generation) => *generation,
            Self::Session(stored) => stored.set.generation,
        }
    }

    /// The session, if there is one.
    pub fn session(self) -> Option<Stored> {
        match self {
            Self::Session(stored) => Some(stored),
            Self::Absent | Self::Erased(_) => None,
        }
    }
}

/// What has changed in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This identity's session or enrolment; the generation, if it is known.
    Identity(String, Option<Generation>),
    /// The store was away, and anything may have changed, backwards too.
    Anything,
}

/// An identity that was added while the proxy ran.
#[derive(Clone, Debug)]
pub struct Enrolment {
    /// The `client_id` of its application.
    pub client_id: String,
    /// Its JWT; without one it lives in the session of a login.
    pub jwt: Option<Secret>,
}

/// What [`TokenStore::survey`] tells of an identity.
#[derive(Clone, Debug)]
pub struct Surveyed {
    /// Its name.
    pub identity: String,
    /// Its session, without secrets.
    pub session: Option<Outline>,
    /// Whether it was added while the proxy ran.
    pub enrolled: bool,
}

/// A stored session without its secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Which set.
    pub generation: Generation,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// When its access token ends.
    pub expires_at: Timestamp,
    /// Whether it has a refresh token.
    pub has_refresh: bool,
    /// When that ends, if the server said so.
    pub refresh_expires_at: Option<Timestamp>,
}

impl Outline {
    /// Of a token set.
    pub fn of(set: &TokenSet) -> Self {
        Self {
            generation: set.generation,
            issued_at: set.issued_at,
            expires_at: set.expires_at,
            has_refresh: set.refresh.is_some(),
            refresh_expires_at: set.refresh.as_ref().and_then(|refresh| refresh.expires_at),
        }
    }
}

/// A token set with what is needed to decide whether it still fits the configuration.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The session.
    pub set: TokenSet,
    /// What opened it.
    pub provenance: Provenance,
}

/// A digest of the application and the credential that opened a session.
///
/// While the configuration has the same, the stored session goes on; after a change it is another
/// user's or another application's, and a new one is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Provenance([u8; 32]);

impl Provenance {
    /// Of the configured credential.
    ///
    /// A password is left out, because the digest of a guessable text gives it away.
    pub fn of(identity: &IdentitySettings) -> Self {
        let application = &identity.application;
        let mut digest = Sha256::new();
        let mut add = |text: &str| {
            digest.update((text.len() as u64).to_be_bytes());
            digest.update(text);
        };
        add(&application.client_id);
        add(&application.token_url.to_string());
        match &identity.credential {
            Credential::Jwt(jwt) => ["jwt", jwt.expose()].map(&mut add),
            Credential::RefreshToken(token) => ["refresh", token.expose()].map(&mut add),
            Credential::AuthorizationCode { code, .. } => ["code", code.expose()].map(&mut add),
            Credential::Password { username, extension, .. } => {
                add("password");
                [username.as_str(), extension.as_deref().unwrap_or_default()].map(&mut add)
            }
            Credential::ClientCredentials => ["client", ""].map(&mut add),
            Credential::Login => ["login", ""].map(&mut add),
        };
        Self(digest.finalize().into())
    }

    /// The digest that was kept.
    pub const fn from_bytes(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// The digest, to be kept.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Provenance({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

/// The right to renew one identity, for as long as this value lives and its holder keeps up.
pub struct Lease {
    identity: String,
    held: Arc<dyn Hold>,
}

/// Tells whether a [`Lease`] still keeps others out, wherever the lease itself is.
#[derive(Clone)]
pub struct Vigil(Weak<dyn Hold>);

impl Vigil {
    /// To be asked right before something is done that nobody else may do at the same time.
    pub fn is_live(&self) -> bool {
        self.0.upgrade().is_some_and(|held| held.is_live())
    }
}

impl fmt::Debug for Vigil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vigil")
    }
}

/// What stands behind a [`Lease`]. Dropping it gives the lease back.
pub trait Hold: Any + Send + Sync {
    /// Whether nobody else can have the lease by now. One that is kept by a heartbeat lapses when
    /// the process or its store stood still for too long.
    fn is_live(&self) -> bool {
        true
    }
}

impl Lease {
    /// Of `identity`.
    pub fn new(identity: impl Into<String>, held: impl Hold) -> Self {
        Self { identity: identity.into(), held: Arc::new(held) }
    }

    /// Whether it still keeps others out.
    pub fn is_live(&self) -> bool {
        self.held.is_live()
    }

    /// For whoever sends the token request.
    pub fn vigil(&self) -> Vigil {
        Vigil(Arc::downgrade(&self.held))
    }

    /// Whose lease it is.
    pub fn identity(&self) -> &str {
        &self.identity
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(&self.identity).finish()
    }
}

/// What a shared key is sealed as. No identity has such a name.
fn key_record(name: &str) -> String {
    format!("{name}/key")
}

/// The shared key that is stored so.
fn key_in(content: &[u8]) -> Option<SecretKey> {
    let text = std::str::from_utf8(content).ok()?;
    SecretKey::parse(&Secret::new(text)).ok()
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused.
    #[error("cannot {action} {path:?}: check that it exists, belongs to this user and has room")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Somebody else could read or plant tokens there.
    #[error("{path:?} is not safe to keep tokens in: it {fault}; {cure}")]
    Unsafe {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong.
        fault: &'static str,
        /// What to do.
        cure: &'static str,
    },
    /// The file was written by a later version.
    #[error("{path:?} has version {version}, this program knows 1: run the later version")]
    Version {
        /// The file.
        path: PathBuf,
        /// The version in it.
        version: u64,
    },
    /// Somebody saved in between: the stored session is to be read again.
    #[error("the stored session is of generation {}, not {}: somebody else has renewed", found.number(), expected.number())]
    Conflict {
        /// What the writer believed.
        expected: Generation,
        /// What is there.
        found: Generation,
    },
    /// The server that keeps the sessions cannot be reached, or does not do what it was asked.
    #[error("the store at {address} cannot {action}: {cure}")]
    Server {
        /// Host and port, without credentials.
        address: String,
        /// What was tried.
        action: &'static str,
        /// What to do.
        cure: &'static str,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The session is sealed, and none of the configured keys opens it.
    #[error(
        "the session of {identity:?} is sealed with key {key:?}: add that key to store.encryption_keys"
    )]
    Sealed {
        /// Whose session.
        identity: String,
        /// Which key, by the start of its digest.
        key: String,
    },
    /// The task that did the work ended early.
    #[error("the store's worker was stopped: the process is ending")]
    Stopped,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::secret::Secret;
    use crate::settings::ApplicationSettings;

    fn identity(client_id: &str, credential: Credential) -> IdentitySettings {
        IdentitySettings {
            name: "sales".into(),
            application: Arc::new(ApplicationSettings {
                name: "app".into(),
                client_id: client_id.into(),
                client_secret: None,
                token_url: "https://host/token".parse().unwrap(),
                revoke_url: "https://host/revoke".parse().unwrap(),
                authorize_url: "https://host/authorize".parse().unwrap(),
                device_authorization_url: "https://host/device_authorization".parse().unwrap(),
                redirect_uri: "http://127.0.0.1:8765/callback".into(),
                token_requests_per_minute: 5.try_into().unwrap(),
            }),
            credential,
            hosts: Vec::new(),
            listen: Vec::new(),
            fallback: None,
            endpoint_id: None,
            access_token_ttl: None,
            refresh_token_ttl: None,
            scope: None,
        }
    }

    fn jwt(text: &str) -> Credential {
        Credential::Jwt(Secret::new(text))
    }

    fn password(text: &str) -> Credential {
        Credential::Password {
            username: "+15550100".into(),
            extension: None,
            password: Secret::new(text),
        }
    }

    #[test]
    fn provenance_follows_the_credential_and_the_application() {
        let of = |client: &str, credential| Provenance::of(&identity(client, credential));
        assert_eq!(of("a", jwt("x")), of("a", jwt("x")));
        assert_ne!(of("a", jwt("x")), of("a", jwt("y")), "another credential");
        assert_ne!(of("a", jwt("x")), of("b", jwt("x")), "another application");
        let refresh = Credential::RefreshToken(Secret::new("x"));
        assert_ne!(of("a", jwt("x")), of("a", refresh), "another kind");
    }

    #[test]
    fn provenance_says_nothing_about_a_password() {
        let of = |text| Provenance::of(&identity("a", password(text)));
        assert_eq!(of("one"), of("two"));
    }
}
