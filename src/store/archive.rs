//! Sessions on their way from one store to another: one text, sealed as a whole under a key of its own
//! (see [`seal`](super::seal)), versioned, and taken whole or not at all. PURE.
//!
//! Unlike a store, it is never read unsealed: who could write an archive could plant a session.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::seal::{Seal, Unopened};
use super::{Enrolment, Entry, Generation, Stored, document};

/// What an archive is sealed as: no record of a store has this name.
const NAME: &str = "/ringbearer archive";
const VERSION: u64 = 1;

/// What an archive holds of one identity.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its name.
    pub identity: String,
    /// Its session.
    pub session: Option<Stored>,
    /// What was kept when it was added.
    pub enrolment: Option<Enrolment>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    archive: u64,
    identities: Vec<Line>,
}

/// Each part in the shape that it has in a store, with its own version and checksum.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    session: Option<Zeroizing<String>>,
    enrolment: Option<Zeroizing<String>>,
}

#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

/// Why an archive is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// Another key sealed it.
    #[error(
        "the archive is sealed with key {theirs:?}, and --key-file holds key {ours:?}: give the key that \
         it was exported with"
    )]
    OtherKey {
        /// The key that sealed it, by the start of its digest.
        theirs: String,
        /// The key that was given.
        ours: String,
    },
    /// It is cut off, changed, or something else.
    #[error(
        "this is no whole archive of `ringbearer export`: it is cut off, changed, or something else"
    )]
    Damaged,
    /// A later program wrote it.
    #[error("the archive has version {0}, this program knows 1: run the later version")]
    Version(u64),
}

/// The archive of these identities, as a line of text. `seal` has to have a key.
///
/// # Panics
/// If it has none.
pub fn write(items: &[Item], seal: &Seal) -> Vec<u8> {
    assert!(seal.key_id().is_some(), "an archive is never written unsealed");
    let text = |bytes: Zeroizing<Vec<u8>>| {
        Zeroizing::new(String::from_utf8(bytes.to_vec()).expect("JSON is UTF-8"))
    };
    let line = |item: &Item| Line {
        name: item.identity.clone(),
        session: item.session.as_ref().map(document::write).map(text),
        enrolment: item.enrolment.as_ref().map(document::write_enrolment).map(text),
    };
    let document = Document { archive: VERSION, identities: items.iter().map(line).collect() };
    let plain = Zeroizing::new(serde_json::to_vec(&document).expect("strings are JSON"));
    let mut sealed = seal.close(NAME, &plain);
    sealed.push(b'\n');
    sealed
}

/// What [`write()`] made into `content` with the same key.
pub fn read(content: &[u8], seal: &Seal) -> Result<Vec<Item>, ArchiveError> {
    let outer: Versioned = serde_json::from_slice(content).map_err(|_| ArchiveError::Damaged)?;
    if outer.version != VERSION {
        return Err(ArchiveError::Version(outer.version));
    }
    let plain = seal.open_sealed(NAME, content).map_err(|error| match error {
        Unopened::Damaged => ArchiveError::Damaged,
        Unopened::OtherKey(theirs) => {
            let ours = seal.key_id().unwrap_or_default().to_owned();
            ArchiveError::OtherKey { theirs, ours }
        }
    })?;
    let document: Document = serde_json::from_slice(&plain).map_err(|_| ArchiveError::Damaged)?;
    if document.archive != VERSION {
        return Err(ArchiveError::Version(document.archive));
    }
    document.identities.into_iter().map(item).collect()
}

fn item(line: Line) -> Result<Item, ArchiveError> {
    let session = match line.session {
        None => None,
        Some(text) => match document::parse(text.as_bytes()) {
            Ok(Entry::Session(stored)) => Some(stored),
            Ok(Entry::Absent | Entry::Erased(_)) | Err(document::Fault::Damaged) => {
                return Err(ArchiveError::Damaged);
            }
            Err(document::Fault::Version(version)) => return Err(ArchiveError::Version(version)),
        },
    };
    let parsed = |text: Zeroizing<String>| {
        document::parse_enrolment(text.as_bytes()).ok_or(ArchiveError::Damaged)
    };
    let enrolment = line.enrolment.map(parsed).transpose()?;
    Ok(Item { identity: line.name, session, enrolment })
}

/// What becomes of an archived session where there is an entry already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is stored as this generation.
    Take(Generation),
    /// It is there already.
    Same,
    /// What is there is of this generation, and not older.
    Newer(Generation),
}

/// Whether an archived session takes the place of what is there. Generations only rise, or the proxies
/// of the store would not notice.
pub fn judge(archived: &Stored, there: &Entry, replace: bool) -> Verdict {
    let (ours, theirs) = (archived.set.generation, there.generation());
    let token = archived.set.access_token.expose();
    match there {
        Entry::Session(stored) if stored.set.access_token.expose() == token => Verdict::Same,
        _ if ours > theirs => Verdict::Take(ours),
        _ if replace => Verdict::Take(theirs.next()),
        _ => Verdict::Newer(theirs),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Timestamp;
    use crate::secret::Secret;
    use crate::store::Provenance;
    use crate::token::{AccessToken, TokenSet};

    const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);

    fn stored(generation: u64, token: &str) -> Stored {
        let set = TokenSet {
            generation: Generation::new(generation),
            access_token: AccessToken::new(token),
            issued_at: NOW,
            expires_at: NOW + Duration::from_secs(3600),
            refresh: None,
            previous_refresh: None,
            scope: None,
            owner_id: None,
            endpoint_id: None,
        };
        Stored { set, provenance: Provenance::from_bytes([7; 32]) }
    }

    fn seal(byte: u8) -> Seal {
        use base64::Engine;
        let key = base64::prelude::BASE64_STANDARD.encode([byte; 32]);
        Seal::new(&[Secret::new(key)]).unwrap()
    }

    fn items() -> Vec<Item> {
        let jwt = Some(Secret::new("canary-jwt"));
        let enrolment = Some(Enrolment { client_id: "a".into(), jwt });
        let session = Some(stored(7, "canary-token"));
        vec![
            Item { identity: "sales".into(), session, enrolment: None },
            Item { identity: "bot".into(), session: None, enrolment },
        ]
    }

    #[test]
    fn what_was_written_is_read_and_shows_nothing_on_the_way() {
        let content = write(&items(), &seal(1));
        assert!(!String::from_utf8(content.clone()).unwrap().contains("canary"));
        let [sales, bot] = &read(&content, &seal(1)).unwrap()[..] else { panic!("two") };
        let session = sales.session.as_ref().unwrap();
        assert_eq!(
            (&*sales.identity, session.set.access_token.expose()),
            ("sales", "canary-token")
        );
        assert_eq!(session.set.generation, Generation::new(7));
        assert_eq!(session.provenance, Provenance::from_bytes([7; 32]));
        let enrolment = bot.enrolment.as_ref().unwrap();
        assert_eq!(enrolment.jwt.as_ref().unwrap().expose(), "canary-jwt");
        assert!(bot.session.is_none() && sales.enrolment.is_none());
    }

    #[test]
    fn every_truncation_and_every_flipped_byte_is_noticed() {
        let content = write(&items(), &seal(1));
        // Only the line break at the end may be missing.
        for length in 0..content.len() - 1 {
            let refused = read(&content[..length], &seal(1)).unwrap_err();
            assert_eq!(refused, ArchiveError::Damaged, "cut at {length}");
        }
        for at in 0..content.len() - 1 {
            let mut flipped = content.clone();
            flipped[at] ^= 1;
            assert!(read(&flipped, &seal(1)).is_err(), "byte {at}");
        }
    }

    #[test]
    fn another_key_is_named_and_what_is_not_sealed_is_not_read() {
        let error = read(&write(&items(), &seal(1)), &seal(2)).unwrap_err();
        let (ours, theirs) = (seal(2), seal(1));
        let (ours, theirs) = (ours.key_id().unwrap(), theirs.key_id().unwrap());
        assert_eq!(
            error.to_string(),
            format!(
                "the archive is sealed with key \"{theirs}\", and --key-file holds key \"{ours}\": give \
                 the key that it was exported with"
            )
        );
        let plain = br#"{"version":1,"archive":1,"identities":[]}"#;
        assert_eq!(read(plain, &seal(1)).unwrap_err(), ArchiveError::Damaged);
        let later = br#"{"version":2,"sealed":"otherwise"}"#;
        assert_eq!(read(later, &seal(1)).unwrap_err(), ArchiveError::Version(2));
        let record = seal(1).close("sales", b"{}");
        assert_eq!(read(&record, &seal(1)).unwrap_err(), ArchiveError::Damaged, "a store's record");
    }

    #[test]
    fn a_newer_generation_is_replaced_only_on_demand() {
        let archived = stored(7, "a");
        let there = |generation| Entry::Session(stored(generation, "b"));
        let generation = Generation::new;
        assert_eq!(judge(&archived, &Entry::Absent, false), Verdict::Take(generation(7)));
        assert_eq!(judge(&archived, &there(6), false), Verdict::Take(generation(7)));
        assert_eq!(judge(&archived, &there(7), false), Verdict::Newer(generation(7)));
        assert_eq!(judge(&archived, &there(9), false), Verdict::Newer(generation(9)));
        assert_eq!(judge(&archived, &there(9), true), Verdict::Take(generation(10)));
        let mark = Entry::Erased(generation(8));
        assert_eq!(judge(&archived, &mark, false), Verdict::Newer(generation(8)));
        assert_eq!(judge(&archived, &mark, true), Verdict::Take(generation(9)));
        assert_eq!(judge(&archived, &Entry::Session(stored(9, "a")), true), Verdict::Same);
    }
}
