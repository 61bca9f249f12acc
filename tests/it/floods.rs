//! HTTP/2 floods against the real program: what each is answered with, and that afterwards a new
//! client is served and no memory is lost.

use ringbearer::sandbox::Sandbox;

use crate::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Flooded, Frame, Frames, HEADERS, PING,
    PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, field, frame, get, head, length,
};
use crate::program::{Program, sandbox};
use crate::support::ECHO;
use crate::wire::{self, Wire};

const FILE: &str = "/restapi/v1.0/account/~/extension/~/message-store/1/content/2?size=10000000000";
/// How much more memory the program may have needed for a flood.
const MAX_GROWTH_KIB: u64 = 50 * 1024;
/// RFC 9113 §7.
const NO_ERROR: u32 = 0;
const PROTOCOL_ERROR: u32 = 1;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;
/// `:status: 200` (RFC 7541, appendix A).
const STATUS_200: u8 = 0x88;

/// The program, and what it needed before the flood.
struct Site {
    sandbox: Sandbox,
    program: Program,
    before: u64,
}

impl Site {
    async fn open(proxy: &str) -> Self {
        let sandbox = sandbox().await;
        let program = Program::start(&sandbox, &format!("h2c = true\n{proxy}"), &[]).await;
        assert_eq!(Wire::open(program.address).await.ask(wire::get(ECHO)).await.status, 200);
        let before = program.peak_memory();
        Self { sandbox, program, before }
    }

    async fn connect(&self) -> Frames {
        Frames::open(self.program.address, &[]).await
    }

    /// How many API requests RingCentral saw of the flood.
    fn sent(&self) -> u64 {
        self.sandbox.control().counts().api_requests - 1
    }

    /// Returns when RingCentral has no connection left but those that are kept, one per thread.
    async fn closes(&self) {
        self.sandbox.control().wait_until(|counts| counts.connections_open <= 2).await;
    }

    /// The next request on a new connection is served, and the flood has cost little.
    async fn is_well(&self) {
        self.is_well_within(MAX_GROWTH_KIB).await;
    }

    async fn is_well_within(&self, growth_kib: u64) {
        let mut next = Wire::open(self.program.address).await;
        assert_eq!(next.ask(wire::get(ECHO)).await.status, 200);
        let mut next = self.connect().await;
        next.send(get(1, ECHO)).await;
        assert_eq!(status(&mut next).await, STATUS_200);
        let growth = self.program.peak_memory() - self.before;
        assert!(growth < growth_kib, "{growth} KiB more");
    }
}

/// The first byte of the next answer's fields.
async fn status(frames: &mut Frames) -> u8 {
    loop {
        let frame = frames.read.frame().await.expect("an answer comes");
        if frame.kind == HEADERS {
            return frame.payload[0];
        }
    }
}

fn never(_: &Frame) -> bool {
    false
}

fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|n| 2 * n + 1)
}

/// The request that follows on a connection which has borne the flood.
async fn still_serves(flooded: Flooded) {
    let mut connection = flooded.connection.expect("it is still open");
    connection.send(get(100_001, ECHO)).await;
    assert_eq!(status(&mut connection).await, STATUS_200);
}

#[tokio::test]
async fn requests_that_are_cancelled_at_once_end_the_connection_and_reach_nobody() {
    let site = Site::open("").await;
    let pair =
        |stream| [get(stream, ECHO), frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())].concat();
    let flooded = site.connect().await.flood(streams(10_000).flat_map(pair).collect(), never).await;
    assert_eq!(flooded.goaway(), Some(ENHANCE_YOUR_CALM));
    assert!(site.sent() < 1000, "{} of 10,000 were sent", site.sent());
    site.is_well().await;
}

#[tokio::test]
async fn fields_that_never_end_are_not_collected() {
    let site = Site::open("").await;
    let mut bytes = frame(HEADERS, 0, 1, &head("GET", ECHO));
    let piece = field("x", &"a".repeat(8000));
    (0..2000).for_each(|_| bytes.extend(frame(CONTINUATION, 0, 1, &piece)));
    let flooded = site.connect().await.flood(bytes, never).await;
    assert_eq!(flooded.goaway(), Some(ENHANCE_YOUR_CALM));
    assert_eq!(site.sent(), 0);
    site.is_well().await;
}

#[tokio::test]
async fn pings_are_answered_and_nothing_more() {
    let site = Site::open("").await;
    let ping = |n: u64| frame(PING, 0, 0, &n.to_be_bytes());
    let bytes = (1..=100_000).flat_map(ping).collect();
    let last = 100_000_u64.to_be_bytes();
    let is_last = |frame: &Frame| frame.kind == PING && frame.payload == last;
    let flooded = site.connect().await.flood(bytes, is_last).await;
    assert_eq!((flooded.count(PING, ACK), flooded.goaway()), (100_000, None));
    still_serves(flooded).await;
    site.is_well().await;
}

#[tokio::test]
async fn pings_whose_answers_nobody_reads_are_not_read_themselves() {
    let site = Site::open("").await;
    let mut frames = site.connect().await;
    let pings = (0..10_000_u64).flat_map(|n| frame(PING, 0, 0, &n.to_be_bytes()));
    let pings: Vec<u8> = pings.collect();
    let flooding = tokio::spawn(async move { while frames.send(&pings).await {} });
    let mut good = Wire::open(site.program.address).await;
    for _ in 0..200 {
        assert_eq!(good.ask(wire::get(ECHO)).await.status, 200);
    }
    flooding.abort();
    site.is_well().await;
}

#[tokio::test]
async fn settings_are_acknowledged_and_nothing_more() {
    let site = Site::open("").await;
    let settings = frame(SETTINGS, 0, 0, &[]);
    let mut bytes = settings.repeat(50_000);
    bytes.extend(frame(PING, 0, 0, &[7; 8]));
    let flooded = site.connect().await.flood(bytes, |frame| frame.kind == PING).await;
    // With the one that opened the connection.
    assert_eq!((flooded.count(SETTINGS, ACK), flooded.goaway()), (50_001, None));
    still_serves(flooded).await;
    site.is_well().await;
}

#[tokio::test]
async fn empty_pieces_of_content_end_the_connection() {
    let site = Site::open("").await;
    let mut bytes = frame(HEADERS, END_HEADERS, 1, &head("POST", ECHO));
    bytes.extend(frame(DATA, 0, 1, &[]).repeat(200_000));
    let flooded = site.connect().await.flood(bytes, never).await;
    assert_eq!(flooded.goaway(), Some(ENHANCE_YOUR_CALM));
    site.closes().await;
    site.is_well().await;
}

#[tokio::test]
async fn content_in_frames_of_a_byte_ends_the_connection() {
    let site = Site::open("").await;
    let mut bytes = frame(HEADERS, END_HEADERS, 1, &head("POST", ECHO));
    bytes.extend(frame(DATA, 0, 1, b"a").repeat(60_000));
    let flooded = site.connect().await.flood(bytes, never).await;
    assert_eq!(flooded.goaway(), Some(ENHANCE_YOUR_CALM));
    site.is_well().await;
}

#[tokio::test]
async fn content_in_chunks_of_a_byte_is_not_kept_for_less_than_it_costs() {
    const CHUNKS: usize = 300_000;
    let site = Site::open("replay_memory = \"2MiB\"").await;
    let mut wire = Wire::open(site.program.address).await;
    let head = format!("POST {ECHO} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    wire.send(head + &"1\r\na\r\n".repeat(CHUNKS) + "0\r\n\r\n").await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, &answer.json()["bodyBytes"]), (200, &CHUNKS.into()));
    // As many pieces would take 19 MiB.
    site.is_well_within(12 * 1024).await;
}

#[tokio::test]
async fn a_client_that_opens_no_window_is_cut_off_with_all_its_streams() {
    let pace = "client_stall_timeout = \"1s\"";
    let site = Site::open(pace).await;
    // SETTINGS_INITIAL_WINDOW_SIZE: 0.
    let frames = Frames::open(site.program.address, &[0, 4, 0, 0, 0, 0]).await;
    let requests = streams(100).flat_map(|stream| get(stream, FILE)).collect();
    let flooded = frames.flood(requests, never).await;
    assert_eq!(flooded.count(HEADERS, END_HEADERS), 100, "all were answered");
    assert_eq!(flooded.count(DATA, 0), 0);
    site.closes().await;
    assert_eq!(site.sent(), 100);
    site.is_well().await;
}

#[tokio::test]
async fn fields_that_unpack_to_a_hundred_times_their_size_end_the_connection() {
    let site = Site::open("").await;
    // A field of 4,000 bytes in the dynamic table, and then a byte for each repetition.
    let value = "a".repeat(4000);
    let mut block = head("GET", ECHO);
    block.extend([0x40, 1, b'x']);
    block.extend(length(value.len()));
    block.extend(value.as_bytes());
    block.extend([0xbe_u8; 10_000]);
    let bytes = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block);
    let flooded = site.connect().await.flood(bytes, never).await;
    assert_eq!(flooded.goaway(), Some(ENHANCE_YOUR_CALM));
    assert_eq!(site.sent(), 0);
    site.is_well().await;
}

#[tokio::test]
async fn fields_that_are_somewhat_too_long_get_431_and_the_connection_goes_on() {
    let site = Site::open("").await;
    let mut block = head("GET", ECHO);
    (0..9).for_each(|n| block.extend(field(&format!("x-{n}"), &"a".repeat(4000))));
    let mut pieces = block.chunks(16_000);
    let mut bytes = frame(HEADERS, END_STREAM, 1, pieces.next().unwrap());
    bytes.extend(frame(CONTINUATION, 0, 1, pieces.next().unwrap()));
    bytes.extend(frame(CONTINUATION, END_HEADERS, 1, pieces.next().unwrap()));
    let flooded = site.connect().await.flood(bytes, |frame| frame.kind == HEADERS).await;
    // `:status` by its name's index, then three digits in a Huffman code of two bytes or three.
    let refused = &flooded.seen.last().unwrap().payload;
    assert_eq!(refused[0], 0x48, "{refused:?}");
    assert_eq!(site.sent(), 0);
    still_serves(flooded).await;
    site.is_well().await;
}

#[tokio::test]
async fn window_updates_and_priorities_cost_nothing_but_reading_them() {
    let site = Site::open("").await;
    let one = frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes());
    let mut bytes = one.repeat(100_000);
    for stream in streams(50_000) {
        bytes.extend(frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 15]));
    }
    bytes.extend(frame(PING, 0, 0, &[7; 8]));
    let flooded = site.connect().await.flood(bytes, |frame| frame.kind == PING).await;
    assert_eq!(flooded.goaway(), None);
    still_serves(flooded).await;
    site.is_well().await;
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused_one_by_one() {
    let site = Site::open("[proxy.http2]\nmax_streams = 10").await;
    let frames = Frames::open(site.program.address, &[0, 4, 0, 0, 0, 0]).await;
    let mut bytes: Vec<u8> = streams(30).flat_map(|stream| get(stream, FILE)).collect();
    bytes.extend(frame(PING, 0, 0, &[7; 8]));
    let flooded = frames.flood(bytes, |frame| frame.kind == PING).await;
    assert_eq!(flooded.goaway(), None);
    let refused = flooded.count(RST_STREAM, 0);
    assert_eq!(refused, 20);
    // With the request that came before the flood.
    site.sandbox.control().wait_until(|counts| counts.api_requests == 11).await;
    drop(flooded);
    site.closes().await;
    assert_eq!(site.sent(), 10);
    site.is_well().await;
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_given_up_with_its_requests() {
    let http2 = "[proxy.http2]\nping_interval = \"200ms\"\nping_timeout = \"200ms\"";
    let site = Site::open(http2).await;
    let frames = Frames::open(site.program.address, &[0, 4, 0, 0, 0, 0]).await;
    let flooded = frames.flood(get(1, FILE), never).await;
    assert_eq!(flooded.count(PING, 0), 1, "one was asked, and not answered");
    assert!(matches!(flooded.goaway(), None | Some(NO_ERROR | PROTOCOL_ERROR)));
    site.closes().await;
    site.is_well().await;
}
