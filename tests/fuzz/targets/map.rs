//! Map files: nothing panics; a file is taken or its mistakes are told, few of them and in the lines' order; and a map
//! says of every name what a plain walk over its lines says.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use mailmux::imap::UserName;
use mailmux::routing::{Map, Place, Places};

const BACKENDS: [&str; 2] = ["blue", "green"];

fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// The line's name and backend, if it has both.
fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line = &line[line.iter().position(|byte| !is_blank(byte))?..];
    let separator =
        line.iter().position(|byte| *byte == b'\t').or_else(|| line.iter().position(|byte| *byte == b' '))?;
    let (name, rest) = line.split_at(separator);
    let backend = rest.split(is_blank).find(|word| !word.is_empty())?;
    let name = &name[..name.iter().rposition(|byte| *byte != b' ')? + 1];
    (!name.starts_with(b"#")).then_some((name, backend))
}

fuzz_target!(|text: &[u8]| {
    let map = match Map::parse(text.to_vec(), Arc::new(Places::new(BACKENDS, ["eu"]))) {
        Ok(map) => map,
        Err(errors) => {
            assert!((1..=20).contains(&errors.len()) && errors.is_sorted_by_key(|error| error.line));
            assert!(errors.iter().all(|error| error.message.is_ascii()), "bytes of a file in a log");
            return;
        }
    };
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    for (name, backend) in text.split(|byte| *byte == b'\n').filter_map(split) {
        let user = UserName::new(name.to_ascii_uppercase()).expect("a map holds no other names");
        let answer = map.find(&user).expect("as it was read").expect("a line of its own");
        match answer.place {
            Some(Place::Backend(index)) if !backend.contains(&b'=') => assert_eq!(BACKENDS[index].as_bytes(), backend),
            Some(Place::Group(0)) if !backend.contains(&b'=') => assert_eq!(backend, b"eu"),
            // By its fields.
            place => assert!(backend.contains(&b'=') && (place.is_some() || answer.refused.is_some())),
        }
    }
    let _ = map.find(&UserName::new(&b"nobody@nowhere"[..]).expect("a name"));
});
