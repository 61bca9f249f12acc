//! Whether this proxy should get requests. PURE.
//!
//! Degraded is ready: with one identity lost or the store away, the others and the cached tokens go
//! on serving, and a load balancer that took the proxy out would turn a part into the whole. An
//! identity that nobody uses lets its token lapse and gets another on demand; that is no trouble.

use http::StatusCode;
use serde_json::{Value, json};

use crate::token::keeper::KeeperStatus;
use crate::token::lifecycle::Standing;

/// So many reasons of one kind are listed; who has more knows what is up.
const MOST: usize = 20;

/// One configured identity.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) name: String,
    /// Why it has no token for requests, if it has none.
    pub(super) trouble: Option<String>,
    /// Its session is about to die.
    pub(super) note: Option<String>,
}

/// The verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ready,
    Degraded,
    Unready,
}

/// The verdict with its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) status: Status,
    pub(super) reasons: Vec<String>,
    pub(super) notes: Vec<String>,
}

/// Whether a request of this identity would be served, or would wait for no longer than a renewal
/// that nothing has spoken against takes.
pub(super) fn serves(keeper: &KeeperStatus) -> bool {
    let known = keeper.generation.is_some() && keeper.last_error.is_none();
    match keeper.state {
        _ if keeper.usable => true,
        Standing::Resting => true,
        Standing::Renewing => known,
        _ => false,
    }
}

/// Whether new requests are welcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intake {
    Open,
    /// An operator wants them to go elsewhere.
    Drained,
    Ending,
}

/// `store` is why the store does not answer, if it does not.
pub(super) fn judge(intake: Intake, store: Option<&str>, members: &[Member]) -> Report {
    let troubled: Vec<_> = members.iter().filter(|member| member.trouble.is_some()).collect();
    let mut reasons = Vec::new();
    match intake {
        Intake::Open => {}
        Intake::Drained => reasons.push(
            "an operator has drained this proxy: DELETE /drain puts it back into service"
                .to_owned(),
        ),
        Intake::Ending => reasons.push("this proxy is ending: it takes no new work".to_owned()),
    }
    if let Some(fault) = store {
        reasons.push(format!("store: {fault}; tokens that live are used to their end meanwhile"));
    }
    for member in troubled.iter().take(MOST) {
        let why = member.trouble.as_deref().unwrap_or_default();
        reasons.push(format!("identity {}: {why}", member.name));
    }
    if let Some(more) = troubled.len().checked_sub(MOST).filter(|more| *more > 0) {
        reasons.push(format!("and {more} more identities: see /identities"));
    }
    let status = match () {
        () if intake != Intake::Open || troubled.len() == members.len() => Status::Unready,
        () if reasons.is_empty() => Status::Ready,
        () => Status::Degraded,
    };
    let notes = members.iter().filter_map(|member| member.note.clone()).take(MOST).collect();
    Report { status, reasons, notes }
}

impl Report {
    pub(super) const fn code(&self) -> StatusCode {
        match self.status {
            Status::Ready | Status::Degraded => StatusCode::OK,
            Status::Unready => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(super) fn content(&self) -> Value {
        let status = match self.status {
            Status::Ready => "ready",
            Status::Degraded => "degraded",
            Status::Unready => "unready",
        };
        let mut content = json!({ "status": status });
        for (key, lines) in [("reasons", &self.reasons), ("notes", &self.notes)] {
            if !lines.is_empty() {
                content[key] = json!(lines);
            }
        }
        content
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Timestamp;
    use crate::oauth::TokenError;
    use crate::token::Generation;
    use crate::token::lifecycle::Lost;

    fn member(name: &str, trouble: Option<&str>) -> Member {
        Member { name: name.into(), trouble: trouble.map(str::to_owned), note: None }
    }

    fn content(intake: Intake, store: Option<&str>, members: &[Member]) -> (u16, Value) {
        let report = judge(intake, store, members);
        (report.code().as_u16(), report.content())
    }

    #[test]
    fn ready_says_no_more_than_that() {
        let fine = [member("a", None), member("b", None)];
        assert_eq!(content(Intake::Open, None, &fine), (200, json!({"status": "ready"})));
    }

    #[test]
    fn one_identity_or_the_store_in_trouble_is_degraded_and_named() {
        let one = [member("a", None), member("b", Some("log in again"))];
        let reasons = json!(["identity b: log in again"]);
        assert_eq!(
            content(Intake::Open, None, &one),
            (200, json!({"status": "degraded", "reasons": reasons}))
        );
        let meanwhile = "tokens that live are used to their end meanwhile";
        assert_eq!(
            content(Intake::Open, Some("check the disk"), &[member("a", None)]),
            (
                200,
                json!({
                    "status": "degraded",
                    "reasons": [format!("store: check the disk; {meanwhile}")]
                })
            )
        );
    }

    #[test]
    fn no_identity_or_an_operator_or_the_end_is_unready() {
        let all = [member("a", Some("x")), member("b", Some("y"))];
        let reasons = json!(["identity a: x", "identity b: y"]);
        assert_eq!(
            content(Intake::Open, None, &all),
            (503, json!({"status": "unready", "reasons": reasons}))
        );
        let (code, drained) = content(Intake::Drained, None, &[member("a", None)]);
        let reason = "an operator has drained this proxy: DELETE /drain puts it back into service";
        assert_eq!((code, drained), (503, json!({"status": "unready", "reasons": [reason]})));
        let (code, ending) = content(Intake::Ending, None, &[member("a", None)]);
        assert_eq!(
            (code, ending),
            (
                503,
                json!({"status": "unready", "reasons": ["this proxy is ending: it takes no new work"]})
            )
        );
    }

    #[test]
    fn many_reasons_are_counted_and_notes_degrade_nothing() {
        let mut members: Vec<_> = (0..50).map(|n| member(&format!("n{n}"), Some("x"))).collect();
        members.push(member("fine", None));
        let report = judge(Intake::Open, None, &members);
        assert_eq!((report.status, report.reasons.len()), (Status::Degraded, 21));
        assert_eq!(report.reasons[20], "and 30 more identities: see /identities");
        let noted = Member { note: Some("dies in 5 h".into()), ..member("a", None) };
        assert_eq!(
            content(Intake::Open, None, &[noted]),
            (200, json!({"status": "ready", "notes": ["dies in 5 h"]}))
        );
    }

    #[test]
    fn an_idle_identity_serves_and_one_that_failed_does_not() {
        let at = Timestamp::from_unix_millis(0);
        let failed = || Some(Arc::new(TokenError::CoolingDown));
        for (state, usable, generation, error, expected) in [
            (Standing::Resting, false, Some(7), None, true),
            (Standing::Resting, false, None, None, true),
            (Standing::BackingOff(at), true, Some(7), failed(), true),
            (Standing::Renewing, false, Some(7), None, true),
            (Standing::Renewing, false, Some(7), failed(), false),
            (Standing::Renewing, false, None, None, false),
            (Standing::Starting, false, None, None, false),
            (Standing::BackingOff(at), false, Some(7), failed(), false),
            (Standing::Penalised(at), false, Some(7), failed(), false),
            (Standing::CoolingDown(at), false, Some(7), None, false),
            (Standing::NeedsLogin(Lost::GrantRefused), false, Some(7), None, false),
        ] {
            let keeper = KeeperStatus {
                state,
                usable,
                generation: generation.map(Generation::new),
                issued_at: None,
                expires_at: None,
                refresh_expires_at: None,
                dying: None,
                waiting: 0,
                last_error: error,
            };
            assert_eq!(serves(&keeper), expected, "{keeper:?}");
        }
    }
}
