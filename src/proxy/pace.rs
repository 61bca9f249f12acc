//! When a request may go: what the main path asks the throttle, and what it tells it.
//!
//! Where nothing is held and nothing is paced, a request is not looked at for its operation, and its
//! answer not for its limits, but for one answer in each grain of the clock: enough to learn by.

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri};

use super::admission::Whose;
use super::error::ProxyError;
use super::exchange::Exchange;
use super::headers;
use super::outbound::Outbound;
use super::replay::Refusal;
use super::throttle::penalties::Scope;
use super::throttle::queue::Caller;
use super::throttle::{Held, Throttle, Turn, Verdict, Want};
use super::{Answer, Proxy};
use crate::clock::Timestamp;
use crate::settings::ClientSettings;
use crate::token::identities::IdentityId;

/// How long a request may wait for its turn, in seconds, or as `30s`.
const MAX_WAIT: HeaderName = HeaderName::from_static("x-ringbearer-max-wait");

/// Whoever asks for more waits so long.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

impl Proxy {
    /// What matters to the throttle; none where it does not matter.
    pub(super) fn want(
        &self,
        head: &Parts,
        whose: &Whose,
        caller: Option<&ClientSettings>,
        now: Timestamp,
    ) -> Result<Option<Want>, ProxyError> {
        let Some(throttle) = &self.throttle else { return Ok(None) };
        let Some(usual) = throttle.max_wait() else {
            let is_quiet = matches!(whose, Whose::Known(id) if throttle.is_quiet(id.number(), now));
            if is_quiet && self.noted.replace(now) == now {
                return Ok(None);
            }
            return Ok(Some(want(throttle, &head.method, &head.uri, &head.headers)));
        };
        let max_wait = match head.headers.get(MAX_WAIT) {
            None => usual,
            Some(asked) => max_wait(asked).ok_or(ProxyError::MaxWait)?,
        };
        let caller = self.admission.selection.line(caller);
        let operation = throttle.operation(&head.method, &head.uri, &head.headers);
        Ok(Some(Want { operation, caller, max_wait }))
    }

    /// The same for a request that has waited for something else: meanwhile it may matter.
    pub(super) fn plain_want(&self, head: &Parts) -> Option<Want> {
        let throttle = self.throttle.as_ref()?;
        Some(want(throttle, &head.method, &head.uri, &head.headers))
    }

    /// The turn of a request that has a token; `None` if it has to wait.
    pub(super) fn turn_at_once(
        &self,
        identity: IdentityId,
        want: Option<&Want>,
        now: Timestamp,
    ) -> Result<Option<Turn>, ProxyError> {
        let Some((throttle, want)) = self.throttle.as_ref().zip(want) else {
            return Ok(Some(Turn::free()));
        };
        throttle.at_once(identity.number(), want, now).map_err(|held| self.held(identity, held))
    }

    /// The turn of a request, when it comes.
    pub(super) async fn turn(
        &self,
        identity: IdentityId,
        want: Option<&Want>,
    ) -> Result<Turn, ProxyError> {
        let Some((throttle, want)) = self.throttle.as_ref().zip(want) else {
            return Ok(Turn::free());
        };
        self.turn_in_time(throttle, identity, want).await.map_err(|held| self.held(identity, held))
    }

    /// The turn of a request that was sent before.
    pub(super) async fn next_turn(&self, exchange: &mut Exchange) -> Result<Turn, ProxyError> {
        let Some(throttle) = &self.throttle else { return Ok(Turn::free()) };
        let identity = exchange.identity();
        let want =
            *exchange.want_or(|method, target, fields| want(throttle, method, target, fields));
        self.turn(identity, Some(&want)).await
    }

    async fn turn_in_time(
        &self,
        throttle: &Arc<Throttle>,
        identity: IdentityId,
        want: &Want,
    ) -> Result<Turn, Held> {
        let deadline = self.timers.now() + want.max_wait;
        loop {
            let now = self.timers.now();
            let waiting = match throttle.before(identity.number(), want, deadline, now)? {
                Verdict::Send(turn) => return Ok(turn),
                Verdict::Wait(waiting) => waiting,
            };
            match self.timers.within(now.until(deadline), waiting.turn()).await {
                // Meanwhile an answer may have said that the operation is in another group.
                Ok(Some(turn)) if throttle.fits(&turn, want.operation) => return Ok(turn),
                Ok(_) => {}
                Err(_) => return Err(throttle.gave_up(identity.number(), want, self.timers.now())),
            }
        }
    }

    /// An answer has come to a request that had its turn.
    pub(super) fn note_limits(&self, exchange: &mut Exchange, turn: Turn, answer: &Answer) {
        let is_refused = answer.status() == StatusCode::TOO_MANY_REQUESTS;
        if exchange.want().is_none() && !is_refused {
            return;
        }
        let Some(throttle) = &self.throttle else { return };
        let operation = exchange
            .want_or(|method, target, fields| want(throttle, method, target, fields))
            .operation;
        let (identity, now) = (exchange.identity(), self.timers.now());
        let (status, fields) = (answer.status(), answer.headers());
        let begun = throttle.after(turn, identity.number(), operation, status, fields, now);
        exchange.penalise(begun);
    }

    /// RingCentral asks for silence: reads in what, and passes its answer on.
    pub(super) async fn relay_penalty(
        &self,
        exchange: &mut Exchange,
        answer: Answer,
    ) -> Result<Response<Outbound>, ProxyError> {
        let begun = exchange.take_penalty();
        let read = self.read_refusal(answer).await;
        let refusal = read.as_ref().ok().map(|refused| Refusal::read(refused.body().prefix()));
        let code = refusal.as_ref().and_then(Refusal::code);
        let scope = Scope::of(code);
        if let (Some(throttle), Some(begun)) = (&self.throttle, begun) {
            let identity = exchange.identity();
            throttle.rescope(identity.number(), &begun, scope, self.timers.now());
            tracing::warn!(
                identity = self.identities.keeper(identity).name(),
                group = throttle.groups().name(begun.group()),
                code,
                "RingCentral answered 429: {}",
                consequence(scope)
            );
        }
        let mut refused = read?;
        headers::to_client(refused.headers_mut());
        Ok(refused)
    }

    fn held(&self, identity: IdentityId, held: Held) -> ProxyError {
        let identity = self.identities.keeper(identity).name().to_owned();
        ProxyError::Held { identity, held }
    }
}

/// A request that nobody waits with.
fn want(throttle: &Throttle, method: &Method, target: &Uri, fields: &HeaderMap) -> Want {
    let operation = throttle.operation(method, target, fields);
    Want { operation, caller: Caller::ANYBODY, max_wait: Duration::ZERO }
}

fn consequence(scope: Scope) -> &'static str {
    match scope {
        Scope::Group => "nothing of this group is sent until the penalty is over",
        Scope::Everything => "nothing of this identity is sent until the penalty is over",
        Scope::Request => "it concerns this request alone",
    }
}

fn max_wait(asked: &HeaderValue) -> Option<Duration> {
    let text = asked.to_str().ok()?.trim();
    let secs = text.parse().ok().map(Duration::from_secs);
    let wait = secs.or_else(|| humantime::parse_duration(text).ok())?;
    Some(wait.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_says_how_long_it_waits_in_seconds_or_as_a_duration_and_not_for_ever() {
        let read = |text| max_wait(&HeaderValue::from_static(text));
        let secs = |secs| Some(Duration::from_secs(secs));
        assert_eq!((read("0"), read(" 30 "), read("2m")), (secs(0), secs(30), secs(120)));
        assert_eq!((read("86400"), read("1 day")), (secs(600), secs(600)));
        for nonsense in ["", "soon", "-1", "1.5"] {
            assert_eq!(read(nonsense), None, "{nonsense:?}");
        }
    }
}
