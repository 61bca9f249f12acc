//! Tokens of the facade's: what was not sealed here does not open, what was does, as the kind it is of.

use std::sync::LazyLock;

use ringbearer::clock::Timestamp;
use ringbearer::proxy::facade::pass::{Keys, Kind, PREFIX, Pass};
use ringbearer::secret::{Secret, SecretKey};

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let key = |letter: &str| SecretKey::parse(&Secret::new(letter.repeat(43))).expect("a key");
    Keys::of(&[key("A"), key("E")]).expect("there are two")
});

const KINDS: [Kind; 3] = [Kind::Access, Kind::Refresh, Kind::Code];

pub(crate) fn run(input: &[u8]) {
    let prefixed = [PREFIX.as_bytes(), input].concat();
    for kind in KINDS {
        assert!(KEYS.read(kind, input).is_none() && KEYS.read(kind, &prefixed).is_none());
    }
    let Some((choice, names)) = input.split_first() else { return };
    let names = String::from_utf8_lossy(&names[..names.len().min(400)]);
    let (client, identity) = names.split_once('\n').unwrap_or(("", &names));
    let pass = Pass {
        client: Some(client.to_owned()).filter(|name| !name.is_empty()),
        identity: identity.to_owned(),
        expires_at: Timestamp::from_unix_millis(u64::from(*choice)),
    };
    let kind = KINDS[usize::from(*choice) % KINDS.len()];
    let token = KEYS.issue(kind, &pass);
    let mut token = token.expose().as_bytes().to_vec();
    for other in KINDS {
        let read = KEYS.read(other, &token);
        assert_eq!(read.as_ref(), (other == kind).then_some(&pass));
    }
    // One bit of it, wherever that is.
    let place = PREFIX.len() + usize::from(*choice) % (token.len() - PREFIX.len() - 1);
    token[place] ^= 1 << (choice % 7);
    assert!(KEYS.read(kind, &token).is_none(), "bit {} of byte {place}", choice % 7);
}
