//! What the worker threads have counted.

use std::collections::{BTreeMap, HashMap};

use super::OTHER;
use crate::metrics::traffic::{Cells, MethodClass, Replay, StatusClass, Totals, plus};
use crate::metrics::{Kind, Page};
use crate::server::Counters;
use crate::token::identities::Identities;

/// Stands for requests that were refused before anybody knew whose they were.
const NONE: &str = "_none";

pub(super) fn write(page: &mut Page, identities: &Identities, counters: &Counters) {
    let totals = counters.traffic.totals();
    requests(page, identities, counters.traffic.named(), &totals);
    times(page, &totals);
    connections(page, &totals);
    let name = "ringbearer_replay_memory_bytes";
    let help = "Memory in use for requests that are kept for a replay.";
    page.family(name, Kind::Gauge, help).sample(&[], counters.replay_memory.used());
    let name = "ringbearer_replay_memory_limit_bytes";
    page.family(name, Kind::Gauge, "Memory that may be in use for them.")
        .sample(&[], counters.replay_memory.cap());
}

fn requests(page: &mut Page, identities: &Identities, named: usize, totals: &Totals) {
    let name = "ringbearer_requests_total";
    let help = "Requests by identity, by whether they may change something, and by the answer.";
    let mut family = page.family(name, Kind::Counter, help);
    let mut sample = |identity: &str, cells: &Cells| {
        for (method, row) in MethodClass::ALL.into_iter().zip(cells) {
            for (status, count) in StatusClass::ALL.into_iter().zip(row) {
                let labels = [
                    ("identity", identity),
                    ("method", method.as_str()),
                    ("status", status.as_str()),
                ];
                family.sample(&labels, count);
            }
        }
    };
    let known: HashMap<_, _> = identities
        .configured()
        .chain(identities.added())
        .filter(|(id, _)| id.index() < named)
        .map(|(id, keeper)| (id.index(), keeper.name()))
        .collect();
    let mut earlier: BTreeMap<_, _> =
        totals.earlier.iter().map(|(name, cells)| (name.as_str(), cells)).collect();
    let mut others = totals.rows[named + 1];
    for (index, cells) in totals.rows[1..=named].iter().enumerate() {
        match known.get(&index) {
            Some(name) => {
                let mut cells = *cells;
                if let Some(before) = earlier.remove(name) {
                    plus(&mut cells, before);
                }
                sample(name, &cells);
            }
            // It was removed.
            None => plus(&mut others, cells),
        }
    }
    for (name, cells) in earlier {
        sample(name, cells);
    }
    sample(OTHER, &others);
    sample(NONE, &totals.rows[0]);
    let name = "ringbearer_refusals_total";
    let help = "Answers of the proxy's own that are errors, by their code.";
    let mut family = page.family(name, Kind::Counter, help);
    for (code, refusals) in &totals.refusals {
        family.sample(&[("code", code)], refusals.count);
    }
    let name = "ringbearer_replays_total";
    let help = "What came of each 401 of RingCentral's: replayed, or why not.";
    let mut family = page.family(name, Kind::Counter, help);
    for (outcome, count) in Replay::ALL.into_iter().zip(totals.replays) {
        family.sample(&[("outcome", outcome.as_str())], count);
    }
    let name = "ringbearer_resends_total";
    let help = "Requests that were sent again because a kept connection had died.";
    page.family(name, Kind::Counter, help).sample(&[], totals.resent);
    let name = "ringbearer_requests_abandoned_total";
    let help = "Requests whose client was gone before an answer began.";
    page.family(name, Kind::Counter, help).sample(&[], totals.abandoned);
    let name = "ringbearer_requests_in_progress";
    let help = "Requests whose answer has not been written to its end.";
    page.family(name, Kind::Gauge, help).sample(&[], totals.in_progress);
}

fn times(page: &mut Page, totals: &Totals) {
    let name = "ringbearer_upstream_seconds";
    let help = "Time from sending a request to the head of RingCentral's answer.";
    page.family(name, Kind::Histogram, help).distribution(&totals.upstream);
    let name = "ringbearer_added_seconds";
    let help = "The rest of the time from the head of a request to that of its answer.";
    page.family(name, Kind::Histogram, help).distribution(&totals.added);
}

fn connections(page: &mut Page, totals: &Totals) {
    let mut family = |name, kind, help: &str, count| {
        page.family(name, kind, help).sample(&[], count);
    };
    let name = "ringbearer_client_connections_accepted_total";
    family(name, Kind::Counter, "Connections of clients, ever.", totals.accepted);
    let name = "ringbearer_upstream_connections";
    family(name, Kind::Gauge, "Connections to RingCentral.", totals.open);
    let name = "ringbearer_upstream_connections_idle";
    family(name, Kind::Gauge, "Those that wait for the next request.", totals.idle);
    let name = "ringbearer_upstream_connections_opened_total";
    family(name, Kind::Counter, "Connections to RingCentral, ever.", totals.opened);
    let name = "ringbearer_websockets";
    family(name, Kind::Gauge, "WebSockets that are open.", totals.websockets);
}
