//! How long an answer is waited for, and whose fault it is that none comes. PURE.
//!
//! While a request's content is on its way, its client may be what everything waits for: then the
//! time allowed is the client's, and RingCentral's begins when content has been taken off its hands.

use std::time::Duration;

use crate::timers::stall::{LOOKS, Pace};

/// How far the content of a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upload {
    /// Bytes that have passed.
    pub bytes: u64,
    /// What holds it up.
    pub stage: Stage,
}

/// Who has to do something about the content of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// RingCentral has to take what is there.
    #[default]
    There,
    /// The client has to send more.
    Awaited,
    /// Nobody: all of it has passed.
    Over,
}

/// Why there is no more waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Late {
    /// RingCentral said nothing for too long.
    Answer,
    /// The client sent too little for too long.
    Upload,
}

/// The waiting for one answer.
pub(super) struct Patience {
    response_timeout: Duration,
    pace: Pace,
    /// For how long nothing has been heard of RingCentral.
    silent: Duration,
    seen: u64,
    /// For how long the client has been slow, and where that began.
    slow: Duration,
    slow_from: u64,
}

impl Patience {
    pub(super) fn new(response_timeout: Duration, pace: Pace, upload: Upload) -> Self {
        let (silent, slow) = (Duration::ZERO, Duration::ZERO);
        Self { response_timeout, pace, silent, seen: upload.bytes, slow, slow_from: upload.bytes }
    }

    /// When to look next.
    pub(super) fn next_look(&self, upload: Upload) -> Duration {
        let left = self.response_timeout.saturating_sub(self.silent);
        match upload.stage {
            Stage::Over => left,
            Stage::There | Stage::Awaited => left.min(self.pace.timeout / u32::from(LOOKS)),
        }
    }

    /// Judges when no answer has come for `passed` more.
    pub(super) fn look(&mut self, passed: Duration, upload: Upload) -> Result<(), Late> {
        if upload.stage == Stage::Awaited || upload.bytes != self.seen {
            (self.silent, self.seen) = (Duration::ZERO, upload.bytes);
        } else {
            self.silent += passed;
        }
        let is_slow = upload.stage == Stage::Awaited
            && upload.bytes.saturating_sub(self.slow_from) < self.pace.bytes;
        if is_slow {
            self.slow += passed;
        } else {
            (self.slow, self.slow_from) = (Duration::ZERO, upload.bytes);
        }
        if self.slow > self.pace.timeout {
            Err(Late::Upload)
        } else if self.silent >= self.response_timeout {
            Err(Late::Answer)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const RESPONSE: Duration = Duration::from_secs(60);
    const PACE: Pace = Pace { timeout: Duration::from_secs(40), bytes: 100 };

    fn at(bytes: u64, stage: Stage) -> Upload {
        Upload { bytes, stage }
    }

    /// The end of waiting for what `upload` says of each second, within an hour.
    fn end(upload: impl Fn(u64) -> Upload) -> Option<(Late, u64)> {
        let mut patience = Patience::new(RESPONSE, PACE, upload(0));
        let mut now = 0;
        while now < 3600 {
            let look = patience.next_look(upload(now));
            now += look.as_secs();
            if let Err(late) = patience.look(look, upload(now)) {
                return Some((late, now));
            }
        }
        None
    }

    #[test]
    fn without_content_the_answer_is_late_after_its_time_to_the_second() {
        assert_eq!(end(|_| at(0, Stage::Over)), Some((Late::Answer, 60)));
    }

    #[test]
    fn a_client_that_stops_is_late_within_its_time_and_a_quarter() {
        assert_eq!(end(|_| at(0, Stage::Awaited)), Some((Late::Upload, 50)));
        let stops = |now: u64| at(now.min(300) * 10, Stage::Awaited);
        let (late, when) = end(stops).unwrap();
        assert_eq!(late, Late::Upload);
        assert!((340..=350).contains(&when), "{when}");
    }

    #[test]
    fn a_client_that_trickles_is_late_and_one_that_goes_on_is_not() {
        assert_eq!(end(|now| at(now, Stage::Awaited)).map(|it| it.0), Some(Late::Upload));
        assert_eq!(end(|now| at(now * 10, Stage::Awaited)), None);
    }

    #[test]
    fn what_ringcentral_does_not_take_is_its_own_fault() {
        assert_eq!(end(|_| at(5000, Stage::There)), Some((Late::Answer, 60)));
        let taken = |now: u64| at(now.min(100), Stage::There);
        assert_eq!(end(taken), Some((Late::Answer, 160)));
    }

    #[test]
    fn the_time_to_answer_begins_when_the_content_is_over() {
        let upload =
            |now: u64| at(now.min(100), if now < 100 { Stage::There } else { Stage::Over });
        let (late, when) = end(upload).unwrap();
        assert_eq!(late, Late::Answer);
        assert!((160..=170).contains(&when), "{when}");
        assert_eq!(Patience::new(RESPONSE, PACE, upload(0)).next_look(upload(0)), SECOND * 10);
    }
}
