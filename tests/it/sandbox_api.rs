//! What the sandbox's API answers.

use std::collections::HashMap;
use std::collections::HashSet;

use reqwest::Method;
use ringbearer::sandbox::{Rules, media_byte};
use serde_json::{Value, json};

use crate::sandbox_support::{ECHO, Stage, answer, text};

const ACCOUNT: &str = "/restapi/v1.0/account/~";
const EXTENSION: &str = "/restapi/v1.0/account/~/extension/~";

/// The documented answer: its status, and its content with the links led to `base`.
fn documented(response: &str, base: &str) -> (u16, String) {
    let mut lines = response.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let is_field = |line: &str| {
        let name = line.split_once(':').map_or("", |(name, _)| name);
        ["Content-Type", "Content-Disposition", "Content-Language", "Content-Length", "ETag"]
            .contains(&name)
    };
    let rest = lines.skip_while(|line| line.trim().is_empty() || is_field(line));
    let content = rest.collect::<Vec<_>>().join("\n");
    let hosts = ["https://platform.ringcentral.com", "http://platform.ringcentral.com"];
    let hosts = hosts.iter().chain(&["https://media.ringcentral.com"]);
    (status, hosts.fold(content, |content, host| content.replace(host, base)).trim().to_owned())
}

#[tokio::test]
async fn all_documented_examples_are_served_with_links_that_lead_back() {
    let stage = Stage::unlimited().await;
    let token = text(&stage.login(1).await, "access_token");
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut served = 0;
    for line in include_str!("../../src/sandbox/data/examples.jsonl").lines() {
        let example: Value = serde_json::from_str(line).unwrap();
        let (method, path) = (text(&example, "method"), text(&example, "path"));
        let number = seen.entry(format!("{method} {path}")).or_default();
        let target = format!("{path}?sandboxExample={number}").replace(['{', '}'], "");
        *number += 1;
        let request = stage.request(method.parse().unwrap(), &target).bearer_auth(&token);
        let response = request.send().await.unwrap();
        let (status, content) = documented(&text(&example, "response"), &stage.sandbox.url());
        assert_eq!(response.status(), status, "{method} {target}");
        let got = response.bytes().await.unwrap();
        if content == "[binary data]" || content == "<media data>" {
            assert_eq!(got.len(), 100_000, "{method} {target}");
        } else if let Ok(expected) = serde_json::from_str::<Value>(&content) {
            let got: Value = serde_json::from_slice(&got).unwrap();
            assert_eq!(got, expected, "{method} {target}");
        } else {
            assert_eq!(String::from_utf8_lossy(&got).trim(), content, "{method} {target}");
        }
        assert!(!String::from_utf8_lossy(&got).contains("//platform.ringcentral.com"), "{target}");
        served += 1;
    }
    assert_eq!(served, 227);
}

#[tokio::test]
async fn every_operation_answers_something_with_a_request_id() {
    let stage = Stage::unlimited().await;
    let token = text(&stage.login(1).await, "access_token");
    let mut asked = 0;
    for line in include_str!("../../src/operations/operations.tsv").lines().skip(1) {
        let mut columns = line.split('\t');
        let (method, path) = (columns.next().unwrap(), columns.next().unwrap());
        if path.starts_with("/restapi/oauth/") {
            continue;
        }
        let target = path.replace(['{', '}'], "");
        let request = stage.request(method.parse().unwrap(), &target).bearer_auth(&token);
        let response = request.send().await.unwrap();
        let sends =
            target.ends_with("/sms") || target.ends_with("/mms") || target.ends_with("/fax");
        let expected = if sends { 400..401 } else { 200..300 };
        assert!(expected.contains(&response.status().as_u16()), "{line}: {}", response.status());
        assert!(response.headers().contains_key("rcrequestid"), "{line}");
        asked += 1;
    }
    assert_eq!(asked, 391);
}

#[tokio::test]
async fn lists_page_to_their_end_with_every_record_different() {
    let stage = Stage::unlimited().await;
    let token = text(&stage.login(1).await, "access_token");
    let lists = [
        format!("{ACCOUNT}/call-log"),
        format!("{EXTENSION}/call-log"),
        format!("{EXTENSION}/message-store"),
        format!("{ACCOUNT}/extension"),
        format!("{EXTENSION}/address-book/contact"),
    ];
    for list in lists {
        let mut url = format!("{}{list}?perPage=10", stage.sandbox.url());
        let (mut pages, mut ids) = (0, HashSet::new());
        loop {
            let request = stage.client.get(&url).bearer_auth(&token);
            let (status, body) = answer(request.send().await.unwrap()).await;
            assert_eq!(status, 200, "{url}: {body}");
            pages += 1;
            for record in body["records"].as_array().unwrap() {
                assert!(ids.insert(record["id"].to_string()), "{url}: {} twice", record["id"]);
            }
            assert_eq!(body["paging"]["totalElements"], 95, "{url}");
            let Some(next) = body["navigation"]["nextPage"]["uri"].as_str() else { break };
            url = next.to_owned();
        }
        assert_eq!((pages, ids.len()), (10, 95), "{list}");
    }
}

#[tokio::test]
async fn an_sms_is_created_from_json_and_from_multipart() {
    let stage = Stage::unlimited().await;
    let token = text(&stage.login(1).await, "access_token");
    let json = r#"{"from":{"phoneNumber":"+15551230001"},"to":[{"phoneNumber":"+15551230002"}],
                   "text":"one ring"}"#;
    let multipart = format!("--b\r\nContent-Type: application/json\r\n\r\n{json}\r\n--b--\r\n");
    let contents = [("application/json", json), ("multipart/mixed; boundary=b", &multipart)];
    let mut ids = HashSet::new();
    for (media_type, content) in contents {
        let request = stage.post(&format!("{EXTENSION}/sms"), &token);
        let request = request.header("content-type", media_type).body(content.to_owned());
        let (status, message) = answer(request.send().await.unwrap()).await;
        assert_eq!(status, 200, "{media_type}: {message}");
        assert_eq!(message["subject"], "one ring", "{media_type}");
        assert_eq!(message["to"], json!([{"phoneNumber": "+15551230002"}]), "{media_type}");
        let uri = message["attachments"][0]["uri"].as_str().unwrap();
        let attachment = stage.client.get(uri).bearer_auth(&token).send().await.unwrap();
        assert_eq!(attachment.status(), 200, "{uri}");
        ids.insert(message["id"].to_string());
    }
    assert_eq!(ids.len(), 2);
    assert_eq!(stage.control().counts().messages_sent, 2);
}

#[tokio::test]
async fn a_fax_is_created_from_form_data() {
    let stage = Stage::unlimited().await;
    let token = text(&stage.login(1).await, "access_token");
    let content = "--x\r\nContent-Disposition: form-data; name=\"to\"\r\n\r\n+15551230002\r\n\
        --x\r\nContent-Disposition: form-data; name=\"a\"; filename=\"p.pdf\"\r\n\
        Content-Type: application/pdf\r\n\r\n%PDF\r\n--x--\r\n";
    let request = stage.post(&format!("{EXTENSION}/fax"), &token).body(content);
    let request = request.header("content-type", "multipart/form-data; boundary=x");
    let (status, fax) = answer(request.send().await.unwrap()).await;
    assert_eq!((status, &fax["type"], &fax["faxPageCount"]), (200, &json!("Fax"), &json!(1)));
}

#[tokio::test]
async fn files_come_whole_in_parts_and_not_at_all() {
    let stage = Stage::unlimited().await;
    let token = text(&stage.login(1).await, "access_token");
    let path = format!("{ACCOUNT}/recording/7/content");
    let target = format!("{path}?size=1000000");
    let whole = stage.get(&target, &token).send().await.unwrap();
    let etag = whole.headers()["etag"].clone();
    assert_eq!(whole.headers()["content-length"], "1000000");
    let whole = whole.bytes().await.unwrap();
    assert_eq!(whole.len(), 1_000_000);
    assert_eq!(whole[999_999], media_byte(&path, 999_999));

    let part = stage.get(&target, &token).header("range", "bytes=500000-500099");
    let part = part.send().await.unwrap();
    assert_eq!(part.status(), 206);
    assert_eq!(part.headers()["content-range"], "bytes 500000-500099/1000000");
    assert_eq!(part.bytes().await.unwrap(), whole[500_000..500_100]);

    let beyond = stage.get(&target, &token).header("range", "bytes=1000000-").send().await.unwrap();
    assert_eq!(beyond.status(), 416);
    assert_eq!(beyond.headers()["content-range"], "bytes */1000000");

    let same = stage.get(&target, &token).header("if-none-match", etag).send().await.unwrap();
    assert_eq!(same.status(), 304);

    let head = stage.request(Method::HEAD, &format!("{path}?size=10737418240"));
    let head = head.bearer_auth(&token).send().await.unwrap();
    assert_eq!(head.headers()["content-length"], "10737418240");
}

#[tokio::test]
async fn a_group_over_its_limit_is_in_penalty_until_it_is_left_alone() {
    let stage = Stage::with(Rules::default()).await;
    let token = text(&stage.login(1).await, "access_token");
    let target = format!("{ACCOUNT}/call-log?perPage=1");
    for remaining in (0..10).rev() {
        let response = stage.get(&target, &token).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["x-rate-limit-group"], "heavy");
        assert_eq!(response.headers()["x-rate-limit-remaining"], remaining.to_string());
    }
    for _ in 0..3 {
        let response = stage.get(&target, &token).send().await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["retry-after"]),
            (429, &"60".parse().unwrap())
        );
        stage.pass(59);
    }
    let other = stage.get(ACCOUNT, &token).send().await.unwrap();
    assert_eq!(other.headers()["x-rate-limit-group"], "light");
    stage.pass(1);
    assert_eq!(stage.get(&target, &token).send().await.unwrap().status(), 200);
    assert_eq!(stage.control().counts().api_429, 3);
}

#[tokio::test]
async fn a_post_may_mean_another_method() {
    let stage = Stage::unlimited().await;
    let token = text(&stage.login(1).await, "access_token");
    let target = format!("{EXTENSION}/message-store/7");
    let by_field = stage.post(&target, &token).header("X-HTTP-Method-Override", "delete");
    assert_eq!(by_field.send().await.unwrap().status(), 204);
    let by_query = stage.post(&format!("{target}?_method=DELETE"), &token);
    assert_eq!(by_query.send().await.unwrap().status(), 204);
    assert_eq!(stage.post(&target, &token).send().await.unwrap().status(), 405);
}

#[tokio::test]
async fn several_ids_get_an_answer_each() {
    let stage = Stage::unlimited().await;
    let token = text(&stage.login(1).await, "access_token");
    let target = format!("{EXTENSION}/message-store/7,0,9");
    let (status, parts) = answer(stage.get(&target, &token).send().await.unwrap()).await;
    let of = |part: usize| (&parts[part]["status"], &parts[part]["resourceId"]);
    assert_eq!(status, 207);
    assert_eq!(of(0), (&json!(200), &json!("7")));
    assert_eq!(of(1), (&json!(404), &json!("0")));
    assert_eq!(parts[2]["body"]["id"], "9");
}

#[tokio::test]
async fn unknown_paths_are_not_found_and_known_ones_keep_to_their_methods() {
    let stage = Stage::unlimited().await;
    let token = text(&stage.login(1).await, "access_token");
    let (status, body) = answer(stage.get("/restapi/v9/x", &token).send().await.unwrap()).await;
    assert_eq!((status, &body["errorCode"]), (404, &json!("CMN-101")));
    let delete = stage.request(Method::DELETE, &format!("{ACCOUNT}/call-log")).bearer_auth(&token);
    assert_eq!(delete.send().await.unwrap().status(), 405);
}

#[tokio::test]
async fn echo_tells_what_arrived_and_keeps_the_token_to_itself() {
    let stage = Stage::unlimited().await;
    let token = text(&stage.login(3).await, "access_token");
    let request = stage.post(&format!("{ECHO}?a=%2F&b"), &token).header("x-one", "1").body("ring");
    let (_, echo) = answer(request.send().await.unwrap()).await;
    assert_eq!((&echo["method"], &echo["query"]), (&json!("POST"), &json!("a=%2F&b")));
    assert_eq!((&echo["bodyBytes"], &echo["user"]), (&json!(4), &json!(3)));
    let fields = echo["fields"].as_array().unwrap();
    assert!(fields.contains(&json!(["x-one", "1"])), "{echo}");
    assert!(fields.contains(&json!(["authorization", "***"])), "{echo}");
}

#[tokio::test]
async fn any_status_is_to_be_had() {
    let stage = Stage::unlimited().await;
    let token = text(&stage.login(1).await, "access_token");
    for status in [200, 204, 205, 304, 400, 404, 429, 500, 503] {
        let target = format!("/restapi/v1.0/sandbox/status/{status}");
        assert_eq!(stage.get(&target, &token).send().await.unwrap().status(), status);
    }
    let target = "/restapi/v1.0/sandbox/status/401?errorCode=OAU-151";
    let (status, body) = answer(stage.get(target, &token).send().await.unwrap()).await;
    assert_eq!((status, &body["errorCode"]), (401, &json!("OAU-151")));
}

#[tokio::test]
async fn links_may_keep_ringcentrals_own_hosts() {
    let stage = Stage::with(Rules { own_links: false, ..Rules::unlimited() }).await;
    let token = text(&stage.login(1).await, "access_token");
    let target = format!("{EXTENSION}/call-log?perPage=1");
    let (_, body) = answer(stage.get(&target, &token).send().await.unwrap()).await;
    let next = text(&body["navigation"]["nextPage"], "uri");
    assert!(next.starts_with("https://platform.ringcentral.com/restapi/v1.0/"), "{next}");
}
