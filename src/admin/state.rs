//! `/state`: all that the status page shows, as JSON. `docs/status.md` describes it.
//!
//! It is asked for every second, so it comes from memory: identities are those that are at work in
//! this process, and the store's word is at most five seconds old.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use super::content::json as json_answer;
use super::desk::Desk;
use crate::metrics::process;
use crate::metrics::traffic::Totals;
use crate::token::lifecycle::Means;
use crate::token::roster::{Line, Range, State};

/// Who has more identities looks some of them up in /identities.
const MOST: usize = 100;

impl Desk {
    pub(super) async fn state(&self) -> Response<Full<Bytes>> {
        let store = self.health.look().await;
        let report = self.report(&store);
        let (identities, more) = self.identities_at_work();
        let mut content = report.content();
        let rest = json!({
            "now_ms": self.clock.now().unix_millis(),
            "version": env!("CARGO_PKG_VERSION"),
            "started_ms": self.observer.started().unix_millis(),
            "changes": self.gate.has_key(),
            "store": { "up": store.fault.is_none(), "error": store.fault },
            "applications": store.budgets,
            "identities": identities,
            "more_identities": more,
            "traffic": self.traffic(),
            "history": self.observer.history(),
            "events": self.observer.events(),
        });
        let (all, rest) = (content.as_object_mut(), rest.as_object().cloned());
        all.expect("it is one").extend(rest.expect("it is one"));
        json_answer(StatusCode::OK, &content)
    }

    /// Those in trouble first; and how many are left out.
    fn identities_at_work(&self) -> (Vec<Value>, usize) {
        let (known, _) = self.without_store(&Range::ALL);
        let mut lines: Vec<_> = known.iter().map(|known| (self.line(known), known.means)).collect();
        lines.sort_by_key(|(line, _)| urgency(line));
        let more = lines.len().saturating_sub(MOST);
        lines.truncate(MOST);
        (lines.iter().map(|(line, means)| member(line, *means)).collect(), more)
    }

    fn traffic(&self) -> Value {
        let counters = &self.instruments.counters;
        let Totals { in_progress, websockets, open, idle, .. } = counters.traffic.totals();
        json!({
            "in_progress": in_progress,
            "client_connections": counters.meters.connections(),
            "websockets": websockets,
            "upstream_connections": open,
            "upstream_idle": idle,
            "replay_memory": counters.replay_memory.used(),
            "replay_memory_limit": counters.replay_memory.cap(),
            "resident_memory": process::resident_memory(),
        })
    }
}

fn member(line: &Line, means: Means) -> Value {
    let mut content = json!(line);
    if line.state == State::NeedsLogin && means != Means::Reopens {
        content["command"] = json!(format!("ringbearer login {}", line.name));
    }
    content
}

fn urgency(line: &Line) -> u8 {
    match line.state {
        State::NeedsLogin => 0,
        State::Penalised | State::BackingOff | State::CoolingDown => 1,
        _ if line.note.is_some() => 2,
        _ => 3,
    }
}
