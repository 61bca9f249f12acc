use proptest::prelude::*;

use super::chunked::{MAX_EXTENSIONS, MAX_TRAILER_FIELDS, MAX_TRAILERS};
use super::head::{MAX_FIELDS, MAX_HEAD, MAX_REQUEST_LINE};
use super::*;

/// What came of a connection: how many bytes passed, how it ended, and what is waited for.
type Outcome = (usize, Verdict, Stage);

/// Shows `bytes` in pieces that end at `cuts`, as a guard does.
fn show(framing: &mut Framing, bytes: &[u8], cuts: &[usize]) -> Outcome {
    let (mut passed, mut shown) = (0, 0);
    for end in cuts.iter().copied().chain([bytes.len()]) {
        shown = end.clamp(shown, bytes.len());
        let judged = framing.judge(&bytes[passed..shown]);
        passed += judged.passed;
        if judged.verdict != Verdict::Sound {
            return (passed, judged.verdict, framing.stage(0));
        }
    }
    (passed, Verdict::Sound, framing.stage(bytes.len() - passed))
}

fn outcome(bytes: impl AsRef<[u8]>) -> Outcome {
    let bytes = bytes.as_ref();
    let whole = show(&mut Framing::http1(), bytes, &[]);
    let each: Vec<_> = (0..bytes.len()).collect();
    let pieces = show(&mut Framing::http1(), bytes, &each);
    let text = String::from_utf8_lossy(bytes);
    assert_eq!(pieces, whole, "byte by byte it differs: {text:?}");
    whole
}

fn refused(bytes: impl AsRef<[u8]>) -> Malformed {
    match outcome(&bytes) {
        (0, Verdict::Refused(malformed), Stage::Over) => malformed,
        other => panic!("{other:?}: {:?}", String::from_utf8_lossy(bytes.as_ref())),
    }
}

fn with_fields(fields: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

fn chunked(content: &str) -> String {
    with_fields("Transfer-Encoding: chunked\r\n") + content
}

#[test]
fn what_ends_a_request_is_what_it_says() {
    for (request, ends) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), true),
        ("GET / HTTP/1.0\r\n\r\n".to_owned(), true),
        (with_fields("Content-Length: 0\r\n"), true),
        (with_fields("Content-Length: 5\r\n") + "hello", true),
        (with_fields("Content-Length: 5\r\n") + "hell", false),
        (with_fields("content-length:\t 5 \t\r\n") + "hello", true),
        (chunked("5\r\nhello\r\n0\r\n\r\n"), true),
        (chunked("5;a=\"b\tc\";d\r\nhello\r\n000\r\nX-Sum: 1\r\nY:\r\n\r\n"), true),
        (chunked("A\r\n0123456789\r\n0\r\n"), false),
        (with_fields("TRANSFER-ENCODING: \t Chunked \r\n") + "0\r\n\r\n", true),
    ] {
        let stage = if ends { Stage::Between } else { Stage::Content };
        assert_eq!(outcome(&request), (request.len(), Verdict::Sound, stage), "{request:?}");
    }
}

#[test]
fn what_is_incomplete_is_held_back_as_a_whole() {
    let first = with_fields("Content-Length: 5\r\n") + "hello";
    let both = format!("{first}GET /b HTTP/1.1\r\nHost: a\r\nX: y\r\n\r");
    assert_eq!(outcome(&both), (first.len(), Verdict::Sound, Stage::Head));
    assert_eq!(outcome("\r\n\r\nG"), (4, Verdict::Sound, Stage::Head));
    assert_eq!(outcome("\r\n"), (2, Verdict::Sound, Stage::Between));
    assert_eq!(outcome(""), (0, Verdict::Sound, Stage::Between));
}

#[test]
fn a_request_line_is_three_words() {
    for line in [
        "GET / HTTP/1.1",
        "get /?a=b&c=%20' HTTP/1.1",
        "X!#$%&'* /{\"a\"}|^\\?{a}|`^\\ HTTP/1.0",
        "OPTIONS * HTTP/1.1",
        "GET http://user:secret@a.test:1/b?c HTTP/1.1",
        "GET // HTTP/1.1",
    ] {
        let request = format!("{line}\r\nHost: a\r\n\r\n");
        assert_eq!(outcome(&request), (request.len(), Verdict::Sound, Stage::Between), "{line}");
    }
    for line in [
        "GET /",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /\tHTTP/1.1",
        " GET / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / http/1.1",
        "GET / HTTP/1.1x",
        "GET / HTTP/01.1",
        "GET / HTTP/1",
        "GET / HTTP/1.",
        "GET / HTP/1.1",
        "GET / ",
        "GET",
        "GET  HTTP/1.1",
        "G(T / HTTP/1.1",
        "G\u{e9}T / HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "GET /a#b HTTP/1.1",
        "GET /?a#b HTTP/1.1",
        "GET /<a> HTTP/1.1",
        "GET /?\" HTTP/1.1",
        "GET /\0 HTTP/1.1",
        "GET /\x7f HTTP/1.1",
        "GET /\x1b HTTP/1.1",
        "GET *a HTTP/1.1",
        "GET http:// HTTP/1.1",
        "GET http://a test/ HTTP/1.1",
        "GET ?a HTTP/1.1",
    ] {
        let request = format!("{line}\r\nHost: a\r\n\r\n");
        assert_eq!(refused(request), Malformed::RequestLine, "{line}");
    }
    for version in ["HTTP/2.0", "HTTP/0.9", "HTTP/1.2", "HTTP/9.9"] {
        let request = format!("GET / {version}\r\nHost: a\r\n\r\n");
        assert_eq!(refused(request), Malformed::Version, "{version}");
    }
}

#[test]
fn lines_end_in_crlf_only() {
    for request in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\rHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\rY: b\r\n\r\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
    ] {
        assert_eq!(refused(request), Malformed::LineEnd, "{request:?}");
    }
    let five = "\r\n".repeat(5) + &with_fields("");
    let judged = Framing::http1().judge(five.as_bytes());
    assert_eq!((judged.passed, judged.verdict), (8, Verdict::Refused(Malformed::RequestLine)));
}

#[test]
fn a_field_is_a_name_a_colon_and_a_value() {
    for line in ["X-A: b", "X-A:", "x_a:b", "1:\tb\u{e9}\t", "X!#$%&'*+-.^`|~: \"b\""] {
        let request = with_fields(&format!("{line}\r\n"));
        assert_eq!(outcome(&request), (request.len(), Verdict::Sound, Stage::Between), "{line}");
    }
    for line in [
        "X-A : b",
        "X-A\t: b",
        " X-A: b",
        "\tX-A: b",
        " folded",
        "X-A",
        ": b",
        "X A: b",
        "X(A): b",
        "X\u{e9}: b",
        "X-A: b\0c",
        "X-A: b\x0bc",
        "X-A: \x0cb",
        "X-A: b\x7f",
        "X-A\0: b",
        "\x1f: b",
    ] {
        let request = with_fields(&format!("{line}\r\n"));
        assert_eq!(refused(&request), Malformed::Field, "{line:?}");
    }
}

#[test]
fn a_request_names_one_host() {
    let with = |lines: &str| format!("GET / HTTP/1.1\r\n{lines}\r\n");
    for host in ["a", "A.test:80", "127.0.0.1:8080", "[::1]", "[::1]:80", "a_b-c~.", "a:"] {
        let request = with(&format!("Host: {host}\r\n"));
        assert_eq!(outcome(&request), (request.len(), Verdict::Sound, Stage::Between), "{host}");
    }
    for host in [
        "", "a b", "a/b", "@", "u@a", "a,b", "a, b", "a?b", "a#b", "http://a", "a:b", "a:80:80",
        "a:+80", "a:123456", "[::1", "[]", "[::1]x", "[u@a]", "a\\b", "%61", "\u{e9}", ":80",
        "a;b",
    ] {
        assert_eq!(refused(with(&format!("Host: {host}\r\n"))), Malformed::HostValue, "{host}");
    }
    assert_eq!(refused(with("")), Malformed::Hosts);
    assert_eq!(refused(with("Host: a\r\nhost: a\r\n")), Malformed::Hosts);
    assert_eq!(refused("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"), Malformed::Hosts);
}

#[test]
fn a_content_is_framed_once() {
    for value in [
        "",
        "+5",
        "-5",
        "5, 5",
        "5,5",
        "5 5",
        "05",
        "00",
        "0x5",
        "5.0",
        "5e0",
        "\u{0665}",
        "5;",
        "1000000000000000000",
        "99999999999999999999999",
    ] {
        let request = with_fields(&format!("Content-Length: {value}\r\n"));
        assert_eq!(refused(&request), Malformed::ContentLength, "{value}");
    }
    for again in ["5", "6"] {
        let lines = format!("Content-Length: 5\r\ncontent-length: {again}\r\n");
        assert_eq!(refused(with_fields(&lines)), Malformed::ContentLength, "{again}");
    }
    for value in [
        "",
        "gzip",
        "gzip, chunked",
        "chunked, chunked",
        "chunked,",
        ",chunked",
        "chunked;a",
        "chunked, identity",
        "identity",
        "\"chunked\"",
        "xchunked",
        "chunke",
        "chunked chunked",
    ] {
        let request = with_fields(&format!("Transfer-Encoding: {value}\r\n"));
        assert_eq!(refused(&request), Malformed::Coding, "{value}");
    }
    let (length, coding) = ("Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n");
    assert_eq!(refused(with_fields(&(coding.to_owned() + coding))), Malformed::Coding);
    assert_eq!(refused(with_fields(&(length.to_owned() + coding))), Malformed::TwoLengths);
    assert_eq!(refused(with_fields(&(coding.to_owned() + length))), Malformed::TwoLengths);
    let old = format!("POST / HTTP/1.0\r\n{coding}\r\n");
    assert_eq!(refused(old), Malformed::OldCoding);
}

#[test]
fn a_chunk_is_a_size_and_as_many_bytes() {
    let head = chunked("").len();
    for (content, sound) in [
        ("x\r\n", 0),
        ("+5\r\n", 0),
        ("-5\r\n", 0),
        (" 5\r\n", 0),
        ("\r\n", 0),
        (";a\r\n", 0),
        ("5 \r\n", 1),
        ("5\t;a\r\n", 1),
        ("0x5\r\n", 1),
        ("5\n", 1),
        ("5\rhello", 2),
        ("5;a\n", 3),
        ("5;a\0\r\n", 3),
        ("5;a\rb\r\n", 4),
        ("5\r\nhello!\r\n", 8),
        ("5\r\nhello\n0\r\n", 8),
        ("5\r\nhello\r0\r\n", 9),
        ("5\r\nhello0\r\n", 8),
        ("1000000000000000\r\n", 15),
        ("0000000000000005\r\n", 15),
        ("0\r\nX\r\n", 4),
        ("0\r\nX : a\r\n", 4),
        ("0\r\n a\r\n", 3),
        ("0\r\n:a\r\n", 3),
        ("0\r\nX: a\n\r\n", 7),
        ("0\r\nX: a\rb\r\n", 8),
        ("0\r\nX: \0\r\n", 6),
        ("0\r\n\n", 3),
        ("0\r\n\rx", 4),
    ] {
        let expected = (head + sound, Verdict::Broken(Malformed::Chunk), Stage::Over);
        assert_eq!(outcome(chunked(content)), expected, "{content:?}");
    }
}

#[test]
fn nothing_is_without_bound() {
    let line = |more: usize| {
        let target = "a".repeat(MAX_REQUEST_LINE - "GET / HTTP/1.1".len() + more);
        format!("GET /{target} HTTP/1.1\r\nHost: a\r\n\r\n")
    };
    assert_eq!(show(&mut Framing::http1(), line(0).as_bytes(), &[]).1, Verdict::Sound);
    let verdict = Verdict::Refused(Malformed::LongTarget);
    assert_eq!(show(&mut Framing::http1(), line(1).as_bytes(), &[]).1, verdict);
    let endless = "a".repeat(MAX_REQUEST_LINE + 1);
    assert_eq!(show(&mut Framing::http1(), endless.as_bytes(), &[70, 30_000]).1, verdict);

    let head = |more: usize| {
        let value = "a".repeat(MAX_HEAD - with_fields("X: \r\n").len() + 2 + more);
        with_fields(&format!("X: {value}\r\n"))
    };
    assert_eq!(show(&mut Framing::http1(), head(0).as_bytes(), &[]).1, Verdict::Sound);
    let verdict = Verdict::Refused(Malformed::LargeHead);
    for cuts in [&[][..], &[60_000], &[MAX_HEAD], &[MAX_HEAD + 1], &[10, 60_000, 65_530]] {
        assert_eq!(show(&mut Framing::http1(), head(1).as_bytes(), cuts).1, verdict, "{cuts:?}");
    }
    let fields = |number: usize| with_fields(&"X: a\r\n".repeat(number - 1));
    let most = usize::from(MAX_FIELDS);
    assert_eq!(outcome(fields(most)).1, Verdict::Sound);
    assert_eq!(refused(fields(most + 1)), Malformed::LargeHead);

    let broken = Verdict::Broken(Malformed::Chunk);
    let judge = |content: String| show(&mut Framing::http1(), chunked(&content).as_bytes(), &[]).1;
    let extended = |size: usize| format!("1;{}\r\na\r\n0\r\n\r\n", "a".repeat(size));
    assert_eq!(judge(extended(MAX_EXTENSIONS.into())), Verdict::Sound);
    assert_eq!(judge(extended(usize::from(MAX_EXTENSIONS) + 1)), broken);
    let parts = format!("1;{}\r\na\r\n", "a".repeat(100)).repeat(200);
    assert_eq!(judge(parts), broken, "together");
    let trailer = |size: usize| format!("0\r\nX:{}\r\n\r\n", "a".repeat(size - 2));
    assert_eq!(judge(trailer(MAX_TRAILERS.into())), Verdict::Sound);
    assert_eq!(judge(trailer(usize::from(MAX_TRAILERS) + 1)), broken);
    let trailers = |number: u8| format!("0\r\n{}\r\n", "X: a\r\n".repeat(number.into()));
    assert_eq!(judge(trailers(MAX_TRAILER_FIELDS)), Verdict::Sound);
    assert_eq!(judge(trailers(MAX_TRAILER_FIELDS + 1)), broken);
}

#[test]
fn nothing_passes_between_a_wish_to_switch_and_its_answer() {
    let next = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for wish in [
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c, websocket\r\nContent-Length: 2\r\n\r\nhi",
        "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let bytes = wish.to_owned() + next;
        assert_eq!(outcome(&bytes), (wish.len(), Verdict::Sound, Stage::Answer), "{wish}");
        let mut framing = Framing::http1();
        framing.judge(bytes.as_bytes());
        framing.switch();
        let all = Judged { passed: 4, verdict: Verdict::Sound };
        assert_eq!((framing.judge(b"\0\n\xff!"), framing.stage(0)), (all, Stage::Other));
    }
    for wish in [
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        "GET / HTTP/1.0\r\nUpgrade: websocket\r\n\r\n",
    ] {
        let bytes = wish.to_owned() + next;
        assert_eq!(outcome(&bytes), (bytes.len(), Verdict::Sound, Stage::Between), "{wish}");
    }
    let mut framing = Framing::http1();
    framing.switch();
    assert_eq!(framing.judge(b"\0\r\n").verdict, Verdict::Refused(Malformed::RequestLine));
}

#[test]
fn http2_may_begin_a_connection_where_it_is_known_to_be_spoken() {
    for cut in 0..PREFACE.len() {
        let mut framing = Framing::either();
        let held = framing.judge(&PREFACE[..cut]);
        assert_eq!(held, Judged { passed: 0, verdict: Verdict::Sound }, "{cut}");
        let more = [PREFACE, b"\0\0\0"].concat();
        assert_eq!(framing.judge(&more).passed, more.len(), "{cut}");
        assert_eq!(framing.stage(0), Stage::Other);
        let mut framing = Framing::either();
        framing.judge(&PREFACE[..cut]);
        let other = [&PREFACE[..cut], b"\0\r\n"].concat();
        assert!(matches!(framing.judge(&other).verdict, Verdict::Refused(_)), "{cut}");
    }
    assert_eq!(refused(PREFACE), Malformed::Version);
    let request = with_fields("");
    assert_eq!(Framing::either().judge(request.as_bytes()).passed, request.len());
}

/// Requests of which some are sound, and bytes that anything may be made of.
fn connection() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("GET /a HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        Just("POST /a HTTP/1.0\r\nContent-Length: 7\r\n\r\n1234567".to_owned()),
        Just(chunked("3;x=y\r\nabc\r\n0\r\nX: 1\r\n\r\n")),
        Just(with_fields("Upgrade: websocket\r\n")),
        Just(with_fields("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n")),
        Just("\r\n".to_owned()),
        "[\\r\\n\\t :;0-9aA,]{0,6}",
        "(GET|POST) /[a-z]{0,5} HTTP/1\\.[0-2]\r\n",
        "(Host|Content-Length|Transfer-Encoding|Upgrade|X): ?(a|5|chunked|websocket)\r?\n",
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_cut_changes_what_is_said(
        bytes in connection(),
        mut cuts in prop::collection::vec(0_usize..400, 0..12),
        is_either in any::<bool>(),
    ) {
        let new = || if is_either { Framing::either() } else { Framing::http1() };
        cuts.sort_unstable();
        let whole = show(&mut new(), &bytes, &[]);
        prop_assert_eq!(show(&mut new(), &bytes, &cuts), whole);
    }

    /// hyper's parser, which comes next, reads every head that passes, and to the same end.
    #[test]
    fn what_passes_is_read_alike_by_the_parser_behind(
        mutated in 0_usize..200,
        byte in any::<u8>(),
        fields in prop::collection::vec("[A-Za-z!-]{1,8}:[ \ta-z\u{80}-\u{ff}]{0,8}", 0..4),
    ) {
        let mut lines = fields;
        lines.push(String::new());
        let lines = lines.join("\r\n");
        let mut bytes = with_fields(&format!("{lines}Content-Length: 3\r\n")).into_bytes();
        let length = bytes.len();
        bytes[mutated % length] = byte;
        bytes.extend_from_slice(b"abc");
        let mut framing = Framing::http1();
        let judged = framing.judge(&bytes);
        if judged.verdict == Verdict::Sound && judged.passed > 2 {
            let mut headers = [httparse::EMPTY_HEADER; 100];
            let mut request = httparse::Request::new(&mut headers);
            let end = request.parse(&bytes).unwrap().unwrap();
            prop_assert!(judged.passed >= end);
            prop_assert!(request.path.unwrap().parse::<http::Uri>().is_ok());
            let of = |name: &str| -> Vec<&[u8]> {
                let same = request.headers.iter().filter(|it| it.name.eq_ignore_ascii_case(name));
                same.map(|it| it.value).collect()
            };
            let is_long = !of("content-length").is_empty();
            let is_chunked = !of("transfer-encoding").is_empty();
            prop_assert!(!is_chunked && of("host").len() == 1);
            if is_long && of("content-length") == [b"3"] {
                prop_assert_eq!(judged.passed, bytes.len());
            }
        }
    }
}
