//! A content in chunks (RFC 9112 §7.1), byte by byte but for the data.

use super::chars::{TOKEN, is};
use crate::proxy::malformed::Malformed;

/// What the extensions of one content may take together. hyper has the same bound.
pub(super) const MAX_EXTENSIONS: u16 = 16 * 1024 - 2;
/// What its trailers may take together.
pub(super) const MAX_TRAILERS: u16 = 8 * 1024;
/// How many trailers there may be.
pub(super) const MAX_TRAILER_FIELDS: u8 = 64;
/// Hexadecimal digits that fit into a size, leading zeros included.
const MAX_DIGITS: u8 = 15;

/// A content up to where it has been read.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    place: Place,
    /// What is left of the chunk; while its size is read, what that comes to.
    left: u64,
    digits: u8,
    extensions: u16,
    trailers: u16,
    trailer_fields: u8,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, Default)]
enum Place {
    #[default]
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// The beginning of a trailer, or the last line end.
    Line,
    Name,
    Value,
    ValueLf,
    LastLf,
}

impl Chunked {
    /// How many of `bytes` are well-formed and belong to the content, and whether it ends there.
    pub(super) fn read(&mut self, bytes: &[u8]) -> (usize, Result<bool, Malformed>) {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if matches!(self.place, Place::Data) {
                let left = usize::try_from(self.left).unwrap_or(usize::MAX);
                let there = left.min(bytes.len() - at);
                self.left -= there as u64;
                at += there;
                if self.left == 0 {
                    self.place = Place::DataCr;
                }
                continue;
            }
            let is_last = matches!((self.place, byte), (Place::LastLf, b'\n'));
            match self.next(byte) {
                Some(place) => self.place = place,
                None => return (at, Err(Malformed::Chunk)),
            }
            at += 1;
            if is_last {
                return (at, Ok(true));
            }
        }
        (at, Ok(false))
    }

    /// Where the next byte belongs after this one; nowhere if this one does not belong here.
    fn next(&mut self, byte: u8) -> Option<Place> {
        match (self.place, byte) {
            (Place::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => self.digit(byte),
            (Place::Size, b'\r') if self.digits > 0 => Some(Place::SizeLf),
            (Place::Size, b';') if self.digits > 0 => Some(Place::Extension),
            (Place::Extension, b'\r') => Some(Place::SizeLf),
            (Place::Extension, _) if may_stand(byte) => {
                self.extensions += 1;
                (self.extensions <= MAX_EXTENSIONS).then_some(Place::Extension)
            }
            (Place::SizeLf, b'\n') if self.left == 0 => Some(Place::Line),
            (Place::SizeLf, b'\n') => Some(Place::Data),
            (Place::DataCr, b'\r') => Some(Place::DataLf),
            (Place::DataLf, b'\n') => {
                self.digits = 0;
                Some(Place::Size)
            }
            (Place::Line, b'\r') | (Place::LastLf, b'\n') => Some(Place::LastLf),
            (Place::Line, _) if is(TOKEN, byte) => {
                self.trailer_fields += 1;
                self.trailer(Place::Name).filter(|_| self.trailer_fields <= MAX_TRAILER_FIELDS)
            }
            (Place::Name, b':') => self.trailer(Place::Value),
            (Place::Name, _) if is(TOKEN, byte) => self.trailer(Place::Name),
            (Place::Value, b'\r') => Some(Place::ValueLf),
            (Place::Value, _) if may_stand(byte) => self.trailer(Place::Value),
            (Place::ValueLf, b'\n') => Some(Place::Line),
            _ => None,
        }
    }

    fn digit(&mut self, byte: u8) -> Option<Place> {
        let digit = char::from(byte).to_digit(16)?;
        self.digits += 1;
        self.left = self.left * 16 + u64::from(digit);
        (self.digits <= MAX_DIGITS).then_some(Place::Size)
    }

    fn trailer(&mut self, place: Place) -> Option<Place> {
        self.trailers += 1;
        (self.trailers <= MAX_TRAILERS).then_some(place)
    }
}

/// Whether a byte may stand in a value.
fn may_stand(byte: u8) -> bool {
    !byte.is_ascii_control() || byte == b'\t'
}
