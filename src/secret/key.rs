//! A key of 32 random bytes, written in base64.

use std::fmt;

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::BASE64_STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::Secret;

/// The length of a key, in bytes.
pub const KEY_BYTES: usize = 32;

/// 32 random bytes to seal with.
#[derive(Clone)]
pub struct SecretKey(Zeroizing<[u8; KEY_BYTES]>);

/// A text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key is 32 random bytes in base64, as `openssl rand -base64 32` prints them")]
pub struct NoKey;

impl SecretKey {
    /// From base64, with or without the padding, which people leave off.
    pub fn parse(text: &Secret) -> Result<Self, NoKey> {
        const BASE64: GeneralPurpose = GeneralPurpose::new(
            &base64::alphabet::STANDARD,
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
        );
        let decoded = Zeroizing::new(BASE64.decode(text.expose().trim()).map_err(|_| NoKey)?);
        Ok(Self(Zeroizing::new(decoded.as_slice().try_into().map_err(|_| NoKey)?)))
    }

    /// A new one, as [`parse`](Self::parse) reads it.
    pub fn generate() -> Secret {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        SystemRandom::new().fill(&mut *bytes).expect("the system gives random bytes");
        Secret::new(BASE64_STANDARD.encode(*bytes))
    }

    /// The bytes. Every call is a place where the key may leak.
    pub fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_is_one_and_like_no_other() {
        let (one, other) = (SecretKey::generate(), SecretKey::generate());
        assert_ne!(one.expose(), other.expose());
        let key = SecretKey::parse(&one).unwrap();
        assert_eq!(BASE64_STANDARD.encode(key.expose()), one.expose());
        assert_eq!(format!("{key:?}"), "***");
    }

    #[test]
    fn anything_but_32_bytes_is_refused() {
        for text in ["", "secret", "AAAA", &"A".repeat(88)] {
            assert_eq!(SecretKey::parse(&Secret::new(text)).unwrap_err(), NoKey, "{text}");
        }
    }
}
