//! Contents in chunks.

use super::corpus::{CHUNK, SMUGGLED, Subject, post};

/// Chunks that are none, or not of the size that is said.
const ODD_CHUNKS: [&[u8]; 66] = [
    b"5 \r\nhello\r\n0\r\n\r\n",
    b" 5\r\nhello\r\n0\r\n\r\n",
    b"5\t\r\nhello\r\n0\r\n\r\n",
    b"\t5\r\nhello\r\n0\r\n\r\n",
    b"5 ;a\r\nhello\r\n0\r\n\r\n",
    b"+5\r\nhello\r\n0\r\n\r\n",
    b"-5\r\nhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"0X5\r\nhello\r\n0\r\n\r\n",
    b"5h\r\nhello\r\n0\r\n\r\n",
    b"5_\r\nhello\r\n0\r\n\r\n",
    b"5,5\r\nhello\r\n0\r\n\r\n",
    b"5.0\r\nhello\r\n0\r\n\r\n",
    b"\"5\"\r\nhello\r\n0\r\n\r\n",
    b"5\0\r\nhello\r\n0\r\n\r\n",
    b"5\x0b\r\nhello\r\n0\r\n\r\n",
    b"5\xff\r\nhello\r\n0\r\n\r\n",
    b"\xef\xbc\x95\r\nhello\r\n0\r\n\r\n",
    b"g\r\nhello\r\n0\r\n\r\n",
    b"\r\nhello\r\n0\r\n\r\n",
    b";a\r\nhello\r\n0\r\n\r\n",
    b"5\nhello\r\n0\r\n\r\n",
    b"5\rhello\r\n0\r\n\r\n",
    b"5\r\rhello\r\n0\r\n\r\n",
    b"5\n\rhello\r\n0\r\n\r\n",
    b"5\r\r\nhello\r\n0\r\n\r\n",
    b"5;a\nhello\r\n0\r\n\r\n",
    b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    b"5;\nX\r\nhello\r\n0\r\n\r\n",
    b"5;a=\"\n\"\r\nhello\r\n0\r\n\r\n",
    b"5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n",
    b"5;\0\r\nhello\r\n0\r\n\r\n",
    b"5;a\x7f\r\nhello\r\n0\r\n\r\n",
    b"5;a\x0b\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\n0\r\n\r\n",
    b"5\r\nhello\r0\r\n\r\n",
    b"5\r\nhello0\r\n\r\n",
    b"5\r\nhelloXX0\r\n\r\n",
    b"5\r\nhello\n\r0\r\n\r\n",
    b"5\r\nhello\r\r\n0\r\n\r\n",
    b"5\r\nhello!\r\n0\r\n\r\n",
    b"5\r\nhell\r\n0\r\n\r\n",
    b"4\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\r\n\r\n0\r\n\r\n",
    b"5\r\nhello\r\n0\n\r\n",
    b"5\r\nhello\r\n0 \r\n\r\n",
    b"5\r\nhello\r\n-0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\n",
    b"5\r\nhello\r\n0\r\n\r\r\n",
    b"5\r\nhello\r\n0\r\n\rX",
    b"5\r\nhello\r\n0\r\n X: y\r\n\r\n",
    b"5\r\nhello\r\n0\r\nX : y\r\n\r\n",
    b"5\r\nhello\r\n0\r\nX\r\n\r\n",
    b"5\r\nhello\r\n0\r\n: y\r\n\r\n",
    b"5\r\nhello\r\n0\r\nX: y\n\r\n",
    b"5\r\nhello\r\n0\r\nX: y\r\r\n\r\n",
    b"5\r\nhello\r\n0\r\nX: a\0\r\n\r\n",
    b"5\r\nhello\r\n0\r\nX: a\r\n folded\r\n\r\n",
    b"5\r\nhello\r\n0\r\nX: a\r\n\tfolded\r\n\r\n",
    b"5\r\nhello\r\n0\r\nX\0: a\r\n\r\n",
    b"5\r\nhello\r\n0\r\nX y: a\r\n\r\n",
    b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    b"8000000000000005\r\nhello\r\n0\r\n\r\n",
    b"00000000000000000005\r\nhello\r\n0\r\n\r\n",
    b"100000000000000000000000000000005\r\nhello\r\n0\r\n\r\n",
];

/// Chunks of which one may read more than another.
pub(super) fn chunks() -> Subject {
    let mut subject = Subject::new("chunks");
    let coding = "Transfer-Encoding: chunked\r\n";
    for content in ODD_CHUNKS {
        subject.refused(post(coding, content), CHUNK);
    }
    // The first GET of many a scheme: what one takes for a chunk is the other's request.
    let schemes = [
        format!("0\n\r\n{SMUGGLED}"),
        format!("0;\n\r\n{SMUGGLED}"),
        format!("2;\nxx\r\n4c\r\n0\r\n\r\n{SMUGGLED}\r\n0\r\n\r\n"),
        format!("0\r\n{SMUGGLED}"),
        format!("0\r\n\n{SMUGGLED}"),
        format!("1\r\na0\r\n\r\n{SMUGGLED}"),
    ];
    for content in schemes {
        subject.refused(post(coding, content), CHUNK);
    }
    let sound: [&[u8]; 18] = [
        b"0\r\n\r\n",
        b"000\r\n\r\n",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"05\r\nhello\r\n0\r\n\r\n",
        b"000000000000005\r\nhello\r\n0\r\n\r\n",
        b"A\r\n0123456789\r\n0\r\n\r\n",
        b"a\r\n0123456789\r\n0\r\n\r\n",
        b"5;a\r\nhello\r\n0\r\n\r\n",
        b"5;\r\nhello\r\n0\r\n\r\n",
        b"5;a=b;c=\"d e\"\r\nhello\r\n0;f\r\n\r\n",
        b"5; a = b\r\nhello\r\n0\r\n\r\n",
        b"5;\xe4\r\nhello\r\n0\r\n\r\n",
        b"2\r\n\r\n\r\n0\r\n\r\n",
        b"5\r\n0\r\n\r\n\r\n0\r\n\r\n",
        b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX: y\r\nZ:\r\n\r\n",
        b"5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n",
        b"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\nHost: evil.test\r\n\r\n",
    ];
    for content in sound {
        subject.passes(post(coding, content));
    }
    subject
}
