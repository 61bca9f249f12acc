//! HTTP/1.1 by hand, where a client library would tidy up what is being tested.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One connection, and what has been read of it but not been looked at.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    unread: Vec<u8>,
}

/// One answer, as it came.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case, in the order in which they came.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) content: Vec<u8>,
    /// Trailer lines of a chunked content.
    pub(crate) trailers: Vec<(String, String)>,
    /// Whether the content came to the end that its framing announced.
    pub(crate) complete: bool,
}

impl Wire {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap())
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, unread: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Sends a whole request and reads its answer.
    pub(crate) async fn ask(&mut self, request: impl AsRef<[u8]>) -> Answer {
        self.send(request.as_ref()).await;
        self.answer_to(if request.as_ref().starts_with(b"HEAD ") { "HEAD" } else { "" }).await
    }

    /// The answer to a request by this method.
    pub(crate) async fn answer_to(&mut self, method: &str) -> Answer {
        if method == "HEAD" { self.answer_without_content().await } else { self.answer().await }
    }

    /// The next answer with its content.
    pub(crate) async fn answer(&mut self) -> Answer {
        let mut answer = self.answer_without_content().await;
        if answer.status < 200 || [204, 304].contains(&answer.status) {
            return answer;
        }
        if answer.field("transfer-encoding") == Some("chunked") {
            answer.complete = self.chunked(&mut answer).await.is_some();
        } else if let Some(length) = answer.field("content-length") {
            let length = length.parse().unwrap();
            answer.complete = self.read_up_to(length).await;
            let there = length.min(self.unread.len());
            answer.content = self.unread.drain(..there).collect();
        } else {
            answer.complete = self.read_to_end().await;
            answer.content = std::mem::take(&mut self.unread);
        }
        answer
    }

    /// The content of an answer whose head has been read, piece by piece; whether it came to its end.
    pub(crate) async fn pour(&mut self, answer: &Answer, mut piece: impl FnMut(&[u8])) -> bool {
        if let Some(length) = answer.field("content-length") {
            return self.pour_some(length.parse().unwrap(), &mut piece).await;
        }
        assert_eq!(answer.field("transfer-encoding"), Some("chunked"));
        loop {
            let Some(end) = self.read_past(b"\r\n").await else { return false };
            let line: Vec<u8> = self.unread.drain(..end).collect();
            let size = std::str::from_utf8(&line).unwrap().trim_end();
            let size = usize::from_str_radix(size, 16).unwrap();
            let is_whole = self.pour_some(size, &mut piece).await && self.read_up_to(2).await;
            self.unread.drain(..self.unread.len().min(2));
            if size == 0 || !is_whole {
                return is_whole;
            }
        }
    }

    async fn pour_some(&mut self, mut left: usize, piece: &mut impl FnMut(&[u8])) -> bool {
        while left > 0 {
            if self.unread.is_empty() && !self.fill().await {
                return false;
            }
            let there = left.min(self.unread.len());
            piece(&self.unread[..there]);
            self.unread.drain(..there);
            left -= there;
        }
        true
    }

    /// The next head, of a request or of an answer, without its blank line.
    pub(crate) async fn head(&mut self) -> Option<String> {
        let end = self.read_past(b"\r\n\r\n").await?;
        let head: Vec<u8> = self.unread.drain(..end).collect();
        Some(String::from_utf8(head[..end - 4].to_vec()).unwrap())
    }

    /// The content of a request whose head has been read, and which tells its length.
    pub(crate) async fn content(&mut self, head: &str) -> Vec<u8> {
        let fields = lines(head);
        let length = fields.iter().find(|(name, _)| name == "content-length").expect("it has one");
        let mut content = Vec::new();
        let length = length.1.parse().unwrap();
        assert!(self.pour_some(length, &mut |piece: &[u8]| content.extend_from_slice(piece)).await);
        content
    }

    pub(crate) async fn answer_without_content(&mut self) -> Answer {
        let head = self.head().await.expect("an answer comes");
        let (line, fields) = head.split_once("\r\n").unwrap_or((&head, ""));
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        Answer {
            status: status.unwrap_or_else(|| panic!("a status line: {line}")),
            fields: lines(fields),
            content: Vec::new(),
            trailers: Vec::new(),
            complete: true,
        }
    }

    /// How much has been read beyond the head; it is forgotten.
    pub(crate) fn take_unread(&mut self) -> usize {
        std::mem::take(&mut self.unread).len()
    }

    /// Whether `mark` comes.
    pub(crate) async fn reads_past(&mut self, mark: &str) -> bool {
        let end = self.read_past(mark.as_bytes()).await;
        self.unread.drain(..end.unwrap_or_default());
        end.is_some()
    }

    /// Whether the other side closes, having sent nothing more.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.unread.is_empty() && !self.fill().await
    }

    async fn chunked(&mut self, answer: &mut Answer) -> Option<()> {
        loop {
            let end = self.read_past(b"\r\n").await?;
            let line: Vec<u8> = self.unread.drain(..end).collect();
            let digits = std::str::from_utf8(&line[..end - 2]).unwrap();
            let length = usize::from_str_radix(digits, 16).unwrap();
            if length == 0 {
                break;
            }
            if !self.read_up_to(length + 2).await {
                let there = length.min(self.unread.len());
                answer.content.extend(self.unread.drain(..there));
                return None;
            }
            answer.content.extend(self.unread.drain(..length));
            self.unread.drain(..2);
        }
        self.read_up_to(2).await;
        let end =
            if self.unread.starts_with(b"\r\n") { 2 } else { self.read_past(b"\r\n\r\n").await? };
        let tail: Vec<u8> = self.unread.drain(..end).collect();
        answer.trailers = lines(std::str::from_utf8(&tail).unwrap().trim_end());
        Some(())
    }

    async fn read_past(&mut self, mark: &[u8]) -> Option<usize> {
        loop {
            let found = self.unread.windows(mark.len()).position(|window| window == mark);
            if let Some(at) = found {
                return Some(at + mark.len());
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    async fn read_up_to(&mut self, length: usize) -> bool {
        while self.unread.len() < length {
            if !self.fill().await {
                return false;
            }
        }
        true
    }

    /// Whether the end was an orderly one.
    async fn read_to_end(&mut self) -> bool {
        loop {
            match self.stream.read_buf(&mut self.unread).await {
                Ok(0) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    async fn fill(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.unread).await, Ok(read) if read > 0)
    }
}

impl Answer {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.content).unwrap()
    }

    /// The proxy's own error code, if it is the one who answered.
    pub(crate) fn error(&self) -> Option<&str> {
        self.field("x-ringbearer-error")
    }
}

/// A `GET` with nothing but `Host`.
pub(crate) fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: proxy.test\r\n\r\n")
}

fn lines(text: &str) -> Vec<(String, String)> {
    let lines = text.split("\r\n").filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect()
}
