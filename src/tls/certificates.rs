//! The certificates clients meet: all that `[tls]` names, anew at each reload, and the choice among them by SNI
//! (RFC 6066 3). `certificates/directory.rs` lists a directory's pairs, `pair.rs` reads and checks one, `chain.rs` says
//! whether a chain is in order, `shown.rs` tells operators of them. Not here: client certificates and handshakes (`accept.rs`), when to look at the files again
//! (`watch.rs`).
//!
//! SNI only chooses among the names of our own certificates. It is never stored, nor made a key of anything: random
//! names filled Dovecot's memory once (CVE-2017-15130).

mod chain;
mod directory;
mod pair;
mod shown;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::config::{self, CertificateFiles, Finding};
use pair::{Fault, Pair};

pub(super) use chain::disorder;
pub(super) use directory::pairs as directory_pairs;
pub(super) use pair::read_chain;
pub use shown::ServedCertificate;

/// The certificate that mailmux makes for itself is made anew at every start; this is for processes that run long.
const SELF_SIGNED_DAYS: u32 = 90;
const DAY: Duration = Duration::from_hours(24);

/// All certificates of a server. The first is the default. They never change; a reload makes others, which share what has
/// stayed the same.
pub struct Certificates {
    entries: Vec<Entry>,
    /// Lower-case names to indexes into `entries`; several where one name has keys of several kinds.
    exact: HashMap<Box<str>, Vec<usize>>,
    /// The same for `*.name`, kept without `*.`.
    wildcard: HashMap<Box<str>, Vec<usize>>,
}

/// A pair under its name in metrics. That depends on the others, so that it is no part of what reloads share.
struct Entry {
    name: String,
    pair: Arc<Pair>,
}

/// No certificate could be made.
#[derive(Debug, thiserror::Error)]
pub enum SelfSignedError {
    /// It could not be put together.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    /// It cannot be used.
    #[error("cannot use the certificate just made: {0}")]
    Use(String),
}

impl Certificates {
    /// Reads all that `[tls]` names. What is only worth a warning (a broken pair in the directory, a certificate that is
    /// expired, a chain out of order) comes with the result, at each load again.
    ///
    /// Of `before`, what was loaded last, pairs whose files are the same are taken over unread. A pair of the directory that
    /// was good then and is broken now, perhaps because somebody is writing it, is served on as it was.
    ///
    /// # Errors
    /// Everything that is wrong with `[[tls.certificate]]`, a directory that cannot be read, or no certificate at all.
    pub fn load(tls: &config::Tls, before: Option<&Self>) -> Result<(Self, Vec<Finding>), Vec<Finding>> {
        let (mut errors, mut warnings) = (Vec::new(), Vec::new());
        let mut files = tls.certificates.clone();
        let explicit = files.len();
        match tls.directory.as_ref().map(directory::pairs) {
            Some(Ok(pairs)) => files.extend(pairs),
            Some(Err(finding)) => errors.push(finding),
            None => {}
        }
        let known: HashMap<_, _> = before.into_iter().flat_map(Self::by_files).collect();
        let known = |files: &CertificateFiles| known.get(&(&*files.chain.value, &*files.key.value)).copied();
        let read = pair::read_all(&files, &known);

        let mut pairs = Vec::with_capacity(files.len());
        for (at, (files, read)) in files.iter().zip(read).enumerate() {
            let explicit = at < explicit;
            let pair = match read {
                Ok(pair) => pair,
                Err(fault) => {
                    let before = known(files).filter(|_| !explicit && !matches!(fault, Fault::Gone(_)));
                    let found = if explicit { &mut errors } else { &mut warnings };
                    found.push(if before.is_some() { fault.served_on(files) } else { fault.finding(files) });
                    let Some(before) = before else { continue };
                    Arc::clone(before)
                }
            };
            warnings.extend(pair.warnings(files));
            pairs.push((explicit, pair));
        }
        if pairs.is_empty() && errors.is_empty() {
            errors.push(nothing_to_serve(tls));
            // They say why each pair of the directory is not usable.
            errors.append(&mut warnings);
        }
        if errors.is_empty() { Ok((Self::new(named(pairs)), warnings)) } else { Err(errors) }
    }

    /// A certificate for these names, made on the spot, and its PEM for whoever wants to trust it.
    ///
    /// # Errors
    /// A name that cannot stand in a certificate.
    pub fn self_signed(names: &[&str]) -> Result<(Self, String), SelfSignedError> {
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, "mailmux self-signed");
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        // A client whose clock is a little slow is let in.
        params.not_before = (SystemTime::now() - DAY).into();
        params.not_after = (SystemTime::now() + DAY * SELF_SIGNED_DAYS).into();
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let chain = vec![certificate.der().clone()];
        let pair = Pair::new(chain, key, &aws_lc_rs::default_provider()).map_err(SelfSignedError::Use)?;
        let entry = Entry { name: "self-signed".to_owned(), pair: Arc::new(pair) };
        Ok((Self::new(vec![entry]), certificate.pem()))
    }

    /// The certificates' names for metrics (the stem of the chain's file name; its whole path where two have the same),
    /// and when they expire in seconds since 1970.
    pub fn expiries(&self) -> impl Iterator<Item = (&str, i64)> {
        self.entries.iter().map(|entry| (entry.name.as_str(), entry.pair.not_after))
    }

    /// A host name that the default certificate is for, if it is for any. Of a wildcard, `mail` in its place.
    pub fn default_host(&self) -> Option<String> {
        let name = self.entries.first()?.pair.names.first()?;
        Some(name.strip_prefix("*.").map_or_else(|| name.to_string(), |parent| format!("mail.{parent}")))
    }

    /// The name for metrics of the certificate that is shown to whoever asks for this host name; where it has several, of
    /// the first.
    pub fn shown_for(&self, host: &str) -> &str {
        let first = self.candidates(Some(&host.to_ascii_lowercase())).next();
        first.map_or("", |entry| &entry.name)
    }

    fn new(entries: Vec<Entry>) -> Self {
        let (mut exact, mut wildcard) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for (at, entry) in entries.iter().enumerate() {
            for name in &entry.pair.names {
                match name.strip_prefix("*.") {
                    Some(parent) => wildcard.entry(parent.into()).or_default().push(at),
                    None => exact.entry(name.clone()).or_default().push(at),
                }
            }
        }
        Self { entries, exact, wildcard }
    }

    /// The certificates for a name (lower case): the exact ones, or those with a wildcard in place of the first label, or
    /// else the default.
    fn candidates(&self, name: Option<&str>) -> impl Iterator<Item = &Entry> + Clone {
        let named = name.and_then(|name| self.exact.get(name).or_else(|| self.wildcard.get(name.split_once('.')?.1)));
        named.map_or(&[0][..], Vec::as_slice).iter().filter_map(|at| self.entries.get(*at))
    }

    fn by_files(&self) -> impl Iterator<Item = ((&Path, &Path), &Arc<Pair>)> {
        self.entries.iter().filter_map(|entry| entry.pair.files().map(|files| (files, &entry.pair)))
    }
}

/// Chooses by name, and among several of one name the first whose key the client can verify.
impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls has put the name into lower case.
        let mut candidates = self.candidates(hello.server_name());
        let schemes = hello.signature_schemes();
        let fitting = candidates.clone().find(|entry| entry.pair.certified.key.choose_scheme(schemes).is_some());
        fitting.or_else(|| candidates.next()).map(|entry| Arc::clone(&entry.pair.certified))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries.iter().map(|entry| &entry.name)).finish()
    }
}

/// Gives pairs their names for metrics. Those written out come first, and keep their stem before those of the directory;
/// within the directory no two stems are alike.
fn named(pairs: Vec<(bool, Arc<Pair>)>) -> Vec<Entry> {
    let mut taken = HashSet::new();
    let mut entries = Vec::with_capacity(pairs.len());
    for (explicit, pair) in pairs {
        let chain = pair.files().map_or_else(|| Path::new(""), |(chain, _)| chain);
        let stem = chain.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let name = if taken.contains(&stem) { chain.display().to_string() } else { stem };
        if explicit {
            taken.insert(name.clone());
        }
        entries.push(Entry { name, pair });
    }
    entries
}

fn nothing_to_serve(tls: &config::Tls) -> Finding {
    let site = tls.directory.as_ref().map(|directory| directory.site.clone());
    let message = match &tls.directory {
        Some(directory) => format!("{}: holds no usable pair NAME.pem and NAME.key", directory.value.display()),
        None => "TLS needs a certificate: [[tls.certificate]] with chain and key, or tls.directory".to_owned(),
    };
    Finding { site, message }
}

#[cfg(test)]
mod tests;
