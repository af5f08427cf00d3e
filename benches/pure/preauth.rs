//! The dialogue before login, as a whole: framer, command reader, SASL, answers.

use std::fmt::Write as _;

use criterion::Criterion;
use mailmux::imap::{Event, Mechanism, Offer, Preauth, Welcome};

use crate::{MIB, time, time_bytes};

/// What is read from a client at once before its login.
const READ: usize = 4096;

pub(super) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("preauth");
    for (name, said) in [
        ("a login", &b"a1 LOGIN ann@example.org \"a usual password\"\r\n"[..]),
        ("a login by SASL", b"a1 AUTHENTICATE PLAIN AGFubkBleGFtcGxlLm9yZwBhIHVzdWFsIHBhc3N3b3Jk\r\n"),
        (
            "a chatty login",
            b"1 CAPABILITY\r\n2 ID (\"name\" \"K-9\" \"version\" \"6\")\r\n3 NOOP\r\n4 LOGIN {3}\r\nann {2}\r\npw\r\n",
        ),
    ] {
        time(&mut group, name, 1, || login(said));
    }
    for (name, said) in inputs() {
        time_bytes(&mut group, name, &said, answer);
    }
}

fn inputs() -> Vec<(&'static str, Vec<u8>)> {
    let many = |line: &str| line.repeat(MIB / 4 / line.len()).into_bytes();
    vec![
        ("NOOP", many("a NOOP\r\n")),
        ("CAPABILITY", many("a CAPABILITY\r\n")),
        ("ID", many("a ID (\"name\" \"Thunderbird\" \"version\" \"140.5\" \"os\" \"Linux\")\r\n")),
        ("ID of most pairs", many(&id(false))),
        ("ID of most pairs, as literals", many(&id(true))),
    ]
}

/// As many pairs as there may be, in a line that is as long as it may be.
fn id(literals: bool) -> String {
    let mut command = "a ID (".to_owned();
    for number in 0..30 {
        let value = "v".repeat(230);
        let blank = if number == 0 { "" } else { " " };
        // Writing to a string does not fail.
        let _ = if literals {
            write!(command, "{blank}{{5}}\r\nkey{number:02} {{{}}}\r\n{value}", value.len())
        } else {
            write!(command, "{blank}\"key{number:02}\" \"{value}\"")
        };
    }
    command + ")\r\n"
}

fn machine() -> Preauth {
    Preauth::new(Offer { starttls: false, login: true, mechanisms: Mechanism::ALL.to_vec(), certificate: None })
}

/// From the greeting to the welcome.
fn login(said: &[u8]) -> Vec<u8> {
    let (mut machine, mut out) = (machine(), Vec::new());
    machine.greet(&mut out);
    machine.push(said);
    loop {
        match machine.step(&mut out) {
            Some(Event::Login(_)) => break,
            Some(Event::Id(_)) => {}
            _ => panic!("it ends in a login"),
        }
    }
    machine.accept(&Welcome::default(), &mut out);
    out
}

/// Answers commands that are well.
fn answer(said: &[u8]) {
    let (mut machine, mut out) = (machine(), Vec::new());
    for piece in said.chunks(READ) {
        machine.push(piece);
        while let Some(event) = machine.step(&mut out) {
            assert!(matches!(event, Event::Id(_)));
        }
        out.clear();
    }
    assert_eq!(machine.heard().mistakes().map(|(_, count)| count).sum::<u32>(), 0);
}
