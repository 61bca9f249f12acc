//! HTTP/2 by hand: frames as RFC 9113 has them, for what no client library would send.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A field that is neither indexed nor compressed (RFC 7541 §6.2.2).
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        bytes.extend(length(text.len()));
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// A length in seven bits, and on if need be (RFC 7541 §5.1).
pub(crate) fn length(length: usize) -> Vec<u8> {
    if length < 127 {
        return vec![u8::try_from(length).unwrap()];
    }
    let (mut bytes, mut rest) = (vec![127], length - 127);
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes
}

/// The fields of a request.
pub(crate) fn head(method: &str, target: &str) -> Vec<u8> {
    let mut bytes = field(":method", method);
    bytes.extend(field(":scheme", "http"));
    bytes.extend(field(":path", target));
    bytes.extend(field(":authority", "proxy.test"));
    bytes
}

/// A whole `GET`.
pub(crate) fn get(stream: u32, target: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &head("GET", target))
}

/// One connection, spoken by hand.
pub(crate) struct Frames {
    pub(crate) write: OwnedWriteHalf,
    pub(crate) read: Reading,
}

/// What comes back on it.
pub(crate) struct Reading {
    stream: OwnedReadHalf,
    unread: Vec<u8>,
}

impl Frames {
    /// Opens it with a preface and these settings.
    pub(crate) async fn open(address: SocketAddr, settings: &[u8]) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (read, write) = stream.into_split();
        let mut frames = Self { write, read: Reading { stream: read, unread: Vec::new() } };
        frames.send([PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()).await;
        frames
    }

    /// Sends; whether the other side still took it.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.write.write_all(bytes.as_ref()).await.is_ok()
    }

    /// Sends while it reads, for an amount that fills the buffers of both sides; then everything that
    /// came up to the end of the connection, or up to what is wanted.
    pub(crate) async fn flood(
        mut self,
        bytes: Vec<u8>,
        is_last: impl Fn(&Frame) -> bool,
    ) -> Flooded {
        let mut write = self.write;
        let writing = tokio::spawn(async move {
            // That it is cut off may be what the test wants.
            let _ = write.write_all(&bytes).await;
            write
        });
        let mut seen = Vec::new();
        let closed = loop {
            match self.read.frame().await {
                Some(frame) => {
                    let last = is_last(&frame);
                    seen.push(frame);
                    if last {
                        break false;
                    }
                }
                None => break true,
            }
        };
        if closed {
            writing.abort();
            return Flooded { seen, connection: None };
        }
        let write = writing.await.unwrap();
        Flooded { seen, connection: Some(Frames { write, read: self.read }) }
    }
}

/// What a flood was answered with.
pub(crate) struct Flooded {
    pub(crate) seen: Vec<Frame>,
    /// If it is still open.
    pub(crate) connection: Option<Frames>,
}

impl Flooded {
    pub(crate) fn count(&self, kind: u8, flags: u8) -> usize {
        self.seen.iter().filter(|it| (it.kind, it.flags) == (kind, flags)).count()
    }

    /// Why the other side went away, by its own word.
    pub(crate) fn goaway(&self) -> Option<u32> {
        let frame = self.seen.iter().find(|frame| frame.kind == GOAWAY)?;
        Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()))
    }
}

impl Reading {
    /// The next frame; `None` at the end.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        let head = self.take(9).await?;
        let size = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
        let payload = self.take(size).await?;
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    async fn take(&mut self, size: usize) -> Option<Vec<u8>> {
        while self.unread.len() < size {
            match self.stream.read_buf(&mut self.unread).await {
                Ok(read) if read > 0 => {}
                Ok(_) | Err(_) => return None,
            }
        }
        Some(self.unread.drain(..size).collect())
    }
}
