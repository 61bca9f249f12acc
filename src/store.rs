//! Where token sets outlive the process: load, compare-and-set by generation, and the lease that
//! gives one process at a time the right to renew.
//!
//! Whoever saves or erases must show the [`Lease`]: two processes then never exchange the same
//! refresh token, and one that stalled past its lease has its late write refused by generation.
//! "The lease is held" (`Ok(None)`) and "the store is down" (`Err`) are different answers.

use std::any::Any;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;

use sha2::{Digest, Sha256};

use crate::settings::{Credential, IdentitySettings};
use crate::token::{Generation, TokenSet};

pub mod file;

/// What an operation of a [`TokenStore`] returns.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A place where token sets are kept durably, one per identity.
pub trait TokenStore: Send + Sync {
    /// The stored session of an identity, if there is one.
    fn load<'a>(&'a self, identity: &'a str) -> StoreFuture<'a, Option<Stored>>;

    /// The right to renew an identity, or `None` if somebody else has it now. Never waits for them.
    fn lease<'a>(&'a self, identity: &'a str) -> StoreFuture<'a, Option<Lease>>;

    /// Fails if [`save`](Self::save) could not write now. To be asked *before* a token is
    /// requested: an answer that cannot be stored is a session lost.
    fn probe_writable<'a>(&'a self, lease: &'a Lease) -> StoreFuture<'a, ()>;

    /// Replaces the stored session durably, if the one there is still of generation `expected`
    /// ([`Generation::NONE`] where none is). The replaced session can be recovered until the next save.
    fn save<'a>(
        &'a self,
        lease: &'a Lease,
        stored: &'a Stored,
        expected: Generation,
    ) -> StoreFuture<'a, ()>;

    /// Forgets the session of an identity, older copies included.
    fn erase<'a>(&'a self, lease: &'a Lease) -> StoreFuture<'a, ()>;
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

/// The right to renew one identity, for as long as this value lives.
pub struct Lease {
    identity: String,
    _held: Box<dyn Any + Send + Sync>,
}

impl Lease {
    /// Of `identity`; dropping `held` gives the lease back.
    pub fn new(identity: impl Into<String>, held: impl Any + Send + Sync) -> Self {
        Self { identity: identity.into(), _held: Box::new(held) }
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
                token_requests_per_minute: 5.try_into().unwrap(),
            }),
            credential,
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
