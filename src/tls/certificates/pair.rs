//! A chain and its key: read from PEM files, checked, and kept for as long as the files stay the same. Thousands are read
//! on all cores. Not here: which pairs there are, and which one a client gets (`certificates.rs`).

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use std::{fs, io, panic, thread};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use zeroize::Zeroizing;

use super::chain;
use crate::config::{CertificateFiles, Finding};
use crate::tls::watch::FileStamp;

/// Fewer pairs than this are not worth a thread.
const WORTH_A_THREAD: usize = 32;

/// A chain and its key, which belong together.
pub(super) struct Pair {
    source: Option<Source>,
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) not_before: i64,
    pub(super) not_after: i64,
    /// The host names it is for: lower case, wildcards as they stand.
    pub(super) names: Vec<Box<str>>,
    /// What is wrong with the order of the chain.
    disorder: Option<String>,
}

/// Where a pair was read, and what its files were then. One that was made here has none.
struct Source {
    chain: PathBuf,
    key: PathBuf,
    stamps: [FileStamp; 2],
}

/// Why a pair cannot be used: the file at fault, and what is wrong with it.
pub(super) enum Fault {
    /// There is no chain at all.
    Gone(String),
    Chain(String),
    Key(String),
}

impl Fault {
    pub(super) fn finding(self, files: &CertificateFiles) -> Finding {
        let (site, message) = match self {
            Self::Gone(message) | Self::Chain(message) => (&files.chain.site, message),
            Self::Key(message) => (&files.key.site, message),
        };
        Finding { site: Some(site.clone()), message }
    }

    /// The same, where the pair as it was before does its duty.
    pub(super) fn served_on(self, files: &CertificateFiles) -> Finding {
        let mut finding = self.finding(files);
        finding.message.push_str("; the pair that was loaded before is served on");
        finding
    }
}

/// Reads pairs, or takes them from `known` where their files are the same. The results stand in the order of the files.
pub(super) fn read_all<'a>(
    files: &[CertificateFiles],
    known: &(impl Fn(&CertificateFiles) -> Option<&'a Arc<Pair>> + Sync),
) -> Vec<Result<Arc<Pair>, Fault>> {
    let provider = aws_lc_rs::default_provider();
    let read = |part: &[CertificateFiles]| -> Vec<_> {
        part.iter().map(|files| Pair::current(files, known(files), &provider)).collect()
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(files.len() / WORTH_A_THREAD).max(1);
    let mut parts = files.chunks(files.len().div_ceil(threads).max(1));
    let Some(first) = parts.next() else { return Vec::new() };
    thread::scope(|scope| {
        let read = &read;
        // Where the system gives no thread more, its part is read here.
        let others: Vec<_> = parts
            .map(|part| {
                (part, thread::Builder::new().name("certificates".into()).spawn_scoped(scope, move || read(part)))
            })
            .collect();
        let mut all = read(first);
        for (part, thread) in others {
            all.extend(match thread {
                Ok(thread) => thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic)),
                Err(_) => read(part),
            });
        }
        all
    })
}

impl Pair {
    /// The pair as its files are now: `before` itself, if they have not changed since.
    fn current(
        files: &CertificateFiles,
        before: Option<&Arc<Self>>,
        provider: &CryptoProvider,
    ) -> Result<Arc<Self>, Fault> {
        let (chain, key) = (&files.chain.value, &files.key.value);
        // Before they are read: what is written meanwhile makes another stamp, and is read the next time.
        let stamps = [
            FileStamp::of(chain).map_err(|why| match why.kind() {
                io::ErrorKind::NotFound => Fault::Gone(unreadable(chain, &why)),
                _ => Fault::Chain(unreadable(chain, &why)),
            })?,
            FileStamp::of(key).map_err(|why| Fault::Key(unreadable(key, &why)))?,
        ];
        if let Some(before) = before.filter(|pair| pair.source.as_ref().is_some_and(|source| source.stamps == stamps)) {
            return Ok(Arc::clone(before));
        }
        let certificates = read_chain(chain).map_err(Fault::Chain)?;
        let secret = read_key(key).map_err(Fault::Key)?;
        let pair = Self::new(certificates, secret, provider).map_err(|why| {
            Fault::Key(format!("{}: does not go with the certificate in {}: {why}", key.display(), chain.display()))
        })?;
        let source = Source { chain: chain.clone(), key: key.clone(), stamps };
        Ok(Arc::new(Self { source: Some(source), ..pair }))
    }

    pub(super) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        provider: &CryptoProvider,
    ) -> Result<Self, String> {
        let key = provider.key_provider.load_private_key(key).map_err(|why| why.to_string())?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|why| owner(&certified).unwrap_or_else(|| why.to_string()))?;
        let leaf = certified.end_entity_cert().map_err(|why| why.to_string())?;
        let (_, leaf) = x509_parser::parse_x509_certificate(leaf).map_err(|why| why.to_string())?;
        let (not_before, not_after) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
        let names = names(&leaf);
        let disorder = chain::disorder(&certified.cert, &provider.signature_verification_algorithms);
        Ok(Self { source: None, certified: Arc::new(certified), not_before, not_after, names, disorder })
    }

    /// The files of chain and key.
    pub(super) fn files(&self) -> Option<(&Path, &Path)> {
        self.source.as_ref().map(|source| (&*source.chain, &*source.key))
    }

    /// What people should know of a pair that is used all the same.
    pub(super) fn warnings(&self, files: &CertificateFiles) -> impl Iterator<Item = Finding> {
        let path = files.chain.value.display();
        let what = self.untimely().map(|what| format!("{path}: the certificate {what}"));
        let order = self.disorder.as_ref().map(|what| format!("{path}: {what}"));
        let site = files.chain.site.clone();
        what.into_iter().chain(order).map(move |message| Finding { site: Some(site.clone()), message })
    }

    /// Some clients let their users go on with an expired certificate, and no certificate at all helps nobody.
    fn untimely(&self) -> Option<&'static str> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        if self.not_after < now {
            Some("has expired")
        } else if self.not_before > now {
            Some("is not valid yet")
        } else {
            None
        }
    }
}

fn unreadable(path: &Path, why: &io::Error) -> String {
    format!("{}: cannot be read: {why}", path.display())
}

/// The certificates of a PEM file, at least one. The text of the error names the file.
pub(in crate::tls) fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = fs::read(path).map_err(|why| unreadable(path, &why))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(format!("{}: holds no certificate in PEM form", path.display())),
        Err(why) => Err(format!("{}: is not well-formed PEM: {why}", path.display())),
    }
}

/// The private key of a PEM file. The text of the error names the file.
fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let text = Zeroizing::new(fs::read(path).map_err(|why| unreadable(path, &why))?);
    PrivateKeyDer::from_pem_slice(&text).map_err(|why| match why {
        pem::Error::NoItemsFound => {
            format!("{}: holds no private key in PEM form (PKCS#8, PKCS#1 or SEC1, not encrypted)", path.display())
        }
        why => format!("{}: is not well-formed PEM: {why}", path.display()),
    })
}

/// Where the leaf does not stand first, a common slip: which of the others the key belongs to.
fn owner(certified: &CertifiedKey) -> Option<String> {
    let belongs = |certificate: &CertificateDer<'static>| {
        CertifiedKey::new(vec![certificate.clone()], Arc::clone(&certified.key)).keys_match().is_ok()
    };
    let at = certified.cert.iter().position(belongs)?;
    Some(format!("it is that of certificate {} in it; put that one first", at + 1))
}

/// The host names a certificate is for: its alternative names, and only where there is none the common name.
fn names(leaf: &X509Certificate<'_>) -> Vec<Box<str>> {
    let alternative = leaf.subject_alternative_name().ok().flatten();
    let mut names: Vec<_> = alternative
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase().into_boxed_str()),
            _ => None,
        })
        .collect();
    if alternative.is_none() {
        let common = leaf.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        names.extend(common.map(|name| name.to_ascii_lowercase().into_boxed_str()));
    }
    names
}
