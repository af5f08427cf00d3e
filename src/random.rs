//! Unguessable words: session ids and the tags of our own commands.

use aws_lc_rs::rand;

/// 32 characters that are safe in a tag, in an ID value and in a log, and hard to mistake for one another.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// A random word of `length` characters, 5 bits each.
pub fn word(length: usize) -> String {
    let mut bytes = vec![0; length];
    // The generator of the process does not fail once it has been seeded; were it to, the word would be constant and the
    // answers of a hostile backend guessable, so that is not served with.
    if rand::fill(&mut bytes).is_err() {
        std::process::abort();
    }
    bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect()
}

/// A number from 0 to 1, for spreading things out.
pub fn fraction() -> f64 {
    let mut byte = [0; 1];
    // Without randomness things are not spread out, and that is all.
    let _ = rand::fill(&mut byte);
    f64::from(byte[0]) / 255.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_differ_and_are_plain() {
        let (a, b) = (word(16), word(16));
        assert_eq!(a.len(), 16);
        assert_ne!(a, b);
        assert!(a.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }
}
