//! What is said of a connection does not depend on how its bytes are cut; a head that passes is read to
//! the same end by the parser behind, with one host and one way of framing.

use ringbearer::server::framing::{Framing, Stage, Verdict};

pub(crate) fn run(input: &[u8]) {
    let [size, is_either, bytes @ ..] = input else { return };
    let (size, is_either) = (usize::from(*size) + 1, is_either % 2 == 1);
    let new = || if is_either { Framing::either() } else { Framing::http1() };
    let whole = show(new(), bytes, bytes.len() + 1);
    assert_eq!(show(new(), bytes, size), whole);
    if !is_either && whole.0 > 0 {
        first_head(bytes);
    }
}

/// Shows `bytes` in pieces of `size`.
fn show(mut framing: Framing, bytes: &[u8], size: usize) -> (usize, Verdict, Stage) {
    let (mut passed, mut shown) = (0, 0);
    while shown < bytes.len() {
        shown = (shown + size).min(bytes.len());
        let judged = framing.judge(&bytes[passed..shown]);
        assert!(passed + judged.passed <= shown);
        passed += judged.passed;
        if judged.verdict != Verdict::Sound {
            return (passed, judged.verdict, framing.stage(0));
        }
    }
    (passed, Verdict::Sound, framing.stage(bytes.len() - passed))
}

fn first_head(bytes: &[u8]) {
    let lead = bytes.chunks(2).take_while(|pair| *pair == b"\r\n").count() * 2;
    let mut end = lead;
    let mut framing = Framing::http1();
    // Byte by byte, until the first thing that is no empty line passes.
    let mut passed = 0;
    while end < bytes.len() && passed <= lead {
        end += 1;
        let judged = framing.judge(&bytes[passed..end]);
        if judged.verdict != Verdict::Sound {
            return;
        }
        passed += judged.passed;
    }
    if passed <= lead {
        return;
    }
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut fields);
    let read = request.parse(bytes).expect("it is well-formed").unwrap();
    assert_eq!(read, passed);
    let target = request.path.expect("it was read");
    target.parse::<http::Uri>().expect("it is a target");
    let values = |name: &str| -> Vec<&[u8]> {
        let same = request.headers.iter().filter(|it| it.name.eq_ignore_ascii_case(name));
        same.map(|it| it.value).collect()
    };
    let (hosts, lengths) = (values("host"), values("content-length"));
    let codings = values("transfer-encoding");
    assert!(hosts.len() == 1 || request.version == Some(0) && hosts.is_empty());
    assert!(lengths.len() + codings.len() <= 1);
    assert!(codings.iter().all(|coding| coding.eq_ignore_ascii_case(b"chunked")));
    assert!(lengths.iter().all(|length| length.iter().all(u8::is_ascii_digit)));
}
