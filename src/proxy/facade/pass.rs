//! The tokens that the proxy itself hands out. PURE, but for the random nonce.
//!
//! A token says, sealed by AES-256-GCM, for which client and which identity it is and how long it is
//! good. Nothing is kept of it: every replica that has the key knows it, after a restart too. What
//! kind it is of goes into the seal, so that no refresh token passes for an access token.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};

use crate::clock::Timestamp;
use crate::secret::{Secret, SecretKey};

/// What every such token begins with.
pub const PREFIX: &str = "rbx1_";

const CONTEXT: &[u8] = b"ringbearer facade v1";

/// No token of ours is longer: a redirect URI is the longest thing in one.
const MAX_TOKEN: usize = 8 * 1024;

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To call as its identity.
    Access,
    /// To get another pair.
    Refresh,
    /// To end a login that a browser began.
    Code,
}

/// For whom a token is, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// The client; none where clients show no key.
    pub client: Option<String>,
    /// The identity.
    pub identity: String,
    /// Its end.
    pub expires_at: Timestamp,
}

/// An opened token of any kind.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) parts: Vec<String>,
    pub(super) expires_at: Timestamp,
    /// Its nonce, which no other token has.
    pub(super) id: [u8; NONCE_LEN],
}

/// What tokens are sealed with: the first key seals, each of them opens.
pub struct Keys(Vec<LessSafeKey>);

impl Keys {
    /// Of these keys; `None` if there are none.
    pub fn of(keys: &[SecretKey]) -> Option<Self> {
        (!keys.is_empty()).then(|| Self(keys.iter().map(derived).collect()))
    }

    /// A new token for `pass`.
    ///
    /// # Panics
    /// If the system gives no random bytes.
    pub fn issue(&self, kind: Kind, pass: &Pass) -> Secret {
        let client = pass.client.as_deref().unwrap_or_default();
        self.seal(kind, pass.expires_at, &[client, &pass.identity])
    }

    /// For whom `token` is; `None` unless it is of this kind and was issued with one of the keys.
    /// It may be over.
    pub fn read(&self, kind: Kind, token: &[u8]) -> Option<Pass> {
        let Opened { parts, expires_at, .. } = self.open(kind, token)?;
        let [client, identity] = <[String; 2]>::try_from(parts).ok()?;
        let client = (!client.is_empty()).then_some(client);
        Some(Pass { client, identity, expires_at })
    }

    pub(super) fn seal(&self, kind: Kind, expires_at: Timestamp, parts: &[&str]) -> Secret {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).expect("the system gives random bytes");
        let mut text = expires_at.unix_millis().to_be_bytes().to_vec();
        for part in parts {
            let length = u16::try_from(part.len()).expect("a name or a URI of a short request");
            text.extend_from_slice(&length.to_be_bytes());
            text.extend_from_slice(part.as_bytes());
        }
        let key = self.0.first().expect("there is one");
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), kind.aad(), &mut text)
            .expect("a token is short");
        Secret::new(format!(
            "{PREFIX}{}",
            BASE64_URL_SAFE_NO_PAD.encode([&nonce[..], &text].concat())
        ))
    }

    pub(super) fn open(&self, kind: Kind, token: &[u8]) -> Option<Opened> {
        let text = token.strip_prefix(PREFIX.as_bytes()).filter(|text| text.len() < MAX_TOKEN)?;
        let mut sealed = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        let (id, text) = sealed.split_first_chunk_mut::<NONCE_LEN>()?;
        // A failed attempt leaves no text behind, so every other key gets its own copy.
        let (first, others) = self.0.split_first().expect("there is one");
        let spare = if others.is_empty() { Vec::new() } else { text.to_vec() };
        let nonce = || Nonce::assume_unique_for_key(*id);
        if let Ok(plain) = first.open_in_place(nonce(), kind.aad(), text) {
            return parse(plain, *id);
        }
        others.iter().find_map(|key| {
            let mut text = spare.clone();
            parse(key.open_in_place(nonce(), kind.aad(), &mut text).ok()?, *id)
        })
    }
}

impl Kind {
    fn aad(self) -> Aad<&'static [u8]> {
        Aad::from(match self {
            Self::Access => b"access",
            Self::Refresh => b"refresh",
            Self::Code => b"code",
        })
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

/// The store seals with keys of its own, even where the same one is configured.
fn derived(key: &SecretKey) -> LessSafeKey {
    let secret = Salt::new(HKDF_SHA256, &[]).extract(key.expose());
    let expanded = secret.expand(&[CONTEXT], &AES_256_GCM).expect("a key is short");
    LessSafeKey::new(UnboundKey::from(expanded))
}

fn parse(plain: &[u8], id: [u8; NONCE_LEN]) -> Option<Opened> {
    let (millis, mut rest) = plain.split_first_chunk()?;
    let mut parts = Vec::with_capacity(2);
    while let Some((length, after)) = rest.split_first_chunk() {
        let (part, after) = after.split_at_checked(u16::from_be_bytes(*length).into())?;
        parts.push(std::str::from_utf8(part).ok()?.to_owned());
        rest = after;
    }
    let expires_at = Timestamp::from_unix_millis(u64::from_be_bytes(*millis));
    rest.is_empty().then_some(Opened { parts, expires_at, id })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 3] = [Kind::Access, Kind::Refresh, Kind::Code];

    fn keys(bytes: &[u8]) -> Keys {
        let key = |byte: &u8| {
            let text = base64::prelude::BASE64_STANDARD.encode([*byte; 32]);
            SecretKey::parse(&Secret::new(text)).unwrap()
        };
        Keys::of(&bytes.iter().map(key).collect::<Vec<_>>()).unwrap()
    }

    fn pass(client: Option<&str>) -> Pass {
        Pass {
            client: client.map(str::to_owned),
            identity: "sales".to_owned(),
            expires_at: Timestamp::from_unix_millis(1_700_000_000_123),
        }
    }

    fn read(keys: &Keys, kind: Kind, token: &str) -> Option<Pass> {
        keys.read(kind, token.as_bytes())
    }

    #[test]
    fn says_what_went_in_and_shows_none_of_it() {
        let keys = keys(&[1]);
        for client in [None, Some("billing")] {
            let token = keys.issue(Kind::Access, &pass(client));
            assert_eq!(read(&keys, Kind::Access, token.expose()), Some(pass(client)));
            assert_ne!(keys.issue(Kind::Access, &pass(client)).expose(), token.expose());
            let body = token.expose().strip_prefix(PREFIX).unwrap();
            let bytes = BASE64_URL_SAFE_NO_PAD.decode(body).unwrap();
            assert!(!bytes.windows(5).any(|window| window == b"sales"));
        }
        assert_eq!(keys.issue(Kind::Access, &pass(Some("billing"))).expose().len(), 75);
    }

    #[test]
    fn no_changed_or_cut_token_is_one() {
        let keys = keys(&[1]);
        let token = keys.issue(Kind::Access, &pass(Some("billing")));
        let token = token.expose();
        for at in 0..token.len() {
            assert_eq!(read(&keys, Kind::Access, &token[..at]), None, "cut at {at}");
            for bit in 0..7 {
                let mut changed = token.as_bytes().to_vec();
                changed[at] ^= 1 << bit;
                assert_eq!(keys.read(Kind::Access, &changed), None, "bit {bit} of byte {at}");
            }
        }
        for junk in ["", "rbx1_", "rbx1_AAAA", "rbx1_=", "undefined", &"rbx1_A".repeat(9000)] {
            assert_eq!(read(&keys, Kind::Access, junk), None, "{junk}");
        }
        assert_eq!(read(&keys, Kind::Access, &format!("{token}=")), None, "padded");
        assert_eq!(read(&keys, Kind::Access, &format!("{token}AAAA")), None, "longer");
    }

    #[test]
    fn no_kind_passes_for_another() {
        let keys = keys(&[1, 2]);
        for issued in KINDS {
            let token = keys.issue(issued, &pass(None));
            for asked in KINDS {
                let found = read(&keys, asked, token.expose()).is_some();
                assert_eq!(found, asked == issued, "{issued:?} as {asked:?}");
            }
        }
    }

    #[test]
    fn a_new_key_goes_before_the_old_one() {
        let old = keys(&[1]).issue(Kind::Access, &pass(None));
        let both = keys(&[2, 3, 1]);
        assert_eq!(read(&both, Kind::Access, old.expose()), Some(pass(None)));
        let new = both.issue(Kind::Access, &pass(None));
        assert!(read(&keys(&[2]), Kind::Access, new.expose()).is_some());
        assert!(read(&keys(&[1]), Kind::Access, new.expose()).is_none());
        assert!(read(&keys(&[2]), Kind::Access, old.expose()).is_none());
        assert!(Keys::of(&[]).is_none());
    }

    #[test]
    fn debug_prints_no_key() {
        assert_eq!(format!("{:?}", keys(&[1, 2])), "Keys(2)");
    }
}
