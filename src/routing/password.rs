//! Whether a password fits a hash from a database: argon2, bcrypt, scrypt, SHA-512-crypt and SHA-256-crypt, as they stand or
//! behind Dovecot's `{SCHEME}`. Hashing takes long on purpose, so it happens on threads of its own, as many at a time as there
//! are cores; and what a hash may cost is bounded, since whoever can write to the database could stop us with one line
//! otherwise.

use std::sync::{Arc, LazyLock};

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{Error, PasswordVerifier};
use scrypt::Scrypt;
use sha_crypt::ShaCrypt;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::imap::Secret;

/// KiB; OWASP asks for 19 MiB, RFC 9106 for 64 MiB or, where there is much, 2 GiB.
const MOST_ARGON2_MEMORY: u32 = 1024 * 1024;
const MOST_ARGON2_TIME: u32 = 100;
const MOST_ARGON2_LANES: u32 = 64;
/// 2^16 rounds are 4 seconds.
const MOST_BCRYPT: u32 = 16;
/// 128 r N bytes: 1 GiB.
const MOST_SCRYPT_LN: u32 = 20;
const MOST_SCRYPT_R: u32 = 8;
const MOST_SCRYPT_P: u32 = 16;
const MOST_SHA_ROUNDS: u32 = 1_000_000;

/// How many are hashed at a time.
static PLACES: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Arc::new(Semaphore::new(cores))
});

/// The kinds of hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Argon2,
    Bcrypt,
    Scrypt,
    ShaCrypt,
}

/// Whether the password fits. What was begun goes on to its end when the future is dropped, and counts until then.
///
/// # Errors
/// The hash is of no kind that is known, broken, or too dear; in words that hold nothing of it.
pub(super) async fn verify(password: &Secret, hash: &[u8]) -> Result<bool, String> {
    let (scheme, hash) = read(hash)?;
    let hash = Zeroizing::new(hash.to_owned());
    let password = Zeroizing::new(password.reveal().to_vec());
    let place = Arc::clone(&PLACES).acquire_owned().await.map_err(|error| error.to_string())?;
    let hashing = tokio::task::spawn_blocking(move || {
        let fits = check(scheme, &password, &hash);
        drop(place);
        fits
    });
    hashing.await.map_err(|_| "hashing a password failed".to_owned())?
}

/// The scheme and the hash without Dovecot's prefix.
fn read(hash: &[u8]) -> Result<(Scheme, &str), String> {
    let hash = std::str::from_utf8(hash).map_err(|_| "a password hash that is no text".to_owned())?.trim();
    let (named, hash) = match hash.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
        Some((name, hash)) => (Some(name.to_ascii_uppercase()), hash),
        None => (None, hash),
    };
    let scheme = match hash.split('$').nth(1).filter(|_| hash.starts_with('$')) {
        Some("argon2id" | "argon2i" | "argon2d") => Scheme::Argon2,
        Some("2a" | "2b" | "2x" | "2y") => Scheme::Bcrypt,
        Some("scrypt") => Scheme::Scrypt,
        Some("5" | "6") => Scheme::ShaCrypt,
        _ => return Err("a password hash of no kind that is known (argon2, bcrypt, scrypt, SHA-512-crypt)".to_owned()),
    };
    let is_named = match named.as_deref() {
        None | Some("CRYPT") => true,
        Some("ARGON2ID" | "ARGON2I" | "ARGON2D") => scheme == Scheme::Argon2,
        Some("BLF-CRYPT") => scheme == Scheme::Bcrypt,
        Some("SCRYPT") => scheme == Scheme::Scrypt,
        Some("SHA512-CRYPT" | "SHA256-CRYPT") => scheme == Scheme::ShaCrypt,
        Some(_) => false,
    };
    if is_named { Ok((scheme, hash)) } else { Err("a password hash of another kind than its {...} says".to_owned()) }
}

fn check(scheme: Scheme, password: &[u8], hash: &str) -> Result<bool, String> {
    match scheme {
        Scheme::Argon2 => {
            let parsed = PasswordHash::new(hash).map_err(broken)?;
            let cost = |name: &str, most: u32| parsed.params.get_decimal(name).is_none_or(|cost| cost <= most);
            if !(cost("m", MOST_ARGON2_MEMORY) && cost("t", MOST_ARGON2_TIME) && cost("p", MOST_ARGON2_LANES)) {
                return Err(too_dear());
            }
            verdict(Argon2::default().verify_password(password, &parsed))
        }
        Scheme::Scrypt => {
            let parsed = PasswordHash::new(hash).map_err(broken)?;
            let cost = |name: &str, most: u32| parsed.params.get_decimal(name).is_some_and(|cost| cost <= most);
            if !(cost("ln", MOST_SCRYPT_LN) && cost("r", MOST_SCRYPT_R) && cost("p", MOST_SCRYPT_P)) {
                return Err(too_dear());
            }
            verdict(Scrypt::new().verify_password(password, &parsed))
        }
        Scheme::Bcrypt => {
            let cost = hash.split('$').nth(2).and_then(|cost| cost.parse::<u32>().ok());
            if cost.is_none_or(|cost| cost > MOST_BCRYPT) {
                return Err(too_dear());
            }
            // Like every other bcrypt it looks at no more than 72 bytes, or hashes made elsewhere would not fit.
            bcrypt::verify(password, hash).map_err(|_| "a password hash that is broken".to_owned())
        }
        Scheme::ShaCrypt => {
            let rounds = hash.split('$').nth(2).and_then(|part| part.strip_prefix("rounds="));
            if rounds.is_some_and(|rounds| rounds.parse::<u32>().map_or(true, |rounds| rounds > MOST_SHA_ROUNDS)) {
                return Err(too_dear());
            }
            verdict(ShaCrypt::default().verify_password(password, hash))
        }
    }
}

fn verdict(result: Result<(), Error>) -> Result<bool, String> {
    match result {
        Ok(()) => Ok(true),
        Err(Error::PasswordInvalid) => Ok(false),
        Err(error) => Err(broken(error)),
    }
}

fn broken(error: impl std::fmt::Display) -> String {
    format!("a password hash that is broken: {error}")
}

fn too_dear() -> String {
    "a password hash that costs more than is allowed here".to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secret(password: &str) -> Secret {
        Secret::new(Zeroizing::new(password.as_bytes().to_vec())).expect("clean")
    }

    async fn fits(password: &str, hash: &str) -> Result<bool, String> {
        verify(&secret(password), hash.as_bytes()).await
    }

    /// Made with other programs: OpenSSL, htpasswd, argon2(1), passlib's documentation.
    const KNOWN: [(&str, &str); 5] = [
        (
            "Hello world!",
            "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
        ),
        ("Hello world!", "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"),
        ("U*U", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"),
        ("password", "$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E"),
        ("password", "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"),
    ];

    #[tokio::test]
    async fn known_hashes_fit_their_password_and_no_other() {
        for (password, hash) in KNOWN {
            assert_eq!(fits(password, hash).await, Ok(true), "{hash}");
            assert_eq!(fits("wrong", hash).await, Ok(false), "{hash}");
            assert_eq!(fits("", hash).await, Ok(false), "{hash}");
        }
    }

    #[tokio::test]
    async fn dovecots_prefixes() {
        let [(hello, sha), _, (star, bcrypt), ..] = KNOWN;
        assert_eq!(fits(hello, &format!("{{SHA512-CRYPT}}{sha}")).await, Ok(true));
        assert_eq!(fits(hello, &format!("{{crypt}}{sha}")).await, Ok(true));
        assert_eq!(fits(star, &format!("{{BLF-CRYPT}}{bcrypt}")).await, Ok(true));
        assert!(fits(star, &format!("{{SHA512-CRYPT}}{bcrypt}")).await.is_err());
    }

    #[tokio::test]
    async fn what_is_not_known_or_too_dear_is_an_error_that_tells_nothing() {
        for hash in [
            "",
            "hunter2",
            "{PLAIN}hunter2",
            "$1$hunter2$x",
            "$6$rounds=999999999$hunter2$x",
            "$2b$31$hunter2hunter2hunter2",
            "$argon2id$v=19$m=4194304,t=2,p=1$aHVudGVyMmh1bnRlcjI$hunter2hunter2hunter2",
            "$scrypt$ln=30,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$hunter2hunter2",
        ] {
            let error = fits("hunter2", hash).await.expect_err(hash);
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn no_hash_panics(
            head in prop_oneof![Just("$6$"), Just("$5$rounds=1000$"), Just("$2a$04$"), Just("$argon2id$v=19$m=8,t=1,p=1$"), Just("$scrypt$ln=1,r=1,p=1$"), Just("{X}")],
            tail in "[a-zA-Z0-9./$=+,]{0,60}",
        ) {
            let hash = format!("{head}{tail}");
            if let Ok((scheme, hash)) = read(hash.as_bytes()) {
                let _ = check(scheme, b"x", hash);
            }
        }
    }
}
