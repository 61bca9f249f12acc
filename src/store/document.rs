//! What stands in a session's file: JSON with a version and a checksum. Pure.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::secret::Secret;
use crate::store::{Enrolment, Entry, MARK_KEPT, Provenance, Stored};
use crate::token::{AccessToken, Generation, Refresh, RefreshToken, TokenSet};

const VERSION: u64 = 1;

/// Why a content is not a session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It has another version.
    Version(u64),
    /// It is not whole.
    Damaged,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<'a> {
    version: u64,
    /// SHA-256 of `session` in serialised form, as hexadecimal digits.
    checksum: String,
    #[serde(borrow)]
    session: Session<'a>,
}

/// What stands where a session was ended.
#[derive(Serialize, Deserialize)]
struct Mark {
    version: u64,
    /// The generation after the ended session's.
    erased: u64,
    erased_at_ms: u64,
}

#[derive(Deserialize)]
struct Versioned {
    version: u64,
    erased: Option<u64>,
    erased_at_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Session<'a> {
    generation: u64,
    provenance: String,
    #[serde(borrow)]
    access_token: std::borrow::Cow<'a, str>,
    issued_at_ms: u64,
    expires_at_ms: u64,
    refresh_token: Option<std::borrow::Cow<'a, str>>,
    refresh_expires_at_ms: Option<u64>,
    previous_refresh_token: Option<std::borrow::Cow<'a, str>>,
    scope: Option<String>,
    owner_id: Option<String>,
    endpoint_id: Option<String>,
}

/// The content of the file for `stored`; wiped after use.
pub(super) fn write(stored: &Stored) -> Zeroizing<Vec<u8>> {
    let set = &stored.set;
    let session = Session {
        generation: set.generation.number(),
        provenance: hex(stored.provenance.as_bytes()),
        access_token: set.access_token.expose().into(),
        issued_at_ms: set.issued_at.unix_millis(),
        expires_at_ms: set.expires_at.unix_millis(),
        refresh_token: set.refresh.as_ref().map(|refresh| refresh.token.expose().into()),
        refresh_expires_at_ms: set
            .refresh
            .as_ref()
            .and_then(|refresh| refresh.expires_at.map(Timestamp::unix_millis)),
        previous_refresh_token: set.previous_refresh.as_ref().map(|token| token.expose().into()),
        scope: set.scope.clone(),
        owner_id: set.owner_id.clone(),
        endpoint_id: set.endpoint_id.clone(),
    };
    let document = Document { version: VERSION, checksum: checksum(&session), session };
    Zeroizing::new(serde_json::to_vec(&document).expect("strings and numbers are JSON"))
}

/// The content that says that a session was ended.
pub(super) fn write_mark(erased: Generation, now: Timestamp) -> Vec<u8> {
    let (erased, erased_at_ms) = (erased.number(), now.unix_millis());
    let mark = Mark { version: VERSION, erased, erased_at_ms };
    serde_json::to_vec(&mark).expect("numbers are JSON")
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnrolmentDocument<'a> {
    version: u64,
    client_id: std::borrow::Cow<'a, str>,
    jwt: Option<std::borrow::Cow<'a, str>>,
}

/// The content for an identity that was added.
pub(super) fn write_enrolment(enrolment: &Enrolment) -> Zeroizing<Vec<u8>> {
    let document = EnrolmentDocument {
        version: VERSION,
        client_id: enrolment.client_id.as_str().into(),
        jwt: enrolment.jwt.as_ref().map(|jwt| jwt.expose().into()),
    };
    Zeroizing::new(serde_json::to_vec(&document).expect("strings and numbers are JSON"))
}

/// The identity in a content of [`write_enrolment`]; `None` if it is not whole.
pub(super) fn parse_enrolment(content: &[u8]) -> Option<Enrolment> {
    let document: EnrolmentDocument<'_> = serde_json::from_slice(content).ok()?;
    (document.version == VERSION).then(|| Enrolment {
        client_id: document.client_id.into_owned(),
        jwt: document.jwt.map(|jwt| Secret::new(jwt.into_owned())),
    })
}

/// What stands in a file's content at `now`: of a mark that has lapsed, nothing.
pub(super) fn parse_at(content: &[u8], now: Timestamp) -> Result<Entry, Fault> {
    let Versioned { version, erased, erased_at_ms } =
        serde_json::from_slice(content).map_err(|_| Fault::Damaged)?;
    if version != VERSION {
        return Err(Fault::Version(version));
    }
    let kept = erased_at_ms.is_none_or(|at| now < Timestamp::from_unix_millis(at) + MARK_KEPT);
    match erased {
        Some(_) if !kept => Ok(Entry::Absent),
        Some(generation) => Ok(Entry::Erased(Generation::new(generation))),
        None => session(content).map(Entry::Session),
    }
}

/// What stands in the content of a record whose marks lapse by themselves.
pub(super) fn parse(content: &[u8]) -> Result<Entry, Fault> {
    parse_at(content, Timestamp::from_unix_millis(0))
}

fn session(content: &[u8]) -> Result<Stored, Fault> {
    let document: Document<'_> = serde_json::from_slice(content).map_err(|_| Fault::Damaged)?;
    let session = document.session;
    if checksum(&session) != document.checksum {
        return Err(Fault::Damaged);
    }
    let provenance = unhex(&session.provenance).ok_or(Fault::Damaged)?;
    let refresh_expires_at = session.refresh_expires_at_ms.map(Timestamp::from_unix_millis);
    let set = TokenSet {
        generation: Generation::new(session.generation),
        access_token: AccessToken::new(session.access_token),
        issued_at: Timestamp::from_unix_millis(session.issued_at_ms),
        expires_at: Timestamp::from_unix_millis(session.expires_at_ms),
        refresh: session.refresh_token.map(|token| Refresh {
            token: RefreshToken::new(token),
            expires_at: refresh_expires_at,
        }),
        previous_refresh: session.previous_refresh_token.map(RefreshToken::new),
        scope: session.scope,
        owner_id: session.owner_id,
        endpoint_id: session.endpoint_id,
    };
    Ok(Stored { set, provenance: Provenance::from_bytes(provenance) })
}

fn checksum(session: &Session<'_>) -> String {
    let text = serde_json::to_vec(session).expect("strings and numbers are JSON");
    hex(&Sha256::digest(&*Zeroizing::new(text)).into())
}

fn hex(bytes: &[u8; 32]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).expect("a nibble");
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);

    fn stored() -> Stored {
        let set = TokenSet {
            generation: Generation::new(7),
            access_token: AccessToken::new("access \"quoted\""),
            issued_at: NOW,
            expires_at: NOW + Duration::from_secs(3600),
            refresh: Some(Refresh { token: RefreshToken::new("new"), expires_at: None }),
            previous_refresh: Some(RefreshToken::new("old")),
            scope: Some("ReadMessages SMS".into()),
            owner_id: None,
            endpoint_id: Some("box-1".into()),
        };
        Stored { set, provenance: Provenance::from_bytes([0xab; 32]) }
    }

    fn refusal(content: &[u8]) -> Fault {
        parse(content).expect_err("not whole")
    }

    #[test]
    fn reads_back_what_it_wrote() {
        let content = write(&stored());
        let back = parse(&content).unwrap().session().unwrap();
        assert_eq!(*write(&back), *content);
        assert_eq!(back.set.access_token.expose(), "access \"quoted\"");
        assert_eq!(back.set.previous_refresh.unwrap().expose(), "old");
        assert_eq!(back.provenance, stored().provenance);
    }

    #[test]
    fn notices_every_truncation_and_every_flipped_byte() {
        let content = write(&stored());
        for length in 0..content.len() {
            assert_eq!(refusal(&content[..length]), Fault::Damaged, "cut at {length}");
        }
        let checked = content.iter().position(|byte| *byte == b'7').unwrap();
        for at in checked..content.len() {
            let mut flipped = content.to_vec();
            flipped[at] ^= 0x01;
            assert!(parse(&flipped).is_err(), "byte {at} flipped");
        }
    }

    #[test]
    fn a_mark_lapses_after_thirty_days() {
        let mark = write_mark(Generation::new(8), NOW);
        let end = NOW + MARK_KEPT;
        let before = parse_at(&mark, end - Duration::from_millis(1)).unwrap();
        assert!(matches!(before, Entry::Erased(generation) if generation.number() == 8));
        assert!(matches!(parse_at(&mark, end), Ok(Entry::Absent)));
    }

    #[test]
    fn names_a_version_it_does_not_know() {
        let later = br#"{"version":2,"contents":"in another shape"}"#;
        assert_eq!(refusal(later), Fault::Version(2));
    }
}
