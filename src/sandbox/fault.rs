//! Faults on order: what goes wrong, where, how often.
//!
//! Pure: the book says which fault the next request meets; the listener makes it happen.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An order for something to go wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// At which of the sandbox's faces.
    pub at: Place,
    /// Only for targets that begin so.
    #[serde(default)]
    pub path_prefix: Option<String>,
    /// What goes wrong.
    pub kind: FaultKind,
    /// For how many requests; for all of them when absent.
    #[serde(default)]
    pub times: Option<u64>,
}

/// The two faces of the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The token endpoint.
    Token,
    /// Everything else.
    Api,
}

/// What can go wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultKind {
    /// This answer, and nothing is processed.
    Status {
        /// The status code.
        code: u16,
        /// The content; RingCentral's error shape when absent.
        #[serde(default)]
        body: Option<String>,
        /// The `Retry-After` field, in seconds.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// No answer, ever; nothing is processed.
    Hang,
    /// The request is processed when this many seconds have passed on the sandbox's clock.
    Delay {
        /// The delay in seconds.
        secs: f64,
    },
    /// The connection ends before the request is processed.
    DropBefore,
    /// The request is processed, then the connection ends and the answer is lost.
    DropAfter,
    /// The request is processed, but this comes as the answer.
    Garbage(Garbage),
    /// The content breaks off after so many bytes, with the connection; its length is announced.
    Truncate {
        /// How many bytes arrive.
        after: u64,
    },
    /// The connection is closed after the answer, which does not announce it.
    CloseAfter,
    /// The connection is closed after the answer, which says `Connection: close`.
    AnnounceClose,
    /// 401 although the token is good; nothing is processed.
    Unauthorized {
        /// The error code, such as `OAU-129`; that of a corrupted token when absent.
        #[serde(default)]
        code: Option<String>,
    },
}

/// An answer that is no answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Garbage {
    /// 200 with a web page.
    Html,
    /// 200 with the first half of the true content, its length adapted.
    TruncatedJson,
    /// 200 with so many bytes of JSON text.
    Huge {
        /// The size of the content.
        bytes: u64,
    },
    /// The true content with `expires_in` replaced by this value: zero, negative, a string, null.
    ExpiresIn(serde_json::Value),
    /// The true content without `access_token`.
    MissingAccessToken,
}

/// The orders that are not yet used up.
#[derive(Debug, Default)]
pub(super) struct Faults {
    orders: Vec<Fault>,
}

impl Faults {
    pub(super) fn order(&mut self, fault: Fault) {
        self.orders.push(fault);
    }

    pub(super) fn clear(&mut self) {
        self.orders.clear();
    }

    pub(super) fn list(&self) -> &[Fault] {
        &self.orders
    }

    /// The fault that a request meets: the oldest order that fits, which is thereby used once.
    pub(super) fn take(&mut self, at: Place, target: &str) -> Option<FaultKind> {
        let index = self.orders.iter().position(|fault| fault.fits(at, target))?;
        let fault = &mut self.orders[index];
        let kind = fault.kind.clone();
        if let Some(times) = &mut fault.times {
            *times -= 1;
            if *times == 0 {
                self.orders.remove(index);
            }
        }
        Some(kind)
    }
}

impl Fault {
    /// A fault for one request at `at`.
    pub fn once(at: Place, kind: FaultKind) -> Self {
        Self { at, path_prefix: None, kind, times: Some(1) }
    }

    /// A fault for every request at `at`.
    pub fn always(at: Place, kind: FaultKind) -> Self {
        Self { at, path_prefix: None, kind, times: None }
    }

    /// The same fault for `times` requests.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        Self { times: Some(times), ..self }
    }

    /// The same fault, only for targets that begin with `prefix`.
    #[must_use]
    pub fn under(self, prefix: &str) -> Self {
        Self { path_prefix: Some(prefix.to_owned()), ..self }
    }

    fn fits(&self, at: Place, target: &str) -> bool {
        self.at == at
            && self.times != Some(0)
            && self.path_prefix.as_deref().is_none_or(|prefix| target.starts_with(prefix))
    }
}

impl FaultKind {
    /// A delay of `by`.
    pub fn delay(by: Duration) -> Self {
        Self::Delay { secs: by.as_secs_f64() }
    }

    /// The status `code` with RingCentral's error shape.
    pub const fn status(code: u16) -> Self {
        Self::Status { code, body: None, retry_after: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_hits_as_often_as_ordered_and_only_where_ordered() {
        let mut faults = Faults::default();
        faults.order(Fault::once(Place::Api, FaultKind::Hang).times(2).under("/restapi/v1.0/a"));
        faults.order(Fault::always(Place::Api, FaultKind::DropAfter));
        assert_eq!(faults.take(Place::Token, "/restapi/oauth/token"), None);
        assert_eq!(faults.take(Place::Api, "/restapi/v1.0/b"), Some(FaultKind::DropAfter));
        assert_eq!(faults.take(Place::Api, "/restapi/v1.0/a"), Some(FaultKind::Hang));
        assert_eq!(faults.take(Place::Api, "/restapi/v1.0/a?x"), Some(FaultKind::Hang));
        assert_eq!(faults.take(Place::Api, "/restapi/v1.0/a"), Some(FaultKind::DropAfter));
    }

    #[test]
    fn the_json_form_is_what_the_control_surface_documents() {
        let text = r#"{"at":"token","kind":{"status":{"code":503,"retry_after":7}},"times":3}"#;
        let kind = FaultKind::Status { code: 503, body: None, retry_after: Some(7) };
        let fault: Fault = serde_json::from_str(text).unwrap();
        assert_eq!(fault, Fault::once(Place::Token, kind).times(3));
        let text = r#"{"at":"token","kind":{"garbage":{"expires_in":"soon"}}}"#;
        let fault: Fault = serde_json::from_str(text).unwrap();
        assert_eq!(fault.kind, FaultKind::Garbage(Garbage::ExpiresIn("soon".into())));
        let fault: Fault = serde_json::from_str(r#"{"at":"api","kind":"drop_before"}"#).unwrap();
        assert_eq!(fault, Fault::always(Place::Api, FaultKind::DropBefore));
    }
}
