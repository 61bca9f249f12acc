//! Keys that callers are let in with: made, digested, compared. PURE but for the random source.
//!
//! A configuration holds digests only, so that whoever reads it gets in nowhere. A key is 256 random
//! bits, which nobody guesses: a plain SHA-256 of it is enough, where a password would need more.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::secret::Secret;

/// The SHA-256 digest of a key.
#[derive(Clone, Copy)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// Of a key, as it is presented.
    pub fn of(key: impl AsRef<[u8]>) -> Self {
        Self(Sha256::digest(key).into())
    }

    /// From its 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut digest = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (byte, digits) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
            let nibble = |digit: u8| char::from(digit).to_digit(16);
            *byte = u8::try_from(nibble(digits[0])? * 16 + nibble(digits[1])?).ok()?;
        }
        Some(Self(digest))
    }

    /// Whether both are of one key. It takes the same time whatever they are.
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// Whether `key` is the key. It takes the same time for every wrong one.
    pub fn is_of(&self, key: &str) -> bool {
        self.matches(&Self::of(key))
    }
}

impl fmt::Display for KeyDigest {
    /// The 64 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyDigest({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

/// A key that nobody has had before; `None` if the system has no random numbers.
pub fn generate() -> Option<Secret> {
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    SystemRandom::new().fill(&mut *bytes).ok()?;
    Some(Secret::new(BASE64_URL_SAFE_NO_PAD.encode(*bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_the_one_that_sha256sum_prints_and_opens_to_its_key_only() {
        let hex = "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683";
        let digest = KeyDigest::parse(hex).unwrap();
        assert_eq!(KeyDigest::of("key").to_string(), hex);
        assert_eq!(KeyDigest::parse(&hex.to_uppercase()).unwrap().to_string(), hex);
        assert!(digest.is_of("key"));
        for wrong in ["", "Key", "key ", hex] {
            assert!(!digest.is_of(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        for text in ["", "key", &"g".repeat(64), &"0".repeat(63), &"0".repeat(65), &"é".repeat(32)]
        {
            assert!(KeyDigest::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_new_key_is_43_characters_that_no_shell_minds_and_never_the_same() {
        let keys = [generate().unwrap(), generate().unwrap()];
        for key in &keys {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            assert!(key.expose().len() == 43 && key.expose().chars().all(plain));
            assert!(KeyDigest::of(key.expose()).is_of(key.expose()));
        }
        assert_ne!(keys[0].expose(), keys[1].expose());
    }
}
