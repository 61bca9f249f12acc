//! What follows a 401: its code is read, a newer token is had, the request is sent once more.
//!
//! [`super::replay`] decides; this carries it out. Nothing here runs for any other answer.

use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use http::{Response, StatusCode};

use super::error::ProxyError;
use super::exchange::Exchange;
use super::outbound::Outbound;
use super::record::Record;
use super::replay::{self, Reason, Refusal, Verdict};
use super::{Answer, Proxy, Token, headers};
use crate::metrics::limits::Limit;
use crate::token::Generation;
use crate::token::identities::IdentityId;
use crate::upstream::SendError;

/// The field that says whether an answer was had by a replay, or why a 401 was not replayed.
pub const REPLAY_FIELD: HeaderName = HeaderName::from_static("x-ringbearer-replay");

/// The most that is read of a refusal to find its code.
const MAX_REFUSAL: usize = 16 * 1024;

impl Proxy {
    /// RingCentral refused the request. If a newer token may help, gets one and sends it again.
    pub(super) async fn heal(
        &self,
        exchange: &mut Exchange,
        generation: Generation,
        answer: Answer,
        record: &mut Record,
    ) -> Result<Response<Outbound>, ProxyError> {
        let refused = self.read_refusal(answer).await?;
        let refusal = Refusal::read(refused.body().prefix());
        record.refused(refusal.code());
        if exchange.sends() > 1 {
            return Ok(not_replayed(refused, Reason::AlreadyResent, record));
        }
        let verdict = replay::verdict(&refusal, exchange.content());
        self.note_reached(verdict);
        match verdict {
            Verdict::Relay(reason) => Ok(not_replayed(refused, reason, record)),
            Verdict::RenewAndRelay(reason) => {
                self.renew_meanwhile(exchange.identity(), generation);
                Ok(not_replayed(refused, reason, record))
            }
            Verdict::Replay => match self.newer_token(exchange.identity(), generation).await {
                None => Ok(not_replayed(refused, Reason::NoNewerToken, record)),
                // The upload went on meanwhile, and may have outgrown what is kept.
                Some(newer) => match replay::verdict(&refusal, exchange.content()) {
                    Verdict::Relay(reason) | Verdict::RenewAndRelay(reason) => {
                        Ok(not_replayed(refused, reason, record))
                    }
                    Verdict::Replay => {
                        drop(refused);
                        self.replay(exchange, newer, record).await
                    }
                },
            },
        }
    }

    fn note_reached(&self, verdict: Verdict) {
        match verdict {
            Verdict::RenewAndRelay(Reason::TooLong) => self.limits.meters.count(Limit::ReplayBytes),
            Verdict::RenewAndRelay(Reason::MemoryFull) => {
                self.limits.meters.count(Limit::ReplayMemory);
            }
            Verdict::Replay | Verdict::RenewAndRelay(_) | Verdict::Relay(_) => {}
        }
    }

    /// Reads the content of a 401 or 429 as far as is needed to judge it.
    pub(super) async fn read_refusal(
        &self,
        answer: Answer,
    ) -> Result<Response<Outbound>, ProxyError> {
        let (head, content) = answer.into_parts();
        let limit = self.limits.token_wait;
        match self.timers.within(limit, Outbound::read_prefix(content, MAX_REFUSAL)).await {
            Ok(content) => Ok(Response::from_parts(head, content)),
            Err(_) => Err(ProxyError::Upstream(SendError::Timeout(limit))),
        }
    }

    async fn newer_token(&self, identity: IdentityId, refused: Generation) -> Option<Token> {
        let renewal = self.identities.keeper(identity).rejected(refused);
        let renewed = self.timers.within(self.limits.token_wait, renewal).await;
        if !matches!(renewed, Ok(Ok(()))) {
            return None;
        }
        self.current_token(identity).filter(|token| token.generation > refused)
    }

    async fn replay(
        &self,
        exchange: &mut Exchange,
        newer: Token,
        record: &mut Record,
    ) -> Result<Response<Outbound>, ProxyError> {
        exchange.authorize(newer.value);
        record.sending();
        let answer = self.send(exchange).await?;
        record.replayed(newer.generation);
        if answer.status() != StatusCode::UNAUTHORIZED {
            self.note_accepted(exchange.identity(), newer.generation);
        }
        let mut answer = if exchange.is_penalised() {
            self.relay_penalty(exchange, answer).await?
        } else {
            self.to_client(answer, exchange)
        };
        answer.headers_mut().insert(REPLAY_FIELD, HeaderValue::from_static("yes"));
        Ok(answer)
    }

    fn renew_meanwhile(&self, identity: IdentityId, refused: Generation) {
        let identities = Arc::clone(&self.identities);
        tokio::task::spawn_local(async move {
            // Its outcome reaches the log and the next request.
            let _ = identities.keeper(identity).rejected(refused).await;
        });
    }
}

/// RingCentral's refusal, with the reason why it is passed on.
fn not_replayed(
    mut refused: Response<Outbound>,
    why: Reason,
    record: &mut Record,
) -> Response<Outbound> {
    record.not_replayed(why);
    let fields = refused.headers_mut();
    headers::to_client(fields);
    fields.insert(REPLAY_FIELD, HeaderValue::from_static(why.as_str()));
    refused
}
