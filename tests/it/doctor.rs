//! `doctor`: the real binary, before hosts, stores and ports that are well and that are not.

use std::fs::{self, Permissions};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use ringbearer::clock::Clock;
use ringbearer::sandbox::{Rules, Sandbox, SandboxOptions};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::program::Program;
use crate::redis_server::RedisServer;

/// What is configured, and what the doctor says of it.
struct Patient {
    files: TempDir,
}

/// The exit code, and the findings.
struct Report {
    code: Option<i32>,
    worst: String,
    findings: Vec<Value>,
}

impl Patient {
    fn new(upstream: &str, lines: &str) -> Self {
        let files = TempDir::new().unwrap();
        // The usual port may be another test's.
        let usual =
            if lines.contains("[proxy]") { "" } else { "[proxy]\nlisten = '127.0.0.1:0'\n" };
        let text = format!(
            "[application.crm]\nclient_id = 'sandbox-client'\nclient_secret = 'sandbox-secret'\n\
             [identity.sales]\njwt = {{ file = 'jwt' }}\n[upstream]\nurl = '{upstream}'\n{lines}\n{usual}"
        );
        let patient = Self { files };
        patient.write("proxy.toml", &text);
        patient.write("jwt", "sandbox-jwt");
        patient
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.files.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }

    /// Runs it to its end, beside the servers that need this thread.
    async fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringbearer"));
        command.arg("doctor").args(arguments);
        command.arg("--config").arg(self.files.path().join("proxy.toml"));
        command.env_clear().envs(environment.iter().copied()).stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        let Output { status, stdout, stderr } = output.await.unwrap();
        assert_eq!(String::from_utf8(stderr).unwrap(), "");
        let text = String::from_utf8(stdout).unwrap();
        for secret in ["sandbox-secret", "sandbox-jwt", "canary"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        (status.code(), text)
    }

    async fn report(&self) -> Report {
        let (code, text) = self.run(&["--json"], &[]).await;
        let mut json: Value = serde_json::from_str(&text).unwrap();
        let worst = json["worst"].as_str().unwrap().to_owned();
        let Value::Array(findings) = json["findings"].take() else { panic!("{text}") };
        Report { code, worst, findings }
    }
}

impl Report {
    /// Level and words of the finding that has `part` in it, and its cure.
    fn said(&self, area: &str, part: &str) -> (&str, &str, &str) {
        let of = |it: &Value| {
            it["area"] == area
                && (it["says"].as_str().unwrap().contains(part)
                    || it["thing"].as_str().unwrap().contains(part))
        };
        let found = self.findings.iter().find(|it| of(it));
        let found =
            found.unwrap_or_else(|| panic!("no {part:?} of {area} in {:#?}", self.findings));
        let text = |key: &str| found[key].as_str().unwrap_or_default();
        (text("level"), text("says"), text("cure"))
    }

    fn failures(&self) -> Vec<&str> {
        let failed = self.findings.iter().filter(|it| it["level"] == "failure");
        failed.map(|it| it["says"].as_str().unwrap()).collect()
    }
}

/// A sandbox that speaks TLS too, by the machine's clock.
async fn sandbox() -> Sandbox {
    let options = SandboxOptions {
        tls_listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        rules: Rules::unlimited(),
        ..SandboxOptions::default()
    };
    Sandbox::start(options).await.unwrap()
}

#[tokio::test]
async fn what_is_well_is_said_to_be_and_no_token_is_requested() {
    let sandbox = sandbox().await;
    let url = sandbox.tls_url().unwrap();
    let patient = Patient::new(
        &url,
        "ca_file = 'ca.pem'\n[proxy]\nlisten = '127.0.0.1:0'\n[store]\ndirectory = 'store'",
    );
    patient.write("ca.pem", sandbox.ca_pem().unwrap());
    let report = patient.report().await;
    assert_eq!(report.failures(), [""; 0]);
    // Whoever runs the tests may be root, of which it warns.
    let code = i32::from(report.worst != "ok");
    assert_eq!(report.code, Some(code));
    let (level, says, _) = report.said("network", "TLS 1.3 in ");
    assert_eq!(level, "ok");
    assert!(
        says.ends_with("1 address (upstream.url, token_url of crm, revoke_url of crm)"),
        "{says}"
    );
    assert_eq!(report.said("network", "its certificate is trusted, and ends in ").0, "ok");
    assert_eq!(report.said("clock", &url), ("ok", "agrees with the clock of this machine", ""));
    assert_eq!(report.said("listen", "127.0.0.1:0 (proxy.listen)").1, "free");
    assert_eq!(report.said("secrets", "identity sales: jwt").0, "ok");
    assert_eq!(
        report.said("budget", "crm").1,
        "1 identity in use needs 0.0 token requests a minute of 5"
    );
    // Looking has made nothing.
    let (level, says, _) = report.said("store", "not there yet");
    assert_eq!(level, "ok", "{says}");
    assert!(!patient.files.path().join("store").exists());
    let counts = sandbox.control().counts();
    assert_eq!((counts.token_requests, counts.token_answers), (0, 0));
    sandbox.stop().await;
}

#[tokio::test]
async fn a_certificate_of_a_strange_authority_is_a_failure_with_its_cure() {
    let (ours, theirs) = (sandbox().await, sandbox().await);
    let patient = Patient::new(
        &theirs.tls_url().unwrap(),
        "ca_file = 'ca.pem'\n[store]\ndirectory = 'store'",
    );
    patient.write("ca.pem", ours.ca_pem().unwrap());
    let report = patient.report().await;
    assert_eq!((report.code, report.worst.as_str()), (Some(2), "failure"));
    assert_eq!(
        report.said("network", "its certificate is from"),
        (
            "failure",
            "its certificate is from an authority that only has the name of a trusted one",
            "upstream.ca_file does not hold the authority that issued it: add that"
        )
    );
}

/// Answers every request with this date.
async fn dated(at: SystemTime) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            let request = String::from_utf8(request).unwrap();
            assert!(request.starts_with("HEAD / HTTP/1.1\r\n"), "{request}");
            assert!(!request.to_lowercase().contains("authorization"), "{request}");
            let date = httpdate::fmt_http_date(at);
            let answer =
                format!("HTTP/1.1 404 Not Found\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    url
}

#[tokio::test]
async fn a_clock_that_is_an_hour_behind_is_a_warning() {
    let hour = Duration::from_secs(3600);
    let url = dated(SystemTime::from(Clock::system().now() + hour + Duration::from_secs(30))).await;
    let report = Patient::new(&url, "[store]\ndirectory = 'store'").report().await;
    let (level, says, cure) = report.said("clock", "behind");
    assert_eq!(level, "warning");
    assert!(says.starts_with("this machine's clock is 1h "), "{says}");
    assert!(cure.contains("NTP"), "{cure}");
}

#[tokio::test]
async fn nobody_there_is_a_failure_that_names_the_key() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let report =
        Patient::new(&format!("http://{gone}"), "[store]\ndirectory = 'store'").report().await;
    let (level, says, cure) = report.said("network", "no connection");
    assert_eq!((level, says), ("failure", "no connection (connection refused)"));
    assert!(cure.starts_with("check upstream.url and the firewall"), "{cure}");
}

#[tokio::test]
async fn a_store_that_cannot_be_written_is_a_failure() {
    let sandbox = sandbox().await;
    let report = |lines: &'static str| {
        let patient = Patient::new(&sandbox.url(), lines);
        patient.write("file", "");
        async move { patient.report().await }
    };
    // Not even root makes anything there.
    let nowhere = report("[store]\ndirectory = '/proc/ringbearer'").await;
    let (level, says, cure) = nowhere.said("store", "not there");
    assert_eq!(level, "failure");
    assert!(says.starts_with("not there, and cannot be made in /proc ("), "{says}");
    assert!(cure.starts_with("install -d -m 700 -o USER /proc/ringbearer"), "{cure}");
    let file = report("[store]\ndirectory = 'file'").await;
    assert_eq!(
        file.said("store", "is not a directory"),
        ("failure", "is not a directory", "remove it, or name another path")
    );
}

#[tokio::test]
async fn a_session_that_needs_somebody_is_a_failure() {
    let sandbox = sandbox().await;
    let patient = Patient::new(
        &sandbox.url(),
        "[store]\ndirectory = 'store'\n[identity.person]\nlogin = true",
    );
    let store = patient.files.path().join("store");
    fs::create_dir(&store).unwrap();
    fs::set_permissions(&store, Permissions::from_mode(0o700)).unwrap();
    let report = patient.report().await;
    assert_eq!(report.said("store", "ours, writable, mode 0700").0, "ok");
    assert_eq!(
        report.said("sessions", "person"),
        ("failure", "needs login", "ringbearer login person")
    );
}

#[tokio::test]
async fn a_port_of_ours_is_told_from_that_of_a_stranger() {
    let sandbox = crate::program::sandbox().await;
    let ours = Program::start(&sandbox, "", &[]).await;
    let theirs = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mine, strange) = (ours.address, theirs.local_addr().unwrap());
    // It closes what it accepts, without a word.
    std::thread::spawn(move || theirs.incoming().for_each(drop));
    let lines = format!("[store]\ndirectory = 'store'\n[proxy]\nlisten = ['{mine}', '{strange}']");
    let report = Patient::new(&sandbox.url(), &lines).report().await;
    assert_eq!(report.said("listen", &mine.to_string()), ("ok", "a Ringbearer answers there", ""));
    let (level, says, cure) = report.said("listen", &strange.to_string());
    assert_eq!((level, says), ("failure", "another program has it"));
    assert!(cure.contains(&format!("sport = {}", strange.port())), "{cure}");
}

#[tokio::test]
async fn a_configuration_that_is_refused_is_told_with_the_secret_that_lacks() {
    let patient = Patient::new(
        "http://127.0.0.1:1",
        "[identity.bot]\njwt = { env = 'BOT_JWT' }\n[store]\ndirectory = 'store'",
    );
    let report = patient.report().await;
    assert_eq!(report.code, Some(2));
    let refused =
        "identity \"bot\": jwt is to come from the environment variable BOT_JWT, which is not set";
    assert_eq!(report.said("configuration", "BOT_JWT").1, refused);
    assert_eq!(
        report.said("secrets", "identity bot: jwt").1,
        "the environment variable BOT_JWT is not set"
    );
    // What can be looked at all the same is.
    assert_eq!(report.said("secrets", "identity sales: jwt").0, "ok");
    let (_, says, _) = report.said("process", "open files");
    assert!(says.starts_with("limit ") || says == "no limit", "{says}");
}

#[tokio::test]
async fn a_secret_for_every_eye_is_a_warning_in_the_table() {
    let patient = Patient::new("http://127.0.0.1:1", "[store]\ndirectory = 'store'");
    let jwt = patient.files.path().join("jwt");
    fs::set_permissions(&jwt, Permissions::from_mode(0o644)).unwrap();
    let (code, text) = patient.run(&[], &[]).await;
    assert_eq!(code, Some(2), "{text}");
    let told = format!("every user of this machine can read {} (mode 0644)", jwt.display());
    assert_eq!(text.matches(&told).count(), 1, "{text}");
    assert!(text.contains(&format!("→ chmod 600 {}\n", jwt.display())), "{text}");
    assert!(text.lines().last().unwrap().starts_with("1 failure, "), "{text}");
}

#[tokio::test]
async fn a_redis_is_judged_by_how_it_is_set_up() {
    let Some(server) = RedisServer::start().await else { return };
    let sandbox = sandbox().await;
    let lines = format!("[store]\nredis = {:?}\nredis_wait_replicas = 1", server.url());
    let patient = Patient::new(&sandbox.url(), &lines);
    server.run(&["CONFIG", "SET", "appendonly", "no"]).await;
    server.run(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    let report = patient.report().await;
    assert_eq!(report.said("store", "answers; Redis ").0, "ok");
    assert_eq!(
        report.said("store", "appendonly is no"),
        (
            "warning",
            "forgets sessions when it ends: appendonly is no",
            "set appendonly yes and appendfsync always there"
        )
    );
    assert_eq!(report.said("store", "maxmemory-policy is allkeys-lru").0, "warning");
    assert_eq!(
        report.said("store", "replicas").1,
        "0 replicas are connected, of 1 that have to confirm"
    );
    for (key, value) in
        [("appendonly", "yes"), ("appendfsync", "everysec"), ("maxmemory-policy", "noeviction")]
    {
        server.run(&["CONFIG", "SET", key, value]).await;
    }
    let report = patient.report().await;
    assert_eq!(
        report.said("store", "appendfsync").1,
        "forgets the last moments when its machine ends: appendfsync is everysec"
    );
    server.run(&["CONFIG", "SET", "appendfsync", "always"]).await;
    assert_eq!(patient.report().await.said("store", "keeps what it is given").0, "ok");
}

#[tokio::test]
async fn a_redis_whose_user_may_ask_nothing_is_no_failure_and_one_that_is_gone_is() {
    let Some(mut server) = RedisServer::start().await else { return };
    let sandbox = sandbox().await;
    let rights = "~ringbearer:* &ringbearer:changes +ping +get +set +del +exists +hget +hset +hdel \
                  +hmget +persist +pexpire +sadd +smembers +eval +time +publish +subscribe";
    let acl: Vec<_> = ["ACL", "SETUSER", "proxy", "on", ">canary"].into_iter().collect();
    server.run(&[acl, rights.split_whitespace().collect()].concat()).await;
    let url = server.url().replace("redis://", "redis://proxy:canary@");
    let patient = Patient::new(&sandbox.url(), &format!("[store]\nredis = {url:?}"));
    let report = patient.report().await;
    assert_eq!(
        report.said("store", "answers"),
        ("ok", "answers; its user may not ask how it is set up (+info, +config|get)", "")
    );
    assert_eq!(report.failures(), [""; 0]);
    server.kill();
    let report = patient.report().await;
    let (level, says, _) = report.said("store", "cannot be reached");
    assert_eq!(level, "failure");
    assert!(says.contains("check that it runs"), "{says}");
}
