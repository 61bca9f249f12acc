use std::time::Duration;

use super::*;
use crate::clock::Clock;
use crate::secret::Secret;
use crate::settings::Credential;
use crate::store::memory::MemoryStore;
use crate::store::{Enrolment, Provenance, Stored};
use crate::token::lifecycle::Lost;
use crate::token::{AccessToken, Generation, Refresh, RefreshToken, TokenSet};

const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);

fn session(issued_ago: Duration, refresh_for: Option<Duration>) -> Outline {
    let issued_at = NOW - issued_ago;
    Outline {
        generation: Generation::new(7),
        issued_at,
        expires_at: issued_at + HOUR,
        has_refresh: refresh_for.is_some(),
        refresh_expires_at: refresh_for.map(|life| issued_at + life),
    }
}

fn keeper(state: Standing, usable: bool) -> KeeperStatus {
    KeeperStatus {
        state,
        usable,
        generation: Some(Generation::new(7)),
        issued_at: None,
        expires_at: None,
        refresh_expires_at: None,
        dying: None,
        waiting: 0,
        last_error: None,
    }
}

#[test]
fn a_stored_session_says_what_becomes_of_it() {
    let (day, week) = (24 * HOUR, 7 * 24 * HOUR);
    for (means, session, expected) in [
        (Means::Reopens, None, State::NoSession),
        (Means::Once, None, State::NoSession),
        (Means::Login, None, State::NeedsLogin),
        (Means::Login, Some(session(HOUR / 2, None)), State::Live),
        (Means::Reopens, Some(session(HOUR, None)), State::Expired),
        (Means::Login, Some(session(HOUR, None)), State::NeedsLogin),
        (Means::Login, Some(session(day, Some(week))), State::Expired),
        (Means::Once, Some(session(week, Some(week))), State::NeedsLogin),
    ] {
        let state = State::of(means, session.as_ref(), None, NOW);
        assert_eq!(state, expected, "{means:?} {session:?}");
    }
}

#[test]
fn a_keeper_knows_better_than_the_store() {
    let (at, live) = (NOW + HOUR, session(HOUR / 2, None));
    for (standing, usable, expected) in [
        (Standing::NeedsLogin(Lost::GrantRefused), false, State::NeedsLogin),
        (Standing::NeedsLogin(Lost::GrantRefused), true, State::Live),
        (Standing::Penalised(at), false, State::Penalised),
        (Standing::BackingOff(at), true, State::Live),
        (Standing::BackingOff(at), false, State::BackingOff),
        (Standing::CoolingDown(at), false, State::CoolingDown),
        (Standing::Renewing, false, State::Renewing),
        (Standing::Starting, false, State::Renewing),
        (Standing::Resting, true, State::Live),
        (Standing::Resting, false, State::Expired),
    ] {
        let keeper = keeper(standing, usable);
        let state = State::of(Means::Reopens, Some(&live), Some(&keeper), NOW);
        assert_eq!(state, expected, "{standing:?} {usable}");
    }
}

#[test]
fn a_line_survives_json_to_the_second() {
    let known = Known {
        name: "sales".into(),
        application: Some("crm".into()),
        origin: Origin::Configured,
        means: Means::Login,
        session: Some(session(HOUR / 2, Some(HOUR * 10))),
        erased: false,
    };
    let line = Line::of(&known, Some(&keeper(Standing::Penalised(NOW + HOUR), true)), NOW);
    let json = serde_json::to_value(&line).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "name": "sales", "application": "crm", "origin": "configured", "state": "live",
            "generation": 7, "issued_at": "2023-11-14T21:43:20Z",
            "expires_at": "2023-11-14T22:43:20Z", "refresh_expires_at": "2023-11-15T07:43:20Z",
            "note": null,
            "live": {
                "usable": true, "waiting": 0, "until": "2023-11-14T23:13:20Z", "last_error": null
            },
        })
    );
    assert_eq!(serde_json::from_value::<Line>(json).unwrap(), line);
}

fn settings(name: &str, credential: Credential) -> Arc<IdentitySettings> {
    Arc::new(IdentitySettings {
        name: name.into(),
        application: application(),
        credential,
        fallback: None,
        hosts: Vec::new(),
        listen: Vec::new(),
        endpoint_id: None,
        access_token_ttl: None,
        refresh_token_ttl: None,
        scope: None,
    })
}

fn application() -> Arc<ApplicationSettings> {
    Arc::new(ApplicationSettings {
        name: "crm".into(),
        client_id: "client".into(),
        client_secret: None,
        token_url: "https://host/token".parse().unwrap(),
        revoke_url: "https://host/revoke".parse().unwrap(),
        authorize_url: "https://host/authorize".parse().unwrap(),
        device_authorization_url: "https://host/device_authorization".parse().unwrap(),
        redirect_uri: "http://127.0.0.1:8765/callback".into(),
        token_requests_per_minute: 5.try_into().unwrap(),
    })
}

async fn store(store: &MemoryStore, settings: &IdentitySettings, refresh_life: Duration) {
    let set = TokenSet {
        generation: Generation::new(1),
        access_token: AccessToken::new("canary"),
        issued_at: NOW - 7 * 24 * HOUR,
        expires_at: NOW - HOUR,
        refresh: Some(Refresh {
            token: RefreshToken::new("canary"),
            expires_at: Some(NOW + refresh_life),
        }),
        previous_refresh: None,
        scope: None,
        owner_id: None,
        endpoint_id: None,
    };
    let stored = Stored { set, provenance: Provenance::of(settings) };
    let lease = store.lease(&settings.name).await.unwrap().unwrap();
    store.save(&lease, &stored, Generation::NONE).await.unwrap();
}

#[tokio::test]
async fn everybody_is_there_once_by_name_with_origin_and_state() {
    let kept = MemoryStore::new(Clock::manual(NOW));
    let jwt = settings("jwt", Credential::Jwt(Secret::new("canary")));
    let login = settings("login", Credential::Login);
    let ended = settings("ended", Credential::RefreshToken(Secret::new("canary")));
    store(&kept, &login, 5 * HOUR).await;
    store(&kept, &ended, HOUR).await;
    let lease = kept.lease("ended").await.unwrap().unwrap();
    kept.erase(&lease, Generation::new(1)).await.unwrap();
    store(&kept, &settings("foreign", Credential::Login), 5 * HOUR).await;
    for (name, client_id, jwt) in
        [("bot", "client", Some("canary")), ("guest", "client", None), ("lost", "other", None)]
    {
        let enrolment = Enrolment { client_id: client_id.into(), jwt: jwt.map(Secret::new) };
        kept.enrol(name, Some(&enrolment)).await.unwrap();
    }
    let (configured, applications) = ([jwt, login, ended], [application()]);
    let (all, next) = page(&kept, &configured, &applications, &Range::ALL).await.unwrap();
    assert_eq!(next, None);
    let lines: Vec<_> = all.iter().map(|known| Line::of(known, None, NOW)).collect();
    let crm = Some("crm");
    let seen: Vec<_> = lines
        .iter()
        .map(|it| (&*it.name, it.application.as_deref(), it.origin, it.state))
        .collect();
    assert_eq!(
        seen,
        [
            ("bot", crm, Origin::Added, State::NoSession),
            ("ended", crm, Origin::Configured, State::NeedsLogin),
            ("foreign", None, Origin::LeftOver, State::Expired),
            ("guest", crm, Origin::Added, State::NeedsLogin),
            ("jwt", crm, Origin::Configured, State::NoSession),
            ("login", crm, Origin::Configured, State::Expired),
            ("lost", None, Origin::Added, State::NeedsLogin),
        ]
    );
    let needy = lines.iter().filter(|it| it.needs_somebody());
    assert_eq!(needy.map(|it| &*it.name).collect::<Vec<_>>(), ["ended", "guest", "lost"]);
    let notes: Vec<_> = lines.iter().filter_map(|it| it.note.as_deref()).collect();
    assert!(
        notes.len() == 1 && notes[0].starts_with("refresh token of login dies in 5 h: "),
        "{notes:?}"
    );
    assert!(!serde_json::to_string(&lines).unwrap().contains("canary"));
    let guest = find(&kept, &configured, &applications, "guest").await.unwrap().unwrap();
    assert_eq!(Line::of(&guest, None, NOW), lines[3]);
    assert!(find(&kept, &configured, &applications, "nobody").await.unwrap().is_none());
}

#[tokio::test]
async fn pages_follow_each_other_without_gap_or_repetition() {
    let kept = MemoryStore::new(Clock::manual(NOW));
    for number in 0..25 {
        let enrolment = Enrolment { client_id: "client".into(), jwt: None };
        kept.enrol(&format!("n{number:02}"), Some(&enrolment)).await.unwrap();
    }
    let (mut range, mut sizes, mut names) = (Range { after: None, limit: 10 }, vec![], vec![]);
    loop {
        let (known, next) = page(&kept, &[], &[], &range).await.unwrap();
        sizes.push(known.len());
        names.extend(known.into_iter().map(|known| known.name));
        let Some(next) = next else { break };
        range.after = Some(next);
    }
    assert_eq!(sizes, [10, 10, 5]);
    assert_eq!(names, (0..25).map(|number| format!("n{number:02}")).collect::<Vec<_>>());
}
