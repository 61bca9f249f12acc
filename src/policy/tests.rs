//! Whole policies: every operation against every preset, and properties that hold for any path.

use std::sync::LazyLock;

use http::HeaderMap;
use proptest::prelude::*;

use super::preset::PRESETS;
use super::*;
use crate::operations::{self, Operation};

fn strings(rules: &[&str]) -> Vec<String> {
    rules.iter().map(|rule| (*rule).to_owned()).collect()
}

fn compiled(presets: &[&str], allow: Option<&[&str]>, deny: &[&str]) -> (Policy, Vec<Remark>) {
    let allow = allow.map(strings);
    let written = Written { presets: strings(presets), allow, deny: strings(deny) };
    match Policy::compile(&written) {
        Ok(Some(compiled)) => compiled,
        other => panic!("{other:?}"),
    }
}

fn allows(policy: &Policy, method: &str, target: &str) -> bool {
    judged(policy, method, target).is_ok()
}

fn judged(policy: &Policy, method: &str, target: &str) -> Result<Option<Named>, Refusal> {
    let (method, target) = (method.parse().unwrap(), target.parse().unwrap());
    policy.judge(&method, &target, &HeaderMap::new()).map(Option::<&_>::cloned)
}

/// The path with its parameters filled.
fn filled(operation: &Operation) -> String {
    let fill = |segment: &str| match segment {
        "{accountId}" | "{extensionId}" => "~".to_owned(),
        "{apiVersion}" => "v1.0".to_owned(),
        _ if segment.starts_with('{') => "400129284008".to_owned(),
        _ => segment.to_owned(),
    };
    operation.path.split('/').map(fill).collect::<Vec<_>>().join("/")
}

fn refused_by(preset: &str) -> Vec<&'static Operation> {
    let (policy, remarks) = compiled(&[preset], None, &[]);
    assert_eq!(remarks, []);
    operations::all().iter().filter(|it| !allows(&policy, it.method, &filled(it))).collect()
}

#[test]
fn each_preset_allows_so_many_of_the_395_operations() {
    let allowed = PRESETS.map(|preset| (preset.name, 395 - refused_by(preset.name).len()));
    assert_eq!(
        allowed,
        [
            ("read-only", 196),
            ("no-sms", 389),
            ("no-messages", 285),
            ("no-recordings", 391),
            ("no-calls", 367),
            ("no-webhooks", 389),
        ]
    );
}

#[test]
fn read_only_lets_nothing_pass_but_gets_and_named_searches() {
    let refused = refused_by("read-only");
    let passing = operations::all().iter().filter(|it| !refused.contains(it) && it.method != "GET");
    let mut searches: Vec<_> = passing.map(|it| it.name).collect();
    searches.sort_unstable();
    assert_eq!(
        searches,
        [
            "aggregatePerformanceReportCalls",
            "analyticsCallsAggregationFetch",
            "analyticsCallsTimelineFetch",
            "auditTrailSearch",
            "parsePhoneNumber",
            "performanceReportCallsTimeline",
            "searchDirectoryEntries",
            "searchViaPost2",
        ]
    );
    assert!(refused.iter().all(|it| it.method != "GET"), "every GET passes");
}

#[test]
fn no_sms_refuses_every_operation_that_sends_and_no_other() {
    let mut names: Vec<_> = refused_by("no-sms").iter().map(|it| it.name).collect();
    names.dedup();
    assert_eq!(
        names,
        [
            "createA2PSMS",
            "createInternalTextMessage",
            "createFaxMessage",
            "createMMS",
            "createSMSMessage",
        ]
    );
}

#[test]
fn no_recordings_refuses_every_operation_that_reads_one_and_no_other() {
    let names: Vec<_> = refused_by("no-recordings").iter().map(|it| it.name).collect();
    assert_eq!(
        names,
        [
            "listUserMeetingRecordings",
            "listAccountMeetingRecordings",
            "readCallRecording",
            "listCallRecordingData",
        ]
    );
}

#[test]
fn other_presets_refuse_what_their_names_say() {
    let messages = refused_by("no-messages");
    let named =
        |word: &'static str| operations::all().iter().filter(move |it| it.path.contains(word));
    for word in ["/glip/", "/sms", "/mms", "/fax", "message-store/", "message-sync", "/a2p-sms/"] {
        let missing: Vec<_> = named(word)
            .filter(|it| !messages.contains(it) && !it.path.contains("fax-cover-page"))
            .collect();
        assert!(missing.is_empty(), "{word}: {missing:?}");
    }
    let calls = refused_by("no-calls");
    assert!(calls.iter().all(|it| {
        let parts = ["/telephony/", "/ring-out", "/ringout", "/sip-provision", "/sip-info"];
        parts.iter().any(|part| it.path.contains(part))
    }));
    let hooks: Vec<_> = refused_by("no-webhooks").iter().map(|it| it.name).collect();
    assert_eq!(
        hooks,
        [
            "createGlipGroupWebhook",
            "activateGlipWebhook",
            "suspendGlipWebhook",
            "createSubscription",
            "updateSubscription",
            "renewSubscription",
        ]
    );
}

#[test]
fn presets_hold_where_the_table_ends() {
    for (preset, method, path) in [
        ("no-sms", "POST", "/restapi/v2/accounts/~/extensions/~/sms"),
        ("no-sms", "POST", "/RESTAPI/V1.0/account/123/extension/~/SMS/"),
        ("no-sms", "POST", "/restapi/v1.0/account/~/extension/~/sms.json"),
        ("no-sms", "POST", "/restapi/v1.0/account/~/a2p-sms/batches"),
        ("no-sms", "POST", "/cx/social-messaging/v1/contents"),
        ("no-messages", "GET", "/team-messaging/v1/chats"),
        ("no-messages", "GET", "/restapi/v1.0/account/~/extension/~/message-store/1/content/2"),
        ("no-recordings", "GET", "/rcvideo/v1/history/account/~/extension/~/recordings"),
        ("no-recordings", "HEAD", "/webinar/history/v1/company/recordings/7"),
        ("no-recordings", "GET", "/restapi/v1.0/account/~/recording/1,2/content"),
        ("no-webhooks", "POST", "/team-messaging/v1/groups/1/webhooks"),
    ] {
        let (policy, _) = compiled(&[preset], None, &[]);
        assert!(!allows(&policy, method, path), "{preset} {method} {path}");
    }
    let (policy, _) = compiled(&["no-recordings"], None, &[]);
    let start = "/restapi/v1.0/account/~/telephony/sessions/s/parties/p/recordings";
    assert!(allows(&policy, "POST", start), "that one is begun is not that it is read");
}

#[test]
fn what_carries_other_requests_is_refused_to_whoever_has_a_policy() {
    let carriers = [
        "/restapi/oauth/wstoken",
        "/restapi/OAuth/WSToken/",
        "/restapi/v1.0/oauth/wstoken",
        "/restapi/v1.0/batch",
        "/restapi/v2/batch/x",
        "/restapi/v1.0/batch-requests",
    ];
    let policies = [
        compiled(&["no-sms"], None, &[]).0,
        compiled(&[], Some(&["* *"]), &[]).0,
        compiled(&[], None, &["DELETE *"]).0,
    ];
    for policy in &policies {
        for path in carriers {
            let Err(Refusal::Denied(rule)) = judged(policy, "POST", path) else {
                panic!("{path} passes")
            };
            assert_eq!(rule.origin, Source::Carrier);
        }
    }
    let named = "POST /restapi/oauth/wstoken";
    let (policy, remarks) = compiled(&["no-sms"], Some(&["* *", named]), &[]);
    assert!(allows(&policy, "POST", "/restapi/oauth/wstoken"));
    assert!(!allows(&policy, "POST", "/restapi/v1.0/batch"));
    let rule = Named { text: named.into(), origin: Source::Allow };
    assert!(remarks.contains(&Remark::Carrier(rule)), "{remarks:?}");
}

#[test]
fn deny_wins_and_what_is_not_allowed_is_refused() {
    let (policy, remarks) = compiled(
        &["no-recordings"],
        Some(&["readUserCallLog", "GET /restapi/v1.0/account/{accountId}/**"]),
        &["readAccountInfo"],
    );
    let account = "/restapi/v1.0/account/~";
    let rule = |text: &str, origin| Named { text: text.to_owned(), origin };
    let log = format!("{account}/extension/~/call-log");
    let call_log = rule("readUserCallLog", Source::Allow);
    assert_eq!(judged(&policy, "GET", &log), Ok(Some(call_log.clone())));
    let wide = rule("GET /restapi/v1.0/account/{accountId}/**", Source::Allow);
    assert_eq!(judged(&policy, "HEAD", &format!("{account}/x")), Ok(Some(wide.clone())));
    let denied = rule("readAccountInfo", Source::Deny);
    assert_eq!(judged(&policy, "GET", account), Err(Refusal::Denied(denied)));
    assert_eq!(judged(&policy, "POST", &log), Err(Refusal::NotAllowed));
    assert_eq!(judged(&policy, "get", &log), Err(Refusal::Verb));
    assert_eq!(policy.counts(), (2, 5));
    assert_eq!(remarks, [Remark::Needless { rule: call_log, by: wide }]);
}

#[test]
fn oddities_of_a_policy_are_remarked() {
    let (_, remarks) = compiled(
        &["no-sms"],
        Some(&["createSMSMessage", "GET /restapi/v1.0/acount/~", "GET /team-messaging/v1/chats"]),
        &["POST /restapi/v1.0/account/~/extension/~/sms", "DELETE *", "deleteMessage"],
    );
    let said: Vec<_> = remarks.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "\"createSMSMessage\" of allow allows nothing, because \"POST /restapi/v1.0/account/~/extension/~/sms\" of deny denies all of it",
            "\"GET /restapi/v1.0/acount/~\" of allow is no operation that is known here: is the path misspelt?",
            "\"POST /restapi/v1.0/account/~/extension/~/sms\" of deny says nothing that \"POST /restapi/**/sms/**\" of preset no-sms does not say as well",
            "\"deleteMessage\" of deny says nothing that \"DELETE *\" of deny does not say as well",
        ]
    );
}

#[test]
fn what_is_wrong_is_told_with_its_cure() {
    let message = |presets: &[&str], allow: Option<&[&str]>, deny: &[&str]| {
        let allow = allow.map(strings);
        let written = Written { presets: strings(presets), allow, deny: strings(deny) };
        Policy::compile(&written).unwrap_err().to_string()
    };
    assert_eq!(
        message(&[], None, &["sendSMS"]),
        "deny has \"sendSMS\", which is neither an operation nor a rate-limit group: did you mean \"createSMSMessage\" (Send SMS)?"
    );
    assert_eq!(
        message(&["no-fax"], None, &[]),
        "preset \"no-fax\" is none: did you mean \"no-sms\"?"
    );
    assert_eq!(
        message(&[], Some(&[]), &[]),
        "allow is empty, so that nothing would be allowed: name rules or remove it"
    );
    let many: Vec<_> = (0..1001).map(|n| format!("GET /a/{n}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert_eq!(message(&[], None, &many), "it has more than 1000 rules: write wider ones");
    assert!(Policy::compile(&Written::default()).unwrap().is_none());
}

/// The segments of a path after everything a server might do to it; its own reading, apart from the
/// code under test.
fn folded(path: &str) -> Vec<String> {
    let mut bytes = path.as_bytes().to_vec();
    loop {
        let decoded = percent_encoding::percent_decode(&bytes).collect::<Vec<_>>();
        if decoded == bytes {
            break;
        }
        bytes = decoded;
    }
    let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase().replace('\\', "/");
    let mut segments: Vec<String> = Vec::new();
    for segment in text.split('/') {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        match segment.split(';').next().unwrap() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name.split(|c| !is_part(c)).next().unwrap().to_owned()),
        }
    }
    segments
}

static NO_SMS: LazyLock<Policy> = LazyLock::new(|| compiled(&["no-sms"], None, &[]).0);
static SMS_ONLY: LazyLock<Policy> =
    LazyLock::new(|| compiled(&[], Some(&["createSMSMessage"]), &[]).0);

/// Paths near one that is denied.
fn near_sms() -> impl Strategy<Value = String> {
    let separator = prop::sample::select(vec![
        "/", "/", "/", "//", "/./", "/x/../", "%2f", "\\", "%5c", "/%2e/", ";a/", "/;/",
    ]);
    let name = |word: &'static str| {
        prop::sample::select(vec![
            word.to_owned(),
            word.to_owned(),
            word.to_uppercase(),
            format!("%{:02x}{}", word.as_bytes()[0], &word[1..]),
            format!("%25{:02x}{}", word.as_bytes()[0], &word[1..]),
            format!("{word};a=b"),
            format!("{word}.json"),
            format!("{word}%00"),
            format!("{word}%20"),
            format!("{word},"),
        ])
    };
    let end = prop::sample::select(vec!["", "", "/", "//", "/.", "?", "?a=b", "%3f", ";", "#"]);
    let names = ["restapi", "v1.0", "account", "~", "extension", "~", "sms"].map(name);
    let names: Vec<_> = names.into_iter().map(Strategy::boxed).collect();
    (proptest::collection::vec(separator, 7), names, end).prop_map(|(separators, names, end)| {
        let pairs =
            separators.iter().zip(&names).map(|(separator, name)| format!("{separator}{name}"));
        pairs.collect::<String>() + end
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_spelling_of_a_denied_path_passes(path in near_sms()) {
        let policy = &*NO_SMS;
        if let Ok(target) = path.parse::<Uri>() && target.path().starts_with('/') {
            let judged = policy.judge(&Method::POST, &target, &HeaderMap::new());
            let leads = folded(target.path()).last().is_some_and(|last| last == "sms");
            prop_assert!(!leads || judged.is_err(), "{}", path);
        }
    }

    #[test]
    fn only_the_letter_of_an_allowed_path_passes(path in near_sms()) {
        let policy = &*SMS_ONLY;
        if let Ok(target) = path.parse::<Uri>() && target.path().starts_with('/') {
            let passes = policy.judge(&Method::POST, &target, &HeaderMap::new()).is_ok();
            let segments: Vec<_> = target.path().split('/').collect();
            let is_exact = matches!(
                segments[..],
                ["", "restapi", "v1.0", "account", account, "extension", extension, "sms"]
                    if ["~", "~,", "~.json"].contains(&account) && ["~", "~,", "~.json"].contains(&extension)
            );
            prop_assert_eq!(passes, is_exact, "{}", path);
        }
    }

    #[test]
    fn any_rule_that_is_one_finds_its_own_path(
        parts in proptest::collection::vec("[a-z]{1,6}|\\{[a-z]{1,4}\\}", 1..6),
        is_denied in any::<bool>(),
    ) {
        let rule = format!("POST /{}", parts.join("/"));
        let path = format!("/{}", parts.iter().map(|part| part.trim_matches(['{', '}'])).collect::<Vec<_>>().join("/"));
        let (policy, _) = if is_denied {
            compiled(&[], None, &[&rule])
        } else {
            compiled(&[], Some(&[&rule]), &[])
        };
        prop_assert_eq!(allows(&policy, "POST", &path), !is_denied);
        prop_assert_eq!(allows(&policy, "GET", &path), is_denied);
    }

    #[test]
    fn nothing_makes_it_panic(rule in "[A-Z*]{0,6} ?[/a-z{}*~.%]{0,20}", path in "/[ -~]{0,40}") {
        let written = Written { deny: vec![rule], ..Written::default() };
        if let (Ok(Some((policy, _))), Ok(target)) = (Policy::compile(&written), path.parse()) {
            let _ = policy.judge(&Method::GET, &target, &HeaderMap::new());
        }
    }
}
