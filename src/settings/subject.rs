//! `tls_subject`: the names by which a client certificate is known. PURE.

use std::fmt;
use std::str::FromStr;

/// A name that a certificate gives to its holder: a subject alternative name (RFC 5280 §4.2.1.6), or
/// the common name of its subject.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SubjectName {
    /// A host name, in lower case.
    Dns(String),
    /// A URI, such as a SPIFFE ID.
    Uri(String),
    /// A mail address.
    Email(String),
    /// The common name.
    Common(String),
}

impl SubjectName {
    /// A host name: its case does not matter.
    pub fn dns(name: &str) -> Self {
        Self::Dns(name.to_ascii_lowercase())
    }
}

impl FromStr for SubjectName {
    type Err = ();

    /// The kind of name, a colon, and the name to the letter.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (kind, name) = text.split_once(':').filter(|(_, name)| !name.is_empty()).ok_or(())?;
        match kind {
            "DNS" => Ok(Self::dns(name)),
            "URI" => Ok(Self::Uri(name.to_owned())),
            "email" => Ok(Self::Email(name.to_owned())),
            "CN" => Ok(Self::Common(name.to_owned())),
            _ => Err(()),
        }
    }
}

impl fmt::Display for SubjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(f, "DNS:{name}"),
            Self::Uri(name) => write!(f, "URI:{name}"),
            Self::Email(name) => write!(f, "email:{name}"),
            Self::Common(name) => write!(f, "CN:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_written_with_its_kind() {
        for text in ["DNS:a.test", "URI:spiffe://test/a", "email:a@test", "CN:a: b"] {
            assert_eq!(text.parse::<SubjectName>().unwrap().to_string(), text);
        }
        assert_eq!("DNS:A.Test".parse(), Ok(SubjectName::Dns("a.test".into())));
        for text in ["", "a.test", "CN:", "cn:a", "CN=a", "IP:10.0.0.1"] {
            assert_eq!(text.parse::<SubjectName>(), Err(()), "{text}");
        }
    }
}
