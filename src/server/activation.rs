//! Listening sockets that whoever started us has opened already (`sd_listen_fds(3)`): systemd, or a
//! process that gives its place to this one.
//!
//! A passed socket stands in for the address that it is bound to, so that the configuration says where
//! the proxy listens in any case, and what follows from an address (who may call there, as whom) holds
//! for a passed one as well. All workers share it: connections that nobody has accepted yet stay in the
//! socket when a process ends, and the next one answers them.

use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;

/// The sockets that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Passed(Vec<(SocketAddr, TcpListener)>);

/// Why passed sockets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PassedError {
    /// Something else than a listening TCP socket.
    #[error("a socket was passed (LISTEN_FDS) that is none for TCP: use ListenStream=ADDRESS:PORT")]
    Unusable(#[source] io::Error),
    /// The configuration knows nothing of it.
    #[error(
        "a socket for {0} was passed (LISTEN_FDS), but nothing is configured to listen there: add \
         it to proxy.listen, or remove it from the socket unit"
    )]
    Unwanted(SocketAddr),
}

impl Passed {
    /// What `LISTEN_FDS` and `LISTEN_PID` say. To be called once: there is one of each socket.
    pub fn from_environment() -> Result<Self, PassedError> {
        let mut passed = ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..passed.len() {
            let socket = passed.take_tcp_listener(index).map_err(PassedError::Unusable)?;
            let socket = socket.expect("each is taken once");
            let address = socket.local_addr().map_err(PassedError::Unusable)?;
            sockets.push((address, socket));
        }
        Ok(Self(sockets))
    }

    /// The socket that is bound to `address`, ready for an event queue.
    pub(crate) fn take(&mut self, address: SocketAddr) -> io::Result<Option<TcpListener>> {
        let Some(index) = self.0.iter().position(|(bound, _)| *bound == address) else {
            return Ok(None);
        };
        let (_, socket) = self.0.swap_remove(index);
        socket.set_nonblocking(true)?;
        Ok(Some(socket))
    }

    /// To be called when everybody has taken theirs: a socket that is left would take connections in
    /// which nobody ever answers.
    pub(crate) fn refuse_rest(&self) -> Result<(), PassedError> {
        self.0.first().map_or(Ok(()), |(address, _)| Err(PassedError::Unwanted(*address)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_taken_by_its_address_and_only_once() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let mut passed = Passed(vec![(address, socket)]);
        let elsewhere = SocketAddr::from(([127, 0, 0, 2], address.port()));
        assert!(passed.take(elsewhere).unwrap().is_none());
        assert_eq!(
            passed.refuse_rest().unwrap_err().to_string(),
            format!(
                "a socket for {address} was passed (LISTEN_FDS), but nothing is configured to listen \
                 there: add it to proxy.listen, or remove it from the socket unit"
            )
        );
        let taken = passed.take(address).unwrap().unwrap();
        assert_eq!(taken.local_addr().unwrap(), address);
        assert!(passed.take(address).unwrap().is_none());
        passed.refuse_rest().unwrap();
    }
}
