//! The proxy's own refusals: what went wrong, whose fault it was, and what the client is told.
//!
//! They look like RingCentral's errors (`errorCode`, `message`, `errors`), so that an app's error
//! handling works on them, with codes `RBR-…` and a field that says who answered.

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, UPGRADE,
    WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};

use super::access::Refusal;
use super::facade::Fault;
use super::malformed::Malformed;
use super::selection::Denied;
use super::throttle::{Held, answer};
use crate::metrics::Hold;
use crate::policy::Refusal as OutOfPolicy;
use crate::telemetry::chain;
use crate::token::keeper::Unavailable;
use crate::upstream::{ConnectError, SendError};

/// The field that marks an answer as the proxy's own; its value is the code.
pub const ERROR_FIELD: &str = "x-ringbearer-error";

/// Why a request got no answer from RingCentral.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The request must not pass.
    #[error("{}", refusal_message(*.0))]
    Refused(Refusal),
    /// The request has been here before.
    #[error("the request came back to this proxy: upstream.url leads here again")]
    Loop,
    /// The caller is not known, or may not call as whom it names.
    #[error("{0}")]
    Denied(Denied),
    /// The caller may not ask for this.
    #[error("{} may not send this request: {refusal}", whose_policy(client.as_deref()))]
    Policy {
        /// Whose rules say so; everybody's where it is none.
        client: Option<String>,
        /// Why.
        refusal: Box<OutOfPolicy>,
    },
    /// A login is refused.
    #[error("{0}")]
    Login(Fault),
    /// The facade cannot know its tokens.
    #[error("the store cannot say what this proxy's tokens are sealed with: see the log")]
    NoFacadeKey,
    /// No identity of that name.
    #[error("there is no identity \"{0}\": see X-Ringbearer-Identity and [identity.NAME]")]
    UnknownIdentity(String),
    /// Whether there is an identity of that name cannot be found out.
    #[error("the store cannot say whether there is an identity \"{0}\": see the log")]
    IdentityNotRead(String),
    /// Several identities or none at all, and the client named none.
    #[error(
        "there is not exactly one identity: name one in the field X-Ringbearer-Identity, or add the \
         first with `ringbearer login NAME`"
    )]
    NoIdentity,
    /// There is no usable token.
    #[error("identity \"{identity}\" has no usable access token: {}", chain(&*.why.reason))]
    NoToken {
        /// Whose token is missing.
        identity: String,
        /// Why, and until when.
        why: Unavailable,
    },
    /// The client stopped in the middle of its own request.
    #[error("the request's content came too slowly: see proxy.client_stall_timeout")]
    SlowClient,
    /// The request is too long.
    #[error("the request's content is longer than proxy.max_request_bytes")]
    TooLong,
    /// Too many requests are under way.
    #[error("identity \"{0}\" has as many requests under way as proxy.max_in_flight allows")]
    InFlight(String),
    /// Too many connections are open.
    #[error("as many connections are open as proxy.max_connections allows")]
    Connections,
    /// The request is none by HTTP/1.1's rules.
    #[error("{0}")]
    Malformed(Malformed),
    /// The client broke its own request off.
    #[error("the request's content ended early")]
    ClientBroke,
    /// RingCentral's limits let it not be sent now.
    #[error("{}", held_message(identity, held))]
    Held {
        /// Whose request it is.
        identity: String,
        /// Why, and until when.
        held: Held,
    },
    /// How long the client would wait is not to be understood.
    #[error(
        "X-Ringbearer-Max-Wait is no time to wait: give seconds, as in 30, or a duration, as in 2m"
    )]
    MaxWait,
    /// RingCentral gave no answer.
    #[error("{}", chain(.0))]
    Upstream(#[source] SendError),
}

/// Whether `answer` is the proxy's own and says that the request's content broke off.
pub fn blames_the_content<B>(answer: &Response<B>) -> bool {
    let (_, code) = ProxyError::ClientBroke.status_and_code();
    answer.headers().get(ERROR_FIELD).is_some_and(|it| it == code)
}

fn refusal_message(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Method => "CONNECT and TRACE do not pass this proxy",
        Refusal::Host => "an HTTP/1.1 request has exactly one Host field (RFC 9112 section 3.2)",
        Refusal::TransferCoding => "no transfer coding but chunked passes this proxy",
        Refusal::Target => "the request target is not a path",
        Refusal::UnknownHost => "no host of that name is configured: see [host.NAME]",
        Refusal::WebSocketOnly => "this host takes WebSockets only: ask with Upgrade: websocket",
        Refusal::StrangeHost => {
            "this proxy may not be called by that host: name it in proxy.hosts if it is meant to"
        }
        Refusal::CrossSite => {
            "a web page of another origin may not call this proxy: name that in proxy.cors_origins if \
             it is meant to"
        }
        Refusal::TokenManagement(_) => {
            "the proxy carries the token: the endpoints that issue and revoke tokens do not pass it"
        }
    }
}

fn held_message(identity: &str, held: &Held) -> String {
    let secs = whole_secs(held.retry_after);
    let what = match &held.group {
        Some(group) => format!("group \"{group}\" of identity \"{identity}\""),
        None => format!("this operation of identity \"{identity}\""),
    };
    match held.why {
        Hold::Penalty => format!(
            "RingCentral has asked for silence in {what}, and each request would make it longer: \
             nothing is sent for another {secs} s"
        ),
        Hold::Turn => format!(
            "RingCentral's limit leaves no turn in time for {what}: the next may come in {secs} s, \
             and X-Ringbearer-Max-Wait says how long to wait for it"
        ),
        Hold::Queue => format!(
            "as many requests wait for their turns as proxy.max_queue allows, so none is left for {what}"
        ),
    }
}

/// As in `Retry-After`: never too early, and never none.
fn whole_secs(time: Duration) -> u64 {
    time.as_millis().div_ceil(1000).max(1).try_into().unwrap_or(u64::MAX)
}

fn whose_policy(client: Option<&str>) -> String {
    client.map_or_else(
        || "whoever calls this proxy".to_owned(),
        |client| format!("client \"{client}\""),
    )
}

/// Status and code of what a policy refuses.
fn out_of_policy(refusal: &OutOfPolicy) -> (StatusCode, &'static str) {
    match refusal {
        OutOfPolicy::Denied(_) | OutOfPolicy::NotAllowed => (StatusCode::FORBIDDEN, "RBR-150"),
        OutOfPolicy::Tunnel(_) | OutOfPolicy::Verb => (StatusCode::FORBIDDEN, "RBR-151"),
        OutOfPolicy::Path(_) => (StatusCode::BAD_REQUEST, "RBR-152"),
    }
}

impl ProxyError {
    /// Status and code: whose fault it was.
    pub fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Refused(Refusal::Host) => (StatusCode::BAD_REQUEST, "RBR-101"),
            Self::Refused(Refusal::Target) => (StatusCode::BAD_REQUEST, "RBR-102"),
            Self::Refused(Refusal::Method) => (StatusCode::METHOD_NOT_ALLOWED, "RBR-103"),
            Self::Refused(Refusal::TokenManagement(_)) => (StatusCode::FORBIDDEN, "RBR-104"),
            Self::UnknownIdentity(_) => (StatusCode::FORBIDDEN, "RBR-105"),
            Self::NoIdentity => (StatusCode::BAD_REQUEST, "RBR-106"),
            Self::ClientBroke => (StatusCode::BAD_REQUEST, "RBR-107"),
            Self::Refused(Refusal::TransferCoding) => (StatusCode::BAD_REQUEST, "RBR-108"),
            Self::Denied(Denied::NoKey) => (StatusCode::UNAUTHORIZED, "RBR-109"),
            Self::Denied(Denied::UnknownKey) => (StatusCode::UNAUTHORIZED, "RBR-110"),
            Self::Denied(Denied::NotBound { .. }) => (StatusCode::FORBIDDEN, "RBR-111"),
            Self::Refused(Refusal::UnknownHost) => (StatusCode::NOT_FOUND, "RBR-112"),
            Self::Refused(Refusal::WebSocketOnly) => (StatusCode::UPGRADE_REQUIRED, "RBR-113"),
            Self::Denied(Denied::PassExpired) => (StatusCode::UNAUTHORIZED, "RBR-119"),
            Self::Denied(Denied::PassVoid) => (StatusCode::UNAUTHORIZED, "RBR-120"),
            Self::Denied(Denied::Stranger) => (StatusCode::FORBIDDEN, "RBR-155"),
            Self::Denied(Denied::Ambiguous) => (StatusCode::FORBIDDEN, "RBR-156"),
            Self::Refused(Refusal::StrangeHost) => (StatusCode::MISDIRECTED_REQUEST, "RBR-121"),
            Self::Refused(Refusal::CrossSite) => (StatusCode::FORBIDDEN, "RBR-122"),
            Self::SlowClient | Self::Upstream(SendError::SlowClient) => {
                (StatusCode::REQUEST_TIMEOUT, "RBR-140")
            }
            Self::TooLong => (StatusCode::PAYLOAD_TOO_LARGE, "RBR-141"),
            Self::InFlight(_) => (StatusCode::SERVICE_UNAVAILABLE, "RBR-142"),
            Self::Connections => (StatusCode::SERVICE_UNAVAILABLE, "RBR-143"),
            Self::Login(fault) => fault.status_and_code(),
            Self::Malformed(malformed) => malformed.status_and_code(),
            Self::Policy { refusal, .. } => out_of_policy(refusal),
            Self::NoToken { why, .. } if why.terminal => {
                (StatusCode::SERVICE_UNAVAILABLE, "RBR-202")
            }
            Self::NoToken { .. } => (StatusCode::SERVICE_UNAVAILABLE, "RBR-201"),
            Self::IdentityNotRead(_) => (StatusCode::SERVICE_UNAVAILABLE, "RBR-203"),
            Self::NoFacadeKey => (StatusCode::SERVICE_UNAVAILABLE, "RBR-204"),
            Self::Upstream(SendError::Connect(ConnectError::Timeout { .. })) => {
                (StatusCode::GATEWAY_TIMEOUT, "RBR-301")
            }
            Self::Upstream(SendError::Connect(ConnectError::NoneFree { .. })) => {
                (StatusCode::SERVICE_UNAVAILABLE, "RBR-144")
            }
            Self::Upstream(SendError::Connect(_)) => (StatusCode::BAD_GATEWAY, "RBR-302"),
            Self::Upstream(SendError::Timeout(_)) => (StatusCode::GATEWAY_TIMEOUT, "RBR-303"),
            Self::Upstream(SendError::Broken { .. }) => (StatusCode::BAD_GATEWAY, "RBR-304"),
            Self::Loop => (StatusCode::LOOP_DETECTED, "RBR-305"),
            Self::MaxWait => (StatusCode::BAD_REQUEST, "RBR-163"),
            Self::Held { held, .. } => match held.why {
                Hold::Penalty => (StatusCode::TOO_MANY_REQUESTS, "RBR-160"),
                Hold::Turn => (StatusCode::TOO_MANY_REQUESTS, "RBR-161"),
                Hold::Queue => (StatusCode::TOO_MANY_REQUESTS, "RBR-162"),
            },
        }
    }

    /// The message without anything that a client has sent, for whoever watches the proxy.
    pub(super) fn in_own_words(&self) -> String {
        match self {
            Self::UnknownIdentity(_) => "a request named an identity that there is not".to_owned(),
            Self::IdentityNotRead(_) => {
                "the store cannot say whether there is an identity that a request named".to_owned()
            }
            // Who it is may be said by a path or a field of the client's.
            Self::Denied(Denied::NotBound { .. }) => {
                "a request named an identity that its caller may not call as".to_owned()
            }
            _ => self.to_string(),
        }
    }

    /// How long a client should wait before it tries again, where that may help.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NoToken { why, .. } => Some(why.retry_after.max(Duration::from_secs(1))),
            Self::Held { held, .. } => Some(held.retry_after),
            Self::InFlight(_)
            | Self::Connections
            | Self::Upstream(SendError::Connect(ConnectError::NoneFree { .. })) => {
                Some(Duration::from_secs(1))
            }
            Self::IdentityNotRead(_)
            | Self::NoFacadeKey
            | Self::Upstream(SendError::Connect(_)) => Some(Duration::from_secs(5)),
            _ => None,
        }
    }

    /// Whether the rest of the request is not worth waiting for.
    pub(super) fn ends_connection(&self) -> bool {
        matches!(self, Self::SlowClient | Self::TooLong)
    }

    /// The code for apps: RingCentral's own where they look for it.
    fn error_code(&self) -> &'static str {
        match self {
            Self::Denied(Denied::PassExpired) => "TokenExpired",
            Self::Denied(Denied::PassVoid) => "TokenInvalid",
            Self::Held { .. } => "CMN-301",
            _ => self.status_and_code().1,
        }
    }

    /// `error` of RFC 6749 §5.2, for who logs in.
    fn oauth_error(&self) -> &'static str {
        match (self, self.status_and_code().0) {
            (Self::Login(fault), _) => fault.error(),
            (_, StatusCode::UNAUTHORIZED) => "invalid_client",
            (_, StatusCode::FORBIDDEN) => "unauthorized_client",
            (_, status) if status.is_server_error() => "temporarily_unavailable",
            _ => "invalid_request",
        }
    }

    fn challenge(&self) -> &'static str {
        match self {
            Self::Login(_) => "Basic realm=\"ringbearer\"",
            Self::Denied(Denied::PassExpired | Denied::PassVoid) => {
                "Bearer realm=\"ringbearer\", error=\"invalid_token\""
            }
            _ => "Bearer realm=\"ringbearer\"",
        }
    }

    /// The answer in RingCentral's shape.
    pub fn into_response(self) -> Response<Bytes> {
        let (code, message) = (self.error_code(), self.to_string());
        self.response(&serde_json::json!({
            "errorCode": code,
            "message": message,
            "errors": [{ "errorCode": code, "message": message }],
        }))
    }

    /// The same for who logs in, with what RFC 6749 §5.2 wants besides.
    pub fn into_oauth_response(self) -> Response<Bytes> {
        let (code, message) = (self.error_code(), self.to_string());
        self.response(&serde_json::json!({
            "error": self.oauth_error(),
            "error_description": message,
            "errorCode": code,
            "message": message,
            "errors": [{ "errorCode": code, "message": message }],
        }))
    }

    fn response(&self, content: &serde_json::Value) -> Response<Bytes> {
        let (status, code) = self.status_and_code();
        let mut response = Response::new(Bytes::from(content.to_string()));
        *response.status_mut() = status;
        let fields = response.headers_mut();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        fields.insert(ERROR_FIELD, HeaderValue::from_static(code));
        if let Some(wait) = self.retry_after() {
            fields.insert(RETRY_AFTER, whole_secs(wait).into());
        }
        if let Self::Held { held, .. } = &self {
            let group = held.group.as_deref().map(HeaderValue::from_str);
            fields.extend(group.and_then(Result::ok).map(|group| (answer::GROUP, group)));
            fields.insert(answer::REMAINING, HeaderValue::from_static("0"));
        }
        if status == StatusCode::UNAUTHORIZED {
            fields.insert(WWW_AUTHENTICATE, HeaderValue::from_static(self.challenge()));
        }
        if status == StatusCode::UPGRADE_REQUIRED {
            fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
            fields.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            let methods = match self {
                Self::Login(Fault::Method(methods)) => methods,
                _ => "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
            };
            fields.insert(ALLOW, HeaderValue::from_static(methods));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Named, Oddity, Source};
    use crate::proxy::access::Endpoint;

    #[test]
    fn what_operators_are_told_in_its_own_words_has_nothing_of_the_clients() {
        let (who, identity) = ("whoever also names \"canary\"".to_owned(), "canary".to_owned());
        for error in [
            ProxyError::Denied(Denied::NotBound { who, identity: identity.clone() }),
            ProxyError::UnknownIdentity(identity),
        ] {
            assert!(error.to_string().contains("canary"), "the client itself is told");
            let told = error.in_own_words();
            assert!(told.starts_with("a request named an identity"), "{told}");
            assert!(!told.contains("canary"), "{told}");
        }
    }

    #[test]
    fn a_refusal_has_ringcentrals_shape_and_says_who_answered() {
        let response =
            ProxyError::Refused(Refusal::TokenManagement(Endpoint::Token)).into_response();
        assert_eq!(response.status(), 403);
        assert_eq!(response.headers()[ERROR_FIELD], "RBR-104");
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(body["errorCode"], "RBR-104");
        assert_eq!(body["message"], body["errors"][0]["message"]);
    }

    #[test]
    fn who_may_not_ask_for_something_is_told_by_whose_rule() {
        let denied = |client: Option<&str>| {
            let rule = Named { text: "createSMSMessage".into(), origin: Source::Deny };
            let refusal = Box::new(OutOfPolicy::Denied(rule));
            ProxyError::Policy { client: client.map(Into::into), refusal }
        };
        assert_eq!(
            denied(Some("billing")).to_string(),
            "client \"billing\" may not send this request: it is refused by \"createSMSMessage\" of deny"
        );
        assert_eq!(
            denied(None).to_string(),
            "whoever calls this proxy may not send this request: it is refused by \"createSMSMessage\" of deny"
        );
        assert_eq!(denied(None).into_response().status(), 403);
    }

    #[test]
    fn who_logs_in_is_told_in_the_words_of_oauth_too() {
        let response = ProxyError::Login(Fault::Client).into_oauth_response();
        assert_eq!(response.headers()[WWW_AUTHENTICATE], "Basic realm=\"ringbearer\"");
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(
            (&body["error"], &body["errorCode"]),
            (&"invalid_client".into(), &"RBR-114".into())
        );
        assert_eq!(body["error_description"], body["message"]);
        for (error, word) in [
            (ProxyError::NoIdentity, "invalid_request"),
            (ProxyError::NoFacadeKey, "temporarily_unavailable"),
            (ProxyError::UnknownIdentity(String::new()), "unauthorized_client"),
        ] {
            assert_eq!(error.oauth_error(), word, "{error}");
        }
        let response = ProxyError::Login(Fault::Method("POST")).into_oauth_response();
        assert_eq!(response.headers()[ALLOW], "POST");
    }

    #[test]
    fn a_token_that_is_over_is_told_in_ringcentrals_words() {
        let response = ProxyError::Denied(Denied::PassExpired).into_response();
        let fields = response.headers();
        assert_eq!(
            (response.status(), &fields[ERROR_FIELD]),
            (StatusCode::UNAUTHORIZED, &"RBR-119".parse().unwrap())
        );
        assert_eq!(
            fields[WWW_AUTHENTICATE],
            "Bearer realm=\"ringbearer\", error=\"invalid_token\""
        );
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(body["errorCode"], "TokenExpired");
    }

    #[test]
    fn waiting_helps_where_retry_after_says_so() {
        let limit = Duration::from_secs(5);
        let unreachable = ConnectError::Timeout { origin: "https://a.test".into(), limit };
        let response = ProxyError::Upstream(SendError::Connect(unreachable)).into_response();
        assert_eq!(response.headers()[RETRY_AFTER], "5");
        let refused = ProxyError::Refused(Refusal::Method).into_response();
        assert!(refused.headers().get(RETRY_AFTER).is_none());
        assert!(refused.headers().contains_key(ALLOW));
    }

    fn held(why: Hold) -> ProxyError {
        let retry_after = Duration::from_millis(41_200);
        let held = Held { why, group: Some("heavy".into()), retry_after };
        ProxyError::Held { identity: "sales".into(), held }
    }

    #[test]
    fn a_request_that_is_held_is_told_when_in_the_words_that_sdks_know() {
        let response = held(Hold::Penalty).into_response();
        assert_eq!(response.status(), 429);
        let fields = response.headers();
        let of = |name: &str| fields[name].to_str().unwrap();
        assert_eq!((of("retry-after"), of(ERROR_FIELD)), ("42", "RBR-160"));
        assert_eq!((of("x-rate-limit-group"), of("x-rate-limit-remaining")), ("heavy", "0"));
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(
            (&body["errorCode"], &body["errors"][0]["errorCode"]),
            (&"CMN-301".into(), &"CMN-301".into())
        );
        assert_eq!(
            body["message"],
            "RingCentral has asked for silence in group \"heavy\" of identity \"sales\", and each \
             request would make it longer: nothing is sent for another 42 s"
        );
    }

    #[test]
    fn every_code_is_given_once() {
        let limit = Duration::from_secs(1);
        let origin = String::new();
        let policy = |refusal| ProxyError::Policy { client: None, refusal: Box::new(refusal) };
        let errors = [
            ProxyError::Refused(Refusal::Host),
            ProxyError::Refused(Refusal::Target),
            ProxyError::Refused(Refusal::TransferCoding),
            ProxyError::Refused(Refusal::Method),
            ProxyError::Refused(Refusal::UnknownHost),
            ProxyError::Refused(Refusal::WebSocketOnly),
            ProxyError::Refused(Refusal::StrangeHost),
            ProxyError::Refused(Refusal::CrossSite),
            ProxyError::Refused(Refusal::TokenManagement(Endpoint::Token)),
            policy(OutOfPolicy::NotAllowed),
            policy(OutOfPolicy::Verb),
            policy(OutOfPolicy::Path(Oddity::Dots)),
            ProxyError::Login(Fault::Client),
            ProxyError::Login(Fault::Grant("")),
            ProxyError::Login(Fault::GrantType),
            ProxyError::Login(Fault::Method("POST")),
            ProxyError::Login(Fault::RedirectUri),
            ProxyError::NoFacadeKey,
            ProxyError::Denied(Denied::PassExpired),
            ProxyError::Denied(Denied::PassVoid),
            ProxyError::Denied(Denied::NoKey),
            ProxyError::Denied(Denied::UnknownKey),
            ProxyError::Denied(Denied::Stranger),
            ProxyError::Denied(Denied::Ambiguous),
            ProxyError::Denied(Denied::NotBound { who: String::new(), identity: String::new() }),
            ProxyError::UnknownIdentity(String::new()),
            ProxyError::IdentityNotRead(String::new()),
            ProxyError::NoIdentity,
            ProxyError::ClientBroke,
            ProxyError::SlowClient,
            ProxyError::TooLong,
            ProxyError::InFlight(String::new()),
            ProxyError::Connections,
            ProxyError::Upstream(SendError::Connect(ConnectError::NoneFree {
                origin: origin.clone(),
                limit,
            })),
            ProxyError::Upstream(SendError::Timeout(limit)),
            ProxyError::Upstream(SendError::Connect(ConnectError::Timeout { origin, limit })),
            ProxyError::Loop,
            ProxyError::MaxWait,
            held(Hold::Penalty),
            held(Hold::Turn),
            held(Hold::Queue),
        ];
        let mut codes: Vec<_> = errors.iter().map(|error| error.status_and_code().1).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), errors.len());
    }
}
