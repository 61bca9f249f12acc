//! `ringbearer run`: a command with a proxy of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use ringbearer::key::KeyDigest;
use ringbearer::sandbox::Sandbox;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

use crate::program::sandbox;
use crate::support::has_program;

const GET: &str = r#"get() { curl -q -sS --noproxy '*' "$@" "$RC_SERVER_URL/restapi/v1.0/account/~/extension/~"; }"#;

/// `ringbearer run … -- sh -c SCRIPT` before `sandbox`, from the samples' variables.
fn command(sandbox: &Sandbox, home: &Path, flags: &[&str], script: &str) -> Command {
    let mut command = bare(home, flags);
    command.args(["--", "sh", "-c", script]).envs([
        ("RC_SERVER_URL", sandbox.url()),
        ("RC_APP_CLIENT_ID", "sandbox-client".to_owned()),
        ("RC_APP_CLIENT_SECRET", "sandbox-secret".to_owned()),
        ("RC_USER_JWT", "sandbox-jwt".to_owned()),
    ]);
    command
}

fn bare(home: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringbearer"));
    command.arg("run").args(flags).env_clear().env("HOME", home);
    command.env("PATH", std::env::var_os("PATH").unwrap());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Not the group that a terminal sends its signals to.
    command.process_group(0);
    command
}

/// Runs it to its end, while the sandbox goes on.
async fn ended(mut command: Command) -> (Option<i32>, String, String) {
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    let Output { status, stdout, stderr } = run.await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// A configuration with two identities, and a client.
fn configuration(sandbox: &Sandbox, home: &Path, clients: &str) -> String {
    let file = home.join("proxy.toml");
    let text = format!(
        "[proxy]\nworkers = 1\n[upstream]\nurl = \"{}\"\n\
         [application.test]\nclient_id = \"sandbox-client\"\nclient_secret = \"sandbox-secret\"\n\
         token_requests_per_minute = 1000\n\
         [identity.hr]\njwt = \"sandbox-jwt-3\"\nlisten = \"127.0.0.1:1\"\n\
         [identity.sales]\njwt = \"sandbox-jwt-2\"\n{clients}",
        sandbox.url()
    );
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_command_reaches_ringcentral_and_has_nothing_to_give_away() {
    if !has_program("curl", "apt-get install curl") {
        return;
    }
    let (sandbox, home) = (sandbox().await, TempDir::new().unwrap());
    let script = format!(
        "{GET}; get -o /dev/null -w '%{{http_code}}\\n'; echo $RINGCENTRAL_SERVER_URL; env"
    );
    let mut command = command(&sandbox, home.path(), &[], &script);
    command.env("DATABASE", "postgres://me:sandbox-secret@db.test").env("OTHER", "kept");
    let (code, stdout, stderr) = ended(command).await;
    assert_eq!((code, &*stderr), (Some(0), ""), "{stdout}");
    let mut lines = stdout.lines();
    assert_eq!(lines.next(), Some("200"));
    let url = lines.next().unwrap();
    assert!(url.starts_with("http://127.0.0.1:") && url != sandbox.url(), "{url}");
    let variables: Vec<_> = lines.collect();
    assert!(variables.contains(&"OTHER=kept"));
    assert!(variables.contains(&"RC_USER_JWT=held-by-ringbearer"), "{variables:?}");
    for secret in ["sandbox-client", "sandbox-secret", "sandbox-jwt", &sandbox.url()] {
        assert!(!stdout.contains(secret), "{secret} in {stdout}");
    }
    assert_eq!(sandbox.control().counts().api_requests, 1);
    sandbox.stop().await;
}

#[tokio::test]
async fn the_end_of_the_command_is_its_own() {
    let (sandbox, home) = (sandbox().await, TempDir::new().unwrap());
    for (script, expected) in [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137)] {
        let (code, stdout, stderr) = ended(command(&sandbox, home.path(), &[], script)).await;
        assert_eq!((code, &*stdout, &*stderr), (Some(expected), "", ""), "{script}");
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn what_cannot_be_run_is_told_by_exit_code() {
    let (sandbox, home) = (sandbox().await, TempDir::new().unwrap());
    let file = configuration(&sandbox, home.path(), "");
    for (arguments, expected, complaint) in [
        (
            vec!["--config", &*file, "--", "no-such-command"],
            127,
            "\"no-such-command\" cannot be run: check its name and PATH: no such file or directory",
        ),
        (
            vec!["--config", &*file, "--", &*file],
            126,
            &*format!("{file:?} cannot be run: check its name and PATH: permission denied"),
        ),
        (
            vec!["--config", &*file, "--identity", "boss", "--", "true"],
            2,
            "identity \"boss\" is not configured: the names are hr, sales",
        ),
        (
            vec!["--config", "/nonexistent", "--", "true"],
            2,
            "configuration file \"/nonexistent\" is not readable: no such file or directory",
        ),
    ] {
        let (code, stdout, stderr) = ended(bare(home.path(), &arguments)).await;
        assert_eq!((code, &*stdout), (Some(expected), ""), "{stderr}");
        assert_eq!(stderr, format!("ringbearer: {complaint}\n"));
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn one_of_several_identities_is_chosen_for_the_command() {
    if !has_program("curl", "apt-get install curl") {
        return;
    }
    let (sandbox, home) = (sandbox().await, TempDir::new().unwrap());
    let file = configuration(&sandbox, home.path(), "");
    for (flags, expected) in [
        (vec!["--config", &*file], "400"),
        (vec!["--config", &*file, "--identity", "hr"], "200"),
        (vec!["--config", &*file, "--identity", "sales"], "200"),
    ] {
        let script =
            format!("{GET}; get -o /dev/null -w '%{{http_code}} '; echo $RC_APP_CLIENT_ID");
        let mut command = bare(home.path(), &flags);
        command.args(["--", "sh", "-c", &script]);
        let (code, stdout, stderr) = ended(command).await;
        let id = flags.get(3).unwrap_or(&"held-by-ringbearer");
        assert_eq!((code, stdout), (Some(0), format!("{expected} {id}\n")), "{stderr}");
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn where_clients_show_a_key_the_command_has_one() {
    if !has_program("curl", "apt-get install curl") {
        return;
    }
    let (sandbox, home) = (sandbox().await, TempDir::new().unwrap());
    let digest = KeyDigest::of("key-1").to_string();
    let client = format!("[client.app]\nkey_sha256 = \"{digest}\"\nidentities = \"sales\"\n");
    let file = configuration(&sandbox, home.path(), &client);
    let mut command = bare(home.path(), &["--config", &file, "--identity", "hr"]);
    let script = format!(
        "{GET}; get -o /dev/null -w '%{{http_code}} '
         get -o /dev/null -w '%{{http_code}} ' -u \"$RC_APP_CLIENT_ID:$RC_APP_CLIENT_SECRET\"
         curl -q -sS --noproxy '*' -o /dev/null -w '%{{http_code}}' \
         -u \"$RC_APP_CLIENT_ID:$RC_APP_CLIENT_SECRET\" -d grant_type=client_credentials \
         \"$RC_SERVER_URL/restapi/oauth/token\""
    );
    command.args(["--", "sh", "-c", &script]);
    let (code, stdout, stderr) = ended(command).await;
    assert_eq!((code, &*stdout), (Some(0), "401 200 200"), "{stderr}");
    sandbox.stop().await;
}

/// Has a command that waits for ever say its process id, sends a signal to the proxy, and returns
/// how both ended and what the command said. It blocks, and the sandbox must go on meanwhile.
fn signalled(mut command: Command, signal: Signal) -> (Option<i32>, String, Pid) {
    let mut child = command.spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let its = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
    kill_process(Pid::from_child(&child), signal).unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    (child.wait().unwrap().code(), rest, its)
}

#[tokio::test]
async fn signals_are_passed_on_and_nobody_is_left_behind() {
    let (sandbox, home) = (sandbox().await, TempDir::new().unwrap());
    for (signal, trap, expected, said) in [
        (Signal::TERM, "trap 'echo term; exit 3' TERM;", 3, "term\n"),
        (Signal::INT, "trap 'echo int; exit 4' INT;", 4, "int\n"),
        (Signal::HUP, "trap 'echo hup; exit 5' HUP;", 5, "hup\n"),
        (Signal::TERM, "", 143, ""),
    ] {
        let script = format!("{trap} echo $$; read line; echo $line; exit 9");
        let command = command(&sandbox, home.path(), &[], &script);
        let run = tokio::task::spawn_blocking(move || signalled(command, signal));
        let (code, rest, its) = run.await.unwrap();
        assert_eq!((code, &*rest), (Some(expected), said), "{signal:?} {trap}");
        assert_eq!(test_kill_process(its), Err(rustix::io::Errno::SRCH), "it is left behind");
    }
    sandbox.stop().await;
}
