//! The framer: where a client's commands end before its login. It looks at every byte and wipes what it has read.

use criterion::Criterion;
use mailmux::imap::command::{Line, scope};
use mailmux::imap::framer::{Frame, Framer, LINE_MAX, SASL_MAX, SWALLOW_MAX, TAG_MAX};

use crate::{MIB, time_bytes};

/// What is read from a client at once before its login.
const READ: usize = 4096;

pub(super) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("framer");
    for (name, piece, bytes) in inputs() {
        time_bytes(&mut group, name, &bytes, |bytes| frames(bytes, piece));
    }
    let answer = [vec![b'A'; SASL_MAX], b"\r\n".to_vec()].concat();
    time_bytes(&mut group, "the longest answer", &answer, |bytes| {
        let mut framer = Framer::new(scope);
        framer.expect_answer();
        let found = drain(&mut framer, bytes, READ);
        assert_eq!(found, 1);
    });
}

/// Name, how much comes at once, and what.
fn inputs() -> Vec<(&'static str, usize, Vec<u8>)> {
    let many = |line: &str| line.repeat(MIB / 4 / line.len()).into_bytes();
    let logins = many("a1 LOGIN ann@example.org \"a usual password\"\r\n");
    let long = |head: &str, byte: u8| {
        let line = [head.as_bytes(), &vec![byte; LINE_MAX - head.len() - 3], b"\r\n"].concat();
        line.repeat(MIB / 4 / line.len())
    };
    let swallowed = [format!("a X {{{SWALLOW_MAX}+}}\r\n").into_bytes(), vec![b'x'; MIB], b"\r\n".to_vec()].concat();
    vec![
        ("logins", READ, logins.clone()),
        ("logins, byte by byte", 1, logins),
        ("logins with literals", READ, many("a LOGIN {15}\r\nann@example.org {6}\r\nsecret\r\n")),
        ("the shortest lines", READ, many("\r\n")),
        ("small commands", READ, many("a NOOP\r\n")),
        ("the longest tags", READ, many(&format!("{} NOOP\r\n", "t".repeat(TAG_MAX)))),
        ("the longest lines", READ, long("a LOGIN ann ", b'x')),
        ("the longest lines, byte by byte", 1, long("a LOGIN ann ", b'x')),
        ("quotes without end", READ, long("a LOGIN \"", b'\\')),
        ("the deepest nesting", READ, long("a NOOP ", b'(')),
        ("braces", READ, long("a LOGIN ", b'{')),
        ("empty literals", READ, many("a LOGIN {0+}\r\n {0+}\r\n\r\n")),
        ("empty literals of nobody", READ, many(&format!("a X{}\r\n", " {0+}\r\n".repeat(LINE_MAX / 10)))),
        ("a literal of nobody", READ, swallowed),
    ]
}

fn frames(bytes: &[u8], piece: usize) {
    let mut framer = Framer::new(scope);
    let found = drain(&mut framer, bytes, piece);
    assert!(found > 0);
}

/// How many frames there were.
fn drain(framer: &mut Framer, bytes: &[u8], piece: usize) -> usize {
    let mut found = 0;
    for piece in bytes.chunks(piece) {
        framer.push(piece);
        while let Some(frame) = framer.pop() {
            found += 1;
            match frame {
                Frame::Waits if Line::new(framer.held()).may_go_on() => framer.permit(),
                Frame::Waits => framer.abandon(),
                Frame::TooLong | Frame::Foreign => panic!("these are read to their end"),
                Frame::Command(_) | Frame::Oversize(_) | Frame::Answer(_) => {}
            }
        }
    }
    found
}
