//! Every bound to the byte, every split of the same bytes.

use proptest::prelude::*;

use super::*;
use crate::imap::command::scope;

/// The longest text there is, and all literals there may be.
const HELD_MAX: usize = SASL_MAX + 2 * TAG_MAX + 8192;

/// What a stream is cut into, written so that a test reads like the wire. Literals that wait are let in.
fn cut_up<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
    let mut framer = Framer::new(scope);
    let mut found = Vec::new();
    for piece in pieces {
        framer.push(piece);
        while let Some(frame) = framer.pop() {
            found.push(show(&frame));
            framer.permit();
        }
    }
    found
}

fn show(frame: &Frame) -> String {
    match frame {
        Frame::Command(held) => held.escape_ascii().to_string(),
        Frame::Oversize(held) => format!("oversize {}", held.escape_ascii()),
        Frame::Answer(held) => format!("answer {}", held.escape_ascii()),
        other => format!("{other:?}"),
    }
}

fn whole(bytes: &[u8]) -> Vec<String> {
    let whole = cut_up([bytes]);
    assert_eq!(cut_up(bytes.chunks(1)), whole, "byte by byte");
    whole
}

/// The first frame, and a framer behind it.
fn first(bytes: &[u8]) -> (Framer, Option<Frame>) {
    let mut framer = Framer::new(scope);
    framer.push(bytes);
    let frame = framer.pop();
    (framer, frame)
}

#[test]
fn lines_are_commands() {
    assert_eq!(whole(b"a LOGIN ann pw\r\nb ID NIL\nc NOOP\r\n"), ["a LOGIN ann pw", "b ID NIL", "c NOOP"]);
    assert_eq!(whole(b"a LOGIN ann pw"), [""; 0]);
    assert_eq!(whole(b"x\r\n\r\n \r\n"), ["x", "", " "]);
}

#[test]
fn of_a_command_that_is_not_kept_there_is_the_head() {
    assert_eq!(whole(b"a NOOP (((((\r\nb APPEND x {99}\r\nc  LOGIN\r\n"), ["a NOOP ", "b APPEND ", "c  "]);
}

#[test]
fn literals_are_never_commands() {
    assert_eq!(
        whole(b"a LOGIN {13+}\r\nx\r\ny LOGOUT\r\n {1}\r\n\r\nb NOOP\r\n"),
        ["Waits", "a LOGIN {13+}\\r\\nx\\r\\ny LOGOUT\\r\\n {1}\\r\\n\\r", "b NOOP"]
    );
    let empty = whole(b"a LOGIN {0+}\r\n {0}\r\n\r\nb NOOP\n");
    assert_eq!(empty, ["Waits", "a LOGIN {0+}\\r\\n {0}\\r\\n", "b NOOP"]);
}

#[test]
fn what_only_looks_like_a_literal_is_text() {
    for end in ["{}", "{+}", "{-1}", "{+1}", "{1 }", "{ 1}", "{1++}", "{1+} ", "{1}}", "{a}", "{1a}", "1}", "{0x1}"] {
        let line = format!("a LOGIN ann {end}");
        assert_eq!(whole(format!("{line}\r\n").as_bytes()), [line]);
    }
}

#[test]
fn a_literal_that_waits_is_decided_on_first() {
    let (mut framer, frame) = first(b"a LOGIN {5}\r\nNOOP\r\nb NOOP\r\n");
    assert_eq!(frame, Some(Frame::Waits));
    assert_eq!(framer.held(), b"a LOGIN {5}\r\n");
    assert_eq!(framer.pop(), None, "nothing is read before the answer");
    framer.abandon();
    assert_eq!(framer.held(), b"");
    assert_eq!(framer.pop().as_ref().map(show).as_deref(), Some("NOOP"));
}

#[test]
fn literals_are_counted_together() {
    let two = |first: usize, second: usize| format!("a LOGIN {{{first}}}\r\n{} {{{second}}}\r\n", "u".repeat(first));
    let (mut framer, frame) = first(two(8000, 192).as_bytes());
    assert_eq!(frame, Some(Frame::Waits));
    framer.permit();
    assert_eq!(framer.pop(), Some(Frame::Waits), "8192 in sum");

    let (mut framer, _) = first(two(8000, 193).as_bytes());
    framer.permit();
    assert_eq!(framer.pop().as_ref().map(show).as_deref(), Some("oversize a LOGIN "), "8193 in sum");
    assert_eq!(framer.buffered(), 0);

    assert_eq!(whole(b"a LOGIN {8193}\r\nb NOOP\r\n"), ["oversize a LOGIN ", "b NOOP"]);
    assert_eq!(whole(b"a LOGIN {99999999999999999999999999}\r\nb NOOP\r\n"), ["oversize a LOGIN ", "b NOOP"]);
}

#[test]
fn a_literal_that_does_not_wait_is_swallowed_by_count() {
    let keep = format!("a LOGIN {{4096+}}\r\n{} x\r\n", "u".repeat(4096));
    assert_eq!(whole(keep.as_bytes()).len(), 1);
    assert!(!whole(keep.as_bytes())[0].starts_with("oversize"));

    for head in ["a LOGIN ann {4097+}", "a LOGIN ann {4096+}\r\n{4096+}\r\n{1+}"] {
        let size = if head.contains("4097") { 4097 } else { 1 };
        let head = head.replace("{4096+}\r\n", &format!("{{4096+}}\r\n{}", "u".repeat(4096)));
        let text = format!("{head}\r\n{} rest {{3+}}\r\n\r\nx\r\nb NOOP\r\n", "\n".repeat(size));
        assert_eq!(whole(text.as_bytes()), ["oversize a LOGIN ", "b NOOP"]);
    }
    let unwanted = format!("a APPEND x {{9000+}}\r\n{}\r\nb NOOP\r\n", "\n".repeat(9000));
    assert_eq!(whole(unwanted.as_bytes()), ["a APPEND ", "b NOOP"]);
}

#[test]
fn swallowing_takes_no_memory_and_has_an_end() {
    let (mut framer, frame) = first(b"a LOGIN {1048576+}\r\n");
    assert_eq!(frame, None);
    for _ in 0..256 {
        framer.push(&[b'\n'; 4096]);
        assert_eq!(framer.pop(), None);
        assert!(framer.buffered() <= HEAD_MAX);
    }
    framer.push(b"\r\n");
    assert_eq!(framer.pop().as_ref().map(show).as_deref(), Some("oversize a LOGIN "));

    for line in ["a LOGIN {1048577+}", "a LOGIN {99999999999999999999999+}", "a X {1048577+}", "{1048577+}"] {
        let (mut framer, frame) = first(format!("{line}\r\nb NOOP\r\n").as_bytes());
        assert_eq!(frame, Some(Frame::TooLong), "{line}");
        framer.push(b"c NOOP\r\n");
        assert_eq!((framer.pop(), framer.buffered()), (None, 0), "nothing more is read");
    }
    // In sum, not each.
    let (mut framer, _) = first(b"a X {1048576+}\r\n");
    framer.push(&vec![b'x'; 1024 * 1024]);
    framer.push(b"{1+}\r\n");
    assert_eq!(framer.pop(), Some(Frame::TooLong));
}

#[test]
fn a_line_has_8_kib_with_its_end() {
    for (head, line_end) in [("a LOGIN ", "\r\n"), ("a LOGIN ", "\n"), ("a X ", "\r\n"), ("", "\r\n")] {
        let fill = |len: usize| format!("{head}{}{line_end}", "x".repeat(len - head.len() - line_end.len()));
        assert!(matches!(first(fill(8192).as_bytes()).1, Some(Frame::Command(_))), "{head}");
        assert_eq!(first(fill(8193).as_bytes()).1, Some(Frame::TooLong), "{head}");
        assert_eq!(first("x".repeat(8192).as_bytes()).1, Some(Frame::TooLong), "no line end at all");
    }
    // Lines of one command are one line.
    let pieces = format!("a LOGIN {}{}\r\n", "{0+}\r\n".repeat(1000), "x".repeat(2192));
    assert_eq!(first(pieces.as_bytes()).1, Some(Frame::TooLong));
}

#[test]
fn a_sasl_message_has_64_kib() {
    let answer = |len: usize| {
        let mut framer = Framer::new(scope);
        framer.expect_answer();
        framer.push(format!("{}\r\na NOOP\r\n", "A".repeat(len)).as_bytes());
        framer.pop()
    };
    assert!(matches!(answer(SASL_MAX), Some(Frame::Answer(text)) if text.len() == SASL_MAX));
    assert_eq!(answer(SASL_MAX + 1), Some(Frame::TooLong));
    let initial = format!("a AUTHENTICATE PLAIN {}\r\n", "A".repeat(SASL_MAX));
    assert!(matches!(first(initial.as_bytes()).1, Some(Frame::Command(held)) if held.len() == initial.len() - 2));
    let endless = format!("a AUTHENTICATE PLAIN {}", "A".repeat(SASL_MAX + 256));
    assert_eq!(first(endless.as_bytes()).1, Some(Frame::TooLong));
}

#[test]
fn an_answer_is_a_line_whatever_it_ends_with() {
    let mut framer = Framer::new(scope);
    framer.expect_answer();
    framer.push(b"GET {3}\r\nb NOOP\r\n");
    assert_eq!(framer.pop().as_ref().map(show).as_deref(), Some("answer GET {3}"));
    assert_eq!(framer.pop().as_ref().map(show).as_deref(), Some("b NOOP"));
}

#[test]
fn nesting_is_not_held() {
    let (mut framer, _) = first(b"a NOOP ");
    for _ in 0..2000 {
        framer.push(b"((((");
        assert_eq!(framer.pop(), None);
        assert!(framer.buffered() <= HEAD_MAX);
    }
}

#[test]
fn other_protocols_are_known_by_their_first_bytes() {
    let signature = [PROXY_V2, b"\x21\x11\0\x0c"].concat();
    let openings: [&[u8]; 8] = [
        b"GET / HTTP/1.1\r\n",
        b"POST /",
        b"PRI * HTTP/2.0\r\n",
        b"CONNECT a:1",
        b"OPTIONS *",
        b"\x16\x03\x01\x02",
        b"PROXY TCP4 ",
        &signature,
    ];
    for opening in openings {
        assert_eq!(whole(opening), ["Foreign"], "{}", opening.escape_ascii());
        if opening != signature {
            assert_eq!(whole(&[b"a NOOP\r\n", opening].concat()), ["a NOOP", "Foreign"]);
        }
    }
    assert_eq!(whole(b"get NOOP\r\nPRI NOOP\r\nGETS NOOP\r\n\x16\r\n").len(), 4, "only exactly those");
    assert_eq!(whole(b"\r\n\r\na NOOP\r\n"), ["", "", "a NOOP"], "blank lines alone are no PROXY header");
}

#[test]
fn what_is_pipelined_is_left_unread() {
    let (framer, _) = first(b"a STARTTLS\r\nb LOGIN ann pw\r\n");
    assert_eq!(framer.unread(), b"b LOGIN ann pw\r\n");
}

#[test]
fn what_was_read_is_wiped() {
    let (framer, frame) = first(b"a LOGIN ann hunter2\r\nb NOOP\r\n");
    assert!(matches!(frame, Some(Frame::Command(_))));
    assert_eq!(framer.input.as_slice(), [&[0; 21][..], b"b NOOP\r\n"].concat());
    let (framer, _) = first(b"a LOGIN ann hunter2\r\n");
    assert_eq!(framer.input.capacity(), 0, "nor does an idle client cost a buffer");
}

#[test]
fn nothing_held_is_shown() {
    let (mut framer, frame) = first(b"a LOGIN ann hunter2\r\na LOGIN ann hunter2");
    let before = format!("{frame:?} {framer:?}");
    framer.pop();
    let text = format!("{before} {framer:?}");
    assert!(!text.contains("hunter2") && !text.contains("ann") && !text.contains("104"), "{text}");
}

/// Bytes that make interesting lines more often than random ones do.
fn wire() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        Just(&b"a "[..]),
        Just(&b"LOGIN "[..]),
        Just(&b"AUTHENTICATE "[..]),
        Just(&b"NOOP"[..]),
        Just(&b"{3}\r\n"[..]),
        Just(&b"{3+}\r\n"[..]),
        Just(&b"{5000+}\r\n"[..]),
        Just(&b"{8190}\r\n"[..]),
        Just(&b"{0}\n"[..]),
        Just(&b"\r\n"[..]),
        Just(&b"\n"[..]),
        Just(&b"\r"[..]),
        Just(&b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"[..]),
        Just(&b"GET "[..]),
        Just(&b"\0\r\nQUIT\n"[..]),
    ];
    let piece = prop_oneof![4 => word.prop_map(<[u8]>::to_vec), 1 => prop::collection::vec(any::<u8>(), 0..12)];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_split_gives_the_same_frames(bytes in wire(), at in prop::collection::vec(any::<prop::sample::Index>(), 0..5)) {
        let mut cuts: Vec<usize> = at.iter().map(|at| at.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]);
        prop_assert_eq!(cut_up(pieces), whole(&bytes));
    }

    #[test]
    fn no_more_is_held_than_the_cap(bytes in wire(), repeat in 1..40_usize, permit: bool) {
        let mut framer = Framer::new(scope);
        for piece in bytes.repeat(repeat).chunks(100) {
            framer.push(piece);
            while framer.pop().is_some() {
                if permit { framer.permit() } else { framer.abandon() }
            }
            prop_assert!(framer.buffered() <= HELD_MAX);
            prop_assert!(framer.held.capacity() <= 2 * (HELD_MAX));
            prop_assert!(framer.unread().len() < PROXY_V2.len());
        }
    }
}
