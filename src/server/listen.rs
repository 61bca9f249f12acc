//! Listening sockets: one per address and worker.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;

use socket2::{Domain, Protocol, Socket, Type};

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
}

/// The bound sockets of a server.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) per_worker: Vec<Vec<TcpListener>>,
}

/// Binds every address once for each worker.
pub(super) fn bind(
    addresses: &[SocketAddr],
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
            listeners.push(listener);
        }
        bound.push(chosen);
    }
    Ok(Sockets { addresses: bound, per_worker })
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
        let sockets = bind(&[ANY.parse().unwrap()], TWO).unwrap();
        let ports: Vec<_> =
            sockets.per_worker.iter().map(|listeners| listeners[0].local_addr()).collect();
        assert_eq!(ports.len(), 2);
        assert!(ports.iter().all(|port| port.as_ref().unwrap() == &sockets.addresses[0]));
    }

    #[test]
    fn a_port_in_use_is_an_error_that_names_it_and_the_cure() {
        let first = bind(&[ANY.parse().unwrap()], TWO).unwrap();
        let error = bind(&first.addresses, TWO).unwrap_err().to_string();
        let expected = "is in use: end the process that has it, or choose another with --listen";
        assert_eq!(error, format!("{} {expected}", first.addresses[0]));
    }
}
