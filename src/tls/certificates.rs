//! The certificates clients meet: read from PEM files, checked, and chosen by SNI (RFC 6066 3). Not here: client
//! certificates and handshakes (`accept.rs`), watching the files for changes.
//!
//! SNI only chooses among the names of our own certificates. It is never stored, nor made a key of anything: random
//! names filled Dovecot's memory once (CVE-2017-15130).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use std::{fmt, fs, io};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::rustls;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use zeroize::Zeroizing;

use crate::config::{self, At, Finding, Site};

/// The certificate that mailmux makes for itself is made anew at every start; this is for processes that run long.
const SELF_SIGNED_DAYS: u32 = 90;
const DAY: Duration = Duration::from_hours(24);

/// All certificates of a server. The first is the default.
pub struct Certificates {
    pairs: Vec<Pair>,
    /// Lower-case names to indexes into `pairs`; several where one name has keys of several kinds.
    exact: HashMap<Box<str>, Vec<usize>>,
    /// The same for `*.name`, kept without `*.`.
    wildcard: HashMap<Box<str>, Vec<usize>>,
}

/// A chain and its key, which belong together.
struct Pair {
    name: String,
    certified: Arc<CertifiedKey>,
    not_before: i64,
    not_after: i64,
    /// Lower case, wildcards as they stand.
    names: Vec<String>,
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
    /// expired) comes with the result.
    ///
    /// # Errors
    /// Everything that is wrong with `[[tls.certificate]]`, a directory that cannot be read, or no certificate at all.
    pub fn load(tls: &config::Tls) -> Result<(Self, Vec<Finding>), Vec<Finding>> {
        let provider = aws_lc_rs::default_provider();
        let (mut pairs, mut errors, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
        for files in &tls.certificates {
            let name = metric_name(&files.chain.value, &pairs);
            match Pair::load(name, &files.chain.value, &files.key.value, &provider) {
                Ok(pair) => {
                    warnings.extend(pair.untimely(&files.chain.value, &files.chain.site));
                    pairs.push(pair);
                }
                Err(fault) => errors.push(fault.finding(&files.chain.site, &files.key.site)),
            }
        }
        if let Some(directory) = &tls.directory {
            match load_directory(directory, &mut pairs, &provider) {
                Ok(found) => warnings.extend(found),
                Err(finding) => errors.push(finding),
            }
        }
        if pairs.is_empty() && errors.is_empty() {
            let site = tls.directory.as_ref().map(|directory| directory.site.clone());
            let message = match &tls.directory {
                Some(directory) => {
                    format!("{}: holds no usable pair NAME.pem and NAME.key", directory.value.display())
                }
                None => "TLS needs a certificate: [[tls.certificate]] with chain and key, or tls.directory".to_owned(),
            };
            errors.push(Finding { site, message });
            // They say why each pair of the directory is not usable.
            errors.append(&mut warnings);
        }
        if errors.is_empty() { Ok((Self::new(pairs), warnings)) } else { Err(errors) }
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
        let pair = Pair::new("self-signed".to_owned(), chain, key, &aws_lc_rs::default_provider())
            .map_err(SelfSignedError::Use)?;
        Ok((Self::new(vec![pair]), certificate.pem()))
    }

    /// The certificates' names for metrics (the stem of the chain's file name; its whole path where two have the same),
    /// and when they expire in seconds since 1970.
    pub fn expiries(&self) -> impl Iterator<Item = (&str, i64)> {
        self.pairs.iter().map(|pair| (pair.name.as_str(), pair.not_after))
    }

    fn new(pairs: Vec<Pair>) -> Self {
        let (mut exact, mut wildcard) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for (at, pair) in pairs.iter().enumerate() {
            for name in &pair.names {
                match name.strip_prefix("*.") {
                    Some(parent) => wildcard.entry(parent.into()).or_default().push(at),
                    None => exact.entry(name.as_str().into()).or_default().push(at),
                }
            }
        }
        Self { pairs, exact, wildcard }
    }

    /// The certificates for a name (lower case): the exact ones, or those with a wildcard in place of the first label.
    fn named(&self, name: &str) -> Option<&[usize]> {
        let exact = self.exact.get(name);
        let found = exact.or_else(|| self.wildcard.get(name.split_once('.')?.1));
        found.map(Vec::as_slice)
    }
}

/// Chooses by name, and among several of one name the first whose key the client can verify.
impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let default = &[0][..];
        // rustls has put the name into lower case.
        let candidates = hello.server_name().and_then(|name| self.named(name)).unwrap_or(default);
        let mut pairs = candidates.iter().filter_map(|at| self.pairs.get(*at));
        let fitting = pairs.clone().find(|pair| pair.certified.key.choose_scheme(hello.signature_schemes()).is_some());
        fitting.or_else(|| pairs.next()).map(|pair| Arc::clone(&pair.certified))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.pairs.iter().map(|pair| &pair.name)).finish()
    }
}

/// Why a pair cannot be used: the file at fault, and what is wrong with it.
enum Fault {
    Chain(String),
    Key(String),
}

impl Fault {
    fn finding(self, chain: &Site, key: &Site) -> Finding {
        let (site, message) = match self {
            Self::Chain(message) => (chain, message),
            Self::Key(message) => (key, message),
        };
        Finding { site: Some(site.clone()), message }
    }
}

impl Pair {
    fn load(name: String, chain: &Path, key: &Path, provider: &CryptoProvider) -> Result<Self, Fault> {
        let certificates = read_chain(chain).map_err(Fault::Chain)?;
        let secret = read_key(key).map_err(Fault::Key)?;
        Self::new(name, certificates, secret, provider).map_err(|why| {
            Fault::Key(format!("{}: does not go with the certificate in {}: {why}", key.display(), chain.display()))
        })
    }

    fn new(
        name: String,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        provider: &CryptoProvider,
    ) -> Result<Self, String> {
        let key = provider.key_provider.load_private_key(key).map_err(|why| why.to_string())?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|why| why.to_string())?;
        let leaf = certified.end_entity_cert().map_err(|why| why.to_string())?;
        let (_, leaf) = x509_parser::parse_x509_certificate(leaf).map_err(|why| why.to_string())?;
        let (not_before, not_after) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
        let names = names(&leaf);
        Ok(Self { name, certified: Arc::new(certified), not_before, not_after, names })
    }

    /// A warning when the certificate is expired or not valid yet. It is used all the same: some clients let their users
    /// go on, and no certificate at all helps nobody.
    fn untimely(&self, chain: &Path, site: &Site) -> Option<Finding> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let what = if self.not_after < now {
            "has expired"
        } else if self.not_before > now {
            "is not valid yet"
        } else {
            return None;
        };
        let message = format!("{}: the certificate {what}", chain.display());
        Some(Finding { site: Some(site.clone()), message })
    }
}

/// Adds every pair of the directory, in the order of their names, and gives warnings for those that cannot be used.
fn load_directory(
    directory: &At<PathBuf>,
    pairs: &mut Vec<Pair>,
    provider: &CryptoProvider,
) -> Result<Vec<Finding>, Finding> {
    let warning = |message| Finding { site: Some(directory.site.clone()), message };
    let unreadable = |why: io::Error| warning(format!("{}: cannot be read: {why}", directory.value.display()));
    let mut chains = Vec::new();
    for entry in fs::read_dir(&directory.value).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "pem") {
            chains.push(path);
        }
    }
    chains.sort_unstable();
    let mut warnings = Vec::new();
    // Within the directory no two are alike; with thousands of them it matters not to compare each with each.
    let explicit = pairs.len();
    for chain in chains {
        let name = metric_name(&chain, &pairs[..explicit]);
        match Pair::load(name, &chain, &chain.with_extension("key"), provider) {
            Ok(pair) => {
                warnings.extend(pair.untimely(&chain, &directory.site));
                pairs.push(pair);
            }
            Err(Fault::Chain(message) | Fault::Key(message)) => warnings.push(warning(message)),
        }
    }
    Ok(warnings)
}

fn metric_name(chain: &Path, taken: &[Pair]) -> String {
    let stem = chain.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    if taken.iter().any(|pair| pair.name == stem) { chain.display().to_string() } else { stem }
}

/// The certificates of a PEM file, at least one. The text of the error names the file.
pub(super) fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = fs::read(path).map_err(|why| format!("{}: cannot be read: {why}", path.display()))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(format!("{}: holds no certificate in PEM form", path.display())),
        Err(why) => Err(format!("{}: is not well-formed PEM: {why}", path.display())),
    }
}

/// The private key of a PEM file. The text of the error names the file.
pub(super) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let pem = fs::read(path).map_err(|why| format!("{}: cannot be read: {why}", path.display()))?;
    let pem = Zeroizing::new(pem);
    PrivateKeyDer::from_pem_slice(&pem).map_err(|why| match why {
        rustls::pki_types::pem::Error::NoItemsFound => {
            format!("{}: holds no private key in PEM form (PKCS#8, PKCS#1 or SEC1, not encrypted)", path.display())
        }
        why => format!("{}: is not well-formed PEM: {why}", path.display()),
    })
}

/// The host names a certificate is for: its alternative names, and only where there is none the common name.
fn names(leaf: &X509Certificate<'_>) -> Vec<String> {
    let alternative = leaf.subject_alternative_name().ok().flatten();
    let mut names: Vec<_> = alternative
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    if alternative.is_none() {
        let common = leaf.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        names.extend(common.map(str::to_ascii_lowercase));
    }
    names
}

#[cfg(test)]
mod tests;
