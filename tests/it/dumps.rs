//! A crash leaves no memory behind, and no other process of the same user reads it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// Not root's.
const NOBODY: u32 = 65_534;

/// The program as a user who is not root, and a directory for it.
struct Serving {
    child: Child,
    _files: TempDir,
}

impl Serving {
    fn start(proxy: &str) -> Self {
        let files = TempDir::new().unwrap();
        let (program, config) = (files.path().join("ringbearer"), files.path().join("proxy.toml"));
        fs::copy(env!("CARGO_BIN_EXE_ringbearer"), &program).unwrap();
        fs::set_permissions(files.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let text = format!(
            "[proxy]\nlisten = '127.0.0.1:0'\nworkers = 1\n{proxy}\n[upstream]\nurl = 'http://127.0.0.1:1'\n\
             [application.test]\nclient_id = 'id'\nclient_secret = 'secret'\n\
             [identity.test]\njwt = 'jwt'\n[store]\nmemory = true\n"
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(program);
        command.arg("--config").arg(config).stdin(Stdio::null()).stderr(Stdio::piped());
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        lines.find(|line| line.as_ref().unwrap().contains("listening")).unwrap().unwrap();
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, _files: files }
    }

    /// Whose its memory is to the system: root's, if nobody else is to read it.
    fn owner(&self) -> u32 {
        fs::metadata(format!("/proc/{}/environ", self.child.id())).unwrap().uid()
    }

    fn core_limit(&self) -> String {
        let limits = fs::read_to_string(format!("/proc/{}/limits", self.child.id())).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        line.split_whitespace().nth(4).unwrap().to_owned()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn own_core_limit() -> String {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Core);
    limit.current.map_or_else(|| "unlimited".to_owned(), |bytes| bytes.to_string())
}

#[test]
fn memory_is_nobodys_to_read_or_keep() {
    let serving = Serving::start("");
    assert_eq!((serving.owner(), &*serving.core_limit()), (0, "0"));
}

#[test]
fn a_developer_may_be_let_in() {
    let serving = Serving::start("core_dumps = true");
    let user = rustix::process::geteuid();
    let user = if user.is_root() { NOBODY } else { user.as_raw() };
    assert_eq!((serving.owner(), serving.core_limit()), (user, own_core_limit()));
}
