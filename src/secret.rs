//! Text that must not leak, and the places it may come from.
//!
//! A [`Secret`] prints as a mask, is wiped when dropped, and is read only by an explicit
//! [`Secret::expose`], so that every use can be found by searching for that word.

use std::fmt;

use zeroize::Zeroizing;

/// A piece of text that never reaches a log, an error or a response by accident.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself. Every call is a place where the secret may leak.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is no text at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
