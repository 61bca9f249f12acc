//! Attacks on framing, after RFC 9112 and what has been published of request smuggling: by subject, each
//! with what the proxy is to say to it.

use super::{chunked, lengths, lines, manners};

/// How many cases there are of each subject, in their order.
pub(super) const SUBJECTS: [(&str, usize); 20] = [
    ("line ends", 50),
    ("both lengths", 60),
    ("codings", 183),
    ("lengths", 92),
    ("contents", 41),
    ("chunks", 90),
    ("hosts", 90),
    ("request lines", 73),
    ("versions", 36),
    ("controls", 180),
    ("names", 81),
    ("folding", 27),
    ("expectations", 37),
    ("switching", 36),
    ("pipelines", 40),
    ("sizes", 30),
    ("nominations", 24),
    ("HTTP/1.0", 22),
    ("leading lines", 21),
    ("HTTP/2", 3),
];
/// Cases, requests that pass, markers among them.
pub(super) const TOTALS: [usize; 3] = [1216, 737, 218];
/// Refusals by status and code.
pub(super) const REFUSED: [(&str, usize); 13] = [
    ("400 RBR-101", 16),
    ("400 RBR-102", 4),
    ("400 RBR-108", 81),
    ("400 RBR-130", 61),
    ("400 RBR-131", 47),
    ("400 RBR-132", 175),
    ("400 RBR-133", 258),
    ("400 RBR-134", 179),
    ("400 RBR-135", 113),
    ("405 RBR-103", 9),
    ("414 RBR-137", 12),
    ("431 RBR-138", 8),
    ("505 RBR-136", 12),
];

/// The codes that come.
pub(super) const CODES: [&str; 15] = [
    TARGET,
    METHOD,
    HOSTS,
    CODING,
    HOST_VALUE,
    LINE_END,
    REQUEST_LINE,
    FIELD,
    LENGTH,
    CHUNK,
    VERSION,
    LONG_TARGET,
    LARGE_HEAD,
    "RBR-104",
    "RBR-107",
];
pub(super) const HOSTS: &str = "RBR-101";
pub(super) const TARGET: &str = "RBR-102";
pub(super) const METHOD: &str = "RBR-103";
pub(super) const CODING: &str = "RBR-108";
pub(super) const HOST_VALUE: &str = "RBR-130";
pub(super) const LINE_END: &str = "RBR-131";
pub(super) const REQUEST_LINE: &str = "RBR-132";
pub(super) const FIELD: &str = "RBR-133";
pub(super) const LENGTH: &str = "RBR-134";
pub(super) const CHUNK: &str = "RBR-135";
pub(super) const VERSION: &str = "RBR-136";
pub(super) const LONG_TARGET: &str = "RBR-137";
pub(super) const LARGE_HEAD: &str = "RBR-138";

/// What an attacker wants to be taken for a request of its own.
pub(super) const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// Who answers a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Says {
    /// The upstream does.
    Passes,
    /// The proxy does, with this code.
    Refused(&'static str),
}

/// An attack.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) subject: &'static str,
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    /// The answers, but for the marker's.
    pub(super) says: Vec<Says>,
    /// Whether the marker behind it is the next request.
    pub(super) goes_on: bool,
    /// Whether `/smuggled` in it is a request of its own right.
    pub(super) is_pipelined: bool,
}

impl Case {
    /// Whether these answers and arrivals are what it is to come to: as many arrived as passed, the
    /// marker only where it was a request, and nothing that was smuggled.
    pub(super) fn is_met_by(&self, said: &[Says], arrived: &[String]) -> bool {
        let mut expected = self.says.clone();
        expected.extend(self.goes_on.then_some(Says::Passes));
        let passed = expected.iter().filter(|says| **says == Says::Passes).count();
        let of = |target: &str| arrived.iter().filter(|it| *it == target).count();
        said == expected
            && arrived.len() == passed
            && of("/marker") == usize::from(self.goes_on)
            && of("/smuggled") == usize::from(self.is_pipelined)
    }
}

/// A subject under construction.
pub(super) struct Subject {
    name: &'static str,
    pub(super) cases: Vec<Case>,
}

impl Subject {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, cases: Vec::new() }
    }

    pub(super) fn add(
        &mut self,
        bytes: impl AsRef<[u8]>,
        says: &[Says],
        goes_on: bool,
    ) -> &mut Case {
        let name = format!("{} {}", self.name, self.cases.len());
        self.cases.push(Case {
            subject: self.name,
            name,
            bytes: bytes.as_ref().to_vec(),
            says: says.to_vec(),
            goes_on,
            is_pipelined: false,
        });
        self.cases.last_mut().expect("it was added")
    }

    /// One request that passes.
    pub(super) fn passes(&mut self, bytes: impl AsRef<[u8]>) -> &mut Case {
        self.add(bytes, &[Says::Passes], true)
    }

    /// One that is refused and ends the connection.
    pub(super) fn refused(&mut self, bytes: impl AsRef<[u8]>, code: &'static str) -> &mut Case {
        self.add(bytes, &[Says::Refused(code)], false)
    }

    /// One that passes if there is no code.
    pub(super) fn comes_to(
        &mut self,
        bytes: impl AsRef<[u8]>,
        code: Option<&'static str>,
    ) -> &mut Case {
        match code {
            Some(code) => self.refused(bytes, code),
            None => self.passes(bytes),
        }
    }
}

/// All of them.
pub(super) fn corpus() -> Vec<Case> {
    let subjects = [
        lines::line_ends(),
        lengths::both_lengths(),
        lengths::codings(),
        lengths::lengths(),
        lengths::contents(),
        chunked::chunks(),
        manners::hosts(),
        lines::request_lines(),
        lines::versions(),
        lines::controls(),
        lines::names(),
        lines::folding(),
        manners::expectations(),
        manners::switching(),
        manners::pipelines(),
        lines::sizes(),
        manners::nominations(),
        manners::old(),
        lines::leading_lines(),
        manners::http2(),
    ];
    subjects.into_iter().flat_map(|subject| subject.cases).collect()
}

pub(super) fn post(lines: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Vec<u8> {
    let head = b"POST /a HTTP/1.1\r\nHost: a\r\n";
    [head, lines.as_ref(), b"\r\n", content.as_ref()].concat()
}

pub(super) fn get(lines: &str) -> Vec<u8> {
    format!("GET /a HTTP/1.1\r\n{lines}\r\n").into_bytes()
}
