//! Unix sockets to listen on: where, and who may open them.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{SettingsError, SocketSettings};

/// The longest path that the system takes (`sun_path`), less the byte that ends it.
const LONGEST: usize = 107;

/// The rights to a socket: to open it is to write to it.
const USUAL_MODE: u32 = 0o660;

/// What holds for every socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    mode: u32,
    group: Option<u32>,
}

impl Access {
    /// From `proxy.socket_mode` and `proxy.socket_group`.
    pub(super) fn new(mode: Option<&str>, group: Option<u32>) -> Result<Self, SettingsError> {
        let mode = mode.map_or(Some(USUAL_MODE), parse_mode).ok_or(SettingsError::SocketMode)?;
        Ok(Self { mode, group })
    }

    /// The socket at `path`, which starts at `directory`, for everybody or for one identity.
    pub(super) fn socket(
        self,
        path: &Path,
        directory: &Path,
        identity: Option<&str>,
    ) -> Result<SocketSettings, SettingsError> {
        let path = directory.join(path);
        if path.as_os_str().len() > LONGEST || path.as_os_str().as_bytes().contains(&0) {
            return Err(SettingsError::SocketPath { path, longest: LONGEST });
        }
        let Self { mode, group } = self;
        Ok(SocketSettings { path, mode, group, identity: identity.map(str::to_owned) })
    }
}

/// Octal, as `chmod` takes it. Without the owner's rights the proxy itself could not look after it.
fn parse_mode(text: &str) -> Option<u32> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|_| !text.starts_with('+'))?;
    (mode <= 0o777 && mode & 0o600 == 0o600).then_some(mode)
}

/// Refuses a path that stands twice.
pub(super) fn refuse_same<'a>(
    sockets: impl Iterator<Item = &'a SocketSettings>,
) -> Result<(), SettingsError> {
    let mut seen: Vec<&PathBuf> = Vec::new();
    for socket in sockets {
        if seen.contains(&&socket.path) {
            return Err(SettingsError::SocketTwice { path: socket.path.clone() });
        }
        seen.push(&socket.path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_octal_and_leaves_the_owner_in() {
        for (text, mode) in [("0660", 0o660), ("600", 0o600), ("0777", 0o777), ("666", 0o666)] {
            assert_eq!(parse_mode(text), Some(mode), "{text}");
        }
        for text in ["", "0060", "rw-rw----", "680", "1660", "+660", "-660", "0o660"] {
            assert_eq!(parse_mode(text), None, "{text}");
        }
    }

    #[test]
    fn a_path_starts_at_the_configurations_directory_and_has_a_bound() {
        let access = Access::new(None, Some(7)).unwrap();
        let socket = access.socket(Path::new("a.sock"), Path::new("/etc/rb"), Some("hr")).unwrap();
        let expected = SocketSettings {
            path: "/etc/rb/a.sock".into(),
            mode: 0o660,
            group: Some(7),
            identity: Some("hr".to_owned()),
        };
        assert_eq!(socket, expected);
        let long = |length: usize| format!("/{}", "a".repeat(length - 1));
        assert!(access.socket(Path::new(&long(107)), Path::new(""), None).is_ok());
        let error = access.socket(Path::new(&long(108)), Path::new(""), None).unwrap_err();
        assert!(
            error.to_string().ends_with(
                "longer than the 107 bytes that a socket's may have: choose a shorter one"
            )
        );
    }
}
