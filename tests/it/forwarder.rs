//! A network that leads to a server, to another one, or nowhere: one address for the clients.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Where connections lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lead {
    /// To this port.
    To(u16),
    /// Nowhere: they are closed at once.
    Refused,
    /// Nowhere: they stay open, and nothing comes back.
    Silent,
}

/// Passes TCP connections on. When it leads elsewhere, those that exist are closed.
pub(crate) struct Forwarder {
    address: SocketAddr,
    lead: watch::Sender<Lead>,
    task: JoinHandle<()>,
}

impl Forwarder {
    /// Leads to `port` of this machine.
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let lead = watch::Sender::new(Lead::To(port));
        let task = tokio::spawn(accept(listener, lead.clone()));
        Self { address, lead, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn lead_to(&self, port: u16) {
        self.lead.send_replace(Lead::To(port));
    }

    /// Cuts every connection, new ones too.
    pub(crate) fn cut(&self) {
        self.lead.send_replace(Lead::Refused);
    }

    /// Swallows everything from now on.
    pub(crate) fn swallow(&self) {
        self.lead.send_replace(Lead::Silent);
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, lead: watch::Sender<Lead>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        tokio::spawn(pass(client, lead.subscribe()));
    }
}

async fn pass(mut client: TcpStream, mut lead: watch::Receiver<Lead>) {
    let began = *lead.borrow_and_update();
    match began {
        Lead::Refused => return,
        Lead::Silent => {}
        Lead::To(port) => {
            let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
            tokio::select! {
                _ = copy_bidirectional(&mut client, &mut server) => return,
                _ = lead.wait_for(|now| *now != began) => {}
            }
            if *lead.borrow() != Lead::Silent {
                return;
            }
        }
    }
    // The test may be over.
    let _ = lead.wait_for(|now| *now != Lead::Silent).await;
}
