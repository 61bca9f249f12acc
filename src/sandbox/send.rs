//! Messages and faxes: JSON or multipart in, the created message out.
//!
//! Pure. Nothing is kept of a message; that it was sent is counted, so that a test can tell one
//! message from two.

use http::StatusCode;
use serde_json::{Value, json};

use super::api::Call;
use super::reply::{Reply, json as json_reply, refusal};
use crate::clock::Timestamp;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Sms,
    Mms,
    Fax,
}

/// What a request says about the message.
#[derive(Debug, Default, PartialEq)]
struct Message {
    from: Option<Value>,
    to: Vec<Value>,
    text: Option<String>,
    attachments: Vec<Attachment>,
    resolution: Option<String>,
}

#[derive(Debug, PartialEq)]
struct Attachment {
    media_type: String,
    bytes: usize,
}

impl Kind {
    /// Whether the operation sends something.
    pub(super) fn of(operation: &str) -> Option<Self> {
        match operation {
            "createSMSMessage" => Some(Self::Sms),
            "createMMS" => Some(Self::Mms),
            "createFaxMessage" => Some(Self::Fax),
            _ => None,
        }
    }
}

/// Answers with the message that was created.
pub(super) fn answer(call: &Call<'_>, kind: Kind) -> Reply {
    let content_type = call.fields.get(http::header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let message = Message::read(content_type, &call.upload.head);
    if message.to.is_empty() {
        let message = "Parameter [to] is not specified in request";
        return refusal(StatusCode::BAD_REQUEST, "CMN-101", message);
    }
    json_reply(StatusCode::OK, &created(call, kind, &message))
}

fn created(call: &Call<'_>, kind: Kind, message: &Message) -> Value {
    let id = 1_700_000_000_000 + call.serial;
    let store = call.path.rsplit_once('/').map_or("", |(extension, _)| extension);
    let place = format!("{store}/message-store/{id}");
    let sent = rfc3339(call.now);
    let mut body = json!({
        "uri": format!("{}{place}", call.hosts.platform),
        "id": id,
        "to": message.to,
        "type": match kind { Kind::Fax => "Fax", Kind::Sms | Kind::Mms => "SMS" },
        "creationTime": sent,
        "lastModifiedTime": sent,
        "readStatus": "Read",
        "priority": "Normal",
        "attachments": attachments(call, &place, id, message),
        "direction": "Outbound",
        "availability": "Alive",
        "messageStatus": "Queued",
    });
    if kind == Kind::Fax {
        body["faxResolution"] = message.resolution.as_deref().unwrap_or("High").into();
        body["faxPageCount"] = message.attachments.len().into();
    } else {
        body["subject"] = message.text.as_deref().unwrap_or_default().into();
        body["conversationId"] = (5_000_000_000 + call.user).into();
    }
    if let Some(from) = &message.from {
        body["from"] = from.clone();
    }
    body
}

fn attachments(call: &Call<'_>, place: &str, id: u64, message: &Message) -> Vec<Value> {
    let text = message.text.as_ref().map(|text| ("text/plain", text.len()));
    let files = message.attachments.iter().map(|file| (file.media_type.as_str(), file.bytes));
    let all = text.into_iter().chain(files).zip(id..);
    all.map(|((media_type, bytes), id)| {
        json!({
            "id": id,
            "uri": format!("{}{place}/content/{id}", call.hosts.media),
            "type": if media_type == "text/plain" { "Text" } else { "MmsAttachment" },
            "contentType": media_type,
            "size": bytes,
        })
    })
    .collect()
}

impl Message {
    fn read(content_type: &str, content: &[u8]) -> Self {
        let mut message = Self::default();
        match boundary(content_type) {
            None => message.take_json(content),
            Some(boundary) => {
                for part in parts(content, &boundary) {
                    message.take_part(&part);
                }
            }
        }
        message
    }

    fn take_json(&mut self, content: &[u8]) {
        let Ok(json) = serde_json::from_slice::<Value>(content) else { return };
        let text = |name: &str| json.get(name).and_then(Value::as_str).map(str::to_owned);
        self.to.extend(json.get("to").and_then(Value::as_array).cloned().unwrap_or_default());
        self.from = json.get("from").cloned();
        self.text = text("text");
        self.resolution = text("faxResolution");
    }

    fn take_part(&mut self, part: &Part<'_>) {
        let text = || String::from_utf8_lossy(part.content).into_owned();
        match part.name.as_deref() {
            Some("to") => self.to.push(json!({"phoneNumber": text()})),
            Some("from") => self.from = Some(json!({"phoneNumber": text()})),
            Some("text") => self.text = Some(text()),
            Some("faxResolution") => self.resolution = Some(text()),
            _ if part.media_type.starts_with("application/json") => self.take_json(part.content),
            _ if part.file || part.name.is_none() => self.attachments.push(Attachment {
                media_type: part.media_type.to_owned(),
                bytes: part.content.len(),
            }),
            _ => {}
        }
    }
}

/// One part of a multipart content (RFC 2046 §5.1).
#[derive(Debug)]
struct Part<'a> {
    name: Option<String>,
    file: bool,
    media_type: &'a str,
    content: &'a [u8],
}

fn boundary(content_type: &str) -> Option<String> {
    let parameters = content_type.strip_prefix("multipart/")?;
    let (_, boundary) = parameters.split_once("boundary=")?;
    let boundary = boundary.split(';').next().unwrap_or_default().trim().trim_matches('"');
    Some(boundary.to_owned()).filter(|boundary| !boundary.is_empty())
}

fn parts<'a>(content: &'a [u8], boundary: &str) -> Vec<Part<'a>> {
    let delimiter = format!("--{boundary}");
    let mut pieces = split(content, delimiter.as_bytes()).skip(1);
    let pieces = pieces.by_ref().take_while(|piece| !piece.starts_with(b"--"));
    pieces.filter_map(Part::read).collect()
}

fn split<'a>(content: &'a [u8], by: &[u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = Some(content);
    std::iter::from_fn(move || {
        let from = rest?;
        let at = from.windows(by.len()).position(|window| window == by);
        rest = at.map(|at| &from[at + by.len()..]);
        Some(at.map_or(from, |at| &from[..at]))
    })
}

impl<'a> Part<'a> {
    fn read(piece: &'a [u8]) -> Option<Self> {
        let piece = piece.strip_prefix(b"\r\n").or_else(|| piece.strip_prefix(b"\n"))?;
        let (head, content) = head_and_content(piece)?;
        let content = content.strip_suffix(b"\r\n").or_else(|| content.strip_suffix(b"\n"));
        let head = std::str::from_utf8(head).ok()?;
        let field = |wanted: &str| {
            let mut fields = head.lines().filter_map(|line| line.split_once(':'));
            fields.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, v)| v.trim())
        };
        let disposition = field("content-disposition").unwrap_or_default();
        let name = disposition.split(';').find_map(|part| part.trim().strip_prefix("name="));
        Some(Self {
            name: name.map(|name| name.trim_matches('"').to_owned()),
            file: disposition.contains("filename"),
            media_type: field("content-type").unwrap_or("text/plain"),
            content: content?,
        })
    }
}

fn head_and_content(piece: &[u8]) -> Option<(&[u8], &[u8])> {
    if let Some(content) = piece.strip_prefix(b"\r\n") {
        return Some((b"", content));
    }
    let end = |blank: &[u8]| {
        let at = piece.windows(blank.len()).position(|window| window == blank)?;
        Some((&piece[..at], &piece[at + blank.len()..]))
    };
    end(b"\r\n\r\n").or_else(|| end(b"\n\n"))
}

fn rfc3339(at: Timestamp) -> String {
    humantime::format_rfc3339_millis(at.into()).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIXED: &[u8] = b"--b\r\nContent-Type: application/json\r\n\r\n\
        {\"to\":[{\"phoneNumber\":\"+1\"}],\"text\":\"hi\"}\r\n\
        --b\r\nContent-Type: image/png\r\nContent-Disposition: attachment; filename=a.png\r\n\r\n\
        \x89PNG\r\n--b--\r\n";

    #[test]
    fn a_multipart_mixed_message_is_understood() {
        let message = Message::read("multipart/mixed; boundary=b", MIXED);
        assert_eq!(message.to, [json!({"phoneNumber": "+1"})]);
        assert_eq!(message.text.as_deref(), Some("hi"));
        let png = Attachment { media_type: "image/png".into(), bytes: 4 };
        assert_eq!(message.attachments, [png]);
    }

    #[test]
    fn a_form_data_fax_is_understood() {
        let form = b"--x\r\nContent-Disposition: form-data; name=\"to\"\r\n\r\n+15551230002\r\n\
            --x\r\nContent-Disposition: form-data; name=\"attachment\"; filename=\"f.txt\"\r\n\
            Content-Type: text/plain\r\n\r\npage\r\n--x--";
        let message = Message::read("multipart/form-data; boundary=\"x\"", form);
        assert_eq!(message.to, [json!({"phoneNumber": "+15551230002"})]);
        assert_eq!(message.attachments.len(), 1);
    }

    proptest! {
        #[test]
        fn no_content_makes_it_panic(content in prop::collection::vec(any::<u8>(), 0..200)) {
            Message::read("multipart/mixed; boundary=b", &content);
            Message::read("application/json", &content);
        }

        #[test]
        fn no_cut_of_a_real_content_makes_it_panic(end in 0usize..200) {
            Message::read("multipart/mixed; boundary=b", &MIXED[..end.min(MIXED.len())]);
        }
    }
}
