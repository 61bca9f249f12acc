//! A way to the token endpoint on which a test can answer in its place, byte by byte.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Carries every connection on to the sandbox, but for those on order.
pub(crate) struct Detour {
    authority: String,
    orders: Arc<Mutex<VecDeque<Vec<u8>>>>,
    /// The first lines of the requests that were answered here.
    met: Arc<Mutex<Vec<String>>>,
    listener: Option<TcpListener>,
    task: Option<JoinHandle<()>>,
}

impl Detour {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let (orders, met) = (Arc::default(), Arc::default());
        Self { authority, orders, met, listener: Some(listener), task: None }
    }

    /// The line for `[application.NAME]`.
    pub(crate) fn token_url(&self) -> String {
        format!("token_url = \"http://{}/restapi/oauth/token\"", self.authority)
    }

    /// Another place here, where nobody has any business.
    pub(crate) fn elsewhere(&self) -> String {
        format!("http://{}/elsewhere", self.authority)
    }

    /// Opens the way to `origin`; who has connected before gets through now.
    pub(crate) fn lead_to(&mut self, origin: &str) {
        let listener = self.listener.take().expect("it leads to one place");
        let origin = origin.trim_start_matches("http://").to_owned();
        let (orders, met) = (Arc::clone(&self.orders), Arc::clone(&self.met));
        self.task = Some(tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let order = orders.lock().unwrap().pop_front();
                match order {
                    Some(bytes) => drop(tokio::spawn(answer(stream, bytes, Arc::clone(&met)))),
                    None => drop(tokio::spawn(carry_on(stream, origin.clone()))),
                }
            }
        }));
    }

    /// The next request here is answered by these bytes, and the connection closed.
    pub(crate) fn answer_next(&self, bytes: Vec<u8>) {
        self.orders.lock().unwrap().push_back(bytes);
    }

    /// The first lines of the requests that were answered here so far.
    pub(crate) fn met(&self) -> Vec<String> {
        self.met.lock().unwrap().clone()
    }
}

impl Drop for Detour {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn answer(mut stream: TcpStream, bytes: Vec<u8>, met: Arc<Mutex<Vec<String>>>) {
    let request = whole_request(&mut stream).await;
    met.lock().unwrap().push(request.lines().next().unwrap_or_default().to_owned());
    // Whoever has seen enough may close while there is more to come.
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
}

/// A request whose content has a stated length.
async fn whole_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).await.unwrap();
        request.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length = length.map_or(0, |length| length.trim().parse().unwrap());
        let head = text.find("\r\n\r\n").map(|end| end + 4);
        if read == 0 || head.is_some_and(|head| request.len() >= head + length) {
            return String::from_utf8_lossy(&request).into_owned();
        }
    }
}

async fn carry_on(mut inbound: TcpStream, authority: String) {
    let mut outbound = TcpStream::connect(authority).await.unwrap();
    let _ = copy_bidirectional(&mut inbound, &mut outbound).await;
}
