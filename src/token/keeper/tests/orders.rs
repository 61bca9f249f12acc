//! Renewals that somebody orders, and what is said before a session dies.

use std::io;

use super::*;
use crate::metrics::Outcome;
use crate::settings::{LogFormat, LogSettings};
use crate::store::TokenStore;
use crate::telemetry::subscriber;
use crate::token::identities::Identities;
use crate::token::lifecycle::Dying;

const HOUR: u64 = 3600;
const WEEK: u64 = 7 * 24 * HOUR;

#[tokio::test]
async fn an_order_brings_a_later_token_before_one_is_due() {
    let (process, _, script) = process_of(jwt("sales"), Vec::new()).await;
    let keeper = process.keeper("sales");
    keeper.renew().await.expect("a later token");
    assert_eq!(process.token("sales").as_deref(), Some("Bearer access-2"));
    assert_eq!(script.received().len(), 2);
    assert_eq!(keeper.renewals().get(Outcome::Renewed), 2);
    process.advance(60).await;
    assert_eq!(script.received().len(), 2, "an order is carried out once");
}

#[tokio::test]
async fn ten_orders_at_once_are_one_renewal() {
    let (store, script) = (Arc::new(FlakyStore::default()), Script::new(Vec::new(), false));
    let process = Process::start(&[jwt("sales")], &store, &script, &Clock::manual(NOW)).await;
    script.release();
    settle().await;
    let orders: Vec<_> = (0..10)
        .map(|_| {
            let identities = Arc::clone(&process.identities);
            tokio::spawn(async move { identities.keeper(identities.only().unwrap()).renew().await })
        })
        .collect();
    settle().await;
    assert_eq!(process.keeper("sales").status().waiting, 10);
    script.release();
    for order in orders {
        order.await.unwrap().expect("a later token");
    }
    assert_eq!(script.received().len(), 2);
}

#[tokio::test]
async fn an_order_that_fails_says_why_and_leaves_the_token_that_lives() {
    let lines = vec![Line::Answer(200, None, granted(1, 3600)), Line::Unreachable];
    let (process, _, script) = process_of(jwt("sales"), lines).await;
    let keeper = process.keeper("sales");
    let why = keeper.renew().await.unwrap_err();
    assert!(matches!(*why.reason, TokenError::Unreachable(_)) && !why.terminal, "{why:?}");
    assert_eq!(process.token("sales").as_deref(), Some("Bearer access-1"));
    assert_eq!(keeper.renewals().get(Outcome::Unreachable), 1);
    keeper.renew().await.expect("back-off is not waited for");
    assert_eq!(script.received().len(), 3);
}

#[tokio::test]
async fn an_order_inside_a_penalty_is_refused_until_its_end() {
    let lines =
        vec![Line::Answer(200, None, granted(1, 3600)), Line::Answer(429, Some(40), String::new())];
    let (process, _, script) = process_of(jwt("sales"), lines).await;
    let keeper = process.keeper("sales");
    for waited in [0, 15] {
        process.advance(waited).await;
        let why = keeper.renew().await.unwrap_err();
        assert!(matches!(*why.reason, TokenError::Penalty { .. }), "{why:?}");
        assert_eq!(why.retry_after, Duration::from_secs(40 - waited));
    }
    assert_eq!(script.received().len(), 2, "the second order has sent nothing");
    assert_eq!(keeper.renewals().get(Outcome::Penalty), 1);
}

#[tokio::test]
async fn a_driver_that_comes_later_does_not_carry_out_an_old_order() {
    let store = Arc::new(FlakyStore::default());
    let script = Script::new(Vec::new(), true);
    let clock = Clock::manual(NOW);
    // Nobody is hired before somebody asks, as with identities that were added.
    let there = Arc::clone(&store) as Arc<dyn TokenStore>;
    let identities =
        Identities::on_demand(&[jwt("sales")], there, script.endpoint(), clock.clone());
    let identities = Arc::new(identities);
    let running = tokio::spawn({
        let identities = Arc::clone(&identities);
        async move { identities.run(std::future::pending()).await }
    });
    settle().await;
    assert_eq!(script.received().len(), 0, "nobody has asked");
    let keeper = identities.keeper(identities.only().unwrap());
    keeper.renew().await.expect("a first token");
    assert_eq!(script.received().len(), 1, "the order is the renewal");
    assert_eq!(keeper.view.look().orders, 1);
    running.abort();
}

/// What was logged, line by line.
#[derive(Clone, Default)]
struct Page(Arc<std::sync::Mutex<Vec<u8>>>);

impl io::Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Page {
    fn warnings(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let warnings = text.lines().filter(|line| line.contains("refresh token of"));
        warnings.map(|line| line.split_once("refresh token of ").unwrap().1.to_owned()).collect()
    }
}

#[tokio::test]
async fn it_is_said_a_day_six_hours_and_an_hour_before_a_refresh_token_dies() {
    let (page, settings) = (Page::default(), refreshing("sales"));
    let log = LogSettings { filter: "warn".into(), format: LogFormat::Text, requests: false };
    let writer = page.clone();
    let _guard = tracing::subscriber::set_default(subscriber(&log, move || writer.clone(), false));
    let store = Arc::new(FlakyStore::default());
    store.put("sales", stored(&settings, 1, HOUR));
    let lines = (0..1000).map(|_| Line::Unreachable).collect();
    let (script, clock) = (Script::new(lines, true), Clock::manual(NOW));
    let process = Process::start(&[settings], &store, &script, &clock).await;
    let left = |process: &Process| {
        let dying = process.keeper("sales").status().dying;
        dying.map(|Dying { left, .. }| left.as_secs())
    };
    process.advance(WEEK - 24 * HOUR - 1).await;
    assert_eq!((page.warnings(), left(&process)), (vec![], None));
    let cure = ": the identity lives by it, and no renewal has replaced it; cure what its last \
                error names, or log in again identity=\"sales\" dies_in_s=";
    let mut said = Vec::new();
    for (step, hours) in [(1, 24), (18 * HOUR - 40, 6), (5 * HOUR - 40, 1)] {
        process.advance(step).await;
        said.push(format!("sales dies in {hours} h{cure}{}", hours * HOUR));
        assert_eq!(page.warnings(), said);
        assert_eq!(left(&process), Some(hours * HOUR));
        // Renewals are tried meanwhile, and each looks again.
        process.advance(40).await;
        assert_eq!(page.warnings(), said, "once");
    }
    assert!(script.received().len() > 3, "it has gone on trying");
}

#[tokio::test]
async fn a_session_that_is_refreshed_in_time_is_not_worth_a_word() {
    let (process, _, script) = process_of(refreshing("sales"), Vec::new()).await;
    for _ in 0..14 * 24 {
        process.advance(HOUR).await;
        assert_eq!(process.keeper("sales").status().dying, None);
    }
    assert_eq!(script.received().len(), 3, "the first, and one each week to keep it");
}
