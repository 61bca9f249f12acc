//! Unix sockets to listen on: by curl, with their rights, through crashes and ends.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use ringbearer::service::Service;
use ringbearer::telemetry::chain;
use tempfile::TempDir;

use crate::process::{Process, Site};
use crate::support::{ECHO, Environment, has_program};

/// What curl says to a request by a socket: status, version, and content if `show` is set.
async fn curl(socket: &Path, url: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args(["-q", "-sS", "--unix-socket"]).arg(socket).arg(url).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

const STATUS: [&str; 4] = ["-o", "/dev/null", "-w", "%{http_code}"];

fn path_in(files: &TempDir, name: &str) -> std::path::PathBuf {
    files.path().join(name)
}

#[tokio::test]
async fn curl_calls_by_sockets_of_everybody_of_an_identity_and_of_operators() {
    if !has_program("curl", "apt-get install curl") {
        return;
    }
    let files = TempDir::new().unwrap();
    let (all, sales, admin) =
        (path_in(&files, "all.sock"), path_in(&files, "sales.sock"), path_in(&files, "admin.sock"));
    let listen =
        format!("listen = [\"127.0.0.1:0\", \"unix:{}\"]\nsocket_mode = \"0600\"\n", all.display());
    let identity = format!(
        "jwt = \"sandbox-jwt-1\"\n[identity.sales]\njwt = \"sandbox-jwt-2\"\nlisten = \"unix:{}\"\n\
         [admin]\nlisten = \"unix:{}\"\n",
        sales.display(),
        admin.display()
    );
    let environment = crate::peers::with_sockets(&listen, identity).await;
    let target = format!("http://localhost{ECHO}");
    let named = ["-H", "X-Ringbearer-Identity: test"];
    assert_eq!(curl(&all, &target, &[&STATUS[..], &named].concat()).await, "200");
    assert_eq!(curl(&sales, &target, &STATUS).await, "200");
    // The listener's word counts, whatever is asked for.
    assert_eq!(curl(&sales, &target, &[&STATUS[..], &named].concat()).await, "403");
    let log = environment.control().log();
    let users: Vec<_> = log.iter().filter(|it| it.target == ECHO).map(|it| it.user).collect();
    assert_eq!(users, [Some(1), Some(2)]);
    let ready = curl(&admin, "http://localhost/readyz", &[]).await;
    assert_eq!(ready, "{\"status\":\"ready\"}");
    let strange = curl(&admin, "http://evil.test/readyz", &STATUS).await;
    assert_eq!(strange, "421", "a Host that is none of its own");
    for path in [&all, &sales, &admin] {
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o600, "{path:?}");
    }
    assert_eq!(environment.proxy().sockets().collect::<Vec<_>>(), [&all, &sales]);
    // Links lead to where the client called, in clear text.
    let list = "http://localhost/restapi/v1.0/account/~/extension?perPage=20";
    let page: serde_json::Value =
        serde_json::from_str(&curl(&all, list, &["-H", "X-Ringbearer-Identity: test"]).await)
            .unwrap();
    let next = page["navigation"]["nextPage"]["uri"].as_str().unwrap();
    assert!(next.starts_with("http://localhost/restapi/"), "{next}");
    environment.finish().await;
    assert_eq!(fs::read_dir(files.path()).unwrap().count(), 0, "all of them are gone");
}

#[tokio::test]
async fn a_socket_that_somebody_listens_on_is_refused_and_stays_theirs() {
    let files = TempDir::new().unwrap();
    let path = path_in(&files, "rb.sock");
    let listen = format!("listen = \"unix:{}\"\n", path.display());
    let identity = "jwt = \"sandbox-jwt\"".to_owned();
    let environment = crate::peers::with_sockets(&listen, identity).await;
    assert!(environment.proxy().addresses().is_empty());
    let error = Service::start(environment.settings(), &environment.clock).unwrap_err();
    assert_eq!(
        chain(&error),
        format!(
            "unix:{} is in use: end the process that listens there, or choose another path",
            path.display()
        )
    );
    UnixStream::connect(&path).unwrap();
    environment.finish().await;
    assert!(!path.exists());
    fs::write(&path, "somebody's").unwrap();
    let environment = Environment::new().await;
    let mut settings = environment.settings().clone();
    settings.proxy.sockets = vec![ringbearer::settings::SocketSettings {
        path: path.clone(),
        mode: 0o660,
        group: None,
        identity: None,
    }];
    let error = Service::start(&settings, &environment.clock).unwrap_err();
    assert_eq!(
        chain(&error),
        format!("{} is there and is no socket: remove it, or choose another path", path.display())
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "somebody's");
    environment.finish().await;
}

#[tokio::test]
async fn a_group_that_the_process_cannot_give_is_refused_and_nothing_stays() {
    if rustix::process::getuid().is_root() {
        // Root may give everything to anybody.
        let files = TempDir::new().unwrap();
        let path = path_in(&files, "rb.sock");
        let listen = format!("socket_group = 54321\nlisten = \"unix:{}\"\n", path.display());
        let environment =
            crate::peers::with_sockets(&listen, "jwt = \"sandbox-jwt\"".to_owned()).await;
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.gid(), found.mode() & 0o7777), (54321, 0o660));
        environment.finish().await;
        return;
    }
    let environment = Environment::new().await;
    let files = TempDir::new().unwrap();
    let path = path_in(&files, "rb.sock");
    let mut settings = environment.settings().clone();
    settings.proxy.sockets = vec![ringbearer::settings::SocketSettings {
        path: path.clone(),
        mode: 0o660,
        group: Some(0),
        identity: None,
    }];
    let error = chain(&Service::start(&settings, &environment.clock).unwrap_err());
    let path = path.display();
    let refused = format!("unix:{path} cannot be given to group 0 (proxy.socket_group)");
    assert!(error.starts_with(&refused), "{error}");
    assert_eq!(fs::read_dir(files.path()).unwrap().count(), 0);
    environment.finish().await;
}

#[tokio::test]
async fn what_a_killed_proxy_leaves_is_replaced_and_a_signal_leaves_nothing() {
    if !has_program("curl", "apt-get install curl") {
        return;
    }
    let site = Site::new().await;
    let path = site.file("rb.sock");
    let config = site.configured_with("listen = [\"127.0.0.1:0\", \"unix:rb.sock\"]");
    let target = format!("http://localhost{ECHO}");
    let killed = Process::start(&config).await;
    assert_eq!(curl(&path, &target, &STATUS).await, "200");
    killed.kill();
    assert!(path.exists() && UnixStream::connect(&path).is_err(), "it is stale");
    let next = Process::start(&config).await;
    assert_eq!(curl(&path, &target, &STATUS).await, "200");
    next.terminate();
    assert_eq!(next.ended().await.code(), Some(0));
    assert!(!path.exists(), "removed at the end");
}
