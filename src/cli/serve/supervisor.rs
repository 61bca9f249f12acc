//! What the service manager that started us gets to hear: `sd_notify(3)`'s protocol, which is a datagram
//! of lines to the socket in `NOTIFY_SOCKET`. Nothing is said where there is none.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tracing::{debug, warn};

use crate::secret::Environment;

/// The service manager, if there is one that listens.
#[derive(Debug, Default)]
pub(super) struct Supervisor {
    line: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// As the environment of a service says.
    pub(super) fn of(environment: Environment<'_>) -> Self {
        let Some(address) = environment("NOTIFY_SOCKET") else { return Self::default() };
        let line = address_of(&address).and_then(|to| {
            let socket = UnixDatagram::unbound()?;
            // A manager that does not read must not have us stand still with it.
            socket.set_nonblocking(true)?;
            Ok((socket, to))
        });
        match line {
            Ok(line) => {
                let watchdog = watchdog(environment, std::process::id());
                Self { line: Some(line), watchdog }
            }
            Err(error) => {
                warn!(%error, "NOTIFY_SOCKET cannot be used: the service manager hears nothing");
                Self::default()
            }
        }
    }

    /// Requests are taken from now on.
    pub(super) fn ready(&self, listening: &str) {
        self.tell(&format!("READY=1\nSTATUS=serving {listening}"));
    }

    /// What is under way is being finished.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=draining");
    }

    /// Shows life twice as often as is asked for; it never returns.
    ///
    /// A manager measures by the monotonic clock, so this goes by it as well: whoever sets the wall
    /// clock back must not have the proxy killed.
    pub(super) async fn show_life(&self) {
        let Some(watchdog) = self.watchdog else { return std::future::pending().await };
        let mut interval = tokio::time::interval((watchdog / 2).max(Duration::from_millis(1)));
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.tell("WATCHDOG=1");
        }
    }

    fn tell(&self, state: &str) {
        let Some((socket, to)) = &self.line else { return };
        match socket.send_to_addr(state.as_bytes(), to) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                debug!("the service manager has more to read already");
            }
            Err(error) => warn!(%error, "the service manager was not reached"),
        }
    }
}

/// A path, or `@` and a name in the abstract namespace (unix(7)).
fn address_of(text: &str) -> io::Result<SocketAddr> {
    match text.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(text),
    }
}

/// How long the manager waits for a sign of life of ours, if it does.
fn watchdog(environment: Environment<'_>, own: u32) -> Option<Duration> {
    let number = |name: &str| environment(name)?.parse::<u64>().ok();
    let is_ours = environment("WATCHDOG_PID").is_none_or(|id| id == own.to_string());
    let micros = number("WATCHDOG_USEC").filter(|micros| *micros > 0 && is_ours)?;
    Some(Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_is_kept_quiet_only_by_whom_it_watches() {
        let with = |pid: Option<&'static str>, usec: Option<&'static str>| {
            let environment = move |name: &str| {
                let value = if name == "WATCHDOG_PID" { pid } else { usec };
                value.map(str::to_owned)
            };
            watchdog(&environment, 7)
        };
        let ten = Some(Duration::from_secs(10));
        assert_eq!(with(Some("7"), Some("10000000")), ten);
        assert_eq!(with(None, Some("10000000")), ten);
        assert_eq!(with(Some("8"), Some("10000000")), None);
        assert_eq!(with(None, Some("0")), None);
        assert_eq!(with(None, Some("soon")), None);
        assert_eq!(with(Some("7"), None), None);
    }

    #[test]
    fn a_manager_that_does_not_read_holds_nobody_up() {
        let files = tempfile::tempdir().unwrap();
        let path = files.path().join("notify");
        let _deaf = UnixDatagram::bind(&path).unwrap();
        let address = path.to_str().unwrap().to_owned();
        let supervisor = Supervisor::of(&|it| (it == "NOTIFY_SOCKET").then(|| address.clone()));
        // A socket holds some hundred of them at the most (net.unix.max_dgram_qlen).
        for _ in 0..10_000 {
            supervisor.stopping();
        }
    }

    #[test]
    fn what_is_said_arrives_at_a_path_and_at_an_abstract_name() {
        let files = tempfile::tempdir().unwrap();
        let path = files.path().join("notify").to_str().unwrap().to_owned();
        let name = format!("@{path}");
        for address in [path, name] {
            let manager = UnixDatagram::bind_addr(&address_of(&address).unwrap()).unwrap();
            let supervisor = Supervisor::of(&|it| (it == "NOTIFY_SOCKET").then(|| address.clone()));
            supervisor.ready("http://127.0.0.1:1");
            let mut heard = [0; 100];
            let length = manager.recv(&mut heard).unwrap();
            assert_eq!(&heard[..length], b"READY=1\nSTATUS=serving http://127.0.0.1:1");
        }
    }
}
