//! What this machine's facts mean for the process: its user, its limits, its ports, its secrets. PURE.

use std::net::SocketAddr;
use std::path::Path;

use super::finding::Finding;
use super::machine::{Port, Process, SecretFile};
use crate::settings::{SecretPlace, Source};

/// A client's connection takes a descriptor, and often another one to RingCentral.
const PER_CLIENT: u64 = 2;

/// What serves a few thousand clients.
const ENOUGH: u64 = 8192;

/// The user and the limits.
pub(super) fn judge(process: Process) -> Vec<Finding> {
    vec![user(process.user), descriptors(process)]
}

fn user(user: u32) -> Finding {
    if user == 0 {
        return Finding::warning(
            "process",
            "user",
            "this is root, whom nothing holds back",
            "run it as a user of its own, as packaging/systemd does; ports below 1024 come by socket \
             activation or CAP_NET_BIND_SERVICE",
        );
    }
    Finding::ok("process", "user", format!("number {user}, which is not root"))
}

fn descriptors(process: Process) -> Finding {
    let Some(limit) = process.descriptors else {
        return Finding::ok("process", "open files", "no limit");
    };
    let finding =
        format!("limit {limit}, enough for about {} clients at a time", limit / PER_CLIENT);
    if limit >= ENOUGH {
        return Finding::ok("process", "open files", finding);
    }
    let cure = match process.most_descriptors {
        Some(most) if most < ENOUGH => {
            "LimitNOFILE=65536 in the unit, or --ulimit nofile=65536".into()
        }
        _ => format!("ulimit -n {ENOUGH} before it, or LimitNOFILE=65536 in the unit"),
    };
    Finding::warning("process", "open files", finding, cure)
}

/// An address of `key`.
pub(super) fn listen(key: &str, address: SocketAddr, port: &Port, tls: bool) -> Finding {
    let thing = format!("{address} ({key})");
    match port {
        Port::Free => Finding::ok("listen", thing, "free"),
        Port::Taken { by_ringbearer: true } => {
            Finding::ok("listen", thing, "a Ringbearer answers there")
        }
        Port::Taken { .. } if tls => Finding::warning(
            "listen",
            thing,
            "taken; behind its TLS it may be a Ringbearer or not",
            format!("ss -ltnp 'sport = {}' tells who has it", address.port()),
        ),
        Port::Taken { .. } => Finding::failure(
            "listen",
            thing,
            "another program has it",
            format!(
                "end that (ss -ltnp 'sport = {}' tells which), or choose another address",
                address.port()
            ),
        ),
        Port::Forbidden => Finding::failure(
            "listen",
            thing,
            "this user may not listen there",
            "take a port from 1024 on, or have systemd open it (a socket unit)",
        ),
        Port::Unusable(why) => Finding::failure(
            "listen",
            thing,
            format!("cannot be listened on ({why})"),
            "name an address of this machine",
        ),
    }
}

/// A secret, by where it is to come from; `file` is what was seen there.
pub(super) fn secret(
    source: &Source,
    file: Option<&Result<SecretFile, String>>,
    us: u32,
) -> Finding {
    let key = source.key.as_str();
    match (&source.place, file) {
        (SecretPlace::Text, _) => Finding::ok("secrets", key, "stands in the configuration"),
        (SecretPlace::Variable { name, is_set: true }, _) => {
            Finding::ok("secrets", key, format!("in the environment ({name})"))
        }
        (SecretPlace::Variable { name, .. }, _) => Finding::failure(
            "secrets",
            key,
            format!("the environment variable {name} is not set"),
            format!(
                "set {name} where the proxy is started; sudo and systemd pass none on by themselves"
            ),
        ),
        (SecretPlace::NoCredential { name }, _) => Finding::failure(
            "secrets",
            key,
            format!("systemd has passed no credential {name:?}"),
            format!(
                "LoadCredential={name}:PATH in the unit; by hand: systemd-run --pty -p LoadCredential={name}:PATH"
            ),
        ),
        (SecretPlace::File(path), Some(Ok(file))) => secret_file(key, path, file, us),
        (SecretPlace::File(path), Some(Err(why))) => unreadable(key, path, why),
        (SecretPlace::File(path), None) => unreadable(key, path, "it was not looked at"),
    }
}

fn unreadable(key: &str, path: &Path, why: &str) -> Finding {
    Finding::failure(
        "secrets",
        key,
        format!("{} cannot be read ({why})", path.display()),
        "check the path, its owner and its mode, and who runs this",
    )
}

fn secret_file(key: &str, path: &Path, file: &SecretFile, us: u32) -> Finding {
    if let Err(why) = &file.readable {
        return unreadable(key, path, why);
    }
    let (path, mode) = (path.display(), file.mode);
    let warning = |finding: String, cure: String| Finding::warning("secrets", key, finding, cure);
    if !file.is_file {
        return Finding::ok("secrets", key, format!("{path}, which is no regular file"));
    }
    if mode & 0o022 != 0 {
        let finding = format!("{path} may be replaced by others (mode {mode:04o})");
        return warning(finding, format!("chmod 600 {path}"));
    }
    if mode & 0o004 != 0 {
        let finding = format!("every user of this machine can read {path} (mode {mode:04o})");
        return warning(finding, format!("chmod 600 {path}"));
    }
    if file.owner != us && file.owner != 0 {
        let finding = format!("{path} belongs to user {}, who may change it", file.owner);
        return warning(finding, format!("chown {us} {path}"));
    }
    Finding::ok("secrets", key, format!("{path}, mode {mode:04o}"))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn root_and_few_descriptors_are_warnings() {
        let findings = |user, descriptors, most_descriptors| {
            judge(Process { user, descriptors, most_descriptors })
        };
        let good = findings(1000, Some(65_536), Some(65_536));
        assert_eq!(good[0], Finding::ok("process", "user", "number 1000, which is not root"));
        assert_eq!(
            good[1],
            Finding::ok(
                "process",
                "open files",
                "limit 65536, enough for about 32768 clients at a time"
            )
        );
        let bad = findings(0, Some(1024), Some(1_048_576));
        assert_eq!(bad[0].level, Level::Warning);
        assert_eq!(
            bad[1],
            Finding::warning(
                "process",
                "open files",
                "limit 1024, enough for about 512 clients at a time",
                "ulimit -n 8192 before it, or LimitNOFILE=65536 in the unit"
            )
        );
        let capped = findings(1, Some(1024), Some(4096)).remove(1).cure;
        assert_eq!(
            capped.as_deref(),
            Some("LimitNOFILE=65536 in the unit, or --ulimit nofile=65536")
        );
        assert_eq!(findings(1, None, None)[1].says, "no limit");
    }

    #[test]
    fn a_port_of_ours_is_well_and_one_of_others_is_not() {
        let address = "127.0.0.1:8080".parse().unwrap();
        let said = |port: Port, tls| {
            let finding = listen("proxy.listen", address, &port, tls);
            (finding.level, finding.says)
        };
        let taken = |by_ringbearer| Port::Taken { by_ringbearer };
        assert_eq!(said(Port::Free, false), (Level::Ok, "free".into()));
        assert_eq!(said(taken(true), false), (Level::Ok, "a Ringbearer answers there".into()));
        assert_eq!(said(taken(false), false), (Level::Failure, "another program has it".into()));
        assert_eq!(said(taken(false), true).0, Level::Warning);
        assert_eq!(said(Port::Forbidden, false).0, Level::Failure);
        assert_eq!(
            said(Port::Unusable("no such address".into()), false),
            (Level::Failure, "cannot be listened on (no such address)".into())
        );
    }

    #[test]
    fn a_secret_is_judged_by_who_else_has_it() {
        let place = || SecretPlace::File("/run/rc".into());
        let judged = |place: SecretPlace, file: Option<Result<SecretFile, String>>| {
            let source = Source { key: "identity sales: jwt".into(), place };
            let finding = secret(&source, file.as_ref(), 1000);
            (finding.level, finding.says)
        };
        let file =
            |mode, owner| Some(Ok(SecretFile { mode, owner, is_file: true, readable: Ok(()) }));
        for (mode, owner, level, finding) in [
            (0o600, 1000, Level::Ok, "/run/rc, mode 0600"),
            (0o440, 0, Level::Ok, "/run/rc, mode 0440"),
            (0o644, 0, Level::Warning, "every user of this machine can read /run/rc (mode 0644)"),
            (0o660, 1000, Level::Warning, "/run/rc may be replaced by others (mode 0660)"),
            (0o600, 1001, Level::Warning, "/run/rc belongs to user 1001, who may change it"),
        ] {
            assert_eq!(judged(place(), file(mode, owner)), (level, finding.to_owned()));
        }
        assert_eq!(
            judged(place(), Some(Err("no such file or directory".into()))),
            (Level::Failure, "/run/rc cannot be read (no such file or directory)".into())
        );
        let variable = |is_set| SecretPlace::Variable { name: "RC_USER_JWT".into(), is_set };
        assert_eq!(
            judged(variable(true), None),
            (Level::Ok, "in the environment (RC_USER_JWT)".into())
        );
        assert_eq!(
            judged(variable(false), None),
            (Level::Failure, "the environment variable RC_USER_JWT is not set".into())
        );
        assert_eq!(
            judged(SecretPlace::NoCredential { name: "rc-jwt".into() }, None),
            (Level::Failure, "systemd has passed no credential \"rc-jwt\"".into())
        );
    }
}
