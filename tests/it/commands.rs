//! The commands as people run them: the real binary, its output, its exit codes.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use ringbearer::sandbox::{Control, Rules, Sandbox, SandboxOptions};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::client;

/// Generous: a machine that builds besides is slow, and a test that succeeds waits for no more than it must.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running command. Its lines come in the order in which it writes them.
struct Program {
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
    _home: TempDir,
}

impl Program {
    fn start(arguments: &[&str]) -> Self {
        let home = TempDir::new().unwrap();
        let mut child = command(arguments, home.path()).spawn().unwrap();
        let stdout = lines(child.stdout.take().unwrap());
        let stderr = lines(child.stderr.take().unwrap());
        Self { child, stdout, stderr, _home: home }
    }

    /// The next line of standard output that has `part` in it.
    fn says(&self, part: &str) -> String {
        next(&self.stdout, part)
    }

    /// The next line of the log that has `part` in it.
    fn logs(&self, part: &str) -> String {
        next(&self.stderr, part)
    }

    /// Ends it as a service manager would, and gives its exit code and what was left of its log.
    fn terminate(mut self) -> (Option<i32>, Vec<String>) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).unwrap();
        let rest = self.stderr.iter().collect();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let home = TempDir::new().unwrap();
    let Output { status, stdout, stderr } = command(arguments, home.path()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// Without the environment of whoever runs the tests.
fn command(arguments: &[&str], home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringbearer"));
    command.args(arguments).env_clear().env("HOME", home);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let lines = BufReader::new(from).lines().map_while(Result::ok);
        // Who has seen enough is gone.
        lines.map(|line| sender.send(line)).take_while(Result::is_ok).for_each(drop);
    });
    receiver
}

fn next(lines: &Receiver<String>, part: &str) -> String {
    let mut seen = Vec::new();
    loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) if line.contains(part) => return line,
            Ok(line) => seen.push(line),
            Err(why @ (RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected)) => {
                panic!("no line with {part:?} ({why}), but:\n{}", seen.join("\n"))
            }
        }
    }
}

#[test]
fn a_login_into_the_memory_of_a_command_is_refused_before_anybody_logs_in() {
    let files = TempDir::new().unwrap();
    let config = files.path().join("proxy.toml");
    let text = "[application.crm]\nclient_id = 'id'\nclient_secret = 'secret'\n\
                [store]\nmemory = true\n";
    fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    for command in [&["login", "sales", "--paste"][..], &["logout", "sales"]] {
        let (code, said, complaint) = run(&[command, &["--config", config]].concat());
        assert_eq!((code, said.as_str()), (Some(1), ""), "{command:?}");
        assert_eq!(
            complaint,
            "ringbearer: store.memory keeps sessions in the proxy's own process, where no command \
             reaches them: set store.directory or store.redis\n"
        );
    }
}

/// The word after `before` in a line.
fn word_after<'a>(line: &'a str, before: &str) -> &'a str {
    let (_, rest) = line.split_once(before).unwrap_or_else(|| panic!("{before:?} in {line:?}"));
    rest.split(' ').next().unwrap()
}

/// A sandbox, and a configuration for it.
struct Files {
    sandbox: Sandbox,
    directory: TempDir,
}

impl Files {
    async fn new() -> Self {
        let options = SandboxOptions { rules: Rules::unlimited(), ..SandboxOptions::default() };
        let sandbox = Sandbox::start(options).await.unwrap();
        Self { sandbox, directory: TempDir::new().unwrap() }
    }

    fn control(&self) -> &Control {
        self.sandbox.control()
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    /// Writes a good configuration after `change`, and gives its path.
    fn configuration(&self, change: impl FnOnce(String) -> String) -> String {
        let text = format!(
            "[proxy]\nlisten = '127.0.0.1:0'\nworkers = 1\n\
             [upstream]\nurl = '{}'\n\
             [application.crm]\nclient_id = 'sandbox-client'\nclient_secret = 'sandbox-secret'\n\
             [identity.sales]\njwt = 'sandbox-jwt'\n\
             [store]\ndirectory = 'store'\n",
            self.sandbox.url()
        );
        let path = self.path("proxy.toml");
        fs::write(&path, change(text)).unwrap();
        // It holds secrets, and serve warns of those that everybody can read.
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    }
}

/// Runs a command beside the sandbox, which needs this thread.
async fn run_beside(arguments: &[&str]) -> (Option<i32>, String, String) {
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    let run = move || run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// Asks for `url` until `done`, and gives the number of answers, all of them good.
async fn ask_until<T>(url: &str, done: tokio::task::JoinHandle<T>) -> (T, u32) {
    let (http, mut asked) = (client(), 0);
    while !done.is_finished() {
        let answer = http.get(url).send().await.unwrap();
        assert_eq!(answer.status(), 200, "request {asked}: {:?}", answer.headers());
        asked += 1;
    }
    (done.await.unwrap(), asked)
}

#[tokio::test]
async fn the_demo_prints_a_line_that_works_and_renews_without_a_failed_request() {
    let demo = Program::start(&["demo", "--listen", "127.0.0.1:0", "--access-token-ttl", "2s"]);
    let line = demo.says("  curl -s http://");
    let url = word_after(&line, "curl -s ");
    assert!(url.ends_with("/restapi/v1.0/account/~/extension/~"), "{line}");
    let renewed_three_times = tokio::task::spawn_blocking(move || {
        for generation in 1..=4 {
            demo.logs(&format!("renewed identity=\"demo\" generation={generation} "));
        }
        demo
    });
    let (demo, asked) = ask_until(url, renewed_three_times).await;
    assert!(asked > 10, "{asked}");
    let (code, rest) = demo.terminate();
    assert_eq!(code, Some(0), "{rest:?}");
    assert!(rest.last().unwrap().ends_with(" ended"), "{rest:?}");
}

#[tokio::test]
async fn the_demo_heals_a_request_after_every_token_was_ended() {
    let demo = Program::start(&["demo", "--listen", "127.0.0.1:0"]);
    let line = demo.says("  curl -s http://");
    let url = word_after(&line, "curl -s ");
    assert_eq!(client().get(url).send().await.unwrap().status(), 200);
    let line = demo.says("/revoke");
    let revoke = word_after(&line, "curl -s -X POST ");
    assert_eq!(client().post(revoke).send().await.unwrap().status(), 200);
    let answer = client().get(url).send().await.unwrap();
    assert_eq!(
        (answer.status(), &answer.headers()["x-ringbearer-replay"]),
        (200.try_into().unwrap(), &"yes".parse().unwrap())
    );
    demo.logs("replayed=true");
}

#[tokio::test]
async fn the_demo_takes_another_port_only_where_none_was_asked_for() {
    // Another test or program may have it already, which does as well.
    let _taken = TcpListener::bind("127.0.0.1:8080");
    let demo = Program::start(&["demo"]);
    demo.says("Port 8080 is taken, so the proxy has port ");
    let line = demo.says("  curl -s http://");
    let url = word_after(&line, "curl -s ");
    assert_eq!(client().get(url).send().await.unwrap().status(), 200);
}

#[test]
fn a_port_in_use_ends_every_command_with_the_cure() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let in_use = format!(
        "ringbearer: {address} is in use: end the process that has it, or choose another with --listen"
    );
    let (code, stdout, stderr) = run(&["demo", "--listen", &address]);
    assert_eq!((code, stdout.as_str(), stderr), (Some(1), "", format!("{in_use}\n")));
    let (code, _, stderr) = run(&["sandbox", "--listen", "127.0.0.1:0", "--control", &address]);
    assert_eq!((code, stderr), (Some(1), format!("{in_use}, --tls-listen or --control\n")));
}

#[tokio::test]
async fn serve_on_a_port_in_use_says_so_last() {
    let files = Files::new().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let path = files.configuration(|text| text.replace("127.0.0.1:0", &address));
    let (code, _, stderr) = run_beside(&["--config", &path]).await;
    let expected = format!(
        "ringbearer: {address} is in use: end the process that has it, or choose another with --listen"
    );
    assert_eq!((code, stderr.lines().last()), (Some(1), Some(&*expected)));
}

#[tokio::test]
async fn the_sandbox_prints_two_lines_that_work() {
    if !crate::support::has_program("curl", "apt-get install curl") {
        return;
    }
    let sandbox =
        Program::start(&["sandbox", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
    let (token, request) = (sandbox.says("TOKEN=$(curl"), sandbox.says("curl -s -H"));
    let script = format!("set -e\n{token}\n{request}\n");
    let shell = Command::new("sh").args(["-c", &script]).output().unwrap();
    let content = String::from_utf8(shell.stdout).unwrap();
    assert!(content.contains("\"extensionNumber\": \"101\""), "{script}\n{content}");
    let (code, rest) = sandbox.terminate();
    assert_eq!((code, rest), (Some(0), vec![]));
}

#[tokio::test]
async fn serve_tells_its_life_in_the_log() {
    let files = Files::new().await;
    let path = files.configuration(|text| text);
    let serve = Program::start(&["--config", &path]);
    let (serve, url) = tokio::task::spawn_blocking(move || {
        let line = serve.logs("starting");
        let store = Path::new(&path).parent().unwrap().join("store");
        let fields = format!(
            " version=\"{}\" configuration={path} upstream=http://127.0.0.1:",
            env!("CARGO_PKG_VERSION")
        );
        assert!(line.contains(&fields), "{line}");
        assert!(line.ends_with(&format!(" identities=sales store={}", store.display())), "{line}");
        let listening = serve.logs("listening");
        serve.logs("ready identity=\"sales\" generation=1");
        (serve, word_after(&listening, "url=").to_owned())
    })
    .await
    .unwrap();
    let target = format!("{url}/restapi/v1.0/account/~/extension/~");
    assert_eq!(client().get(target).send().await.unwrap().status(), 200);
    let (code, rest) = tokio::task::spawn_blocking(move || serve.terminate()).await.unwrap();
    assert_eq!(code, Some(0));
    let [request, draining, ended] = &rest[..] else { panic!("{rest:?}") };
    assert!(request.contains(" identity=\"sales\" method=GET path=\"/restapi/v1.0/account/~/extension/~\" status=200 "), "{request}");
    assert!(draining.ends_with(" signal=\"SIGTERM\""), "{draining}");
    assert!(ended.ends_with(" ended"), "{ended}");
}

#[test]
fn serve_and_check_without_any_configuration_say_what_to_do() {
    for arguments in [&[][..], &["serve"], &["check"], &["check", "--online"]] {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert_eq!(
            stderr,
            "ringbearer: no configuration: RC_APP_CLIENT_ID, RC_APP_CLIENT_SECRET, RC_USER_JWT \
             are not set; set them, or name a file with --config; `ringbearer demo` needs neither\n"
        );
    }
}

#[tokio::test]
async fn a_refused_configuration_exits_with_2_and_names_the_cure() {
    let files = Files::new().await;
    let path = files.configuration(|text| text.replace("workers", "worker"));
    let (code, _, stderr) = run(&["--config", &path]);
    let expected = format!(
        "ringbearer: {path}: line 3: unknown key `proxy.worker`: did you mean `workers`?\n"
    );
    assert_eq!((code, stderr), (Some(2), expected));

    let absent = files.path("absent");
    let path = files.configuration(|text| text.replace("'sandbox-jwt'", "{ file = 'absent' }"));
    let (code, _, stderr) = run(&["check", "--config", &path]);
    let expected = format!(
        "ringbearer: identity \"sales\": jwt file \"{absent}\" is not readable: no such file or directory\n"
    );
    assert_eq!((code, stderr), (Some(2), expected));
}

#[tokio::test]
async fn a_store_that_cannot_be_made_ends_serve_and_check_online() {
    let files = Files::new().await;
    fs::write(files.path("file"), "").unwrap();
    let path = files.configuration(|text| text.replace("'store'", "'file/store'"));
    let store = files.path("file/store");
    let expected = format!(
        "ringbearer: cannot create \"{store}\": check that it exists, belongs to this user and has \
         room: not a directory"
    );
    for arguments in [&["--config", &path][..], &["check", "--online", "--config", &path]] {
        let (code, _, stderr) = run_beside(arguments).await;
        assert_eq!((code, stderr.lines().last()), (Some(1), Some(&*expected)), "{arguments:?}");
    }
    assert_eq!(files.control().counts().token_requests, 0);
}

#[tokio::test]
async fn check_online_stores_a_session_that_the_next_one_goes_on_with() {
    let files = Files::new().await;
    let path = files.configuration(|text| {
        text + "[identity.bot]\nclient_credentials = true\n[identity.support]\njwt = 'sandbox-jwt-7'\n"
    });
    for _ in 0..2 {
        let (code, stdout, stderr) = run_beside(&["check", "--online", "--config", &path]).await;
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
        let online: Vec<_> = stdout.lines().filter(|line| line.starts_with("online ")).collect();
        let [bot, sales, support] = online[..] else { panic!("{stdout}") };
        assert!(bot.starts_with("online       bot: good; the token lives for "), "{bot}");
        assert!(sales.starts_with("online       sales: good; the token lives for "), "{sales}");
        assert!(sales.contains(" as extension 101"), "{sales}");
        assert!(support.starts_with("online       support: good; "), "{support}");
        assert!(!stdout.contains("sandbox-jwt") && !stdout.contains("sandbox-secret"), "{stdout}");
    }
    let counts = files.control().counts();
    assert_eq!((counts.token_requests, counts.api_requests, counts.api_401), (3, 6, 0));
}

#[tokio::test]
async fn check_online_gets_a_new_token_where_the_stored_one_is_dead() {
    let files = Files::new().await;
    let path = files.configuration(|text| text);
    assert_eq!(run_beside(&["check", "--online", "--config", &path]).await.0, Some(0));
    files.control().revoke_access_tokens();
    let (code, stdout, _) = run_beside(&["check", "--online", "--config", &path]).await;
    assert_eq!(code, Some(0), "{stdout}");
    let counts = files.control().counts();
    assert_eq!((counts.token_requests, counts.api_requests, counts.api_401), (2, 3, 1));
}

#[tokio::test]
async fn wrong_credentials_are_told_apart_with_the_cure() {
    let files = Files::new().await;
    for (right, wrong, complaint) in [
        (
            "sandbox-secret",
            "canary",
            "the token endpoint refused the application (invalid_client, OAU-121): correct client_id and \
             client_secret, then reload",
        ),
        (
            "sandbox-jwt",
            "canary",
            "the token endpoint refused the credential (invalid_grant, OAU-251): log in again, or configure another one",
        ),
    ] {
        let path = files.configuration(|text| text.replace(right, wrong));
        let (code, stdout, stderr) = run_beside(&["check", "--online", "--config", &path]).await;
        let line = format!("online       sales: no token: {complaint}");
        assert_eq!((code, stdout.lines().last()), (Some(1), Some(&*line)));
        assert_eq!(stderr, "ringbearer: 1 of 1 identities cannot be used\n");

        let serve = Program::start(&["--config", &path]);
        let warning = tokio::task::spawn_blocking(move || serve.logs(" WARN ")).await.unwrap();
        assert!(warning.contains(complaint) && warning.contains("identity=\"sales\""), "{warning}");
        assert!(!warning.contains("canary"), "{warning}");
    }
}

#[tokio::test]
async fn an_upstream_that_is_down_is_named() {
    let files = Files::new().await;
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let path =
        files.configuration(|text| text.replace(&files.sandbox.url(), &format!("http://{nobody}")));
    let (code, stdout, stderr) = run_beside(&["check", "--online", "--config", &path]).await;
    let line = stdout.lines().last().unwrap();
    let expected = "online       sales: no token: the token endpoint cannot be reached: check token_url, the network and its proxy";
    assert!(line.starts_with(expected) && line.ends_with("connection refused"), "{line}");
    assert_eq!(
        (code, stderr.as_str()),
        (Some(1), "ringbearer: 1 of 1 identities cannot be used\n")
    );

    let serve = Program::start(&["--config", &path]);
    let warning = tokio::task::spawn_blocking(move || serve.logs(" WARN ")).await.unwrap();
    assert!(warning.contains("the token endpoint cannot be reached: check token_url"), "{warning}");
    assert!(warning.ends_with("connection refused\""), "{warning}");
}
