//! `traceparent` and `tracestate` (W3C Trace Context), read strictly. PURE but for random ids.

use std::fmt;

use http::HeaderMap;
use http::header::HeaderName;

pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// 16 bytes, not all of them zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TraceId(u128);

/// 8 bytes, not all of them zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SpanId(u64);

/// Who called, as a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
    pub(super) sampled: bool,
    pub(super) state: Option<String>,
}

impl TraceId {
    pub(super) fn random() -> Self {
        Self(fastrand::u128(1..))
    }
}

impl SpanId {
    pub(super) fn random() -> Self {
        Self(fastrand::u64(1..))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Caller {
    /// From the fields of a request; `None` if they name nobody, or are not as they have to be.
    pub(super) fn of(fields: &HeaderMap) -> Option<Self> {
        let mut lines = fields.get_all(TRACEPARENT).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else { return None };
        let (trace, span, sampled) = parse(line.as_bytes())?;
        let states = fields.get_all(TRACESTATE).iter().map(|state| state.to_str().ok());
        let states = states.collect::<Option<Vec<_>>>().unwrap_or_default();
        let state = (!states.is_empty()).then(|| states.join(","));
        Some(Self { trace, span, sampled, state })
    }
}

/// §3.2: a version that is not known is read as far as version 00 goes.
fn parse(line: &[u8]) -> Option<(TraceId, SpanId, bool)> {
    let (known, rest) = line.split_at_checked(55)?;
    let dashes = [2, 35, 52].iter().all(|at| known[*at] == b'-');
    let version = hexadecimal(&known[..2])?;
    let ends = match version {
        0 => rest.is_empty(),
        255 => false,
        _ => rest.first().is_none_or(|byte| *byte == b'-'),
    };
    let (trace, span) = (hexadecimal(&known[3..35])?, hexadecimal(&known[36..52])?);
    let flags = hexadecimal(&known[53..])?;
    if !dashes || !ends || trace == 0 || span == 0 {
        return None;
    }
    let span = u64::try_from(span).expect("16 digits");
    Some((TraceId(trace), SpanId(span), flags & 1 == 1))
}

/// Lower case only.
fn hexadecimal(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn caller(lines: &[&str]) -> Option<Caller> {
        let mut fields = HeaderMap::new();
        for line in lines {
            fields.append(TRACEPARENT, line.parse().unwrap());
        }
        fields.append(TRACESTATE, "a=1".parse().unwrap());
        fields.append(TRACESTATE, "b=2".parse().unwrap());
        Caller::of(&fields)
    }

    #[test]
    fn a_caller_is_known_by_the_letter() {
        let known = caller(&[&format!("00-{TRACE}-{SPAN}-01")]).unwrap();
        assert_eq!((known.trace.to_string(), known.span.to_string()), (TRACE.into(), SPAN.into()));
        assert_eq!((known.sampled, known.state.as_deref()), (true, Some("a=1,b=2")));
        for (line, sampled) in [
            (format!("00-{TRACE}-{SPAN}-00"), Some(false)),
            (format!("00-{TRACE}-{SPAN}-03"), Some(true)),
            (format!("01-{TRACE}-{SPAN}-01"), Some(true)),
            (format!("01-{TRACE}-{SPAN}-01-more"), Some(true)),
            (format!("01-{TRACE}-{SPAN}-01.more"), None),
            (format!("00-{TRACE}-{SPAN}-01-more"), None),
            (format!("ff-{TRACE}-{SPAN}-01"), None),
            (format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), None),
            (format!("00-{}-{SPAN}-01", "0".repeat(32)), None),
            (format!("00-{TRACE}-{}-01", "0".repeat(16)), None),
            (format!("00-{TRACE}-{SPAN}-0"), None),
            (format!("00-{TRACE}-{SPAN}-0g"), None),
            (format!("00_{TRACE}-{SPAN}-01"), None),
            (format!(" 00-{TRACE}-{SPAN}-01"), None),
            (String::new(), None),
        ] {
            assert_eq!(caller(&[&line]).map(|it| it.sampled), sampled, "{line}");
        }
        let twice = format!("00-{TRACE}-{SPAN}-01");
        assert_eq!(caller(&[&twice, &twice]), None);
        assert_eq!(caller(&[]), None);
    }

    #[test]
    fn ids_have_all_their_digits() {
        assert_eq!(SpanId(10).to_string(), "000000000000000a");
        assert_eq!(TraceId(10).to_string(), format!("{}a", "0".repeat(31)));
    }
}
