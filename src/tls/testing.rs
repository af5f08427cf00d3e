//! For the tests of this room: throw-away authorities, certificates of every kind, and clients.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_RSA_SHA256, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};

/// An authority that signs whatever a test asks for.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub(crate) struct Issued {
    pub(crate) certificate: Certificate,
    pub(crate) key: KeyPair,
}

/// What a certificate is to say.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wanted<'a> {
    pub(crate) dns: &'a [&'a str],
    pub(crate) emails: &'a [&'a str],
    pub(crate) common_names: &'a [&'a str],
    pub(crate) rsa: bool,
    pub(crate) expired: bool,
}

impl Authority {
    pub(crate) fn new() -> Self {
        Self::named("throw-away authority")
    }

    pub(crate) fn named(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(Self::params(name), key).expect("an authority"))
    }

    /// An authority that this one vouches for.
    pub(crate) fn below(&self, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::signed_by(Self::params(name), key, &self.0).expect("an authority"))
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.use_authority_key_identifier_extension = true;
        params
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    pub(crate) fn pem(&self) -> String {
        self.0.as_ref().pem()
    }

    pub(crate) fn server(&self, names: &[&str]) -> Issued {
        self.issue(Wanted { dns: names, ..Wanted::default() })
    }

    pub(crate) fn issue(&self, wanted: Wanted<'_>) -> Issued {
        let algorithm = if wanted.rsa { &PKCS_RSA_SHA256 } else { &PKCS_ECDSA_P256_SHA256 };
        let key = KeyPair::generate_for(algorithm).expect("a key");
        Issued { certificate: self.certify(wanted, &key), key }
    }

    /// A certificate for a key that may have others.
    pub(crate) fn certify(&self, wanted: Wanted<'_>, key: &KeyPair) -> Certificate {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        // rcgen keeps one common name; a second one goes in under its number.
        for (at, name) in wanted.common_names.iter().enumerate() {
            let kind = if at == 0 { DnType::CommonName } else { DnType::CustomDnType(vec![2, 5, 4, 3]) };
            params.distinguished_name.push(kind, *name);
        }
        let dns = wanted.dns.iter().map(|name| SanType::DnsName((*name).try_into().expect("ASCII")));
        let emails = wanted.emails.iter().map(|email| SanType::Rfc822Name((*email).try_into().expect("ASCII")));
        params.subject_alt_names = dns.chain(emails).collect();
        let day = Duration::from_hours(24);
        let (from, to) = if wanted.expired { (day * 20, day * 10) } else { (day, Duration::ZERO) };
        params.not_before = (SystemTime::now() - from).into();
        params.not_after = if wanted.expired { SystemTime::now() - to } else { SystemTime::now() + day * 30 }.into();
        params.use_authority_key_identifier_extension = true;
        params.signed_by(key, &self.0).expect("a certificate")
    }
}

impl Issued {
    pub(crate) fn write(&self, chain: &Path, key: &Path) {
        std::fs::write(chain, self.certificate.pem()).expect("a scratch folder");
        std::fs::write(key, self.key.serialize_pem()).expect("a scratch folder");
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }

    pub(crate) fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }
}

/// A client that believes any certificate, so that a test can ask which one it was shown. It can verify the signatures
/// of these schemes only.
#[derive(Debug)]
pub(crate) struct Gullible(pub(crate) Vec<SignatureScheme>);

impl Gullible {
    pub(crate) fn all() -> Arc<Self> {
        Arc::new(Self(aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()))
    }
}

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}
