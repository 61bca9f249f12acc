//! The digest of a key: enough to recognise whoever shows the key, of no use to whoever steals it.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The SHA-256 digest of a key that clients show. A key is random, so that a plain digest does.
#[derive(Clone, Copy)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// Of a key as it was shown.
    pub fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }

    /// From 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// Whether both are of one key. It takes the same time whatever they are.
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyDigest({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-2, appendix B.1.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn it_is_sha_256_in_hexadecimal_digits_of_either_case() {
        let digest = KeyDigest::of(b"abc");
        assert_eq!(digest.to_string(), ABC);
        for text in [ABC.to_owned(), ABC.to_uppercase()] {
            assert!(KeyDigest::parse(&text).unwrap().matches(&digest), "{text}");
        }
        assert!(!digest.matches(&KeyDigest::of(b"abd")));
    }

    #[test]
    fn anything_else_is_no_digest() {
        let signed = format!("+{}", &ABC[1..]);
        for text in ["", "abc", &ABC[1..], &format!("{ABC}0"), &signed, &"é".repeat(32)] {
            assert!(KeyDigest::parse(text).is_none(), "{text}");
        }
    }
}
