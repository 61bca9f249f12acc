//! `/metrics`: what the keepers know and the worker threads count, for Prometheus.
//!
//! Labels are bounded: each configured identity has its series, and of those that were added the
//! first hundred; all others are one, so that ten thousand identities do not become as many series.

mod limits;
mod traffic;

use std::sync::Arc;

use super::Instruments;
use crate::audit::Counts;
use crate::clock::{Clock, Timestamp};
use crate::metrics::traffic::MOST_ADDED;
use crate::metrics::{Kind, Outcome, Page, Reloads, process};
use crate::proxy::malformed::{Malformed, MalformedCounts};
use crate::token::identities::Identities;
use crate::token::keeper::{Keeper, KeeperStatus};
use crate::token::lifecycle::Standing;

use super::health::Seen;

/// Stands for all identities without; no identity has this name.
const OTHER: &str = "_other";

/// The page as it is now.
pub(super) fn page(
    identities: &Arc<Identities>,
    instruments: &Instruments,
    seen: &Seen,
    clock: &Clock,
) -> String {
    let configured: Vec<_> = identities.configured().map(|(_, keeper)| keeper).collect();
    let mut added: Vec<_> = identities.added().map(|(_, keeper)| keeper).collect();
    let counts = [("configured", configured.len()), ("added", added.len())];
    let others = added.split_off(added.len().min(MOST_ADDED));
    let named: Vec<_> =
        configured.into_iter().chain(added).map(|keeper| (keeper, keeper.status())).collect();
    let others: Vec<_> = others.into_iter().map(|keeper| (keeper, keeper.status())).collect();
    let mut page = Page::default();
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    page.family("ringbearer_build_info", Kind::Gauge, "Which version runs.").sample(&version, 1);
    states(&mut page, &named, clock.now());
    demand(&mut page, &named, &others);
    renewals(&mut page, &named, &others);
    whole(&mut page, counts, &others, seen);
    traffic::write(&mut page, identities, &instruments.counters);
    read_anew(&mut page, &instruments.configuration);
    if let Some(board) = &instruments.limits {
        limits::ringcentrals(&mut page, identities, board, clock.now());
    }
    limits::own(&mut page, &instruments.counters.meters);
    if let Some(reloads) = &instruments.certificates {
        certificates_read_anew(&mut page, reloads);
    }
    refused(&mut page, &instruments.counters.malformed);
    if let Some(counts) = instruments.audit.counts() {
        audited(&mut page, counts);
    }
    process::write(&mut page);
    page.into_text()
}

type Looked<'a> = (&'a Keeper, KeeperStatus);

fn states(page: &mut Page, named: &[Looked<'_>], now: Timestamp) {
    let mut gauge = |name, help: &str, value: &dyn Fn(&KeeperStatus) -> Option<f64>| {
        let mut family = page.family(name, Kind::Gauge, help);
        for (keeper, status) in named {
            if let Some(value) = value(status) {
                family.sample(&[("identity", keeper.name())], value);
            }
        }
    };
    let truth = |is: bool| Some(f64::from(u8::from(is)));
    let left = |at: Option<Timestamp>| at.map(|at| now.until(at).as_secs_f64());
    gauge("ringbearer_identity_usable", "Whether there is an access token to send now.", &|it| {
        truth(it.usable)
    });
    gauge(
        "ringbearer_identity_needs_login",
        "Whether nothing goes on before a person acts.",
        &|it| truth(matches!(it.state, Standing::NeedsLogin(_))),
    );
    gauge(
        "ringbearer_identity_token_expires_seconds",
        "Time until the access token ends; 0 if it has.",
        &|it| left(it.expires_at),
    );
    gauge(
        "ringbearer_identity_refresh_token_expires_seconds",
        "Time until the refresh token ends; 0 if it has.",
        &|it| left(it.refresh_expires_at),
    );
    gauge(
        "ringbearer_identity_last_renewal_timestamp_seconds",
        "When the latest token set was issued, in Unix time.",
        &|it| it.issued_at.map(|at| Timestamp::from_unix_millis(0).until(at).as_secs_f64()),
    );
    let mut family = page.family(
        "ringbearer_identity_generation",
        Kind::Gauge,
        "Which of the identity's token sets is the latest.",
    );
    for (keeper, status) in named {
        let generation = status.generation.map_or(0, crate::token::Generation::number);
        family.sample(&[("identity", keeper.name())], generation);
    }
}

fn demand(page: &mut Page, named: &[Looked<'_>], others: &[Looked<'_>]) {
    let mut family =
        page.family("ringbearer_identity_waiting", Kind::Gauge, "Requests that wait for a token.");
    for (keeper, status) in named {
        family.sample(&[("identity", keeper.name())], status.waiting);
    }
    let waiting: usize = others.iter().map(|(_, status)| status.waiting).sum();
    family.sample(&[("identity", OTHER)], waiting);
}

fn renewals(page: &mut Page, named: &[Looked<'_>], others: &[Looked<'_>]) {
    let mut family =
        page.family("ringbearer_renewals_total", Kind::Counter, "Renewals by what came of them.");
    for outcome in Outcome::ALL {
        let count = |(keeper, _): &Looked<'_>| keeper.renewals().get(outcome);
        for looked in named {
            let labels = [("identity", looked.0.name()), ("outcome", outcome.as_str())];
            family.sample(&labels, count(looked));
        }
        let labels = [("identity", OTHER), ("outcome", outcome.as_str())];
        family.sample(&labels, others.iter().map(count).sum::<u64>());
    }
}

fn whole(page: &mut Page, counts: [(&str, usize); 2], others: &[Looked<'_>], seen: &Seen) {
    let mut family =
        page.family("ringbearer_identities", Kind::Gauge, "Identities that are known here.");
    for (origin, count) in counts {
        family.sample(&[("origin", origin)], count);
    }
    let usable = others.iter().filter(|(_, status)| status.usable).count();
    let name = "ringbearer_other_identities";
    page.family(name, Kind::Gauge, "Added identities without series of their own.")
        .sample(&[], others.len());
    let name = "ringbearer_other_identities_usable";
    page.family(name, Kind::Gauge, "How many of those have an access token to send now.")
        .sample(&[], usable);
    let name = "ringbearer_store_up";
    page.family(name, Kind::Gauge, "Whether the store answers.")
        .sample(&[], u8::from(seen.fault.is_none()));
    let help = "Token requests that the application has left in this minute, over all processes.";
    let mut family = page.family("ringbearer_budget_left", Kind::Gauge, help);
    for budget in &seen.budgets {
        family.sample(&[("application", &budget.application)], budget.left);
    }
    let help = "Token requests that the application may make in a minute.";
    let mut family = page.family("ringbearer_budget_limit", Kind::Gauge, help);
    for budget in &seen.budgets {
        family.sample(&[("application", &budget.application)], budget.limit);
    }
}

fn read_anew(page: &mut Page, reloads: &Reloads) {
    let help = "How often the configuration was read anew, and how often in vain.";
    let mut family = page.family("ringbearer_reloads_total", Kind::Counter, help);
    let (loaded, refused) = reloads.counts();
    family.sample(&[("outcome", "loaded")], loaded);
    family.sample(&[("outcome", "refused")], refused);
    let help = "Whether the configuration cannot be used, and an older one still is.";
    page.family("ringbearer_configuration_stale", Kind::Gauge, help)
        .sample(&[], u8::from(reloads.is_stale()));
}

fn certificates_read_anew(page: &mut Page, reloads: &Reloads) {
    let help = "How often the certificates of [proxy.tls] were read anew, and how often in vain.";
    let mut family = page.family("ringbearer_tls_reloads_total", Kind::Counter, help);
    let (loaded, refused) = reloads.counts();
    family.sample(&[("outcome", "loaded")], loaded);
    family.sample(&[("outcome", "refused")], refused);
    let help = "Whether the files of [proxy.tls] cannot be used, and older certificates still are.";
    page.family("ringbearer_tls_stale", Kind::Gauge, help)
        .sample(&[], u8::from(reloads.is_stale()));
}

fn refused(page: &mut Page, counts: &MalformedCounts) {
    let name = "ringbearer_malformed_requests_total";
    let help = "Requests that HTTP/1.1 does not know, by what is wrong with them.";
    let mut family = page.family(name, Kind::Counter, help);
    for malformed in Malformed::ALL {
        family.sample(&[("reason", malformed.as_str())], counts.get(malformed));
    }
}

fn audited(page: &mut Page, counts: Counts) {
    let help = "Lines of the audit log by what became of them.";
    let mut family = page.family("ringbearer_audit_lines_total", Kind::Counter, help);
    family.sample(&[("outcome", "written")], counts.written);
    family.sample(&[("outcome", "lost")], counts.lost);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use http::{HeaderMap, HeaderValue, Method, StatusCode};

    use super::super::health::Budget;
    use super::*;
    use crate::metrics::traffic::{MethodClass, StatusClass, Traffic};
    use crate::oauth::endpoint::scripted::Script;
    use crate::proxy::body::ReplayMemory;
    use crate::proxy::throttle::board::Board;
    use crate::proxy::throttle::queue::Caller;
    use crate::proxy::throttle::{Throttle, Want};
    use crate::server::Counters;
    use crate::settings::{ConfigSource, Overrides, Settings, ThrottleSettings};
    use crate::store::Enrolment;
    use crate::store::memory::MemoryStore;

    const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);
    const TWO: &str = "[application.crm]\nclient_id = 'client'\n\
                       [identity.sales]\njwt = 'canary'\n[identity.support]\njwt = 'canary'";

    fn identities() -> Arc<Identities> {
        let clock = Clock::manual(NOW);
        let source = ConfigSource::Text(TWO.to_owned());
        let state = |_: &str| Some("/state".to_owned());
        let (settings, _) = Settings::load(&source, Overrides::default(), &state).unwrap();
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let endpoint = Script::new(Vec::new(), true).endpoint();
        Arc::new(Identities::new(&settings.identities, store, endpoint, clock))
    }

    async fn enrol(identities: &Identities, numbers: std::ops::Range<u32>) {
        for number in numbers {
            let enrolment = Enrolment { client_id: "client".into(), jwt: None };
            identities.enrol(&format!("added-{number}"), enrolment).await.unwrap();
        }
    }

    fn counters(traffic: Traffic) -> Counters {
        Counters {
            malformed: Arc::default(),
            traffic: Arc::new(traffic),
            meters: Arc::default(),
            replay_memory: ReplayMemory::new(1024),
        }
    }

    fn instruments(counters: Counters) -> Instruments {
        let (certificates, configuration, audit, limits, is_drained) = Default::default();
        Instruments { counters, certificates, configuration, audit, limits, is_drained }
    }

    fn figures(identities: &Arc<Identities>) -> String {
        let budget = Budget { application: "crm".into(), left: 4, limit: 5 };
        let seen = Seen { fault: None, budgets: vec![budget] };
        let instruments = instruments(counters(Traffic::new(2, 2)));
        instruments.counters.malformed.count(Malformed::LineEnd);
        page(identities, &instruments, &seen, &Clock::manual(NOW))
    }

    #[test]
    fn what_was_counted_under_another_index_is_added_by_name() {
        let old = Traffic::new(1, 2);
        for index in [0, 0, 1] {
            old.tally(0).answered(Some(index), MethodClass::Read, 200);
        }
        let new = old.succeed(1, 2, [(0, "support"), (1, "gone")]);
        new.tally(0).answered(Some(1), MethodClass::Read, 200);
        let mut page = Page::default();
        traffic::write(&mut page, &identities(), &counters(new));
        let page = page.into_text();
        for (identity, count) in [("sales", 0), ("support", 3), ("gone", 1), ("_other", 0)] {
            let line = format!(
                "ringbearer_requests_total{{identity=\"{identity}\",method=\"read\",status=\"2xx\"}} \
                 {count}\n"
            );
            assert_eq!(page.matches(&line).count(), 1, "{line}{page}");
        }
    }

    fn series(page: &str) -> BTreeSet<String> {
        let samples = page.lines().filter(|line| !line.starts_with('#'));
        samples.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
    }

    #[tokio::test]
    async fn a_thousand_added_identities_have_as_many_series_as_a_hundred() {
        let identities = identities();
        let before = series(&figures(&identities)).len();
        enrol(&identities, 0..100).await;
        let hundred = series(&figures(&identities));
        // Usable, needs_login, generation, waiting, the outcomes of renewals, and requests.
        let requests = MethodClass::ALL.len() * StatusClass::ALL.len();
        assert_eq!(hundred.len(), before + 100 * (4 + Outcome::ALL.len() + requests));
        enrol(&identities, 100..1000).await;
        let page = figures(&identities);
        assert_eq!(series(&page), hundred, "to the letter");
        assert!(page.contains("\nringbearer_identities{origin=\"added\"} 1000\n"));
        assert!(page.contains("\nringbearer_other_identities 900\n"));
        assert!(page.contains("\nringbearer_identity_usable{identity=\"added-99\"} 0\n"));
        assert!(!page.contains("added-100\""));
    }

    #[tokio::test]
    async fn an_identity_that_was_removed_leaves_the_page() {
        let identities = identities();
        let before = series(&figures(&identities));
        enrol(&identities, 0..1).await;
        assert!(figures(&identities).contains("added-0"));
        identities.remove("added-0").await.unwrap();
        assert_eq!(series(&figures(&identities)), before);
    }

    #[tokio::test]
    async fn others_are_counted_together() {
        let identities = identities();
        enrol(&identities, 0..102).await;
        for number in [100, 101] {
            let id = identities.find(&format!("added-{number}")).unwrap();
            identities.keeper(id).renewals().count(Outcome::Refused);
        }
        let page = figures(&identities);
        assert!(page.contains("\nringbearer_budget_limit{application=\"crm\"} 5\n"), "{page}");
        let line = "\nringbearer_renewals_total{identity=\"_other\",outcome=\"refused\"} 2\n";
        assert!(page.contains(line), "{page}");
        assert!(page.contains("\nringbearer_budget_left{application=\"crm\"} 4\n"), "{page}");
        assert!(page.contains("\nringbearer_store_up 1\n"), "{page}");
        let line = "\nringbearer_malformed_requests_total{reason=\"line_end\"} 1\n";
        assert!(page.contains(line), "{page}");
    }

    #[tokio::test]
    async fn limits_are_told_by_identity_and_group_and_their_series_are_bounded() {
        let identities = identities();
        enrol(&identities, 0..150).await;
        let settings = ThrottleSettings { pacing: None };
        let board = Arc::new(Board::new(Arc::clone(identities.names()), Clock::manual(NOW)));
        let throttle = Throttle::new(&settings, Arc::clone(&board));
        let target = "/restapi/v1.0/account/~/call-log".parse().unwrap();
        let operation = throttle.operation(&Method::GET, &target, &HeaderMap::new());
        let want = Want { operation, caller: Caller::ANYBODY, max_wait: Duration::ZERO };
        let mut fields = HeaderMap::new();
        fields.insert("x-rate-limit-group", HeaderValue::from_static("heavy"));
        fields.insert("x-rate-limit-remaining", HeaderValue::from_static("0"));
        for name in ["sales", "added-120"] {
            let id = identities.find(name).unwrap().number();
            let turn = throttle.at_once(id, &want, NOW).unwrap().unwrap();
            throttle.after(turn, id, operation, StatusCode::TOO_MANY_REQUESTS, &fields, NOW);
            throttle.at_once(id, &want, NOW).unwrap_err();
        }
        let seen = Seen { fault: None, budgets: Vec::new() };
        let counters = counters(Traffic::new(2, 2));
        let instruments = Instruments { limits: Some(board), ..instruments(counters) };
        let page = page(&identities, &instruments, &seen, &Clock::manual(NOW));
        for line in [
            "ringbearer_throttle_penalties_total{identity=\"sales\"} 1",
            "ringbearer_throttle_penalties_total{identity=\"support\"} 0",
            "ringbearer_throttle_penalties_total{identity=\"_other\"} 1",
            "ringbearer_throttle_held_total{identity=\"sales\",reason=\"penalty\"} 1",
            "ringbearer_throttle_held_total{identity=\"_other\",reason=\"penalty\"} 1",
            "ringbearer_throttle_waiting{identity=\"sales\"} 0",
            "ringbearer_rate_limit_remaining{identity=\"sales\",group=\"heavy\"} 0",
        ] {
            assert!(page.contains(&format!("\n{line}\n")), "{line}\n{page}");
        }
        let of = |family: &str| page.lines().filter(|line| line.starts_with(family)).count();
        assert_eq!(of("ringbearer_throttle_penalties_total{"), 103, "2, 100 added and the others");
        assert_eq!(of("ringbearer_rate_limit_remaining{"), 1, "the others have none");
    }
}
