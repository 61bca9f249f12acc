//! `status`, `token` and `keygen`: the real binary, with and without a proxy beside it.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use ringbearer::clock::Clock;
use ringbearer::key::KeyDigest;
use ringbearer::sandbox::{Rules, Sandbox, SandboxOptions};
use ringbearer::secret::Secret;
use ringbearer::store::file::FileStore;
use ringbearer::store::seal::Seal;
use ringbearer::store::{Enrolment, TokenStore};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{ECHO, client};

/// A sandbox, a configuration and a store for it, by the machine's clock.
struct Place {
    sandbox: Sandbox,
    files: TempDir,
}

impl Place {
    /// With these lines at the end of the configuration, after `[identity.sales]`.
    async fn new(rules: Rules, lines: &str) -> Self {
        let options = SandboxOptions { rules, ..SandboxOptions::default() };
        let sandbox = Sandbox::start(options).await.unwrap();
        let files = TempDir::new().unwrap();
        let text = format!(
            "[proxy]\nlisten = '127.0.0.1:0'\nworkers = 1\n\
             [upstream]\nurl = '{}'\n\
             [application.crm]\nclient_id = 'sandbox-client'\nclient_secret = 'sandbox-secret'\n\
             [store]\ndirectory = 'store'\n\
             [identity.sales]\njwt = 'sandbox-jwt'\n{lines}\n",
            sandbox.url()
        );
        let path = files.path().join("proxy.toml");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        Self { sandbox, files }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringbearer"));
        command.args(arguments).arg("--config").arg(self.files.path().join("proxy.toml"));
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end, beside the sandbox, which needs this thread.
    async fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = self.command(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        let Output { status, stdout, stderr } = output.await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code(), text(stdout), text(stderr))
    }

    fn token_requests(&self) -> u64 {
        self.sandbox.control().counts().token_requests
    }

    async fn enrol(&self, name: &str, jwt: Option<&str>) {
        let directory = self.files.path().join("store");
        let store = FileStore::open(directory, Seal::new(&[]).unwrap(), Clock::system()).unwrap();
        let (client_id, jwt) = ("sandbox-client".to_owned(), jwt.map(Secret::new));
        store.enrol(name, Some(&Enrolment { client_id, jwt })).await.unwrap();
    }

    /// The status an API request with this token gets.
    async fn opens(&self, token: &str) -> u16 {
        let request = client().get(format!("{}{ECHO}", self.sandbox.url())).bearer_auth(token);
        request.send().await.unwrap().status().as_u16()
    }
}

/// Cells of a line of the table, which stand at least two blanks apart.
fn cells(line: &str) -> Vec<&str> {
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

#[tokio::test]
async fn status_shows_everybody_without_a_proxy_before_and_after_the_first_token() {
    let place = Place::new(Rules::unlimited(), "").await;
    let (code, stdout, stderr) = place.run(&["status"]).await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(
        stdout,
        "\
IDENTITY  APPLICATION  STATE       TOKEN ENDS  REFRESH DIES  RENEWED  GENERATION
sales     crm          no session  -           -             -        -

APPLICATION  TOKEN REQUESTS LEFT
crm          5 of 5 in this minute
"
    );
    assert_eq!(place.run(&["check", "--online"]).await.0, Some(0));
    let (code, stdout, _) = place.run(&["status"]).await;
    let lines: Vec<_> = stdout.lines().collect();
    let [name, application, state, ends, dies, renewed, generation] = cells(lines[1])[..] else {
        panic!("{stdout}")
    };
    assert_eq!((name, application, state, dies, generation), ("sales", "crm", "live", "-", "1"));
    assert!(ends.starts_with("in 59m") || ends == "in 1h", "{ends}");
    assert!(renewed.ends_with(" ago") || renewed == "now", "{renewed}");
    assert_eq!((code, lines[4]), (Some(0), "crm          4 of 5 in this minute"));
    assert_eq!(place.token_requests(), 1, "status asks for no token");
}

#[tokio::test]
async fn status_exits_with_1_where_somebody_is_needed_and_with_2_for_a_bad_configuration() {
    let place = Place::new(Rules::unlimited(), "").await;
    place.enrol("guest", None).await;
    place.enrol("robot", Some("canary")).await;
    let (code, stdout, stderr) = place.run(&["status", "--json"]).await;
    assert_eq!(
        (code, stderr.as_str()),
        (Some(1), "ringbearer: 1 of 3 identities needs somebody: guest\n")
    );
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let states = |report: &Value| -> Vec<_> {
        let lines = report["identities"].as_array().unwrap().clone();
        lines.iter().map(|line| (line["name"].clone(), line["state"].clone())).collect()
    };
    assert_eq!(
        states(&report),
        [
            (json!("guest"), json!("needs-login")),
            (json!("robot"), json!("no-session")),
            (json!("sales"), json!("no-session"))
        ]
    );
    assert_eq!(report["applications"], json!([{"name": "crm", "left": 5, "limit": 5}]));
    assert_eq!((&report["live"], &report["silent"]), (&json!(false), &json!(null)));
    assert!(!stdout.contains("canary"));

    let broken = Place::new(Rules::unlimited(), "nonsense = true").await;
    let (code, stdout, stderr) = broken.run(&["status"]).await;
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(stderr.contains("unknown key `identity.sales.nonsense`"), "{stderr}");
}

/// A running proxy. It is killed when it is dropped.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a proxy, and returns when it has said `line`.
async fn serve(place: &Place, line: &'static str) -> Serving {
    let mut serving = Serving(place.command(&["serve"]).stdout(Stdio::null()).spawn().unwrap());
    let log = BufReader::new(serving.0.stderr.take().unwrap());
    let (found, said) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut found = Some(found);
        for text in log.lines().map_while(Result::ok) {
            if let Some(found) = found.take_if(|_| text.contains(line)) {
                // The test may be over already.
                let _ = found.send(());
            }
        }
    });
    said.await.expect("it says so before it ends");
    serving
}

#[tokio::test]
async fn status_merges_what_a_running_proxy_knows_and_says_when_none_answers() {
    // Free a moment ago; a proxy that cannot have it fails the test with its name.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let admin = format!("[identity.wrong]\njwt = 'canary'\n[admin]\nlisten = '127.0.0.1:{port}'");
    let place = Place::new(Rules::unlimited(), &admin).await;
    let (code, stdout, _) = place.run(&["status"]).await;
    let silent = format!(
        "note: no proxy answers at http://127.0.0.1:{port} (admin.listen), so this is what the store knows"
    );
    assert_eq!((code, stdout.lines().last()), (Some(0), Some(&*silent)));

    let _serving = serve(&place, "the token endpoint refused the credential").await;
    let (code, stdout, stderr) = place.run(&["status"]).await;
    assert_eq!(
        (code, stderr.as_str()),
        (Some(1), "ringbearer: 1 of 2 identities needs somebody: wrong\n")
    );
    let lines: Vec<_> = stdout.lines().collect();
    assert!(lines[0].ends_with("  GENERATION  WAITING"), "{stdout}");
    assert_eq!(cells(lines[2]), ["wrong", "crm", "needs login", "-", "-", "-", "-", "0"]);
    assert_eq!(
        lines.last(),
        Some(
            &"error: wrong: the token endpoint refused the credential (invalid_grant, OAU-251): log in \
              again, or configure another one"
        )
    );
    assert!(!stdout.contains("canary"));
}

#[tokio::test]
async fn token_prints_one_that_works_and_asks_only_when_there_is_none() {
    let place = Place::new(Rules::unlimited(), "").await;
    let (code, first, stderr) = place.run(&["token"]).await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let token = first.strip_suffix('\n').unwrap();
    assert!(!token.contains(char::is_whitespace), "one line, one word");
    assert_eq!(place.opens(token).await, 200);
    let (_, second, _) = place.run(&["token", "sales"]).await;
    assert_eq!(second, first);
    let (_, header, _) = place.run(&["token", "--header"]).await;
    assert_eq!(header, format!("Authorization: Bearer {first}"));
    assert_eq!(place.token_requests(), 1);
}

#[tokio::test]
async fn a_token_that_ends_within_the_minute_is_replaced_first() {
    let ttl = Duration::from_secs(30);
    let rules = Rules { access_token_ttl: ttl, access_token_ttl_min: ttl, ..Rules::unlimited() };
    let place = Place::new(rules, "").await;
    let mut tokens = Vec::new();
    for asked in 1..=3 {
        let (code, token, stderr) = place.run(&["token"]).await;
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        assert_eq!(place.token_requests(), asked, "one each");
        assert_eq!(place.opens(token.trim()).await, 200);
        tokens.push(token);
    }
    tokens.dedup();
    assert_eq!(tokens.len(), 3);
}

#[tokio::test]
async fn token_leaves_other_identities_alone_and_finds_those_that_were_added() {
    let place = Place::new(Rules::unlimited(), "[identity.support]\njwt = 'sandbox-jwt-2'").await;
    place.enrol("bot", Some("sandbox-jwt-3")).await;
    for (name, asked) in [("support", 1), ("bot", 2)] {
        let (code, token, stderr) = place.run(&["token", name]).await;
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{name}");
        assert_eq!(place.opens(token.trim()).await, 200, "{name}");
        assert_eq!(place.token_requests(), asked, "{name}");
    }
    for (arguments, complaint) in [
        (&["token"][..], "there are several identities: name one of sales, support"),
        (&["token", "nobody"], "there is no identity \"nobody\": `ringbearer status` lists them"),
    ] {
        let (code, stdout, stderr) = place.run(arguments).await;
        assert_eq!((code, stdout.as_str()), (Some(1), ""));
        assert_eq!(stderr, format!("ringbearer: {complaint}\n"));
    }
}

#[tokio::test]
async fn a_token_that_cannot_be_had_is_explained_on_standard_error_alone() {
    let place = Place::new(Rules::unlimited(), "[identity.wrong]\njwt = 'canary'").await;
    let (code, stdout, stderr) = place.run(&["token", "wrong", "--header"]).await;
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert_eq!(
        stderr,
        "ringbearer: identity \"wrong\" has no token: the token endpoint refused the credential \
         (invalid_grant, OAU-251): log in again, or configure another one\n"
    );
}

#[test]
fn keygen_prints_a_key_and_the_line_for_the_configuration() {
    let output = Command::new(env!("CARGO_BIN_EXE_ringbearer")).arg("keygen").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let [key, line] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
    assert_eq!(line, format!("key_sha256 = \"{}\"", KeyDigest::of(key)));
    assert!(output.status.success() && output.stderr.is_empty());
}

#[tokio::test]
async fn a_health_check_asks_the_proxy_alone() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let admin = format!("[admin]\nlisten = '127.0.0.1:{port}'");
    let place = Place::new(Rules::unlimited(), &admin).await;
    let silent =
        format!("ringbearer: no proxy answers at http://127.0.0.1:{port} (admin.listen)\n");
    assert_eq!(place.run(&["status", "--ready"]).await, (Some(1), String::new(), silent));
    let mut proxy = place.command(&["serve"]).spawn().unwrap();
    let mut log = BufReader::new(proxy.stderr.take().unwrap()).lines().map_while(Result::ok);
    let is_ready = move || log.any(|line| line.contains("ready identity=\"sales\""));
    assert!(tokio::task::spawn_blocking(is_ready).await.unwrap());
    let ready = (Some(0), "ready\n".to_owned(), String::new());
    assert_eq!(place.run(&["status", "--ready"]).await, ready);
    proxy.kill().unwrap();
    proxy.wait().unwrap();
    let elsewhere = Place::new(Rules::unlimited(), "").await;
    let (code, _, complaint) = elsewhere.run(&["status", "--ready"]).await;
    assert_eq!(code, Some(1));
    assert!(
        complaint.starts_with("ringbearer: there is no admin.listen with a port"),
        "{complaint}"
    );
}
