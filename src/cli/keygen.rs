//! `keygen`: a new random key and its digest. The key goes to whoever is to be let in, the digest
//! into the configuration.

use std::io::Write;

use super::Failure;
use crate::key::{self, KeyDigest};

/// Two lines: the key alone, so that `head -1` takes it, and the digest as the file wants it.
pub(super) fn run(out: &mut impl Write) -> Result<(), Failure> {
    let key = key::generate().ok_or(Failure::Randomness)?;
    let digest = KeyDigest::of(key.expose()).to_string();
    writeln!(out, "{}\nkey_sha256 = \"{digest}\"", key.expose()).map_err(Failure::Output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_line_is_the_digest_of_the_first_as_the_configuration_has_it() {
        let mut out = Vec::new();
        run(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let [key, line] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
        assert_eq!(line, format!("key_sha256 = \"{}\"", KeyDigest::of(key)));
    }
}
