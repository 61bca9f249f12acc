//! What is known of the store means: the directory or the server, and the sessions in it. PURE.

use super::finding::Finding;
use super::machine::{Directory, DirectoryThere};
use crate::store::redis::Examined;
use crate::token::roster::{Line, Origin};

/// A session takes some KiB, and a write needs it twice for a moment.
const ENOUGH_BYTES: u64 = 16 << 20;
const ENOUGH_FILES: u64 = 100;

/// A directory for sessions, where `us` runs the proxy.
pub(super) fn directory(path: &str, directory: &Directory, us: u32) -> Vec<Finding> {
    match directory {
        Directory::Missing { parent, writable: Ok(()) } => vec![Finding::ok(
            "store",
            path,
            format!("not there yet; the first start makes it in {}", parent.display()),
        )],
        Directory::Missing { parent, writable: Err(why) } => vec![Finding::failure(
            "store",
            path,
            format!("not there, and cannot be made in {} ({why})", parent.display()),
            format!("install -d -m 700 -o USER {path}, or StateDirectory=ringbearer in the unit"),
        )],
        Directory::Unknown(why) => vec![Finding::failure(
            "store",
            path,
            format!("cannot be looked at ({why})"),
            "run this as the user that runs the proxy",
        )],
        Directory::There(there) => {
            let mut findings = vec![access(path, there, us)];
            findings.extend(filesystem(path, there.filesystem));
            findings.push(room(path, there));
            findings
        }
    }
}

fn access(path: &str, there: &DirectoryThere, us: u32) -> Finding {
    let DirectoryThere { mode, owner, .. } = *there;
    if !there.is_directory {
        let cure = "remove it, or name another path";
        return Finding::failure("store", path, "is not a directory", cure);
    }
    if owner != us {
        let whose = format!("belongs to user {owner}, and this is user {us}");
        if us == 0 {
            let cure = "run this as the user that runs the proxy, whose sight is meant";
            return Finding::warning("store", path, whose, cure);
        }
        return Finding::failure("store", path, whose, format!("chown -R {us} {path}"));
    }
    if let Err(why) = &there.writable {
        let cure = "a session that cannot be kept is not opened: let this user write there";
        return Finding::failure("store", path, format!("cannot be written ({why})"), cure);
    }
    if mode & 0o022 != 0 {
        let finding = format!("may be written by others (mode {mode:04o})");
        return Finding::failure("store", path, finding, format!("chmod 700 {path}"));
    }
    if mode & 0o055 != 0 {
        let finding = format!("others can list it (mode {mode:04o})");
        return Finding::warning("store", path, finding, format!("chmod 700 {path}"));
    }
    Finding::ok("store", path, format!("ours, writable, mode {mode:04o}"))
}

/// By the magic numbers of statfs(2).
fn filesystem(path: &str, kind: u64) -> Option<Finding> {
    let network = |name: &str| {
        let finding = format!("lies on {name}, whose locks two machines may both believe to have");
        let cure = "keep it on a local disk; proxies on several machines share store.redis";
        Some(Finding::warning("store", path, finding, cure))
    };
    match kind {
        0x6969 => network("NFS"),
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => network("SMB"),
        0x0102_1997 => network("9P"),
        0x6573_5546 => network("FUSE"),
        0x0102_1994 | 0x8584_58f6 => Some(Finding::warning(
            "store",
            path,
            "lies in memory: sessions end with the machine",
            "keep it on a disk, unless each identity has a JWT",
        )),
        0x794c_7630 => Some(Finding::warning(
            "store",
            path,
            "lies in a container's own layer: sessions end with the container",
            "mount a volume there",
        )),
        _ => None,
    }
}

fn room(path: &str, there: &DirectoryThere) -> Finding {
    let bytes = bytesize::ByteSize(there.free_bytes);
    let finding = format!("{bytes} free");
    let cure = "make room: without it no session is renewed";
    match there.free_bytes {
        0..0x10_0000 => Finding::failure("store", path, finding, cure),
        0x10_0000..ENOUGH_BYTES => Finding::warning("store", path, finding, cure),
        // Some filesystems count no files and say 0.
        _ if (1..ENOUGH_FILES).contains(&there.free_files) => {
            let finding = format!("{bytes}, but only {} files free", there.free_files);
            Finding::warning("store", path, finding, cure)
        }
        _ => Finding::ok("store", path, finding),
    }
}

/// A server that has answered, where so many replicas are waited for.
pub(super) fn server(address: &str, examined: &Examined, wait_replicas: u32) -> Vec<Finding> {
    let thing = address.to_owned();
    let warning = |finding: String, cure: &str| Finding::warning("store", address, finding, cure);
    let version = examined.version.as_deref();
    let mut findings = vec![match version {
        Some(version) => Finding::ok("store", thing, format!("answers; {version}")),
        None => Finding::ok(
            "store",
            thing,
            "answers; its user may not ask how it is set up (+info, +config|get)",
        ),
    }];
    match (examined.appends, examined.syncs.as_deref()) {
        (Some(false), _) => findings.push(warning(
            "forgets sessions when it ends: appendonly is no".to_owned(),
            "set appendonly yes and appendfsync always there",
        )),
        (Some(true), Some(syncs)) if syncs != "always" => findings.push(warning(
            format!("forgets the last moments when its machine ends: appendfsync is {syncs}"),
            "set appendfsync always there",
        )),
        (Some(true), _) => findings.push(Finding::ok("store", address, "keeps what it is given")),
        (None, _) => {}
    }
    match examined.eviction.as_deref() {
        Some("noeviction") | None => {}
        Some(policy) => findings.push(warning(
            format!("may throw sessions away when it is full: maxmemory-policy is {policy}"),
            "set maxmemory-policy noeviction there",
        )),
    }
    match examined.replicas {
        Some(there) if there < wait_replicas => findings.push(Finding::failure(
            "store",
            address,
            format!("{there} replicas are connected, of {wait_replicas} that have to confirm"),
            "connect more, or lower store.redis_wait_replicas: no session is renewed before",
        )),
        Some(there) if wait_replicas > 0 => {
            findings.push(Finding::ok("store", address, format!("{there} replicas confirm")));
        }
        _ => {}
    }
    findings
}

/// How the sessions are, as far as the store knows: one finding, or one for each that is in trouble.
pub(super) fn sessions(lines: &[Line]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for line in lines.iter().filter(|line| line.origin != Origin::LeftOver) {
        if line.needs_somebody() {
            findings.push(Finding::failure(
                "sessions",
                &line.name,
                line.state.to_string(),
                format!("ringbearer login {}", line.name),
            ));
        } else if let Some(note) = &line.note {
            findings.push(Finding::warning("sessions", &line.name, note, ""));
        }
    }
    if findings.is_empty() {
        let finding = match lines.len() {
            0 => "none yet".to_owned(),
            1 => "1 identity, which needs nobody".to_owned(),
            many => format!("{many} identities, none of which needs anybody"),
        };
        findings.push(Finding::ok("sessions", "all", finding));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use crate::token::roster::State;

    fn there() -> DirectoryThere {
        DirectoryThere {
            is_directory: true,
            mode: 0o700,
            owner: 1000,
            writable: Ok(()),
            free_bytes: 5 << 30,
            free_files: 1_000_000,
            filesystem: 0xef53,
        }
    }

    fn judged(there: DirectoryThere, us: u32) -> Vec<(Level, String)> {
        let findings = directory("/store", &Directory::There(there), us);
        findings.into_iter().map(|it| (it.level, it.says)).collect()
    }

    #[test]
    fn a_directory_of_our_own_is_well() {
        let expected = [
            (Level::Ok, "ours, writable, mode 0700".to_owned()),
            (Level::Ok, "5.0 GiB free".to_owned()),
        ];
        assert_eq!(judged(there(), 1000), expected);
    }

    #[test]
    fn whose_it_is_and_who_may_write_decides() {
        for (change, us, level, finding) in [
            (there(), 1001, Level::Failure, "belongs to user 1000, and this is user 1001"),
            (there(), 0, Level::Warning, "belongs to user 1000, and this is user 0"),
            (
                DirectoryThere { writable: Err("read-only file system".into()), ..there() },
                1000,
                Level::Failure,
                "cannot be written (read-only file system)",
            ),
            (
                DirectoryThere { mode: 0o770, ..there() },
                1000,
                Level::Failure,
                "may be written by others (mode 0770)",
            ),
            (
                DirectoryThere { mode: 0o755, ..there() },
                1000,
                Level::Warning,
                "others can list it (mode 0755)",
            ),
            (
                DirectoryThere { is_directory: false, ..there() },
                1000,
                Level::Failure,
                "is not a directory",
            ),
        ] {
            assert_eq!(judged(change, us)[0], (level, finding.to_owned()));
        }
    }

    #[test]
    fn the_filesystem_and_its_room_are_told() {
        for (filesystem, word) in [
            (0x6969, "NFS"),
            (0xff53_4d42, "SMB"),
            (0x0102_1994, "in memory"),
            (0x794c_7630, "container's own layer"),
        ] {
            let findings = judged(DirectoryThere { filesystem, ..there() }, 1000);
            assert!(
                findings[1].0 == Level::Warning && findings[1].1.contains(word),
                "{findings:?}"
            );
        }
        for (free_bytes, free_files, level, finding) in [
            (1000, 1_000_000, Level::Failure, "1000 B free"),
            (2 << 20, 1_000_000, Level::Warning, "2.0 MiB free"),
            (5 << 30, 9, Level::Warning, "5.0 GiB, but only 9 files free"),
            (5 << 30, 0, Level::Ok, "5.0 GiB free"),
        ] {
            let findings = judged(DirectoryThere { free_bytes, free_files, ..there() }, 1000);
            assert_eq!(findings[1], (level, finding.to_owned()));
        }
    }

    #[test]
    fn a_directory_that_is_to_be_made_needs_a_place() {
        let missing = |writable| Directory::Missing { parent: "/var/lib".into(), writable };
        let findings = directory("/var/lib/rb", &missing(Ok(())), 1);
        assert_eq!(findings[0].says, "not there yet; the first start makes it in /var/lib");
        let findings = directory("/var/lib/rb", &missing(Err("permission denied".into())), 1);
        assert_eq!(
            (findings[0].level, findings[0].says.as_str()),
            (Level::Failure, "not there, and cannot be made in /var/lib (permission denied)")
        );
    }

    #[test]
    fn a_server_is_judged_by_what_it_forgets() {
        let said = |examined: Examined, wait| -> Vec<_> {
            let findings = server("redis://r:6379", &examined, wait).into_iter();
            findings.map(|it| (it.level, it.says)).collect()
        };
        let good = Examined {
            version: Some("Redis 7.0.15".into()),
            appends: Some(true),
            syncs: Some("always".into()),
            eviction: Some("noeviction".into()),
            replicas: Some(2),
        };
        let ok = |finding: &str| (Level::Ok, finding.to_owned());
        assert_eq!(
            said(good.clone(), 1),
            [ok("answers; Redis 7.0.15"), ok("keeps what it is given"), ok("2 replicas confirm")]
        );
        let bad = Examined {
            appends: Some(false),
            eviction: Some("allkeys-lru".into()),
            replicas: Some(0),
            ..good.clone()
        };
        assert_eq!(
            said(bad, 1)[1..],
            [
                (Level::Warning, "forgets sessions when it ends: appendonly is no".into()),
                (
                    Level::Warning,
                    "may throw sessions away when it is full: maxmemory-policy is allkeys-lru"
                        .into()
                ),
                (Level::Failure, "0 replicas are connected, of 1 that have to confirm".into()),
            ]
        );
        let lazy = Examined { syncs: Some("everysec".into()), ..good };
        assert_eq!(
            said(lazy, 0)[1],
            (
                Level::Warning,
                "forgets the last moments when its machine ends: appendfsync is everysec".into()
            )
        );
        assert_eq!(
            said(Examined::default(), 0),
            [ok("answers; its user may not ask how it is set up (+info, +config|get)")]
        );
    }

    #[test]
    fn a_session_that_needs_somebody_is_a_failure_and_a_dying_one_a_warning() {
        let line = |name: &str, state, note: Option<&str>| Line {
            name: name.into(),
            application: None,
            origin: Origin::Configured,
            state,
            generation: None,
            issued_at: None,
            expires_at: None,
            refresh_expires_at: None,
            note: note.map(str::to_owned),
            live: None,
        };
        assert_eq!(
            sessions(&[
                line("a", State::Live, None),
                line("b", State::NeedsLogin, None),
                line("c", State::Live, Some("refresh token of c dies in 5 h: log in")),
            ]),
            [
                Finding::failure("sessions", "b", "needs login", "ringbearer login b"),
                Finding::warning("sessions", "c", "refresh token of c dies in 5 h: log in", ""),
            ]
        );
        assert_eq!(
            sessions(&[line("a", State::Live, None)]),
            [Finding::ok("sessions", "all", "1 identity, which needs nobody")]
        );
    }
}
