//! Which bytes stand where.

/// Bytes of a token: methods and field names (RFC 9110 §5.6.2).
pub(super) const TOKEN: u8 = 1;
/// Bytes of a path that go on as they are. More than RFC 3986 has, for apps send more; no `#`, behind
/// which a library would cut the target off; nothing beyond ASCII.
pub(super) const PATH: u8 = 2;
/// Bytes of a query, likewise.
pub(super) const QUERY: u8 = 4;
/// Bytes of a host's name or number.
pub(super) const NAME: u8 = 8;

const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        classes[byte as usize] = classes_of(byte);
        byte += 1;
    }
    classes
};

const fn classes_of(byte: u8) -> u8 {
    let token = matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
        || byte.is_ascii_alphanumeric();
    let path = !matches!(byte, b'#' | b'<' | b'>' | b'?' | b'`');
    let query = !matches!(byte, b'"' | b'#' | b'<' | b'>');
    let name = matches!(byte, b'-' | b'.' | b'_' | b'~') || byte.is_ascii_alphanumeric();
    (if token { TOKEN } else { 0 })
        | (if path { PATH } else { 0 })
        | (if query { QUERY } else { 0 })
        | (if name { NAME } else { 0 })
}

/// Whether a byte is of a class.
#[inline]
pub(super) fn is(class: u8, byte: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

/// How many bytes at the beginning are of a class.
#[inline]
pub(super) fn run(class: u8, bytes: &[u8]) -> usize {
    let (mut rest, is_other) = (bytes, |byte: &u8| !is(class, *byte));
    // Of a piece of known length each byte is looked at without counting.
    while let Some((eight, after)) = rest.split_first_chunk::<8>() {
        if let Some(at) = eight.iter().position(is_other) {
            return bytes.len() - rest.len() + at;
        }
        rest = after;
    }
    bytes.len() - rest.len() + rest.iter().position(is_other).unwrap_or(rest.len())
}

/// How many bytes at the beginning may stand in a line: all but controls, of which the tab may.
#[inline]
pub(super) fn plain(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    // Most lines are passed over in this loop, which becomes vector instructions.
    while let Some((sixteen, after)) = rest.split_first_chunk::<16>() {
        let is_control = |byte: &u8| u8::from(*byte < 0x20) | u8::from(*byte == 0x7f);
        if sixteen.iter().fold(0, |any, byte| any | is_control(byte)) != 0 {
            break;
        }
        rest = after;
    }
    while let Some((word, after)) = rest.split_first_chunk::<8>() {
        let controls = controls(u64::from_le_bytes(*word));
        if controls == 0 {
            rest = after;
            continue;
        }
        let at = controls.trailing_zeros() as usize / 8;
        if word[at] != b'\t' {
            return bytes.len() - rest.len() + at;
        }
        rest = &rest[at + 1..];
    }
    let is_control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
    bytes.len() - rest.len() + rest.iter().position(is_control).unwrap_or(rest.len())
}

/// Has the highest bit of the first byte set that is a control; of those behind it that may be wrong.
#[inline]
const fn controls(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const HIGHEST: u64 = EACH * 0x80;
    let below_blank = word.wrapping_sub(EACH * 0x20) & !word;
    let delete = word ^ (EACH * 0x7f);
    let delete = delete.wrapping_sub(EACH) & !delete;
    (below_blank | delete) & HIGHEST
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_class_is_as_the_rfc_has_it() {
        let of = |class| -> String {
            (0..=255).filter(|byte| is(class, *byte)).map(char::from).collect()
        };
        let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let small = letters.to_lowercase();
        assert_eq!(of(TOKEN), format!("!#$%&'*+-.0123456789{letters}^_`{small}|~"));
        assert_eq!(of(NAME), format!("-.0123456789{letters}_{small}~"));
        assert_eq!(of(PATH), format!("!\"$%&'()*+,-./0123456789:;=@{letters}[\\]^_{small}{{|}}~"));
        assert_eq!(of(QUERY), format!("!$%&'()*+,-./0123456789:;=?@{letters}[\\]^_`{small}{{|}}~"));
    }

    proptest! {
        #[test]
        fn the_first_control_is_found_wherever_it_stands(
            bytes in prop::collection::vec(prop_oneof![8 => 0x20_u8..=255, 1 => 0_u8..0x20, 1 => Just(0x7f)], 0..80)
        ) {
            let is_control = |byte: &u8| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f;
            let expected = bytes.iter().position(is_control).unwrap_or(bytes.len());
            prop_assert_eq!(plain(&bytes), expected);
        }
    }
}
