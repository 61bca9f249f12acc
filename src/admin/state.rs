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
use crate::clock::Timestamp;
use crate::metrics::process;
use crate::metrics::traffic::Totals;
use crate::proxy::throttle::board::Board;
use crate::proxy::throttle::groups::Group;
use crate::token::keeper::Keeper;
use crate::token::lifecycle::Means;
use crate::token::names::IdentityNumber;
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
            "rate_limits": self.rate_limits(),
        });
        let (all, rest) = (content.as_object_mut(), rest.as_object().cloned());
        all.expect("it is one").extend(rest.expect("it is one"));
        json_answer(StatusCode::OK, &content)
    }

    /// What is known of RingCentral's limits, silences first.
    fn rate_limits(&self) -> Vec<Value> {
        let Some(board) = &self.instruments.limits else { return Vec::new() };
        let now = self.clock.now();
        let all = self.identities.configured().chain(self.identities.added());
        let known = all.flat_map(|(id, keeper)| known_limits(board, id.number(), keeper, now));
        let (mut silent, open): (Vec<_>, Vec<_>) = known.partition(|it| !it["until_ms"].is_null());
        silent.extend(open);
        silent.truncate(MOST);
        silent
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

/// Of one identity: each group of which RingCentral has said something within a minute, and what it
/// does not want to be sent.
fn known_limits(
    board: &Board,
    number: IdentityNumber,
    keeper: &Keeper,
    now: Timestamp,
) -> Vec<Value> {
    let (groups, figures) = (board.groups(), board.figures(number));
    let mut silences = board.silences(number, now);
    let mut limits = Vec::new();
    for (group, name) in groups.names() {
        let at = silences.iter().position(|(held, _)| *held == Some(Group::Named(group)));
        let until = at.map(|at| silences.swap_remove(at).1);
        let left = figures.and_then(|it| it.remaining(group.index(), now.unix_secs()));
        if left.is_some() || until.is_some() {
            let quota = figures.and_then(|it| it.limit(group.index())).unzip();
            limits.push(limit(keeper, name, (left, quota.0, quota.1), until));
        }
    }
    let unnamed = silences.into_iter().map(|(group, until)| {
        let name = if group.is_some() { "one operation" } else { "everything" };
        limit(keeper, name, (None, None, None), Some(until))
    });
    limits.extend(unnamed);
    limits
}

fn limit(
    keeper: &Keeper,
    group: &str,
    (left, limit, window_s): (Option<u64>, Option<u64>, Option<u64>),
    until: Option<Timestamp>,
) -> Value {
    let identity = keeper.name();
    let until_ms = until.map(Timestamp::unix_millis);
    json!({
        "identity": identity, "group": group,
        "left": left, "limit": limit, "window_s": window_s, "until_ms": until_ms,
    })
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
