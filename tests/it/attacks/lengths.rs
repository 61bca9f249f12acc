//! Contents: how they are framed.

use super::corpus::{
    CODING, FIELD, HOSTS, LENGTH, LINE_END, REQUEST_LINE, SMUGGLED, Says, Subject, post,
};

/// CL.TE and TE.CL as they are.
pub(super) fn both_lengths() -> Subject {
    let mut subject = Subject::new("both lengths");
    for length in ["0", "5", "6", "41", "1000"] {
        for coding in ["chunked", "Chunked", "CHUNKED", "\t chunked \t"] {
            let length = format!("Content-Length: {length}\r\n");
            let coding = format!("Transfer-Encoding:{coding}\r\n");
            let content = format!("0\r\n\r\n{SMUGGLED}");
            subject.refused(post(format!("{length}{coding}"), &content), LENGTH);
            subject.refused(post(format!("{coding}{length}"), &content), LENGTH);
            subject.refused(post(format!("{coding}X: y\r\n{length}"), &content), LENGTH);
        }
    }
    subject
}

/// TE.TE: a coding that one side sees, and the other does not.
pub(super) fn codings() -> Subject {
    let mut subject = Subject::new("codings");
    let odd = [
        "xchunked",
        "chunk",
        "chunkedx",
        "cow",
        "identity",
        "gzip",
        "deflate",
        "",
        ",",
        "chunked,",
        ",chunked",
        "chunked, chunked",
        "chunked,chunked",
        "gzip, chunked",
        "chunked, gzip",
        "identity, chunked",
        "chunked, identity",
        "chunked;q=1",
        "chunked; a=b",
        "\"chunked\"",
        "'chunked'",
        "chunked chunked",
        "chunked\u{a0}",
        "\u{a0}chunked",
        "chun\u{212a}ed",
        "chunked/1",
        "[chunked]",
        "=chunked",
        "chunked:",
        "compress, chunked",
        "trailers, chunked",
        "x-gzip,chunked",
        "-chunked",
        "chunked-",
        "c hunked",
    ];
    for value in odd {
        let line = format!("Transfer-Encoding: {value}\r\n");
        subject.refused(post(&line, "0\r\n\r\n"), CODING);
        subject.refused(post(format!("Content-Length: 5\r\n{line}"), "0\r\n\r\n"), LENGTH);
        subject.refused(post(format!("{line}Content-Length: 5\r\n"), "0\r\n\r\n"), CODING);
    }
    let written: [(&[u8], &str); 17] = [
        (b"Transfer-Encoding : chunked", FIELD),
        (b"Transfer-Encoding\t: chunked", FIELD),
        (b" Transfer-Encoding: chunked", FIELD),
        (b"\tTransfer-Encoding: chunked", FIELD),
        (b"Transfer-Encoding\r\n: chunked", FIELD),
        (b"Transfer-Encoding\r\n : chunked", FIELD),
        (b"Transfer-Encoding chunked", FIELD),
        (b"Transfer Encoding: chunked", FIELD),
        (b"Transfer-Encoding: \x0bchunked", FIELD),
        (b"Transfer-Encoding:\x0cchunked", FIELD),
        (b"Transfer-Encoding: chunked\0", FIELD),
        (b"Transfer-Encoding: \0chunked", FIELD),
        (b"Transfer-\0Encoding: chunked", FIELD),
        (b"Trans\xc3\xa4fer-Encoding: chunked", FIELD),
        (b"X: y\nTransfer-Encoding: chunked", LINE_END),
        (b"X: y\rTransfer-Encoding: chunked", LINE_END),
        (b"Transfer-Encoding: chunked\n", LINE_END),
    ];
    for (line, code) in written {
        let line = [line, b"\r\n"].concat();
        let length = b"Content-Length: 5\r\n".to_vec();
        subject.refused(post(&line, "0\r\n\r\n"), code);
        subject.refused(post([length.clone(), line.clone()].concat(), "0\r\n\r\n"), code);
        subject.refused(post([line, length].concat(), "0\r\n\r\n"), code);
    }
    for twice in ["x", "chunked", "identity", "", "gzip"] {
        let lines = format!("Transfer-Encoding: chunked\r\nTransfer-Encoding: {twice}\r\n");
        subject.refused(post(lines, "0\r\n\r\n"), CODING);
        let lines = format!("Transfer-Encoding: chunked\r\nX: y\r\nTRANSFER-ENCODING:{twice}\r\n");
        subject.refused(post(lines, "0\r\n\r\n"), CODING);
    }
    // Names that are others.
    for line in [
        "Transfer_Encoding: chunked",
        "Transfer-Encodin: chunked",
        "Transfer-Encodings: chunked",
        "X-Transfer-Encoding: chunked",
        "Content-Encoding: chunked",
        "TE: chunked",
        "Trailer: Transfer-Encoding",
    ] {
        let content = "0\r\n\r\n";
        subject.passes(post(format!("Content-Length: 5\r\n{line}\r\n"), content));
        subject.passes(post(format!("{line}\r\nContent-Length: 5\r\n"), content));
    }
    for line in
        ["transfer-encoding:chunked", "TRANSFER-ENCODING: CHUNKED", "Transfer-Encoding:\tchunked "]
    {
        subject.passes(post(format!("{line}\r\n"), "5\r\nhello\r\n0\r\n\r\n"));
    }
    subject
}

/// CL.CL, and lengths of which one may read more than another.
pub(super) fn lengths() -> Subject {
    let mut subject = Subject::new("lengths");
    for value in [
        "",
        "+5",
        "-5",
        "-0",
        "5,",
        ",5",
        "5,5",
        "5, 5",
        "5, 6",
        "5 5",
        "5 6",
        "05",
        "005",
        "00",
        "0x5",
        "0X5",
        "5.0",
        "5e0",
        "5;",
        "5;a",
        "\"5\"",
        "'5'",
        "(5)",
        "5_0",
        "5\u{a0}",
        "\u{665}",
        "\u{ff15}",
        "five",
        "0b101",
        "0o5",
        "5L",
        "5 ,",
        "NaN",
        "9999999999999999999",
        "18446744073709551615",
        "18446744073709551616",
        "18446744073709551621",
        "4294967301000000000",
        "99999999999999999999999999999999",
        "1000000000000000000",
    ] {
        subject.refused(post(format!("Content-Length: {value}\r\n"), "hello"), LENGTH);
    }
    let written: [&[u8]; 12] = [
        b"Content-Length : 5",
        b"Content-Length\t: 5",
        b" Content-Length: 5",
        b"\tContent-Length: 5",
        b"Content-Length: 5\0",
        b"Content-Length: \x005",
        b"Content-Length:\x0b5",
        b"Content-Length: 5\x0c",
        b"Content-\0Length: 5",
        b"Content Length: 5",
        b"Content-Length\r\n : 5",
        b"Content-Length 5",
    ];
    for line in written {
        subject.refused(post([line, b"\r\n"].concat(), "hello"), FIELD);
    }
    for second in ["5", "6", "0", "", "-1", "5, 5"] {
        for name in ["Content-Length", "content-length", "CONTENT-LENGTH"] {
            let lines = format!("Content-Length: 5\r\n{name}: {second}\r\n");
            subject.refused(post(lines, "hello"), LENGTH);
        }
        let lines = format!("Content-Length: {second}\r\nX: y\r\nContent-Length: 5\r\n");
        subject.refused(post(lines, "hello"), LENGTH);
    }
    for line in
        ["Content_Length: 50", "Content-Lengt: 50", "X-Content-Length: 50", "Content-Lengths: 50"]
    {
        subject.passes(post(format!("Content-Length: 5\r\n{line}\r\n"), "hello"));
        subject.passes(post(format!("{line}\r\nContent-Length: 5\r\n"), "hello"));
        subject.passes(post(format!("{line}\r\n"), ""));
    }
    for value in ["5", "\t5", " 5 ", "5\t \t"] {
        subject.passes(post(format!("Content-Length:{value}\r\n"), "hello"));
    }
    subject
}

/// CL.0 and 0.CL: a content that is not expected, or is a request itself.
pub(super) fn contents() -> Subject {
    let mut subject = Subject::new("contents");
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "get"] {
        let length = SMUGGLED.len();
        let head = format!("{method} /a HTTP/1.1\r\nHost: a\r\n");
        subject.passes(format!("{head}Content-Length: {length}\r\n\r\n{SMUGGLED}"));
        let size = format!("{length:x}");
        subject.passes(format!(
            "{head}Transfer-Encoding: chunked\r\n\r\n{size}\r\n{SMUGGLED}\r\n0\r\n\r\n"
        ));
        // Two requests, and nothing else.
        let two = format!("{head}Content-Length: 0\r\n\r\n{SMUGGLED}");
        subject.add(two, &[Says::Passes; 2], true).is_pipelined = true;
        let rest = format!("{head}Content-Length: 3\r\n\r\nabcX{}", &SMUGGLED[4..]);
        subject.add(rest, &[Says::Passes, Says::Refused(REQUEST_LINE)], false);
        subject.add(format!("{head}\r\n[1]"), &[Says::Passes, Says::Refused(REQUEST_LINE)], false);
    }
    // One side takes the content for the next head.
    let hidden = format!("X: {}", SMUGGLED.replace("\r\n\r\n", "\r\n"));
    subject.refused(post(format!("{hidden}Content-Length: 5\r\n"), "hello"), HOSTS);
    subject
}
