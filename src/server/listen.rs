//! Listening sockets: one per address and worker, and one per path for all workers.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};

use super::Passed;
use super::arrival::Listener;
use crate::settings::SocketSettings;
use crate::socket_file::{SharedSocket, SocketError};

/// Connections that the kernel may hold while a worker is busy.
const BACKLOG: i32 = 4096;

/// What the kernel may keep of an answer that it has not sent. By itself it keeps megabytes, for each
/// client that takes nothing, too; what is on its way to a client that takes it does not count.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 128 * 1024;

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

/// The bound sockets of a server. It keeps them while it runs, so that a successor can have the very
/// same ones: a connection that the kernel holds in a backlog belongs to the socket, not to a server.
#[derive(Debug)]
pub(super) struct Sockets {
    addresses: Vec<Bound>,
    /// Of these there is one for all workers: the kernel has no `SO_REUSEPORT` there.
    files: Vec<SharedSocket>,
}

/// One address.
#[derive(Debug)]
struct Bound {
    /// As it was asked for, with port 0 perhaps.
    wanted: SocketAddr,
    chosen: SocketAddr,
    listeners: Vec<TcpListener>,
}

impl Sockets {
    /// Binds every address once for each worker and every Unix socket once, or takes what `inherited`
    /// has of them.
    pub(super) fn bind(
        addresses: &[SocketAddr],
        files: &[SocketSettings],
        workers: NonZeroUsize,
        passed: &mut Passed,
        inherited: Option<&Self>,
    ) -> Result<Self, ListenError> {
        let known = inherited.map_or(&[][..], |sockets| &sockets.addresses);
        let addresses = addresses.iter().map(|&address| {
            match known.iter().find(|bound| bound.wanted == address) {
                Some(bound) => bound.again(workers),
                None => match passed.take(address).map_err(failed(address))? {
                    Some(socket) => Bound::of(address, &socket, workers),
                    None => Bound::new(address, workers),
                },
            }
        });
        let addresses = addresses.collect::<Result<_, _>>()?;
        let known = inherited.map_or(&[][..], |sockets| &sockets.files);
        let files = files.iter().map(|settings| SharedSocket::bind(settings, known));
        Ok(Self { addresses, files: files.collect::<Result<_, _>>()? })
    }

    /// Where they listen, with the ports that the system chose.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.iter().map(|bound| bound.chosen).collect()
    }

    /// The Unix sockets among them.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(SharedSocket::path)
    }

    /// The listeners of each worker, each with the index of its address or, behind these, its file.
    pub(super) fn per_worker(
        &self,
        workers: NonZeroUsize,
    ) -> Result<Vec<Vec<(usize, Listener)>>, ListenError> {
        let mut per_worker: Vec<_> = (0..workers.get()).map(|_| Vec::new()).collect();
        for (index, bound) in self.addresses.iter().enumerate() {
            // One that nobody listened to would keep its share of the connections for itself.
            for (turn, listener) in bound.listeners.iter().enumerate() {
                let listener = listener.try_clone().map_err(failed(bound.chosen))?;
                hold_back(&listener).map_err(failed(bound.chosen))?;
                per_worker[turn % workers].push((index, Listener::Tcp(listener)));
            }
        }
        for (index, file) in (self.addresses.len()..).zip(&self.files) {
            for listeners in &mut per_worker {
                listeners.push((index, Listener::Unix(file.listener()?)));
            }
        }
        Ok(per_worker)
    }
}

impl Bound {
    fn new(wanted: SocketAddr, workers: NonZeroUsize) -> Result<Self, ListenError> {
        // With SO_REUSEPORT the kernel would let a second proxy share the port without a word.
        drop(listener(wanted, false).map_err(failed(wanted))?);
        let new = Self { wanted, chosen: wanted, listeners: Vec::new() };
        new.filled_up(workers)
    }

    /// A socket that was passed, once for each worker.
    fn of(
        address: SocketAddr,
        socket: &TcpListener,
        workers: NonZeroUsize,
    ) -> Result<Self, ListenError> {
        let each = (0..workers.get()).map(|_| socket.try_clone());
        let listeners = each.collect::<Result<_, _>>().map_err(failed(address))?;
        Ok(Self { wanted: address, chosen: address, listeners })
    }

    /// The same sockets, and more of them for more workers.
    fn again(&self, workers: NonZeroUsize) -> Result<Self, ListenError> {
        let same = self.listeners.iter().map(TcpListener::try_clone);
        let listeners = same.collect::<Result<_, _>>().map_err(failed(self.chosen))?;
        Self { wanted: self.wanted, chosen: self.chosen, listeners }.filled_up(workers)
    }

    fn filled_up(mut self, workers: NonZeroUsize) -> Result<Self, ListenError> {
        while self.listeners.len() < workers.get() {
            let listener = listener(self.chosen, true).map_err(failed(self.chosen))?;
            self.chosen = listener.local_addr().map_err(failed(self.chosen))?;
            self.listeners.push(listener);
        }
        Ok(self)
    }
}

fn failed(address: SocketAddr) -> impl Fn(io::Error) -> ListenError {
    move |source| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse(address),
        _ => ListenError::Bind { address, source },
    }
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

/// Has the kernel keep no more than [`UNSENT`], where it can be told: connections take it from their
/// listener.
fn hold_back(listener: &TcpListener) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(listener).set_tcp_notsent_lowat(UNSENT)?;
    #[cfg(not(target_os = "linux"))]
    let _ = listener;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: &str = "127.0.0.1:0";
    const TWO: NonZeroUsize = NonZeroUsize::new(2).unwrap();

    fn bound(
        addresses: &[SocketAddr],
        inherited: Option<&Sockets>,
    ) -> Result<Sockets, ListenError> {
        Sockets::bind(addresses, &[], TWO, &mut Passed::default(), inherited)
    }

    fn ports(sockets: &Sockets, workers: NonZeroUsize) -> Vec<Vec<u16>> {
        let port = |(_, listener): &(usize, Listener)| match listener {
            Listener::Tcp(listener) => listener.local_addr().unwrap().port(),
            Listener::Unix(_) => panic!("no file was asked for"),
        };
        let per_worker = sockets.per_worker(workers).unwrap();
        per_worker.iter().map(|listeners| listeners.iter().map(port).collect()).collect()
    }

    #[test]
    fn workers_share_one_port() {
        let sockets = bound(&[ANY.parse().unwrap()], None).unwrap();
        let port = sockets.addresses()[0].port();
        assert_eq!(ports(&sockets, TWO), [[port], [port]]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn connections_keep_little_that_is_not_sent() {
        let sockets = bound(&[ANY.parse().unwrap()], None).unwrap();
        let one_worker = sockets.per_worker(NonZeroUsize::MIN).unwrap().pop().unwrap();
        let address = sockets.addresses()[0];
        // Which of the two listeners has it, the kernel chooses.
        let _client = std::net::TcpStream::connect(address).unwrap();
        let connection = one_worker.iter().find_map(|(_, listener)| match listener {
            Listener::Tcp(listener) => listener.accept().ok(),
            Listener::Unix(_) => None,
        });
        let (connection, _) = connection.expect("a client has connected");
        assert_eq!(socket2::SockRef::from(&connection).tcp_notsent_lowat().unwrap(), UNSENT);
    }

    #[test]
    fn workers_share_one_unix_socket() {
        let files = tempfile::TempDir::new().unwrap();
        let path = files.path().join("a.sock");
        let settings = SocketSettings { path, mode: 0o660, group: None, identity: None };
        let any = [ANY.parse().unwrap()];
        let sockets =
            Sockets::bind(&any, std::slice::from_ref(&settings), TWO, &mut Passed::default(), None)
                .unwrap();
        std::os::unix::net::UnixStream::connect(&settings.path).unwrap();
        let per_worker = sockets.per_worker(TWO).unwrap();
        let accepted = per_worker.iter().filter(|listeners| match &listeners[..] {
            [(0, Listener::Tcp(_)), (1, Listener::Unix(listener))] => listener.accept().is_ok(),
            other => panic!("{other:?}"),
        });
        assert_eq!(accepted.count(), 1, "either of them takes it");
        drop(sockets);
        assert!(!settings.path.exists());
    }

    #[test]
    fn a_port_in_use_is_an_error_that_names_it_and_the_cure() {
        let first = bound(&[ANY.parse().unwrap()], None).unwrap();
        let error = bound(&first.addresses(), None).unwrap_err().to_string();
        let expected = "is in use: end the process that has it, or choose another with --listen";
        assert_eq!(error, format!("{} {expected}", first.addresses()[0]));
    }

    #[test]
    fn a_successor_gets_the_connections_that_wait() {
        let any = ANY.parse().unwrap();
        let first = bound(&[any], None).unwrap();
        let address = first.addresses()[0];
        let waiting: Vec<_> =
            (0..8).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        let second = bound(&[any, any], Some(&first)).unwrap();
        drop(first);
        assert_eq!(second.addresses(), [address, address]);
        let accepted = second.per_worker(TWO).unwrap();
        let accepted = accepted.iter().flatten().filter(|(index, _)| *index == 0);
        let accepted: usize = accepted
            .map(|(_, it)| match it {
                Listener::Tcp(it) => std::iter::from_fn(|| it.accept().ok()).count(),
                Listener::Unix(_) => 0,
            })
            .sum();
        assert_eq!(accepted, waiting.len());
    }

    #[test]
    fn fewer_workers_listen_to_all_sockets_and_more_get_their_own() {
        let any = ANY.parse().unwrap();
        let first = bound(&[any], None).unwrap();
        let port = first.addresses()[0].port();
        let (one, three) = (NonZeroUsize::MIN, NonZeroUsize::new(3).unwrap());
        let fewer = Sockets::bind(&[any], &[], one, &mut Passed::default(), Some(&first)).unwrap();
        assert_eq!(ports(&fewer, one), [[port, port]]);
        let more = Sockets::bind(&[any], &[], three, &mut Passed::default(), Some(&first)).unwrap();
        assert_eq!(ports(&more, three), [[port], [port], [port]]);
    }
}
