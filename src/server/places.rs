//! How many clients may be connected: one count for the whole process, because accepting costs three
//! system calls, beside which a shared atomic is nothing, and the limit is then exact.
//!
//! Whoever comes in vain is told so and sent away at once. Left in the kernel's queue, it would wait
//! without knowing, and be served when it has long given up.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::Response;
use tokio::net::TcpStream;

use crate::metrics::limits::{Limit, Meters};
use crate::proxy::error::ProxyError;

/// Room for connections. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Places {
    most: usize,
    meters: Arc<Meters>,
}

/// One connection's, until it is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Meters>);

impl Places {
    pub(super) fn new(most: usize, meters: Arc<Meters>) -> Self {
        Self { most, meters }
    }

    /// A place, if there is one.
    pub(super) fn take(&self) -> Option<Place> {
        let before = self.meters.connections.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(&self.meters));
        if before < self.most {
            return Some(place);
        }
        self.meters.count(Limit::Connections);
        None
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sends a client away; with a word of why, if it understands clear text.
pub(super) fn turn_away(stream: TcpStream, in_clear_text: bool) {
    // What it does not take at once is not worth waiting for.
    if let (Ok(mut stream), true) = (stream.into_std(), in_clear_text) {
        // What is left unread would turn the end of the connection into an abort.
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write(&no_place());
        let _ = stream.shutdown(Shutdown::Write);
    }
}

/// The whole answer as HTTP/1.1 has it.
fn no_place() -> Vec<u8> {
    let answer: Response<_> = ProxyError::Connections.into_response();
    let mut bytes = format!("HTTP/1.1 {}\r\n", answer.status()).into_bytes();
    for (name, value) in answer.headers() {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    let length = answer.body().len();
    bytes.extend(format!("connection: close\r\ncontent-length: {length}\r\n\r\n").bytes());
    bytes.extend(answer.body());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_comes_in_vain_takes_no_place_and_is_counted() {
        let meters = Arc::<Meters>::default();
        let places = Places::new(2, Arc::clone(&meters));
        let (one, two) = (places.take(), places.take());
        assert!(one.is_some() && two.is_some());
        for _ in 0..3 {
            assert!(places.take().is_none());
        }
        assert_eq!((meters.connections(), meters.get(Limit::Connections)), (2, 3));
        drop(one);
        assert!(places.take().is_some());
    }

    #[test]
    fn what_it_is_told_is_a_whole_answer() {
        let answer = String::from_utf8(no_place()).unwrap();
        let (head, content) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
        for field in ["x-ringbearer-error: RBR-143", "retry-after: 1", "connection: close"] {
            assert!(head.contains(&format!("\r\n{field}")), "{head}");
        }
        assert!(head.ends_with(&format!("content-length: {}", content.len())), "{head}");
    }
}
