//! The follower of a session, plain as most sessions have it, and with its tracker as sessions have it whose link is to be
//! kept. It skips literals by their length; of lines it looks for the end, and its tracker at every byte of the client's.
//! Also what a trace adds.

use criterion::Criterion;
use mailmux::imap::follower::{Follower, Remains};

use crate::{MIB, PIECE, time, time_bytes};

/// The longest tag that is followed.
const TAG: usize = 32;
/// The longest line.
const LINE: usize = 16 * MIB;

/// What one side says, and how much of it comes at once.
struct Said {
    name: &'static str,
    bytes: Vec<u8>,
    piece: usize,
}

pub(super) fn bench(criterion: &mut Criterion) {
    for (kind, new) in [("plain", Follower::default as fn() -> Follower), ("tracking", Follower::tracking)] {
        let mut group = criterion.benchmark_group(format!("follower, {kind}"));
        for Said { name, bytes, piece } in from_backend() {
            time_bytes(&mut group, &format!("backend: {name}"), &bytes, |bytes| {
                let mut follower = new();
                bytes.chunks(piece).for_each(|piece| follower.from_backend(piece));
                check(&follower);
            });
        }
        for Said { name, bytes, piece } in from_client() {
            time_bytes(&mut group, &format!("client: {name}"), &bytes, |bytes| {
                let mut follower = new();
                // What it holds back is offered again, with more behind it.
                let mut passed = 0;
                for start in (0..bytes.len()).step_by(piece) {
                    passed += follower.from_client(&bytes[passed..bytes.len().min(start + piece)]);
                }
                assert_eq!(passed, bytes.len());
                check(&follower);
            });
        }
        let mut follower = new();
        time(&mut group, "NOOP there and back", 1, || {
            follower.from_client(b"a1 NOOP\r\n");
            follower.from_backend(b"a1 OK NOOP completed.\r\n");
        });
        check(&follower);
        let mut follower = new();
        time(&mut group, "IDLE, a word, DONE", 1, || {
            follower.from_client(b"a1 IDLE\r\n");
            follower.from_backend(b"+ idling\r\n");
            follower.from_backend(b"* 5 EXISTS\r\n");
            follower.from_client(b"DONE\r\n");
            follower.from_backend(b"a1 OK IDLE completed.\r\n");
        });
        check(&follower);
        let (asked, answered) = pipelined();
        let mut follower = new();
        time(&mut group, "the most commands at once", 32, || {
            assert_eq!(follower.from_client(&asked), asked.len());
            follower.from_backend(&answered);
        });
        check(&follower);
    }
    bench_transcript(criterion);
}

fn bench_transcript(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("follower, traced");
    let many = |line: &str| line.repeat(MIB / line.len()).into_bytes();
    for (name, bytes) in [
        ("flags", many("* 12345 FETCH (FLAGS (\\Seen) UID 67890)\r\n")),
        ("the shortest lines", many("* x\r\n")),
        ("a line without end", vec![b'x'; MIB]),
        ("nothing printable", many(&format!("* {}\r\n", "\x01".repeat(1000)))),
        ("the most literals in a line", many("{0}\r\n")),
    ] {
        time_bytes(&mut group, &format!("backend: {name}"), &bytes, |bytes| {
            let mut follower = Follower::default();
            follower.transcribe(true);
            follower.from_backend(b"* 1 FETCH (BODY[] {0}\r\n");
            for piece in bytes.chunks(PIECE) {
                follower.from_backend(piece);
                follower.spoken();
            }
            check(&follower);
        });
    }
}

/// It has followed to the end.
fn check(follower: &Follower) {
    assert!(!follower.doubts(), "{follower:?}");
    if let Remains::Dirty(why) = follower.remains() {
        assert!(["untracked", "half a command", "half a response", "in flight"].contains(&why), "{why}");
    }
}

fn message(begin: &str, end: &str) -> Vec<u8> {
    let lines = [vec![b'x'; 70], b"\r\n".to_vec()].concat().repeat(MIB / 72 + 1);
    [begin.as_bytes(), &lines[..MIB], end.as_bytes()].concat()
}

fn from_backend() -> Vec<Said> {
    let many = |line: &str| line.repeat(MIB / line.len()).into_bytes();
    let fetch = message(&format!("* 1 FETCH (BODY[] {{{MIB}}}\r\n"), ")\r\n");
    let search = |byte| [b"* SEARCH".to_vec(), vec![byte; LINE - 10], b"\r\n".to_vec()].concat();
    let said = |name, bytes| Said { name, bytes, piece: PIECE };
    vec![
        said("a message", fetch.clone()),
        Said { name: "a message, byte by byte", bytes: fetch, piece: 1 },
        said("flags", many("* 12345 FETCH (FLAGS (\\Seen) UID 67890)\r\n")),
        Said { name: "flags, byte by byte", bytes: many("* 12345 FETCH (FLAGS (\\Seen) UID 67890)\r\n"), piece: 1 },
        // Each line comes in two pieces.
        Said { name: "flags, each cut", bytes: many("* 12345 FETCH (FLAGS (\\Seen) UID 67890)\r\n"), piece: 40 },
        said("the shortest lines", many("* x\r\n")),
        said("status lines", many("* OK x\r\n")),
        said("empty literals", many(&format!("* 1 FETCH (X{})\r\n", " {0}\r\n".repeat(10_000)))),
        said("literals of a byte", many(&format!("* 1 FETCH (X{})\r\n", " {1}\r\nx".repeat(10_000)))),
        said("what looks like literals", many("* 1 X {{{{{{{{{{{{{{{{{{{{{{{}}x\r\n")),
        said("the longest line", search(b'1')),
        said("the deepest nesting", search(b'(')),
    ]
}

fn from_client() -> Vec<Said> {
    let said = |name, bytes| Said { name, bytes, piece: PIECE };
    let line = |begin: &str, word: &str, end: &str| [begin, &word.repeat(MIB / word.len()), end].concat().into_bytes();
    vec![
        said("a message", message(&format!("a APPEND INBOX {{{MIB}+}}\r\n"), "\r\n")),
        Said {
            name: "a message, byte by byte",
            bytes: message(&format!("a APPEND INBOX {{{MIB}+}}\r\n"), "\r\n"),
            piece: 1,
        },
        said("a literal of words", message(&format!("a SEARCH BODY {{{MIB}+}}\r\n"), "\r\n")),
        said("empty literals", line("a SEARCH", " {0+}\r\n", "\r\n")),
        said("a long line", line("a FETCH ", "1,", "3 FLAGS\r\n")),
        said("a line of words that matter", line("a FETCH 1 (", "MODSEQ ", ")\r\n")),
        said("a line of search options", line("a SEARCH RETURN (", "PARTIAL ", ") ALL\r\n")),
        said("quotes without end", line("a SEARCH BODY \"", "\\\"", "")),
        said("the deepest nesting", line("a SEARCH ", "(", "")),
    ]
}

/// As many commands as are tracked, with the longest tags, and their answers, the last one first.
fn pipelined() -> (Vec<u8>, Vec<u8>) {
    let lines = |numbers: &mut dyn Iterator<Item = usize>, words: &str| {
        numbers.map(|number| format!("{number:0TAG$} {words}\r\n").into_bytes()).collect::<Vec<_>>().concat()
    };
    (lines(&mut (0..32), "FETCH 1 FLAGS"), lines(&mut (0..32).rev(), "OK done"))
}
