//! A path as its segments, if there is one way only to read it.
//!
//! Servers differ in what they decode, fold and cut off before they look a path up. So every byte
//! that invites one of them to is refused; what is left means the same to all.

/// More than any of RingCentral's paths has.
const MOST_SEGMENTS: usize = 32;

/// Why servers may read a path in several ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Oddity {
    /// Not a path at all: `*`.
    #[error("the target is not a path")]
    NoPath,
    /// `//`
    #[error("the path has an empty segment (//)")]
    Empty,
    /// `.`, `..` and the like.
    #[error("the path has a segment of dots")]
    Dots,
    /// A character that no path has as it is, `\` and `;` among them.
    #[error(
        "the path has a character that stands in none of RingCentral's: only letters, digits and -._~!$&'()*+,=:@ do"
    )]
    Character,
    /// An escape of a character that needs none, or that servers read differently.
    #[error(
        "the path has an escape that servers read in several ways, such as %2F or %73: only %21, %24, %26 to %2C, %3A, %3D, %40 and %7E may stand in it"
    )]
    Escape,
    /// More segments than any path has.
    #[error("the path has more than {MOST_SEGMENTS} segments")]
    Depth,
}

/// A path, cut up.
pub(super) struct Segments<'p> {
    path: &'p [u8],
    /// Where each begins; one more says where the next one would.
    starts: [u16; MOST_SEGMENTS + 1],
    count: usize,
    /// Whether a slash follows the last one.
    pub(super) is_open: bool,
}

impl<'p> Segments<'p> {
    pub(super) fn of(path: &'p str) -> Result<Self, Oddity> {
        let path = path.as_bytes();
        if path.first() != Some(&b'/') {
            return Err(Oddity::NoPath);
        }
        let mut segments = Self { path, starts: [1; MOST_SEGMENTS + 1], count: 0, is_open: false };
        let mut at = 1;
        while let Some(byte) = path.get(at) {
            match CLASSES[usize::from(*byte)] {
                Class::Plain => at += 1,
                Class::Slash => {
                    segments.end(at)?;
                    at += 1;
                }
                Class::Percent => {
                    if !is_harmless(path.get(at + 1), path.get(at + 2)) {
                        return Err(Oddity::Escape);
                    }
                    at += 3;
                }
                Class::Odd => return Err(Oddity::Character),
            }
        }
        // Whether anything follows the last slash. `/` alone is a path without segments.
        if at > usize::from(segments.starts[segments.count]) {
            segments.end(at)?;
        } else {
            segments.is_open = segments.count > 0;
        }
        Ok(segments)
    }

    pub(super) const fn count(&self) -> usize {
        self.count
    }

    pub(super) fn get(&self, index: usize) -> &'p [u8] {
        &self.path[usize::from(self.starts[index])..usize::from(self.starts[index + 1]) - 1]
    }

    fn end(&mut self, at: usize) -> Result<(), Oddity> {
        let segment = &self.path[usize::from(self.starts[self.count])..at];
        if segment.is_empty() {
            return Err(Oddity::Empty);
        }
        if segment[0] == b'.' && segment.iter().all(|byte| *byte == b'.') {
            return Err(Oddity::Dots);
        }
        if self.count == MOST_SEGMENTS {
            return Err(Oddity::Depth);
        }
        self.count += 1;
        self.starts[self.count] = u16::try_from(at + 1).map_err(|_| Oddity::Depth)?;
        Ok(())
    }
}

/// Whether an escape stands for a character that is no part of any name and divides nothing.
fn is_harmless(high: Option<&u8>, low: Option<&u8>) -> bool {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let Some((high, low)) = digit(high).zip(digit(low)) else { return false };
    let byte = u8::try_from(high * 16 + low).expect("two hex digits");
    matches!(
        byte,
        b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@'
    )
}

#[derive(Clone, Copy)]
enum Class {
    Plain,
    Slash,
    Percent,
    Odd,
}

/// RFC 3986, 3.3, without `;`.
static CLASSES: [Class; 256] = {
    let mut classes = [Class::Odd; 256];
    let plain = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,=:@";
    let mut at = 0;
    while at < plain.len() {
        classes[plain[at] as usize] = Class::Plain;
        at += 1;
    }
    classes[b'/' as usize] = Class::Slash;
    classes[b'%' as usize] = Class::Percent;
    classes
};

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(path: &str) -> Result<(Vec<&str>, bool), Oddity> {
        let segments = Segments::of(path)?;
        let text = |index| std::str::from_utf8(segments.get(index)).unwrap();
        Ok(((0..segments.count()).map(text).collect(), segments.is_open))
    }

    #[test]
    fn an_ordinary_path_is_cut_at_its_slashes() {
        for (path, expected, is_open) in [
            ("/", &[][..], false),
            ("/a", &["a"], false),
            ("/a/", &["a"], true),
            ("/restapi/v1.0/account/~/a,b", &["restapi", "v1.0", "account", "~", "a,b"], false),
            ("/a%7Eb/%2B1%40x/.search", &["a%7Eb", "%2B1%40x", ".search"], false),
        ] {
            assert_eq!(cut(path), Ok((expected.to_vec(), is_open)), "{path}");
        }
        let deepest = "/a".repeat(MOST_SEGMENTS);
        assert_eq!(cut(&deepest).unwrap().0.len(), MOST_SEGMENTS);
    }

    #[test]
    fn what_servers_read_differently_is_refused() {
        for (path, oddity) in [
            ("*", Oddity::NoPath),
            ("", Oddity::NoPath),
            ("//", Oddity::Empty),
            ("/a//b", Oddity::Empty),
            ("/a//", Oddity::Empty),
            ("/a/./b", Oddity::Dots),
            ("/a/..", Oddity::Dots),
            ("/a/.../b", Oddity::Dots),
            ("/a\\b", Oddity::Character),
            ("/a;b", Oddity::Character),
            ("/a b", Oddity::Character),
            ("/a\u{e9}", Oddity::Character),
            ("/a|b", Oddity::Character),
            ("/a/%2e%2e/b", Oddity::Escape),
            ("/a%2fb", Oddity::Escape),
            ("/a%5Cb", Oddity::Escape),
            ("/a%00", Oddity::Escape),
            ("/a%25", Oddity::Escape),
            ("/a%3b", Oddity::Escape),
            ("/a%20", Oddity::Escape),
            ("/%73ms", Oddity::Escape),
            ("/%c0%af", Oddity::Escape),
            ("/a%", Oddity::Escape),
            ("/a%7", Oddity::Escape),
            ("/a%zz", Oddity::Escape),
            ("/a%u0041", Oddity::Escape),
        ] {
            assert_eq!(cut(path), Err(oddity), "{path}");
        }
        assert_eq!(cut(&"/a".repeat(MOST_SEGMENTS + 1)), Err(Oddity::Depth));
        assert_eq!(cut(&format!("/{}", "a".repeat(70_000))), Err(Oddity::Depth));
    }
}
