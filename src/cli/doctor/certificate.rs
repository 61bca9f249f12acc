//! When a certificate ends. PURE: so much of DER as leads there (RFC 5280 §4.1), and nothing trusted:
//! whoever verifies it is rustls.

use crate::clock::Timestamp;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// `notAfter`, unless this is no certificate.
pub(super) fn end_of(der: &[u8]) -> Option<Timestamp> {
    let (certificate, _) = of_kind(der, SEQUENCE)?;
    let (mut fields, _) = of_kind(certificate, SEQUENCE)?;
    if let Some((_, rest)) = of_kind(fields, VERSION) {
        fields = rest;
    }
    // Serial number, signature, issuer.
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (validity, _) = of_kind(fields, SEQUENCE)?;
    let (_, _, after_begin) = element(validity)?;
    let (kind, end, _) = element(after_begin)?;
    moment(kind, std::str::from_utf8(end).ok()?)
}

fn of_kind(der: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    element(der).filter(|(kind, ..)| *kind == wanted).map(|(_, content, rest)| (content, rest))
}

/// Kind and content of the first element, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&kind, der) = der.split_first()?;
    let (&first, der) = der.split_first()?;
    let (length, der) = match first {
        0..=0x7f => (usize::from(first), der),
        // No certificate is longer than three bytes can say.
        0x81..=0x83 => {
            let (digits, der) = der.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), der)
        }
        _ => return None,
    };
    let (content, rest) = der.split_at_checked(length)?;
    Some((kind, content, rest))
}

/// `YYMMDDhhmmssZ`, where a year from 50 on is of the last century, or `YYYYMMDDhhmmssZ`.
fn moment(kind: u8, text: &str) -> Option<Timestamp> {
    let digits = text.strip_suffix('Z').filter(|it| it.bytes().all(|c| c.is_ascii_digit()))?;
    let (year, rest) = match (kind, digits.len()) {
        (UTC_TIME, 12) => {
            let year: u64 = digits[..2].parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, &digits[2..])
        }
        (GENERALIZED_TIME, 14) => (digits[..4].parse().ok()?, &digits[4..]),
        _ => return None,
    };
    let part = |at: usize| rest[at..at + 2].parse::<u64>().ok();
    let days = days_to(year, part(0)?, part(2)?)?;
    let seconds = (days * 24 + part(4)?) * 3600 + part(6)? * 60 + part(8)?;
    Some(Timestamp::from_unix_millis(seconds * 1000))
}

/// Days from 1970 to a date of the Gregorian calendar.
fn days_to(year: u64, month: u64, day: u64) -> Option<u64> {
    let is_date = year >= 1970 && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !is_date {
        return None;
    }
    // Years that begin in March have their leap day last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    days.checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn ending(year: i32, month: u8, day: u8) -> Vec<u8> {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, month, day);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn said(at: Timestamp) -> String {
        humantime::format_rfc3339_seconds(SystemTime::from(at)).to_string()
    }

    #[test]
    fn the_end_is_read_in_both_forms_of_a_date() {
        for (year, month, day, expected) in [
            (2024, 2, 29, "2024-02-29T00:00:00Z"),
            (2026, 12, 31, "2026-12-31T00:00:00Z"),
            (2027, 3, 1, "2027-03-01T00:00:00Z"),
            // From 2050 on it is GeneralizedTime.
            (2051, 1, 1, "2051-01-01T00:00:00Z"),
        ] {
            assert_eq!(end_of(&ending(year, month, day)).map(said).as_deref(), Some(expected));
        }
    }

    #[test]
    fn hours_minutes_and_seconds_count() {
        let at = moment(UTC_TIME, "700101010203Z").unwrap();
        assert_eq!(at.unix_millis(), 3_723_000);
        for text in ["700101010203", "70010101020Z", "701301010203Z", "70010101020xZ"] {
            assert_eq!(moment(UTC_TIME, text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_cut_or_changed_panics_nowhere(at in 0_usize..600, byte: u8, cut in 0_usize..600) {
            let mut der = ending(2030, 1, 1);
            let at = at % der.len();
            der[at] = byte;
            let _ = end_of(&der);
            let _ = end_of(&der[..cut % der.len()]);
        }
    }
}
