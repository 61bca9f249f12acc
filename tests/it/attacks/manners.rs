//! Hosts, versions, and what changes what is spoken.

use super::corpus::{
    CHUNK, FIELD, HOST_VALUE, HOSTS, LENGTH, LINE_END, METHOD, REQUEST_LINE, SMUGGLED, Says,
    Subject, VERSION, get, post,
};

/// Values that are no host.
const NO_HOSTS: [&str; 58] = [
    "",
    " ",
    "@",
    "u@a",
    "u:p@a",
    "evil/@x",
    "a/",
    "a/b",
    "a?b",
    "a#b",
    "a b",
    "a\tb",
    "a,b",
    "a, b",
    "a;b",
    "a&b",
    "a=b",
    "a!b",
    "a*b",
    "*",
    "a'b",
    "a\"b",
    "(a)",
    "<a>",
    "{a}",
    "|a",
    "^a",
    "`a",
    "a\\b",
    "$a",
    "a+b",
    "%61",
    "a%00",
    "a%2f",
    "http://a",
    "http:a",
    "//a",
    "a:b",
    "a:80:80",
    "a::80",
    "a:-1",
    "a:+80",
    "a:8 0",
    "a:123456",
    ":80",
    "::1",
    "[::1",
    "::1]",
    "[]",
    "[::1]x",
    "[::1]:x",
    "[u@a]",
    "[::1%25eth0]",
    "[a]:80]",
    "\u{e4}.test",
    "\u{ff41}",
    "a\u{a0}",
    "a\u{3002}b",
];

/// Hosts that are none, or several.
pub(super) fn hosts() -> Subject {
    let mut subject = Subject::new("hosts");
    for value in NO_HOSTS {
        subject.refused(get(&format!("Host: {value}\r\n")), HOST_VALUE);
    }
    for value in [
        "a",
        "A.TEST",
        "a:80",
        "a:",
        "a.",
        "a-b_c~d",
        "127.0.0.1",
        "127.0.0.1:65535",
        "[::1]",
        "[::1]:80",
        "[::ffff:1.2.3.4]",
        "\ta \t",
        "1",
    ] {
        subject.passes(get(&format!("Host:{value}\r\n")));
    }
    for lines in [
        "",
        "X: y\r\n",
        "Host: a\r\nHost: b\r\n",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nX: y\r\nHOST: a\r\n",
        "host: a\r\nHost:\r\n",
        "X-Forwarded-Host: a\r\n",
        "Hos: a\r\n",
        "Hostt: a\r\n",
    ] {
        subject.refused(get(lines), HOSTS);
    }
    for line in [
        "Host : a",
        " Host: a",
        "Host\t: a",
        "Host",
        "Host a",
        "Host: a\0",
        "H\0st: a",
        "Host:\x0ba",
    ] {
        subject.refused(get(&format!("{line}\r\n")), FIELD);
    }
    // The first is the one that counts, and there is no second.
    subject.refused(get("Host: a\r\n Host: b\r\n"), FIELD);
    subject.refused(get("Host: a\nHost: b\r\n"), LINE_END);
    subject
}

/// `Expect`, with the content behind it at once.
pub(super) fn expectations() -> Subject {
    let mut subject = Subject::new("expectations");
    for value in [
        "100-continue",
        "100-Continue",
        "100-continue, 100-continue",
        "100-continue;a",
        " 100-continue\t",
        "",
        "200-ok",
        "y 100-continue",
        "100-continueX",
    ] {
        let expect = format!("Expect: {value}\r\n");
        subject.passes(post(format!("{expect}Content-Length: 5\r\n"), "hello"));
        subject.passes(post(
            format!("Transfer-Encoding: chunked\r\n{expect}"),
            "5\r\nhello\r\n0\r\n\r\n",
        ));
        subject.passes(post(&expect, ""));
        let length = SMUGGLED.len();
        subject.passes(post(format!("{expect}Content-Length: {length}\r\n"), SMUGGLED));
    }
    subject.passes(post(
        "Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 5\r\n",
        "hello",
    ));
    subject
}

/// Requests to speak something else, and what comes before the answer to them.
pub(super) fn switching() -> Subject {
    let mut subject = Subject::new("switching");
    for lines in [
        "Connection: Upgrade\r\nUpgrade: websocket\r\n",
        "Connection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 1337\r\n",
        "Connection: keep-alive, Upgrade\r\nUpgrade: h2c, websocket\r\n",
        "Upgrade: websocket\r\n",
        "Upgrade: xwebsocket\r\n",
    ] {
        // No host of that kind: an ordinary answer, and nothing behind it.
        let head = format!("GET /a HTTP/1.1\r\nHost: a\r\n{lines}");
        subject.add(format!("{head}\r\n"), &[Says::Passes], false);
        subject.add(format!("{head}\r\n{SMUGGLED}"), &[Says::Passes], false);
        subject.add(
            format!("{head}Content-Length: 5\r\n\r\nhello{SMUGGLED}"),
            &[Says::Passes],
            false,
        );
    }
    for lines in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c\r\n",
        "Upgrade: TLS/1.0\r\nConnection: Upgrade\r\n",
        "Upgrade: HTTP/3.0\r\n",
        "Upgrade:\r\n",
    ] {
        subject.passes(post(lines, ""));
        let two = [post(lines, ""), SMUGGLED.into()].concat();
        subject.add(two, &[Says::Passes; 2], true).is_pipelined = true;
    }
    for target in ["a:443", "127.0.0.1:22", "/a", "http://a/"] {
        let head = format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\n");
        subject.add(format!("{head}\r\n"), &[Says::Refused(METHOD)], false);
        subject.add(format!("{head}\r\n{SMUGGLED}"), &[Says::Refused(METHOD)], false);
    }
    subject
}

/// Some that pass, and then one that does not.
pub(super) fn pipelines() -> Subject {
    let mut subject = Subject::new("pipelines");
    let first = [
        get("Host: a\r\n"),
        post("Content-Length: 5\r\n", "hello"),
        post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
    ];
    let attacks: [(&[u8], &str); 7] = [
        (b"GET /a HTTP/1.1\nHost: a\n\n", LINE_END),
        (b"GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", HOSTS),
        (b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", LENGTH),
        (b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n", CHUNK),
        (b"GET /a HTTP/2.0\r\nHost: a\r\n\r\n", VERSION),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", REQUEST_LINE),
        (b"HEAD /a HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", FIELD),
    ];
    for count in [1, 2, 3, 6, 20] {
        for (attack, code) in attacks {
            let before: Vec<_> = first.iter().cycle().take(count).cloned().collect();
            let mut says = vec![Says::Passes; count];
            says.push(Says::Refused(code));
            subject.add([before.concat(), attack.to_vec()].concat(), &says, false);
        }
        let all: Vec<_> = first.iter().cycle().take(count).cloned().collect();
        subject.add(all.concat(), &vec![Says::Passes; count], true);
    }
    subject
}

/// `Connection` names what frames and routes.
pub(super) fn nominations() -> Subject {
    let mut subject = Subject::new("nominations");
    for value in [
        "content-length",
        "Content-Length, Host",
        "host",
        "transfer-encoding",
        "close, content-length",
        "keep-alive, content-length",
        "expect",
        "trailer, te",
        "connection",
        "upgrade",
        "authorization, via",
        ",,a,",
    ] {
        let line = format!("Connection: {value}\r\n");
        let goes_on = !value.starts_with("close");
        let length = post(format!("{line}Content-Length: 5\r\n"), "hello");
        subject.add(length, &[Says::Passes], goes_on);
        let chunked =
            post(format!("Transfer-Encoding: chunked\r\n{line}"), "5\r\nhello\r\n0\r\n\r\n");
        subject.add(chunked, &[Says::Passes], goes_on);
    }
    subject
}

/// HTTP/1.0, which has no chunks and ends connections.
pub(super) fn old() -> Subject {
    let mut subject = Subject::new("HTTP/1.0");
    let old = |lines: &str, content: &str| format!("POST /a HTTP/1.0\r\n{lines}\r\n{content}");
    for value in ["chunked", "identity", "gzip, chunked", ""] {
        let coding = format!("Transfer-Encoding: {value}\r\n");
        subject.refused(old(&coding, "0\r\n\r\n"), LENGTH);
        subject.refused(old(&format!("Connection: keep-alive\r\n{coding}"), "0\r\n\r\n"), LENGTH);
        subject.refused(old(&format!("Content-Length: 5\r\n{coding}"), "0\r\n\r\n"), LENGTH);
    }
    subject.add(old("", ""), &[Says::Passes], false);
    subject.add(old("Host: a\r\n", ""), &[Says::Passes], false);
    subject.add(old("Content-Length: 5\r\n", "hello"), &[Says::Passes], false);
    let length = format!("Content-Length: {}\r\n", SMUGGLED.len());
    subject.add(old(&length, SMUGGLED), &[Says::Passes], false);
    subject.add(old("Upgrade: websocket\r\nConnection: Upgrade\r\n", ""), &[Says::Passes], false);
    subject.passes(old("Connection: keep-alive\r\n", ""));
    subject.passes(old("Connection: keep-alive\r\nContent-Length: 5\r\n", "hello"));
    subject.refused(old("Host: a\r\nHost: b\r\n", ""), HOSTS);
    subject.refused(old("Host: u@a\r\n", ""), HOST_VALUE);
    subject.refused(old("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"), LENGTH);
    subject
}

/// The beginning of HTTP/2 where it is not spoken.
pub(super) fn http2() -> Subject {
    let mut subject = Subject::new("HTTP/2");
    // It is closed without a word in a version that was not agreed on.
    subject.add("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[], false);
    subject.add("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", &[], false);
    subject.add("PRI * HTTP/2.0\r\n\r\n", &[], false);
    subject
}
