//! An upstream that reads requests byte by byte and tells what came, where a library would tidy it up.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedSender;

/// A request as it arrived.
#[derive(Debug, Default)]
pub(crate) struct Arrived {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    pub(crate) content: Vec<u8>,
    pub(crate) is_chunked: bool,
    pub(crate) trailers: Vec<(String, Vec<u8>)>,
}

impl Arrived {
    pub(crate) fn values(&self, name: &str) -> Vec<&[u8]> {
        let same = self.fields.iter().filter(|(it, _)| it.eq_ignore_ascii_case(name));
        same.map(|(_, value)| value.as_slice()).collect()
    }
}

/// Answers every request on every connection, and passes it on.
pub(crate) async fn serve(listener: TcpListener, arrivals: UnboundedSender<Arrived>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(connection(stream, arrivals.clone()));
    }
}

async fn connection(stream: TcpStream, arrivals: UnboundedSender<Arrived>) {
    let mut reader = Reader { stream, unread: Vec::new() };
    while let Some(arrived) = reader.request().await {
        let content = if arrived.method == "HEAD" { "" } else { "ok" };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{content}");
        // The test may be over.
        let _ = arrivals.send(arrived);
        if reader.stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

struct Reader {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Reader {
    async fn request(&mut self) -> Option<Arrived> {
        let line = String::from_utf8(self.line().await?).unwrap();
        let [method, target, "HTTP/1.1"] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("a request line: {line}");
        };
        let (method, target) = (method.to_owned(), target.to_owned());
        let fields = self.fields().await?;
        let mut arrived = Arrived { method, target, fields, ..Arrived::default() };
        arrived.is_chunked = arrived.values("transfer-encoding") == [b"chunked"];
        if arrived.is_chunked {
            loop {
                let size = String::from_utf8(self.line().await?).unwrap();
                match usize::from_str_radix(&size, 16).unwrap() {
                    0 => break,
                    size => arrived.content.extend(self.take(size).await?),
                }
                self.take(2).await?;
            }
            arrived.trailers = self.fields().await?;
        } else if let Some(length) = arrived.values("content-length").first() {
            let length = std::str::from_utf8(length).unwrap().parse().unwrap();
            arrived.content = self.take(length).await?;
        }
        Some(arrived)
    }

    /// Lines up to an empty one.
    async fn fields(&mut self) -> Option<Vec<(String, Vec<u8>)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?;
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                assert!(line.is_empty(), "a field: {line:?}");
                return Some(fields);
            };
            let name = String::from_utf8(line[..colon].to_vec()).unwrap();
            fields.push((name, line[colon + 1..].trim_ascii().to_vec()));
        }
    }

    /// The next line without its end.
    async fn line(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|pair| pair == b"\r\n") {
                let mut line: Vec<u8> = self.unread.drain(..end + 2).collect();
                line.truncate(end);
                return Some(line);
            }
            self.fill().await?;
        }
    }

    async fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.unread.len() < length {
            self.fill().await?;
        }
        Some(self.unread.drain(..length).collect())
    }

    async fn fill(&mut self) -> Option<()> {
        let read = self.stream.read_buf(&mut self.unread).await.ok()?;
        (read > 0).then_some(())
    }
}
