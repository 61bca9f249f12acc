//! What a store or an archive may hold: it is a session with tokens, or it is refused; and what was read
//! is written the same.

use std::sync::LazyLock;

use ringbearer::secret::Secret;
use ringbearer::store::archive;
use ringbearer::store::seal::Seal;
use serde_json::json;

const NAME: &str = "/ringbearer archive";

static SEAL: LazyLock<Seal> = LazyLock::new(|| {
    let key = Secret::new("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
    Seal::new(&[key]).expect("a key")
});

pub(crate) fn run(input: &[u8]) {
    assert!(archive::read(input, &SEAL).is_err(), "nobody has sealed it");
    read(input);
    let text = String::from_utf8_lossy(input);
    for (session, enrolment) in [(Some(&text), None), (None, Some(&text))] {
        let line = json!({"name": "a", "session": session, "enrolment": enrolment});
        read(json!({"archive": 1, "identities": [line]}).to_string().as_bytes());
    }
}

fn read(plain: &[u8]) {
    let Ok(items) = archive::read(&SEAL.close(NAME, plain), &SEAL) else { return };
    for set in items.iter().filter_map(|item| item.session.as_ref()).map(|stored| &stored.set) {
        assert!(set.generation.number() > 0 || !set.access_token.expose().is_empty());
    }
    let written = archive::write(&items, &SEAL);
    let again = archive::read(&written, &SEAL).expect("it was written here");
    assert_eq!(format!("{again:?}"), format!("{items:?}"));
}
