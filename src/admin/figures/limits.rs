//! Limits: RingCentral's, and the proxy's own.

use super::OTHER;
use crate::clock::Timestamp;
use crate::metrics::limits::{Limit, Meters};
use crate::metrics::traffic::MOST_ADDED;
use crate::metrics::{Family, Hold, Kind, Page, Throttling};
use crate::proxy::throttle::SharingFigures;
use crate::proxy::throttle::board::Board;
use crate::token::identities::{Identities, IdentityId};

pub(super) fn ringcentrals(
    page: &mut Page,
    identities: &Identities,
    board: &Board,
    now: Timestamp,
) {
    let added = identities.added().map(|(id, keeper)| (id, keeper.name()));
    let mut named: Vec<_> =
        identities.configured().map(|(id, keeper)| (id, keeper.name())).collect();
    named.extend(added.take(MOST_ADDED));
    let is_named = |id: IdentityId| named.iter().any(|(named, _)| *named == id);
    let others: Vec<_> = identities.iter().map(|(id, _)| id).filter(|id| !is_named(*id)).collect();
    let sum = |count: &dyn Fn(&Throttling) -> u64| {
        let of = others.iter().filter_map(|id| board.figures(id.number())).map(count).sum::<u64>();
        of + count(board.other_figures())
    };
    let each = |family: &mut Family<'_>,
                label: Option<(&str, &str)>,
                count: &dyn Fn(&Throttling) -> u64| {
        for (id, name) in &named {
            let labels: Vec<_> = [("identity", *name)].into_iter().chain(label).collect();
            family.sample(&labels, board.figures(id.number()).map_or(0, count));
        }
        let labels: Vec<_> = [("identity", OTHER)].into_iter().chain(label).collect();
        family.sample(&labels, sum(count));
    };
    let name = "ringbearer_throttle_penalties_total";
    let mut family = page.family(name, Kind::Counter, "Answers 429 of RingCentral's.");
    each(&mut family, None, &Throttling::penalties);
    let name = "ringbearer_throttle_held_total";
    let mut family = page.family(name, Kind::Counter, "Requests that were not sent, by why.");
    for why in Hold::ALL {
        each(&mut family, Some(("reason", why.as_str())), &|figures| figures.held(why));
    }
    let name = "ringbearer_throttle_waiting";
    let mut family = page.family(name, Kind::Gauge, "Requests that wait for their turns.");
    each(&mut family, None, &Throttling::waiting);
    if let Some(sharing) = board.sharing_figures() {
        shared(page, sharing);
    }
    let name = "ringbearer_rate_limit_remaining";
    let help = "Requests left in a group, as RingCentral said within the last minute.";
    let mut family = page.family(name, Kind::Gauge, help);
    for (id, name) in &named {
        let Some(figures) = board.figures(id.number()) else { continue };
        for (group, label) in board.groups().names() {
            if let Some(left) = figures.remaining(group.index(), now.unix_secs()) {
                family.sample(&[("identity", name), ("group", label)], left);
            }
        }
    }
}

/// How the proxies on one store share limits.
fn shared(page: &mut Page, sharing: SharingFigures) {
    let name = "ringbearer_throttle_shared";
    let help = "Whether limits are shared by the store; else each proxy keeps to its own part.";
    page.family(name, Kind::Gauge, help).sample(&[], u8::from(sharing.is_up));
    let name = "ringbearer_throttle_replicas";
    page.family(name, Kind::Gauge, "Proxies that share limits.").sample(&[], sharing.replicas);
    let name = "ringbearer_throttle_exchanges_total";
    let help = "How often the store was asked for places, by whether it answered.";
    let mut family = page.family(name, Kind::Counter, help);
    family.sample(&[("outcome", "answered")], sharing.answered);
    family.sample(&[("outcome", "failed")], sharing.failed);
    let name = "ringbearer_throttle_penalties_heard_total";
    page.family(name, Kind::Counter, "Penalties that other proxies have met.")
        .sample(&[], sharing.heard);
}

/// Those of the proxy's own.
pub(super) fn own(page: &mut Page, meters: &Meters) {
    let name = "ringbearer_limit_reached_total";
    let mut family = page.family(name, Kind::Counter, "How often each limit was reached.");
    for limit in Limit::ALL {
        family.sample(&[("limit", limit.as_str())], meters.get(limit));
    }
    let name = "ringbearer_client_connections";
    page.family(name, Kind::Gauge, "Connections of clients that are open.")
        .sample(&[], meters.connections());
}
