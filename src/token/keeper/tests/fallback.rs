//! A second credential, and one `endpoint_id` for all sessions of an identity.

use super::*;
use crate::settings::{Credential, IdentitySettings};

const JWT_FORM: &str = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=spare&refresh_token_ttl=0";

/// An identity with a refresh token and a JWT beside it.
fn both(name: &str) -> Arc<IdentitySettings> {
    let mut settings = IdentitySettings::clone(&refreshing(name));
    settings.fallback = Some(Credential::Jwt(crate::secret::Secret::new("spare")));
    Arc::new(settings)
}

/// The answer to the `n`th request, with this `endpoint_id`.
fn granted_to(n: usize, endpoint_id: &str) -> Line {
    let member = format!(r#","endpoint_id":"{endpoint_id}"}}"#);
    Line::Answer(200, None, granted(n, 3600).replace('}', &member))
}

#[tokio::test]
async fn a_refused_refresh_token_is_followed_by_the_jwt_and_never_sent_again() {
    let (store, clock) = (Arc::new(FlakyStore::default()), Clock::manual(NOW));
    let settings = both("sales");
    store.put("sales", stored(&settings, 1, 0));
    let refusal = Line::Answer(400, None, refused("invalid_grant"));
    let script = Script::new(vec![refusal], true);
    let process = Process::start(&[settings], &store, &script, &clock).await;
    assert_eq!(process.token("sales").as_deref(), Some("Bearer access-2"));
    let refresh = "grant_type=refresh_token&refresh_token=stored-refresh-1";
    assert_eq!(script.received(), [refresh, JWT_FORM]);
    assert!(store.get("sales").unwrap().set.previous_refresh.is_none());
    assert!(process.keeper("sales").status().last_error.is_none());
}

#[tokio::test]
async fn a_session_that_another_process_renewed_meanwhile_comes_before_the_jwt() {
    let (store, clock) = (Arc::new(FlakyStore::default()), Clock::manual(NOW));
    let settings = both("sales");
    store.put("sales", stored(&settings, 1, 0));
    let script = Script::new(Vec::new(), false);
    let process = Process::start(&[Arc::clone(&settings)], &store, &script, &clock).await;
    store.put("sales", stored(&settings, 2, 600));
    script.answer_next(Line::Answer(400, None, refused("invalid_grant")));
    script.release();
    settle().await;
    assert_eq!(process.token("sales").as_deref(), Some("Bearer stored-2"));
    assert_eq!(script.received().len(), 1);
}

#[tokio::test]
async fn a_hundred_renewals_send_the_endpoint_id_of_the_first_answer() {
    let lines = (1..=101).map(|n| granted_to(n, &format!("box-{n}"))).collect();
    let (process, store, script) = process_of(jwt("sales"), lines).await;
    for generation in 1..=100 {
        process.keeper("sales").accepted(Generation::new(generation));
        process.advance(3100).await;
    }
    let forms = script.received();
    assert_eq!(forms.len(), 101);
    assert!(!forms[0].contains("endpoint_id"), "the server makes it up");
    for form in &forms[1..] {
        assert!(form.ends_with("&endpoint_id=box-1"), "{form}");
    }
    assert_eq!(store.get("sales").unwrap().set.endpoint_id.as_deref(), Some("box-1"));
}

#[tokio::test]
async fn a_configured_endpoint_id_wins_over_the_stored_one() {
    let (store, clock) = (Arc::new(FlakyStore::default()), Clock::manual(NOW));
    let mut settings = IdentitySettings::clone(&jwt("sales"));
    settings.endpoint_id = Some("ours".into());
    let mut old = stored(&settings, 1, 0);
    old.set.endpoint_id = Some("box-1".into());
    store.put("sales", old);
    let script = Script::new(Vec::new(), true);
    let process = Process::start(&[Arc::new(settings)], &store, &script, &clock).await;
    assert!(script.received()[0].ends_with("&endpoint_id=ours"));
    assert_eq!(store.get("sales").unwrap().set.endpoint_id.as_deref(), Some("ours"));
    drop(process);
}
