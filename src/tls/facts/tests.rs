//! Handshakes with rustls as the client, and certificates whose names are not easy.

use std::sync::Arc;

use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SerialNumber};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, SupportedProtocolVersion, version};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::super::testing::{Authority, Gullible, Issued, Wanted};
use super::super::{Acceptor, Certificates};
use super::*;
use crate::config::{self, At, CertificateFiles, CertificateName, ClientAuth, Site, TlsVersion};

fn at<T>(value: T) -> At<T> {
    At { value, site: Site { key: String::new(), span: 0..0 } }
}

/// A listener's side that takes certificates of `ca`.
fn acceptor(ca: &Authority) -> Acceptor {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let file = |name: &str| at(folder.path().join(name));
    let files = CertificateFiles { chain: file("mail.pem"), key: file("mail.key") };
    ca.server(&["mail.example.org"]).write(&files.chain.value, &files.key.value);
    std::fs::write(&file("ca.pem").value, ca.pem()).expect("a scratch folder");
    let tls = config::Tls {
        min_version: TlsVersion::V12,
        client_auth: ClientAuth::Optional { ca: file("ca.pem") },
        client_name: CertificateName::Email,
        certificates: vec![files],
        directory: None,
        watch: None,
    };
    let (certificates, _) = Certificates::load(&tls, None).expect("good certificates");
    Acceptor::new(Arc::new(certificates), &tls, None).expect("good settings")
}

/// What is known after a handshake.
async fn met(
    acceptor: &Acceptor,
    own: Option<&Issued>,
    versions: &[&'static SupportedProtocolVersion],
    asked: bool,
) -> Option<Facts> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
    let builder = builder.dangerous().with_custom_certificate_verifier(Gullible::all());
    let config = match own {
        Some(own) => builder.with_client_auth_cert(vec![own.der()], own.key_der()).expect("a good key"),
        None => builder.with_no_client_auth(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let near = async { acceptor.accept(listener.accept().await.expect("somebody").0).await.expect("a handshake") };
    let far = async {
        let tcp = TcpStream::connect(address).await.expect("listening");
        let name = ServerName::try_from("mail.example.org").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await.expect("a handshake")
    };
    let (handshake, _far) = tokio::join!(near, far);
    handshake.stream.facts(asked)
}

#[tokio::test]
async fn a_handshake_is_told_in_openssl_s_words() {
    let ca = Authority::new();
    let (acceptor, ann) = (acceptor(&ca), ca.issue(Wanted { common_names: &["Ann"], ..Wanted::default() }));
    for (versions, protocol, cipher) in [
        (&[&version::TLS12], "TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384"),
        (&[&version::TLS13], "TLSv1.3", "TLS_AES_256_GCM_SHA384"),
    ] {
        let facts = met(&acceptor, None, versions, true).await.expect("inside TLS");
        assert_eq!(facts, Facts { protocol, cipher, client_certificate: Verified::None });
        let facts = met(&acceptor, Some(&ann), versions, false).await.expect("inside TLS");
        assert_eq!(facts.client_certificate, Verified::NotAsked);
        let facts = met(&acceptor, Some(&ann), versions, true).await.expect("inside TLS");
        let Verified::By(certificate) = facts.client_certificate else { panic!("there is one") };
        assert_eq!(certificate.subject, "CN=Ann");
        assert_eq!(certificate.issuer, "CN=throw-away authority");
        assert_eq!(certificate.pem, ann.certificate.pem().replace("\r\n", "\n"));
        let fingerprint = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &ann.der());
        assert_eq!(certificate.fingerprint.len(), 40);
        assert!(certificate.fingerprint.starts_with(&format!("{:02x}", fingerprint.as_ref()[0])));
    }
}

#[tokio::test]
async fn in_clear_there_is_nothing_to_tell() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let tcp = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("listening");
    assert_eq!(Stream::Plain(tcp).facts(true), None);
}

/// A certificate for this name, as read.
fn named(parts: Vec<(DnType, DnValue)>, serial: &[u8]) -> ClientCertificate {
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params.distinguished_name = DistinguishedName::new();
    for (kind, value) in parts {
        params.distinguished_name.push(kind, value);
    }
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    ClientCertificate::read(certificate.der()).expect("valid now")
}

/// The expectations are what OpenSSL 3.0 prints with `-nameopt RFC2253`.
#[test]
fn names_are_written_as_rfc_2253_has_it() {
    let utf8 = |text: &str| DnValue::Utf8String(text.to_owned());
    let certificate = named(
        vec![
            (DnType::CountryName, "DE".into()),
            (DnType::OrganizationName, utf8(" Müller, Söhne & \"Co\" ")),
            (DnType::OrganizationalUnitName, utf8("#1 a=b;c<d>e+f\\g\u{1}\r\n%")),
            (
                DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]),
                DnValue::Ia5String(Ia5String::try_from("ann@example.org").expect("ASCII")),
            ),
            (DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 99999, 7]), utf8("odd")),
            (DnType::CommonName, utf8("Ann # Smith")),
        ],
        &[0, 0x0a, 0xff],
    );
    assert_eq!(
        certificate.subject,
        "CN=Ann # Smith,1.3.6.1.4.1.99999.7=#0C036F6464,emailAddress=ann@example.org,\
         OU=\\#1 a=b\\;c\\<d\\>e\\+f\\\\g\\01\\0D\\0A%,O=\\ M\\C3\\BCller\\, S\\C3\\B6hne & \\\"Co\\\"\\ ,C=DE"
    );
    assert_eq!(certificate.issuer, certificate.subject);
    assert_eq!(certificate.serial, "0AFF");
    assert!(certificate.subject.bytes().all(|byte| matches!(byte, b' '..=b'~')));
}
