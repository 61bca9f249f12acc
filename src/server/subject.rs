//! The names in a client's certificate, of the kinds that a client may be known by. PURE.
//!
//! rustls has verified the certificate, but tells no names. They are read here, out of the DER that an
//! authority has signed: what is not as RFC 5280 §4.1 has it yields no name, and never a panic.

use crate::settings::SubjectName;

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `version` and `extensions` of a certificate.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// `UTF8String`, `PrintableString`, `IA5String`.
const TEXTS: [u8; 3] = [0x0c, 0x13, 0x16];
/// `rfc822Name`, `dNSName`, `uniformResourceIdentifier` (RFC 5280 §4.2.1.6).
const EMAIL: u8 = 0x81;
const DNS: u8 = 0x82;
const URI: u8 = 0x86;
/// 2.5.4.3.
const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];
/// 2.5.29.17.
const ALTERNATIVE_NAMES: [u8; 3] = [0x55, 0x1d, 0x11];

/// All of them; none if the certificate is malformed.
pub(super) fn names(certificate: &[u8]) -> Vec<SubjectName> {
    read(certificate).unwrap_or_default()
}

fn read(certificate: &[u8]) -> Option<Vec<SubjectName>> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (mut rest, _) = element(certificate, SEQUENCE)?;
    if let Some((_, after)) = element(rest, VERSION) {
        rest = after;
    }
    // Serial number, signature algorithm, issuer, validity.
    for tag in [INTEGER, SEQUENCE, SEQUENCE, SEQUENCE] {
        rest = element(rest, tag)?.1;
    }
    let (subject, mut rest) = element(rest, SEQUENCE)?;
    let mut names = Vec::new();
    common_names(subject, &mut names)?;
    while !rest.is_empty() {
        let (tag, content, after) = any(rest)?;
        if tag == EXTENSIONS {
            alternative_names(element(content, SEQUENCE)?.0, &mut names)?;
        }
        rest = after;
    }
    Some(names)
}

/// `RDNSequence`: a sequence of sets of pairs of type and value.
fn common_names(mut subject: &[u8], names: &mut Vec<SubjectName>) -> Option<()> {
    while !subject.is_empty() {
        let (mut set, after) = element(subject, SET)?;
        while !set.is_empty() {
            let (pair, next) = element(set, SEQUENCE)?;
            let (kind, value) = element(pair, OBJECT)?;
            let (tag, text, _) = any(value)?;
            if kind == COMMON_NAME && TEXTS.contains(&tag) {
                names.push(SubjectName::Common(plain(text)?));
            }
            set = next;
        }
        subject = after;
    }
    Some(())
}

fn alternative_names(mut extensions: &[u8], names: &mut Vec<SubjectName>) -> Option<()> {
    while !extensions.is_empty() {
        let (extension, after) = element(extensions, SEQUENCE)?;
        let (kind, value) = element(extension, OBJECT)?;
        let value = element(value, BOOLEAN).map_or(value, |(_, value)| value);
        let (value, _) = element(value, OCTET_STRING)?;
        if kind == ALTERNATIVE_NAMES {
            let (mut all, _) = element(value, SEQUENCE)?;
            while !all.is_empty() {
                let (tag, text, next) = any(all)?;
                match tag {
                    DNS => names.push(SubjectName::dns(&plain(text)?)),
                    URI => names.push(SubjectName::Uri(plain(text)?)),
                    EMAIL => names.push(SubjectName::Email(plain(text)?)),
                    _ => {}
                }
                all = next;
            }
        }
        extensions = after;
    }
    Some(())
}

/// The content of the element that comes first, if it has this tag, and what comes after it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, after) = any(bytes)?;
    (found == tag).then_some((content, after))
}

/// Tag and content of the element that comes first, and what comes after it. Lengths are definite in
/// DER, and shorter than 64 KiB in any certificate that a handshake may hold.
fn any(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = bytes.split_first_chunk()?;
    let (length, rest) = match (first, rest) {
        (0..=0x7f, _) => (usize::from(first), rest),
        (0x81, [length, rest @ ..]) => (usize::from(*length), rest),
        (0x82, [high, low, rest @ ..]) => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        _ => return None,
    };
    let (content, after) = rest.split_at_checked(length)?;
    Some((tag, content, after))
}

fn plain(text: &[u8]) -> Option<String> {
    std::str::from_utf8(text).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType};

    use super::names;

    fn params() -> CertificateParams {
        let mut params = CertificateParams::new(["Billing.test".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::OrganizationName, "an organization");
        params.distinguished_name.push(DnType::CommonName, "a billing app ü");
        params.subject_alt_names.extend([
            SanType::URI("spiffe://test/billing".try_into().unwrap()),
            SanType::Rfc822Name("billing@test".try_into().unwrap()),
            SanType::IpAddress([127, 0, 0, 1].into()),
        ]);
        params
    }

    fn der(params: &CertificateParams) -> Vec<u8> {
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn shown(certificate: &[u8]) -> Vec<String> {
        names(certificate).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_certificate_tells_its_names_and_their_kinds() {
        let expected = [
            "CN:a billing app ü",
            "DNS:billing.test",
            "URI:spiffe://test/billing",
            "email:billing@test",
        ];
        assert_eq!(shown(&der(&params())), expected);
        let mut bare = CertificateParams::default();
        bare.distinguished_name = rcgen::DistinguishedName::new();
        let name = DnValue::PrintableString("bare".try_into().unwrap());
        bare.distinguished_name.push(DnType::CommonName, name);
        assert_eq!(shown(&der(&bare)), ["CN:bare"]);
        let mut nobody = CertificateParams::default();
        nobody.distinguished_name = rcgen::DistinguishedName::new();
        assert_eq!(shown(&der(&nobody)), [""; 0]);
    }

    #[test]
    fn a_certificate_that_is_cut_anywhere_tells_nothing() {
        let whole = der(&params());
        for at in 0..whole.len() {
            assert_eq!(shown(&whole[..at]), [""; 0], "cut at {at}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_bad(
            at in any::<prop::sample::Index>(),
            bytes in prop::collection::vec(any::<u8>(), 1..20),
        ) {
            static WHOLE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| der(&params()));
            let mut bad = WHOLE.clone();
            let at = at.index(bad.len());
            let end = (at + bytes.len()).min(bad.len());
            bad[at..end].copy_from_slice(&bytes[..end - at]);
            names(&bad);
            names(&bytes);
        }
    }
}
