//! What comes in at a listener, by TCP or by a Unix socket, and who is at its other end.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;

use rustls::ServerConnection;
use tokio::net::{TcpStream, UnixStream};

use super::subject;
use crate::proxy::peers::{Peer, Place};
use crate::proxy::{Admission, Entry};

/// A listener that is bound, and not watched yet.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A listener of the worker's runtime.
pub(super) enum Door {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

/// A connection that nobody has spoken on.
pub(super) enum Arrival {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Listener {
    /// Watches it, on the runtime that this is called on.
    pub(super) fn open(self) -> io::Result<Door> {
        Ok(match self {
            Self::Tcp(listener) => Door::Tcp(tokio::net::TcpListener::from_std(listener)?),
            Self::Unix(listener) => Door::Unix(tokio::net::UnixListener::from_std(listener)?),
        })
    }
}

impl Door {
    /// The next connection.
    pub(super) async fn accept(&self) -> io::Result<Arrival> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok(Arrival::Tcp(stream, peer))
            }
            Self::Unix(listener) => Ok(Arrival::Unix(listener.accept().await?.0)),
        }
    }
}

/// Somebody at an address, whom TLS says nothing about.
pub(super) fn from_address(entry: Entry, peer: SocketAddr, admission: &Admission) -> Entry {
    entry.recognizing(Peer { place: Place::Address(peer.ip()), names: &[] }, admission)
}

/// Somebody on this machine, as the kernel names them. What they do later with their user, it does not
/// follow.
pub(super) fn from_socket(entry: Entry, stream: &UnixStream, admission: &Admission) -> Entry {
    let place = match stream.peer_cred() {
        Ok(user) => Place::Unix { uid: user.uid(), gid: user.gid() },
        Err(error) => {
            tracing::warn!(%error, "the system does not say who is at a Unix socket");
            Place::Unknown
        }
    };
    entry.recognizing(Peer { place, names: &[] }, admission)
}

/// Somebody at an address, with the certificate that they have shown, if they have.
pub(super) fn from_tls(
    entry: Entry,
    peer: SocketAddr,
    tls: &ServerConnection,
    admission: &Admission,
) -> Entry {
    let certificate = tls.peer_certificates().and_then(|chain| chain.first());
    let is_wanted = admission.selection.peers().know_certificates();
    let names = certificate.filter(|_| is_wanted).map(|certificate| subject::names(certificate));
    let names = names.unwrap_or_default();
    entry.recognizing(Peer { place: Place::Address(peer.ip()), names: &names }, admission)
}
