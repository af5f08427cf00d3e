//! Whether a password is the one that a hash was made of: argon2, bcrypt, scrypt (PHC strings), SHA-512-crypt and
//! SHA-256-crypt, with or without Dovecot's `{SCHEME}` in front. Not here: where hashes come from, and what follows.
//!
//! Hashing costs time and memory by design, and how much is written in the hash. So it happens on threads made for
//! waiting, as many at once as there are cores, and a hash that asks for more than [`MOST_MEMORY`] and its like is
//! refused: whoever can write into the database is not to stop the proxy with it.

use std::sync::LazyLock;
use std::thread;

use argon2::password_hash::Error as HashError;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, PasswordVerifier};
use scrypt::Scrypt;
use sha_crypt::ShaCrypt;
use tokio::sync::Semaphore;
use tokio::task;
use zeroize::Zeroizing;

use crate::imap::Secret;

/// The most memory that one hash may ask for, in bytes. What Dovecot makes asks for 64 MiB, at most 256.
const MOST_MEMORY: u64 = 256 << 20;

/// The most memory times passes over it: a second or so.
const MOST_WORK: u64 = 1 << 30;

/// The most rounds of SHA-crypt; 5,000 are usual, 656,000 the most that widespread tools write.
const MOST_ROUNDS: u32 = 1_000_000;

/// The highest cost of bcrypt, which doubles with each; 12 is usual.
const MOST_COST: u32 = 16;

/// No password is longer: SHA-crypt's work grows with the square of its length. libcrypt has the same limit.
const LONGEST: usize = 512;

/// One place for each core, for the whole process: more at once would make all of them late.
static PLACES: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(thread::available_parallelism().map_or(1, Into::into)));

/// Schemes that are not served and may stand in an error. Anything else that looks like one may be a secret.
const UNSERVED: [&str; 43] = [
    "{PLAIN}",
    "{CLEAR}",
    "{CLEARTEXT}",
    "{PLAIN-TRUNC}",
    "{PLAIN-MD4}",
    "{PLAIN-MD5}",
    "{LDAP-MD5}",
    "{MD5}",
    "{MD5-CRYPT}",
    "{SMD5}",
    "{CRAM-MD5}",
    "{HMAC-MD5}",
    "{DIGEST-MD5}",
    "{SHA}",
    "{SHA1}",
    "{SSHA}",
    "{SHA256}",
    "{SSHA256}",
    "{SHA512}",
    "{SSHA512}",
    "{PBKDF2}",
    "{SCRAM-SHA-1}",
    "{SCRAM-SHA-256}",
    "{DES-CRYPT}",
    "{OTP}",
    "{SKEY}",
    "{RPA}",
    "{NTLM}",
    "{LANMAN}",
    "{SHA512-CRYPT.B64}",
    "{SHA256-CRYPT.B64}",
    "{BLF-CRYPT.B64}",
    "{CRYPT.B64}",
    "$1$",
    "$2$",
    "$2x$",
    "$3$",
    "$7$",
    "$y$",
    "$gy$",
    "$md5$",
    "$sha1$",
    "$pbkdf2-sha256$",
];

/// A hash that was found sound and affordable.
enum Hash {
    Argon2(PasswordHash),
    Scrypt(PasswordHash),
    Bcrypt(Zeroizing<String>),
    ShaCrypt(Zeroizing<String>),
}

/// Whether the hash was made of this password. bcrypt looks at no more than 72 bytes of a password, here as everywhere:
/// who has a longer one must be let in by its hash, though what is behind them counts for nothing.
///
/// # Errors
/// Why it cannot be told: the scheme is not served, or the hash is broken or asks for too much. Never the hash itself.
pub(super) async fn verify(password: &Secret, hash: &[u8]) -> Result<bool, String> {
    let hash = Hash::read(hash)?;
    if password.reveal().len() > LONGEST {
        return Ok(false);
    }
    let password = Zeroizing::new(password.reveal().to_vec());
    in_turn(&PLACES, move || hash.is_of(&password)).await?
}

/// Does the work on a thread, when there is a place. Work that nobody waits for any more keeps its place to its end.
async fn in_turn<T: Send + 'static>(
    places: &'static Semaphore,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let failed = || "the password could not be checked".to_owned();
    let place = places.acquire().await.map_err(|_| failed())?;
    let worked = task::spawn_blocking(move || {
        let _place = place;
        work()
    });
    worked.await.map_err(|_| failed())
}

impl Hash {
    fn read(hash: &[u8]) -> Result<Self, String> {
        let text = str::from_utf8(hash).map_err(|_| unknown(""))?;
        // Dovecot, too, goes by what the hash says of itself.
        let prefixes = ["{ARGON2ID}", "{ARGON2I}", "{BLF-CRYPT}", "{SHA512-CRYPT}", "{SHA256-CRYPT}", "{CRYPT}"];
        let prefix = prefixes.into_iter().find(|prefix| starts_with(text, prefix));
        let text = prefix.map_or(text, |prefix| &text[prefix.len()..]);
        let scheme = text.strip_prefix('$').and_then(|rest| rest.split('$').next()).unwrap_or_default();
        match scheme {
            "argon2id" | "argon2i" | "argon2d" => read_argon2(text),
            "scrypt" => read_scrypt(text),
            "2a" | "2b" | "2y" => read_bcrypt(text),
            "5" => read_sha_crypt(text, 43),
            "6" => read_sha_crypt(text, 86),
            _ => Err(unknown(text)),
        }
    }

    fn is_of(&self, password: &[u8]) -> Result<bool, String> {
        match self {
            Self::Argon2(hash) => verdict(Argon2::default().verify_password(password, hash)),
            Self::Scrypt(hash) => verdict(Scrypt::new().verify_password(password, hash)),
            Self::Bcrypt(hash) => bcrypt::verify(password, hash).map_err(|_| broken("bcrypt")),
            Self::ShaCrypt(hash) => verdict(ShaCrypt::SHA512.verify_password(password, hash.as_str())),
        }
    }
}

fn verdict(result: Result<(), HashError>) -> Result<bool, String> {
    match result {
        Ok(()) => Ok(true),
        Err(HashError::PasswordInvalid) => Ok(false),
        Err(_) => Err(broken("password")),
    }
}

fn read_argon2(text: &str) -> Result<Hash, String> {
    let mut hash = read_phc(text).ok_or_else(|| broken("argon2"))?;
    Algorithm::try_from(hash.algorithm.as_str()).map_err(|_| broken("argon2"))?;
    // Strings of the first days do not tell the version they are of: 0x10.
    hash.version.get_or_insert(0x10);
    let params = argon2::Params::try_from(&hash).map_err(|_| broken("argon2"))?;
    let memory = u64::from(params.m_cost()) << 10;
    affordable("argon2", memory, memory.saturating_mul(params.t_cost().into()))?;
    Ok(Hash::Argon2(hash))
}

fn read_scrypt(text: &str) -> Result<Hash, String> {
    let hash = read_phc(text).ok_or_else(|| broken("scrypt"))?;
    // A parameter may stand there twice. The crate multiplies them before it looks at their size.
    for (name, value) in hash.params.iter() {
        let most = if name.as_str() == "ln" { 22 } else { 1 << 12 };
        let value = value.decimal().map_err(|_| broken("scrypt"))?;
        if value == 0 {
            return Err(broken("scrypt"));
        }
        if value > most {
            return Err(too_much("scrypt"));
        }
    }
    let params = scrypt::Params::try_from(&hash).map_err(|_| broken("scrypt"))?;
    let block = 128 * u64::from(params.r());
    let memory = block.saturating_mul(params.n().saturating_add(params.p().into()));
    affordable("scrypt", memory, block.saturating_mul(params.n()).saturating_mul(params.p().into()))?;
    Ok(Hash::Scrypt(hash))
}

/// A PHC string with a salt and a hash in it.
fn read_phc(text: &str) -> Option<PasswordHash> {
    PasswordHash::new(text).ok().filter(|hash| hash.salt.is_some() && hash.hash.is_some())
}

fn read_bcrypt(text: &str) -> Result<Hash, String> {
    let parts = text.parse::<bcrypt::HashParts>().map_err(|_| broken("bcrypt"))?;
    if parts.get_cost() > MOST_COST {
        return Err(too_much("bcrypt"));
    }
    Ok(Hash::Bcrypt(Zeroizing::new(text.to_owned())))
}

/// `$6$[rounds=N$]salt$hash`. The crate would take rounds it does not like for the salt.
fn read_sha_crypt(text: &str, length: usize) -> Result<Hash, String> {
    let malformed = || broken("SHA-crypt");
    let (_, rest) = text.get(1..).and_then(|text| text.split_once('$')).ok_or_else(malformed)?;
    let rest = match rest.strip_prefix("rounds=").map(|rest| rest.split_once('$')) {
        None => rest,
        Some(None) => return Err(malformed()),
        Some(Some((rounds, rest))) => {
            if rounds.is_empty() || rounds.len() > 9 || !rounds.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(malformed());
            }
            let rounds: u32 = rounds.parse().map_err(|_| malformed())?;
            if rounds > MOST_ROUNDS {
                return Err(too_much("SHA-crypt"));
            }
            if rounds < sha_crypt::Params::ROUNDS_MIN {
                return Err(malformed());
            }
            rest
        }
    };
    let is_sound = rest.split_once('$').is_some_and(|(_, hash)| hash.len() == length && !hash.contains('$'));
    if is_sound { Ok(Hash::ShaCrypt(Zeroizing::new(text.to_owned()))) } else { Err(malformed()) }
}

fn affordable(scheme: &str, memory: u64, work: u64) -> Result<(), String> {
    if memory > MOST_MEMORY || work > MOST_WORK { Err(too_much(scheme)) } else { Ok(()) }
}

fn starts_with(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn unknown(text: &str) -> String {
    let named = UNSERVED.into_iter().find(|scheme| starts_with(text, scheme));
    let named = named.map_or(String::new(), |scheme| format!(": {scheme}"));
    format!("no password scheme that is known{named}; expected argon2, bcrypt, scrypt, SHA-512-crypt or SHA-256-crypt")
}

fn broken(scheme: &str) -> String {
    format!("the {scheme} hash is broken")
}

fn too_much(scheme: &str) -> String {
    format!("the {scheme} hash asks for more time or memory than is allowed")
}

#[cfg(test)]
mod tests;
