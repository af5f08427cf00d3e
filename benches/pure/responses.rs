//! What backends say before they let a user in, cut into responses and read.

use criterion::Criterion;
use mailmux::imap::response::{Code, Response, Responses, read};

use crate::{MIB, PIECE, time_bytes};

/// What is read from a backend at once.
const READ: usize = 2048;
/// The longest line, and the longest response.
const LINE: usize = 8 * 1024;
const RESPONSE: usize = 64 * 1024;

pub(super) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("responses");
    for (name, piece, bytes) in inputs() {
        time_bytes(&mut group, name, &bytes, |bytes| responses(bytes, piece));
    }
}

/// Name, how much comes at once, and what.
fn inputs() -> Vec<(&'static str, usize, Vec<u8>)> {
    let many = |line: &str| line.repeat(MIB / 4 / line.len()).into_bytes();
    let long = |begin: &str, filling: &str, end: &str| {
        let times = (LINE - begin.len() - end.len() - 2) / filling.len();
        many(&[begin, &filling.repeat(times), end, "\r\n"].concat())
    };
    let greetings = many(
        "* OK [CAPABILITY IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE LITERAL+ STARTTLS AUTH=PLAIN] Dovecot ready.\r\n\
         * CAPABILITY IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE LITERAL+ AUTH=PLAIN\r\na OK Logged in\r\n",
    );
    let literals = |literal: &str| many(&format!("* X{}\r\n", literal.repeat((RESPONSE - 8) / literal.len())));
    vec![
        ("greetings", READ, greetings.clone()),
        ("greetings, byte by byte", 1, greetings.clone()),
        ("greetings, many at once", PIECE, greetings),
        ("the shortest", READ, many("+\r\n")),
        ("the shortest, many at once", PIECE, many("+\r\n")),
        ("the longest lines", READ, long("* X", "x", "")),
        ("the longest lines, byte by byte", 1, long("* X", "x", "")),
        ("the longest codes", READ, long("* OK [CAPABILITY IMAP4rev1", " A", "] x")),
        ("codes without end", READ, long("* OK [PERMANENTFLAGS (", "(", "")),
        ("referrals", READ, long("* NO [REFERRAL imap://[", "]", "")),
        ("empty literals", READ, literals(" {0}\r\n")),
        ("literals of a byte", READ, literals(" {1}\r\nx")),
        ("the longest literals", READ, literals(&format!(" {{60000}}\r\n{}", "x".repeat(60_000)))),
    ]
}

fn responses(bytes: &[u8], piece: usize) {
    let mut responses = Responses::default();
    let mut found = 0;
    for piece in bytes.chunks(piece) {
        responses.push(piece);
        while let Some(response) = responses.pop().expect("sound") {
            found += 1;
            if let Response::Status { text, .. } = read(&response)
                && let Some(code) = Code::of(text)
            {
                code.referral();
            }
        }
    }
    assert!(found > 0 && responses.rest().is_empty());
}
