//! Several proxies that share the sessions of one identity.

use ringbearer::sandbox::Rules;
use ringbearer::token::lifecycle::Standing;

use crate::fleet::{Fleet, REPLICAS, SECOND, refreshing, renew_under_load};
use crate::redis_server::RedisServer;
use crate::support::{PATIENT, Wishes, sends, sessions, settle};

#[tokio::test]
async fn four_replicas_refresh_a_session_once_per_generation() {
    let fleet = Fleet::with(refreshing(Rules::unlimited())).await;
    renew_under_load(&fleet, 100, 20).await;
    let log = fleet.first.control().log();
    assert_eq!(sessions(&log), [1], "the session that it began with");
    let most = sends(&log).values().map(Vec::len).max();
    assert!(most <= Some(2), "{most:?} sends of one request");
    assert_eq!(fleet.first.control().counts().token_repeats, 0, "no refresh token came twice");
    fleet.finish().await;
}

#[tokio::test]
async fn four_replicas_survive_a_server_that_ends_the_session_when_a_refresh_token_comes_twice() {
    let strict = Rules { strict_rotation: true, ..Rules::unlimited() };
    let fleet = Fleet::with(refreshing(strict)).await;
    renew_under_load(&fleet, 25, 5).await;
    assert_eq!(sessions(&fleet.first.control().log()), [1]);
    fleet.finish().await;
}

#[tokio::test]
async fn five_hundred_clients_of_four_replicas_cost_one_token_request_per_generation() {
    let fleet = Fleet::with(refreshing(Rules::unlimited())).await;
    renew_under_load(&fleet, 5, 125).await;
    assert_eq!(sessions(&fleet.first.control().log()), [1]);
    fleet.finish().await;
}

#[tokio::test]
async fn four_replicas_open_one_session_per_generation() {
    let wishes = Wishes { upstream: PATIENT.into(), ..Wishes::default() };
    let fleet = Fleet::with(wishes).await;
    renew_under_load(&fleet, 10, 10).await;
    assert_eq!(fleet.first.control().counts().api_401, 0, "make before break");
    fleet.finish().await;
}

#[tokio::test]
async fn a_store_that_lost_the_session_gets_it_back() {
    let fleet = Fleet::with(refreshing(Rules::unlimited())).await;
    renew_under_load(&fleet, 1, 2).await;
    let file = fleet.first.store().join("test.json");
    let session = std::fs::read(&file).unwrap();
    // As a failover to a stale copy would: the generation before is there again.
    std::fs::rename(fleet.first.store().join("test.previous"), &file).unwrap();
    while std::fs::read(&file).ok().as_ref() != Some(&session) {
        settle().await;
    }
    assert_eq!(fleet.call(90, 2).await, [200; 2 * REPLICAS]);
    let status = fleet.first.status();
    assert_eq!(status.state, Standing::Resting);
    fleet.finish().await;
}

#[tokio::test]
async fn four_replicas_on_one_redis_refresh_once_per_generation() {
    let Some(mut server) = RedisServer::start().await else { return };
    let store = Some(format!("redis = {:?}", server.url()));
    let fleet = Fleet::with(Wishes { store, ..refreshing(Rules::unlimited()) }).await;
    renew_under_load(&fleet, 20, 20).await;
    assert_eq!(sessions(&fleet.first.control().log()), [1]);
    assert_eq!(fleet.first.control().counts().token_repeats, 0);
    // Flushed and then gone for a moment: the session is put back, and renewals go on.
    server.run(&["FLUSHALL"]).await;
    server.restart().await;
    fleet.clock().advance(3300 * SECOND);
    assert_eq!(fleet.call(900, 5).await, [200; 5 * REPLICAS]);
    fleet.all_have(22).await;
    assert_eq!(sessions(&fleet.first.control().log()), [1]);
    fleet.finish().await;
}
