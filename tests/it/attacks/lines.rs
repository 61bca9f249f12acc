//! Heads: lines, names, characters, sizes.

use super::corpus::{
    CHUNK, CODING, FIELD, HOST_VALUE, LARGE_HEAD, LENGTH, LINE_END, LONG_TARGET, METHOD,
    REQUEST_LINE, Says, Subject, TARGET, VERSION, get, post,
};

/// Each line of a request, ended in another way.
pub(super) fn line_ends() -> Subject {
    let mut subject = Subject::new("line ends");
    let lines = ["POST /a HTTP/1.1", "Host: a", "Content-Length: 5", "X: y", ""];
    let ends: [&[u8]; 10] = [
        b"\n",
        b"\r",
        b"\r\r\n",
        b"\n\r",
        b"\n\n",
        b"\0\r\n",
        b"\x0b\r\n",
        b"\x85\r\n",
        b" \r\n",
        b"\t\r\n",
    ];
    for odd in 0..lines.len() {
        for end in ends {
            let ended = lines.iter().enumerate().map(|(at, line)| {
                [line.as_bytes(), if at == odd { end } else { b"\r\n" }].concat()
            });
            let bytes = [ended.collect::<Vec<_>>().concat(), b"hello".to_vec()].concat();
            let code = match (odd, end) {
                (_, [b'\r' | b'\n', ..]) => Some(LINE_END),
                (0, _) => Some(REQUEST_LINE),
                (4, _) | (_, [0 | 0x0b, ..]) => Some(FIELD),
                (1, [0x85, ..]) => Some(HOST_VALUE),
                (2, [0x85, ..]) => Some(LENGTH),
                _ => None,
            };
            subject.comes_to(bytes, code);
        }
    }
    subject
}

/// Lines that ask, in other words than three.
pub(super) fn request_lines() -> Subject {
    let mut subject = Subject::new("request lines");
    let host = "\r\nHost: a\r\n\r\n";
    let odd: [&[u8]; 50] = [
        b"GET /",
        b"GET /a ",
        b"GET  /a HTTP/1.1",
        b"GET /a  HTTP/1.1",
        b"GET\t/a HTTP/1.1",
        b"GET /a\tHTTP/1.1",
        b"GET\x0b/a HTTP/1.1",
        b"GET /a\x0cHTTP/1.1",
        b"GET\xa0/a HTTP/1.1",
        b" GET /a HTTP/1.1",
        b"\tGET /a HTTP/1.1",
        b"GET /a HTTP/1.1 ",
        b"GET /a HTTP/1.1\t",
        b"GET /a HTTP/1.1 HTTP/1.1",
        b"GET /a b HTTP/1.1",
        b"GET /a HTTP/1.1/b HTTP/1.1",
        b"GET",
        b"GET ",
        b"GET  HTTP/1.1",
        b"HTTP/1.1 200 OK",
        b"/a HTTP/1.1",
        b"GET:/a HTTP/1.1",
        b"GET: /a HTTP/1.1",
        b"G(ET /a HTTP/1.1",
        b"\"GET\" /a HTTP/1.1",
        b"GE,T /a HTTP/1.1",
        b"G\xc3\x84T /a HTTP/1.1",
        b"G\0ET /a HTTP/1.1",
        b"\0GET /a HTTP/1.1",
        b"\xef\xbb\xbfGET /a HTTP/1.1",
        b"GET /\0a HTTP/1.1",
        b"GET /a\0 HTTP/1.1",
        b"GET /a\x7f HTTP/1.1",
        b"GET /\x1b[0m HTTP/1.1",
        b"GET /\xc3\xa4 HTTP/1.1",
        b"GET /a?\xff HTTP/1.1",
        b"GET /a#b HTTP/1.1",
        b"GET /a?b#c HTTP/1.1",
        b"GET # HTTP/1.1",
        b"GET /<script> HTTP/1.1",
        b"GET /a?b<c HTTP/1.1",
        b"GET /a?\"b\" HTTP/1.1",
        b"GET /`a` HTTP/1.1",
        b"GET ?a HTTP/1.1",
        b"GET *a HTTP/1.1",
        b"GET http:// HTTP/1.1",
        b"GET http://a b/ HTTP/1.1",
        b"GET http://a/\xc3\xa4 HTTP/1.1",
        b"GET http://a/#b HTTP/1.1",
        b"GET http://[::1/a HTTP/1.1",
    ];
    for line in odd {
        subject.refused([line, host.as_bytes()].concat(), REQUEST_LINE);
    }
    for line in [
        "GET http://evil.test/a HTTP/1.1",
        "GET https://evil.test:1/a HTTP/1.1",
        "GET http://user:secret@evil.test/a HTTP/1.1",
        "GET http://evil.test HTTP/1.1",
        "GET http://evil.test?a HTTP/1.1",
        "GET //evil.test/a HTTP/1.1",
        "GET ///evil.test HTTP/1.1",
        "GET //user@evil.test/a HTTP/1.1",
        "GET /http://evil.test/ HTTP/1.1",
        "GET /a@evil.test HTTP/1.1",
        "GET /\\evil.test HTTP/1.1",
        "GET /a;b=c,d HTTP/1.1",
        "GET /a%00%0d%0aX:%20y HTTP/1.1",
        "GET /%2e%2e/%2f HTTP/1.1",
        "GET /a?b=HTTP/1.1 HTTP/1.1",
        "GET /a?{b:1}|`^\\ HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "X!#$%&'*+-.^_`|~ /a HTTP/1.1",
    ] {
        subject.passes(format!("{line}{host}"));
    }
    for line in
        ["GET evil.test:80 HTTP/1.1", "GET evil.test HTTP/1.1", "GET * HTTP/1.1", "GET a HTTP/1.1"]
    {
        subject.add(format!("{line}{host}"), &[Says::Refused(TARGET)], true);
    }
    subject.add(format!("TRACE /a HTTP/1.1{host}"), &[Says::Refused(METHOD)], true);
    subject
}

/// Versions that are none, or others.
pub(super) fn versions() -> Subject {
    let mut subject = Subject::new("versions");
    for version in
        ["HTTP/0.9", "HTTP/1.2", "HTTP/1.9", "HTTP/2.0", "HTTP/3.0", "HTTP/0.0", "HTTP/9.9"]
    {
        subject.refused(format!("GET /a {version}\r\nHost: a\r\n\r\n"), VERSION);
    }
    for version in [
        "HTTP/1",
        "HTTP/1.",
        "HTTP/.1",
        "HTTP/1.1.1",
        "HTTP/1.10",
        "HTTP/11.1",
        "HTTP/01.1",
        "HTTP/1.01",
        "HTTP/1,1",
        "HTTP/1.x",
        "HTTP/x.1",
        "HTTP/+1.1",
        "HTTP/-1.1",
        "HTTP 1.1",
        "HTTP/ 1.1",
        "HTTP/1 .1",
        "HTTP//1.1",
        "HTTP1.1",
        "http/1.1",
        "Http/1.1",
        "HTTP/1.1\0",
        "HTTPS/1.1",
        "HTTP\\1.1",
        "ICY/1.1",
        "RTSP/1.0",
        "XHTTP/1.1",
        "HTTP/2",
        "\u{ff28}TTP/1.1",
        "HTTP/1.1;a",
    ] {
        subject.refused(format!("GET /a {version}\r\nHost: a\r\n\r\n"), REQUEST_LINE);
    }
    subject
}

/// Every control character in every place.
pub(super) fn controls() -> Subject {
    let mut subject = Subject::new("controls");
    let bytes = (0..0x20).filter(|byte| !b"\t\n\r".contains(byte)).chain([0x7f]);
    for byte in bytes {
        let places: [(&[u8], &[u8], &str); 6] = [
            (b"GE", b"T /a HTTP/1.1\r\nHost: a\r\n\r\n", REQUEST_LINE),
            (b"GET /a", b"b HTTP/1.1\r\nHost: a\r\n\r\n", REQUEST_LINE),
            (b"GET /a HTTP/1.1\r\nHost: a", b"b\r\n\r\n", FIELD),
            (b"GET /a HTTP/1.1\r\nHost: a\r\nX", b"Y: z\r\n\r\n", FIELD),
            (b"GET /a HTTP/1.1\r\nHost: a\r\nX: y", b"z\r\n\r\n", FIELD),
            (
                b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;",
                b"\r\na\r\n0\r\n\r\n",
                CHUNK,
            ),
        ];
        for (before, after, code) in places {
            subject.refused([before, &[byte], after].concat(), code);
        }
    }
    subject
}

/// What is no part of a name.
pub(super) fn names() -> Subject {
    let mut subject = Subject::new("names");
    for byte in b" \t\"(),/;<=>?@[\\]{}\x80\xa0\xc3\xff" {
        for (before, after) in [("", "X: y"), ("X", ": y"), ("X", "Y: z")] {
            let line = [before.as_bytes(), &[*byte], after.as_bytes(), b"\r\n"].concat();
            subject.refused(post(line, ""), FIELD);
        }
    }
    for byte in b"!#$%&'*+-.^_`|~" {
        subject.passes(post([b"X", &[*byte][..], b": y\r\n"].concat(), ""));
    }
    subject
}

/// Lines that go on in the next.
pub(super) fn folding() -> Subject {
    let mut subject = Subject::new("folding");
    for blank in [" ", "\t", "  ", " \t "] {
        for lines in [
            format!("X: a\r\n{blank}b\r\n"),
            format!("X: a\r\n{blank}Content-Length: 5\r\n"),
            format!("X:\r\n{blank}Transfer-Encoding: chunked\r\n"),
            format!("{blank}X: a\r\n"),
            format!("X: a\r\n{blank}\r\n"),
        ] {
            subject.refused(post(&lines, "hello"), FIELD);
        }
    }
    for (first, second, code) in [
        ("Content-Length:", "5", LENGTH),
        ("Content-Length: 5", "0", FIELD),
        ("Transfer-Encoding:", "chunked", CODING),
        ("Transfer-Encoding: chunked", ", gzip", FIELD),
    ] {
        subject.refused(post(format!("{first}\r\n {second}\r\n"), "hello"), code);
    }
    subject.refused("GET /a\r\n HTTP/1.1\r\nHost: a\r\n\r\n", REQUEST_LINE);
    subject.refused("GET /a HTTP/1.1\r\n Host: a\r\n\r\n", FIELD);
    subject.refused("GET /a HTTP/1.1\r\nHost:\r\n a\r\n\r\n", HOST_VALUE);
    subject
}

/// What comes before a request line.
pub(super) fn leading_lines() -> Subject {
    let mut subject = Subject::new("leading lines");
    let request = String::from_utf8(get("Host: a\r\n")).expect("it is ASCII");
    for count in 1..=4 {
        subject.passes("\r\n".repeat(count) + &request);
    }
    for count in [5, 6, 1000] {
        subject.refused("\r\n".repeat(count) + &request, REQUEST_LINE);
    }
    for lead in ["\n", "\r", "\n\n", "\r\r\n", "\r\n\n", "\n\r\n"] {
        subject.refused(lead.to_owned() + &request, LINE_END);
    }
    for lead in [" \r\n", "\t\r\n", "\0\r\n", "\0", "x\r\n", "\r\n "] {
        subject.refused(lead.to_owned() + &request, REQUEST_LINE);
    }
    // Some clients end a content with a line end that belongs to nothing.
    let trailed = [post("Content-Length: 5\r\n", "hello"), b"\r\n".to_vec()].concat();
    subject.passes(trailed);
    let trailed = [post("Content-Length: 5\r\n", "hello"), b"\n".to_vec()].concat();
    subject.add(trailed, &[Says::Passes, Says::Refused(LINE_END)], false);
    subject
}

/// More than anybody needs.
pub(super) fn sizes() -> Subject {
    let mut subject = Subject::new("sizes");
    let long = |size: usize| "a".repeat(size);
    for size in [33_000, 70_000, 200_000] {
        subject.refused(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", long(size)), LONG_TARGET);
        subject.refused(format!("{} /a HTTP/1.1\r\nHost: a\r\n\r\n", long(size)), LONG_TARGET);
        subject.refused(format!("GET /a {}\r\nHost: a\r\n\r\n", long(size)), LONG_TARGET);
        subject.refused(long(size), LONG_TARGET);
    }
    for size in [66_000, 200_000] {
        subject.refused(get(&format!("Host: a\r\nX: {}\r\n", long(size))), LARGE_HEAD);
        subject.refused(get(&format!("Host: a\r\n{}: y\r\n", long(size))), LARGE_HEAD);
        let lines = format!("X: {}\r\n", long(1000)).repeat(size / 1000);
        subject.refused(get(&format!("Host: a\r\n{lines}")), LARGE_HEAD);
    }
    subject.refused(get(&format!("Host: a\r\n{}", "X: y\r\n".repeat(100))), LARGE_HEAD);
    subject.refused(get(&format!("{}Host: a\r\n", "X:\r\n".repeat(5000))), LARGE_HEAD);
    let coding = "Transfer-Encoding: chunked\r\n";
    for extension in [17_000, 100_000] {
        let content = format!("5;{}\r\nhello\r\n0\r\n\r\n", long(extension));
        subject.refused(post(coding, content), CHUNK);
    }
    subject.refused(post(coding, format!("1;{}\r\na\r\n", long(100)).repeat(200)), CHUNK);
    subject.refused(post(coding, format!("0\r\nX: {}\r\n\r\n", long(9000))), CHUNK);
    subject.refused(post(coding, format!("0\r\n{}\r\n", "X: y\r\n".repeat(65))), CHUNK);
    subject.refused(post(coding, long(20_000)), CHUNK);
    subject.passes(get(&format!("Host: a\r\nX: {}\r\n", long(60_000))));
    subject.passes(get(&format!("Host: a\r\n{}", "X: y\r\n".repeat(90))));
    subject.passes(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", long(32_000)));
    subject.passes(post(coding, format!("5;{}\r\nhello\r\n0\r\n\r\n", long(16_000))));
    subject
}
