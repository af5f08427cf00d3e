//! What can be told of the certificates that clients meet. Read from them anew whenever somebody asks: it is seldom wanted,
//! and thousands of certificates would keep it in memory for ever. Not here: the chains behind the leaves.

use std::path::PathBuf;

use x509_parser::certificate::X509Certificate;
use x509_parser::public_key::PublicKey;

use super::{Certificates, Entry};
use crate::tls::facts::rfc2253;

/// A certificate that clients are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedCertificate {
    /// Its name in metrics.
    pub name: String,
    /// The host names it is for.
    pub names: Vec<String>,
    /// The file of its chain; `None`: it was made here.
    pub file: Option<PathBuf>,
    /// Who issued it, as RFC 2253 writes it.
    pub issuer: String,
    /// From when it is valid, in seconds since 1970.
    pub not_before: i64,
    /// Until when.
    pub not_after: i64,
    /// The kind of its key: `ECDSA P-256`, `RSA 2048`.
    pub key: String,
}

impl Certificates {
    /// All certificates, the default first.
    pub fn served(&self) -> Vec<ServedCertificate> {
        self.entries.iter().map(ServedCertificate::of).collect()
    }
}

impl ServedCertificate {
    fn of(entry: &Entry) -> Self {
        let pair = &entry.pair;
        let leaf = pair.certified.cert.first().and_then(|der| x509_parser::parse_x509_certificate(der).ok());
        // It was parsed when it was read.
        let (issuer, key) = leaf.map_or_else(Default::default, |(_, leaf)| (rfc2253(leaf.issuer()), key(&leaf)));
        Self {
            name: entry.name.clone(),
            names: pair.names.iter().map(ToString::to_string).collect(),
            file: pair.files().map(|(chain, _)| chain.to_owned()),
            issuer,
            not_before: pair.not_before,
            not_after: pair.not_after,
            key,
        }
    }
}

fn key(leaf: &X509Certificate<'_>) -> String {
    let key = leaf.public_key();
    let parameters = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    let curve = parameters.map(|curve| curve.to_id_string());
    match (key.parsed(), curve.as_deref(), key.algorithm.algorithm.to_id_string().as_str()) {
        (Ok(PublicKey::EC(_)), Some("1.2.840.10045.3.1.7"), _) => "ECDSA P-256".to_owned(),
        (Ok(PublicKey::EC(_)), Some("1.3.132.0.34"), _) => "ECDSA P-384".to_owned(),
        (Ok(PublicKey::EC(_)), Some("1.3.132.0.35"), _) => "ECDSA P-521".to_owned(),
        (Ok(PublicKey::EC(_)), _, _) => "ECDSA".to_owned(),
        // A leading zero of the number is none of its bits.
        (Ok(PublicKey::RSA(rsa)), _, _) => format!("RSA {}", rsa.key_size()),
        (_, _, "1.3.101.112") => "Ed25519".to_owned(),
        (_, _, algorithm) => algorithm.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    use super::super::tests::{folder, put, tls};
    use super::*;
    use crate::tls::testing::{Authority, Issued, Wanted};

    #[test]
    fn each_certificate_is_told_of_as_it_is() {
        let (folder, ca) = (folder(), Authority::named("throw-away, of mailmux"));
        let wanted = Wanted { dns: &["Mail.example", "*.mail.example"], ..Wanted::default() };
        put(&folder, "first", &ca.issue(wanted));
        put(&folder, "rsa", &ca.issue(Wanted { rsa: true, expired: true, ..wanted }));
        for (name, algorithm) in [("p384", &PKCS_ECDSA_P384_SHA384), ("ed", &PKCS_ED25519)] {
            let key = KeyPair::generate_for(algorithm).expect("a key");
            put(&folder, name, &Issued { certificate: ca.certify(wanted, &key), key });
        }
        let pairs = ["first", "rsa", "p384", "ed"].map(|name| (format!("{name}.pem"), format!("{name}.key")));
        let pairs = pairs.each_ref().map(|(chain, key)| (chain.as_str(), key.as_str()));
        let (certificates, _) = Certificates::load(&tls(&folder, &pairs, None), None).expect("all well");
        let served = certificates.served();
        let [first, rsa, p384, ed] = &served[..] else { panic!("{served:?}") };
        assert_eq!(
            (first.name.as_str(), &first.names[..]),
            ("first", &["mail.example".into(), "*.mail.example".into()][..])
        );
        assert_eq!(first.file.as_deref(), Some(&*folder.path().join("first.pem")));
        assert_eq!(first.issuer, "CN=throw-away\\, of mailmux");
        assert_eq!(
            [first, rsa, p384, ed].map(|one| one.key.as_str()),
            ["ECDSA P-256", "RSA 2048", "ECDSA P-384", "Ed25519"]
        );
        let day = 24 * 3600;
        let now =
            i64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs()).expect("fits");
        assert!(
            (first.not_before - (now - day)).abs() < 60 && (first.not_after - (now + 30 * day)).abs() < 60,
            "{first:?}"
        );
        assert!(rsa.not_after < now);
    }

    #[test]
    fn one_that_was_made_here_has_no_file() {
        let (certificates, _) = Certificates::self_signed(&["localhost", "127.0.0.1"]).expect("made");
        let served = certificates.served();
        let [own] = &served[..] else { panic!("{served:?}") };
        assert_eq!((own.name.as_str(), &own.file, own.key.as_str()), ("self-signed", &None, "ECDSA P-256"));
        assert_eq!((&own.names[..], own.issuer.as_str()), (&["localhost".to_owned()][..], "CN=mailmux self-signed"));
    }
}
