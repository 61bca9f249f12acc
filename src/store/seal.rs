//! Encryption of what is stored: each record under a key of its own (HKDF-SHA256, RFC 5869, with a
//! random salt), by AES-256-GCM, bound to its name, so that nobody can move one to another identity.
//!
//! The first key seals and every key opens, so a key is replaced by putting a new one before it.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::StoreError;
use crate::secret::{KEY_BYTES, Secret, SecretKey};

const SALT_BYTES: usize = 16;
const CONTEXT: &[u8] = b"ringbearer store v1";

/// Seals what is stored, if there are keys; else passes it through.
#[derive(Clone, Default)]
pub struct Seal {
    keys: Vec<Key>,
}

#[derive(Clone)]
struct Key {
    /// The start of its digest: names it in messages, and tells nothing about it.
    id: String,
    bytes: SecretKey,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    version: u64,
    sealed: Sealed,
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    key: String,
    salt: String,
    text: String,
}

/// Why a record does not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unopened {
    /// It was sealed with the key whose digest begins so.
    OtherKey(String),
    /// It is not whole, was sealed under another name, or not at all.
    Damaged,
}

/// A configured key does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key is 32 random bytes in base64, as `openssl rand -base64 32` prints them")]
pub struct SealError;

impl Seal {
    /// Leaves everything as it is.
    pub fn none() -> Self {
        Self::default()
    }

    /// By these keys, of 32 bytes each, in base64. Without any, everything is left as it is.
    pub fn new(keys: &[Secret]) -> Result<Self, SealError> {
        let keys = keys.iter().map(Key::parse).collect::<Result<_, _>>()?;
        Ok(Self { keys })
    }

    /// `plain` as it is to be stored under `name`.
    pub fn close(&self, name: &str, plain: &[u8]) -> Vec<u8> {
        let Some(key) = self.keys.first() else { return plain.to_vec() };
        let mut salt = [0; SALT_BYTES];
        SystemRandom::new().fill(&mut salt).expect("the system gives random bytes");
        let mut text = plain.to_vec();
        key.of_record(name, &salt)
            .seal_in_place_append_tag(nonce(), Aad::from(name), &mut text)
            .expect("a record is short");
        let sealed = Sealed {
            key: key.id.clone(),
            salt: BASE64_STANDARD.encode(salt),
            text: BASE64_STANDARD.encode(text),
        };
        serde_json::to_vec(&Envelope { version: 1, sealed }).expect("strings are JSON")
    }

    /// What [`close`](Self::close) made into `stored` under the same name. What was never sealed is
    /// returned as it is, so that keys can be added later; what is damaged, too, because it is not
    /// whole in any case, and its reader will say so.
    pub fn open(&self, name: &str, stored: &[u8]) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        match self.open_sealed(name, stored) {
            Ok(plain) => Ok(plain),
            Err(Unopened::Damaged) => Ok(Zeroizing::new(stored.to_vec())),
            Err(Unopened::OtherKey(key)) => {
                Err(StoreError::Sealed { identity: name.to_owned(), key })
            }
        }
    }

    /// What [`close`](Self::close) made into `stored` under the same name, and nothing else.
    pub fn open_sealed(&self, name: &str, stored: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unopened> {
        let Ok(Envelope { version: 1, sealed }) = serde_json::from_slice(stored) else {
            return Err(Unopened::Damaged);
        };
        let key = self.keys.iter().find(|key| key.id == sealed.key);
        let key = key.ok_or_else(|| Unopened::OtherKey(printable(&sealed.key)))?;
        key.open(name, &sealed).ok_or(Unopened::Damaged)
    }

    /// The key that seals, by the start of its digest.
    pub fn key_id(&self) -> Option<&str> {
        self.keys.first().map(|key| key.id.as_str())
    }
}

impl Key {
    fn parse(text: &Secret) -> Result<Self, SealError> {
        let bytes = SecretKey::parse(text).map_err(|_| SealError)?;
        Ok(Self { id: id(bytes.expose()), bytes })
    }

    fn open(&self, name: &str, sealed: &Sealed) -> Option<Zeroizing<Vec<u8>>> {
        let salt = BASE64_STANDARD.decode(&sealed.salt).ok()?;
        let mut text = Zeroizing::new(BASE64_STANDARD.decode(&sealed.text).ok()?);
        let key = self.of_record(name, &salt);
        let length = key.open_in_place(nonce(), Aad::from(name), &mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }

    fn of_record(&self, name: &str, salt: &[u8]) -> LessSafeKey {
        let secret: Prk = Salt::new(HKDF_SHA256, salt).extract(self.bytes.expose());
        let info = [CONTEXT, name.as_bytes()];
        let derived = secret.expand(&info, &AES_256_GCM).expect("a key is short");
        LessSafeKey::new(UnboundKey::from(derived))
    }
}

/// The same for all: each record's key is used once.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

fn id(key: &[u8; KEY_BYTES]) -> String {
    let digest = Sha256::digest(key);
    format!("{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3])
}

/// A key id from a file, fit for a message.
fn printable(id: &str) -> String {
    id.chars().filter(char::is_ascii_hexdigit).take(8).collect()
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.id)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Secret {
        Secret::new(BASE64_STANDARD.encode([byte; KEY_BYTES]))
    }

    fn seal(keys: &[u8]) -> Seal {
        Seal::new(&keys.iter().map(|byte| key(*byte)).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn opens_what_it_closed_and_shows_nothing_of_it() {
        let (one, closed) = (seal(&[1]), seal(&[1]).close("sales", b"canary"));
        assert_eq!(one.open("sales", &closed).unwrap().as_slice(), b"canary");
        assert!(!String::from_utf8(closed.clone()).unwrap().contains("canary"));
        assert_ne!(one.close("sales", b"canary"), closed, "a salt of its own each time");
    }

    #[test]
    fn a_record_under_another_name_or_with_a_flipped_byte_does_not_open() {
        let (one, closed) = (seal(&[1]), seal(&[1]).close("sales", b"canary"));
        assert_eq!(one.open("support", &closed).unwrap().as_slice(), &closed[..]);
        for at in 0..closed.len() {
            let mut flipped = closed.clone();
            flipped[at] ^= 1;
            let opened = one.open("sales", &flipped);
            assert!(opened.is_err() || opened.unwrap().as_slice() != b"canary", "byte {at}");
        }
    }

    #[test]
    fn a_new_key_goes_before_the_old_one() {
        let old = seal(&[1]).close("sales", b"canary");
        let both = seal(&[2, 1]);
        assert_eq!(both.open("sales", &old).unwrap().as_slice(), b"canary");
        let new = both.close("sales", b"canary");
        assert_eq!(seal(&[2]).open("sales", &new).unwrap().as_slice(), b"canary");
        let error = seal(&[2]).open("sales", &old).unwrap_err().to_string();
        let id = id(&[1; KEY_BYTES]);
        assert_eq!(
            error,
            format!(
                "the session of \"sales\" is sealed with key \"{id}\": add that key to store.encryption_keys"
            )
        );
        assert!(Seal::none().open("sales", &old).is_err());
    }

    #[test]
    fn what_was_never_sealed_is_read_as_it_is() {
        assert_eq!(
            seal(&[1]).open("sales", b"{\"version\":1}").unwrap().as_slice(),
            b"{\"version\":1}"
        );
    }

    #[test]
    fn a_key_of_another_length_is_refused() {
        for text in ["", "secret", "AAAA", &"A".repeat(88)] {
            assert_eq!(Seal::new(&[Secret::new(text)]).unwrap_err(), SealError, "{text}");
        }
        assert!(
            Seal::new(&[Secret::new(BASE64_STANDARD.encode([7; 32]).trim_end_matches('='))])
                .is_ok()
        );
    }
}
