//! Listening sockets: one per address and worker, and one per path for all workers.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;

use socket2::{Domain, Protocol, Socket, Type};

use super::arrival::Listener;
use crate::settings::SocketSettings;
use crate::socket_file::{SocketError, SocketFile};

/// Connections that the kernel may hold while a worker is busy.
const BACKLOG: i32 = 4096;

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else has the port.
    #[error("{0} is in use: end the process that has it, or choose another with --listen")]
    InUse(SocketAddr),
    /// Anything else.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A Unix socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
}

/// The bound sockets of a server.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) addresses: Vec<SocketAddr>,
    /// Removed when they are dropped.
    pub(super) files: Vec<SocketFile>,
    /// In the order of addresses and files.
    pub(super) per_worker: Vec<Vec<Listener>>,
}

/// Binds every address once for each worker, and every Unix socket once: the kernel has no
/// `SO_REUSEPORT` there, so the workers share it.
pub(super) fn bind(
    addresses: &[SocketAddr],
    sockets: &[SocketSettings],
    workers: NonZeroUsize,
) -> Result<Sockets, ListenError> {
    let mut per_worker: Vec<_> = (0..workers.get()).map(|_| Vec::new()).collect();
    let mut bound = Vec::new();
    for &address in addresses {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => ListenError::InUse(address),
            _ => ListenError::Bind { address, source },
        };
        // With SO_REUSEPORT the kernel would let a second proxy share the port without a word.
        drop(listener(address, false).map_err(failed)?);
        let mut chosen = address;
        for listeners in &mut per_worker {
            let listener = listener(chosen, true).map_err(failed)?;
            chosen = listener.local_addr().map_err(failed)?;
            listeners.push(Listener::Tcp(listener));
        }
        bound.push(chosen);
    }
    let mut files = Vec::new();
    for settings in sockets {
        let (listener, file) = SocketFile::bind(settings)?;
        let path = || settings.path.clone();
        for listeners in &mut per_worker {
            let listener = listener.try_clone();
            let listener = listener.map_err(|source| SocketError::Bind { path: path(), source })?;
            listeners.push(Listener::Unix(listener));
        }
        files.push(file);
    }
    Ok(Sockets { addresses: bound, files, per_worker })
}

fn listener(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: &str = "127.0.0.1:0";
    const TWO: NonZeroUsize = NonZeroUsize::new(2).unwrap();

    #[test]
    fn workers_share_one_port() {
        let sockets = bind(&[ANY.parse().unwrap()], &[], TWO).unwrap();
        let ports = sockets.per_worker.iter().map(|listeners| match &listeners[..] {
            [Listener::Tcp(listener)] => listener.local_addr().unwrap(),
            other => panic!("{other:?}"),
        });
        assert_eq!(ports.collect::<Vec<_>>(), [sockets.addresses[0]; 2]);
    }

    #[test]
    fn workers_share_one_unix_socket() {
        let files = tempfile::TempDir::new().unwrap();
        let path = files.path().join("a.sock");
        let settings = SocketSettings { path, mode: 0o660, group: None, identity: None };
        let sockets = bind(&[ANY.parse().unwrap()], std::slice::from_ref(&settings), TWO).unwrap();
        std::os::unix::net::UnixStream::connect(&settings.path).unwrap();
        let accepted = sockets.per_worker.iter().filter(|listeners| match &listeners[..] {
            [Listener::Tcp(_), Listener::Unix(listener)] => listener.accept().is_ok(),
            other => panic!("{other:?}"),
        });
        assert_eq!(accepted.count(), 1, "either of them takes it");
        drop(sockets);
        assert!(!settings.path.exists());
    }

    #[test]
    fn a_port_in_use_is_an_error_that_names_it_and_the_cure() {
        let first = bind(&[ANY.parse().unwrap()], &[], TWO).unwrap();
        let error = bind(&first.addresses, &[], TWO).unwrap_err().to_string();
        let expected = "is in use: end the process that has it, or choose another with --listen";
        assert_eq!(error, format!("{} {expected}", first.addresses[0]));
    }
}
