//! The whole dialogue before login under any bytes: every answer is whole lines of ASCII, in clear nobody is invited to
//! send a secret, nothing is answered after the end, and any split of the bytes gives the same dialogue. The first byte
//! says which listener it is and how long the pieces are.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mailmux::imap::{Event, Mechanism, Offer, Preauth, UserName, Welcome};

fn offer(how: u8) -> Offer {
    let clear = how & 1 == 1;
    let certificate = (how & 2 == 2).then(|| UserName::new(&b"ann"[..]).ok()).flatten();
    Offer { starttls: clear, login: !clear, mechanisms: Mechanism::ALL.to_vec(), certificate }
}

/// Every attempt is asked something, then refused; the last one is accepted.
fn talk(how: u8, bytes: &[u8], size: usize) -> (Vec<u8>, Vec<String>) {
    let mut machine = Preauth::new(offer(how));
    let (mut out, mut events) = (Vec::new(), Vec::new());
    machine.greet(&mut out);
    for piece in bytes.chunks(size) {
        machine.push(piece);
        while let Some(event) = machine.step(&mut out) {
            match &event {
                Event::Login(login) => {
                    events.push(format!("{login:?} {}", login.credentials.proof().escape_ascii()));
                    if how & 4 == 4 { machine.challenge(b"{}", &mut out) } else { machine.refuse(b"No.", &mut out) }
                }
                Event::Answer(answer) => {
                    events.push(format!("{answer:?}"));
                    machine.refuse(b"No.", &mut out);
                }
                // Whether it is clean depends on what came with it.
                Event::StartTls { .. } => events.push("starttls".to_owned()),
                other => events.push(format!("{other:?}")),
            }
            if matches!(event, Event::End(_) | Event::StartTls { .. }) {
                let said = out.len();
                assert!(machine.step(&mut out).is_none() && out.len() == said);
                return (out, events);
            }
        }
        assert!(machine.buffered() <= 128 * 1024);
    }
    machine.accept(&Welcome::default(), &mut out);
    (out, events)
}

fuzz_target!(|data: &[u8]| {
    let Some((how, bytes)) = data.split_first() else { return };
    let (out, events) = talk(*how, bytes, usize::from(how >> 3) + 1);
    assert!((out.clone(), events) == talk(*how, bytes, bytes.len().max(1)));
    assert!(out.ends_with(b"\r\n") && out.is_ascii());
    for line in out.split_inclusive(|byte| *byte == b'\n') {
        assert!(line.ends_with(b"\r\n") && (how & 1 == 0 || !line.starts_with(b"+")));
    }
});
