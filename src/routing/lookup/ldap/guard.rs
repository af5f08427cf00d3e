//! What stands between a directory and the library that reads its answers: the library takes any amount of anything and
//! follows nesting as deep as it goes, which would end the process. Here messages are measured and walked before they
//! are let through (RFC 4511 5.1, a subset of BER). Not here: what they mean.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::UnixStream;

/// One message. An entry whose asked-for attributes need more is no user of ours.
const LONGEST_MESSAGE: usize = 256 * 1024;
/// All messages in answer to one question.
const LONGEST_ANSWER: usize = 1024 * 1024;
/// An entry's values are six deep; controls and referrals not deeper.
const DEEPEST: usize = 10;
const CHUNK: usize = 8 * 1024;
const SEQUENCE: u8 = 0x30;
const CONSTRUCTED: u8 = 0x20;

/// Moves bytes between the library (`near`) and the directory (`far`), until one of them ends or the directory breaks a
/// bound. Gives the reason.
pub(super) async fn run(near: UnixStream, far: impl AsyncRead + AsyncWrite + Unpin) -> String {
    let (mut near_read, mut near_write) = near.into_split();
    let (mut far_read, mut far_write) = split(far);
    let (mut up, mut down) = (vec![0; CHUNK], Vec::new());
    let mut left = LONGEST_ANSWER;
    loop {
        tokio::select! {
            read = near_read.read(&mut up) => match read {
                Ok(length @ 1..) => {
                    left = LONGEST_ANSWER;
                    let sent = async {
                        far_write.write_all(&up[..length]).await?;
                        far_write.flush().await
                    };
                    if let Err(error) = sent.await {
                        return format!("cannot send: {error}");
                    }
                }
                _ => return "the connection was closed".to_owned(),
            },
            read = far_read.read_buf(&mut down) => {
                let length = match read {
                    Ok(0) => return "the directory closed the connection".to_owned(),
                    Ok(length) => length,
                    Err(error) => return format!("cannot receive: {error}"),
                };
                let Some(rest) = left.checked_sub(length) else {
                    return "the directory's answer is too long".to_owned();
                };
                left = rest;
                loop {
                    let length = match message(&down) {
                        Ok(Some(length)) => length,
                        Ok(None) => break,
                        Err(why) => return why.to_owned(),
                    };
                    if near_write.write_all(&down[..length]).await.is_err() {
                        return "the connection was closed".to_owned();
                    }
                    down.drain(..length);
                }
            }
        }
    }
}

/// How long the message is that the bytes begin with; `None` while it is not there as a whole.
pub(super) fn message(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
    let Some(first) = bytes.first() else { return Ok(None) };
    if *first != SEQUENCE {
        return Err("what the directory sends is no LDAP");
    }
    let Some((start, length)) = length(bytes, 1)? else { return Ok(None) };
    let end = start + length;
    if end > LONGEST_MESSAGE {
        return Err("a message of the directory is too long");
    }
    let Some(whole) = bytes.get(..end) else { return Ok(None) };
    walk(whole).map(|()| Some(end))
}

/// Whether everything in a message ends where what holds it does, and nothing is nested too deep.
fn walk(message: &[u8]) -> Result<(), &'static str> {
    const WRONG: &str = "a message of the directory is malformed";
    let mut ends = Vec::with_capacity(DEEPEST);
    let mut at = 0;
    loop {
        while ends.last() == Some(&at) {
            ends.pop();
        }
        let Some(tag) = message.get(at) else { break };
        let (start, length) = length(message, at + 1)?.ok_or(WRONG)?;
        let end = start + length;
        if end > ends.last().copied().unwrap_or(message.len()) {
            return Err(WRONG);
        }
        if tag & CONSTRUCTED == 0 {
            at = end;
        } else if ends.len() == DEEPEST {
            return Err("a message of the directory is nested too deep");
        } else {
            ends.push(end);
            at = start;
        }
    }
    if ends.is_empty() { Ok(()) } else { Err(WRONG) }
}

/// Reads the length at this place: where the content begins, and how long it is.
fn length(bytes: &[u8], at: usize) -> Result<Option<(usize, usize)>, &'static str> {
    let Some(first) = bytes.get(at) else { return Ok(None) };
    let count = usize::from(first & 0x7f);
    match first {
        0..=0x7f => Ok(Some((at + 1, count))),
        0x81..=0x84 => {
            let Some(digits) = bytes.get(at + 1..=at + count) else { return Ok(None) };
            let length = digits.iter().fold(0_usize, |length, digit| length << 8 | usize::from(*digit));
            Ok(Some((at + 1 + count, length)))
        }
        // The indefinite form is forbidden (RFC 4511 5.1), and nothing needs more than four bytes.
        _ => Err("a length in what the directory sends is malformed"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::duplex;

    use super::*;

    /// Something constructed around something.
    fn around(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).expect("short").to_be_bytes();
        [&[tag, 0x84], &length[..], content].concat()
    }

    const BOUND: &[u8] = b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00";

    #[test]
    fn a_message_is_let_through_when_it_is_whole() {
        for end in 0..BOUND.len() {
            assert_eq!(message(&BOUND[..end]), Ok(None), "{end}");
        }
        assert_eq!(message(BOUND), Ok(Some(14)));
        assert_eq!(message(&[BOUND, b"\x30"].concat()), Ok(Some(14)));
    }

    #[test]
    fn what_breaks_a_bound_is_known_before_it_is_there() {
        assert!(message(b"HTTP/1.1 400").is_err());
        assert!(message(b"\x30\x80").is_err(), "indefinite");
        assert!(message(b"\x30\x85\x00").is_err());
        assert!(message(b"\x30\x84\xff\xff\xff\xff").is_err(), "4 GiB");
        assert!(message(b"\x30\x83\x04\x00\x00").is_err(), "256 KiB and its header");
        assert_eq!(message(b"\x30\x83\x03\xff\x00"), Ok(None));
        let deep = |levels| (0..levels).fold(Vec::new(), |inner, _| around(0x30, &inner));
        assert!(message(&deep(DEEPEST)).expect("allowed").is_some());
        assert!(message(&deep(DEEPEST + 1)).expect_err("too deep").contains("nested"));
        assert!(message(&deep(20_000)).is_err());
        assert!(message(b"\x30\x03\x04\x03abc").is_err(), "longer than what holds it");
        assert!(message(b"\x30\x01\x04").is_err(), "no length");
    }

    proptest! {
        #[test]
        fn anything_is_judged_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = message(&bytes);
            if let Ok(Some(length)) = message(&around(0x30, &bytes)) {
                prop_assert_eq!(length, bytes.len() + 6);
            }
        }
    }

    #[tokio::test]
    async fn a_flood_in_answer_to_one_question_ends() {
        let (near, mut library) = UnixStream::pair().expect("sockets");
        let (far, mut directory) = duplex(64 * 1024);
        let flood = async {
            directory.read_u8().await.expect("a question");
            while directory.write_all(BOUND).await.is_ok() {}
        };
        let reader = async {
            library.write_all(b"?").await.expect("room");
            let mut all = Vec::new();
            library.read_to_end(&mut all).await.expect("all of it");
            all.len()
        };
        let (why, (), read) = tokio::join!(run(near, far), flood, reader);
        assert_eq!(why, "the directory's answer is too long");
        assert!((LONGEST_ANSWER - 64 * 1024..=LONGEST_ANSWER).contains(&read), "{read}");
    }
}
