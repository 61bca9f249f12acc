//! The end of a session that a newer one has replaced: at most two of an identity stay alive.
//!
//! A session without a refresh token ends with its access token, and there is nothing to do. One
//! with a refresh token, which an identity has that was configured to ask for it, would go on for
//! days, and RingCentral ends the oldest of more than five, perhaps somebody else's. It is revoked
//! when its access token has lapsed, so that no request in flight is cut off; once, and whatever
//! comes of it is ignored, as RingCentral's guide asks.

use std::sync::Arc;

use tracing::debug;

use super::driver::Surroundings;
use crate::clock::Timestamp;
use crate::settings::IdentitySettings;
use crate::token::RefreshToken;
use crate::token::budget::Class;
use crate::token::queue::Progress;

/// Revokes the session of `token` at `drained`, unless the process ends before.
pub(super) async fn retire(
    around: Surroundings,
    settings: Arc<IdentitySettings>,
    token: RefreshToken,
    drained: Timestamp,
) {
    let mut ending = around.ending.clone();
    tokio::select! {
        biased;
        _ = ending.wait_for(|ending| *ending) => {}
        () = revoke(&around, &settings, &token, drained) => {}
    }
}

async fn revoke(
    around: &Surroundings,
    settings: &IdentitySettings,
    token: &RefreshToken,
    drained: Timestamp,
) {
    around.clock.sleep_until(drained).await;
    let mut place = around.queue.join(Class::Idle);
    loop {
        match place.progress(Class::Idle).await {
            Progress::Turn(mut held) => {
                held.sending();
                let result = around.endpoint.revoke(&settings.application, token.expose()).await;
                debug!(identity = settings.name, revoked = result.is_ok(), "session retired");
                return;
            }
            Progress::Again => {}
            // Not worth more: the session ends by itself, though days later.
            Progress::Down(_) => return,
        }
    }
}
