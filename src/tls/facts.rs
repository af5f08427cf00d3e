//! What can be told of a client's TLS connection, in the words of OpenSSL, which are those that responders written for
//! nginx expect: cipher names, RFC 2253 names, serial number, SHA-1 fingerprint. Not here: what any of it is good for.

use std::fmt::Write as _;

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;
use rustls::{CipherSuite, CommonState, ProtocolVersion};
use x509_parser::asn1_rs::ToDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use super::Stream;
use crate::imap::sasl::base64;

/// A client's TLS connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `TLSv1.2` or `TLSv1.3`.
    pub protocol: &'static str,
    /// OpenSSL's name of the cipher suite.
    pub cipher: &'static str,
    /// The client's certificate.
    pub client_certificate: Verified,
}

/// A client's certificate, as far as there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verified {
    /// Certificates are not asked for.
    NotAsked,
    /// Asked for, but none was shown; or it has expired since this session began and counts for nothing any more.
    None,
    /// Verified in the handshake; one that cannot be verified ends it.
    By(Box<ClientCertificate>),
}

/// A verified certificate. All fields but the last are printable ASCII.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Whose it is, as RFC 2253 writes it.
    pub subject: String,
    /// Who issued it, in the same form.
    pub issuer: String,
    /// Its serial number in hexadecimal, upper case.
    pub serial: String,
    /// The SHA-1 digest of it in hexadecimal, lower case.
    pub fingerprint: String,
    /// All of it, in PEM.
    pub pem: String,
}

impl Stream {
    /// What can be told of a client's TLS connection; `None` in clear. `asked` says whether this listener asks for
    /// certificates.
    pub fn facts(&self, asked: bool) -> Option<Facts> {
        match self {
            Self::Client(tls) => Some(Facts::of(tls.agreed(), asked)),
            Self::Plain(_) | Self::Backend(_) => None,
        }
    }
}

impl Facts {
    fn of(connection: &CommonState, asked: bool) -> Self {
        let protocol = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "TLSv1.2",
        };
        let cipher = connection.negotiated_cipher_suite().map_or("unknown", |suite| cipher_name(suite.suite()));
        let client_certificate = if asked {
            let shown = connection.peer_certificates().and_then(<[_]>::first);
            shown.and_then(ClientCertificate::read).map_or(Verified::None, |own| Verified::By(Box::new(own)))
        } else {
            Verified::NotAsked
        };
        Self { protocol, cipher, client_certificate }
    }
}

impl ClientCertificate {
    /// `None` when it has expired, or cannot be read, which rustls has ruled out.
    fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        certificate.validity().is_valid().then(|| Self {
            subject: rfc2253(certificate.subject()),
            issuer: rfc2253(certificate.issuer()),
            serial: serial(&certificate),
            fingerprint: hex(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, der).as_ref()),
            pem: pem(der),
        })
    }
}

pub(super) fn cipher_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        other => other.as_str().unwrap_or("unknown"),
    }
}

/// A name as OpenSSL's `XN_FLAG_RFC2253` prints it: last part first, everything outside printable ASCII escaped.
pub(super) fn rfc2253(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let parts: Vec<_> = name.iter().collect();
    for (at, part) in parts.iter().rev().enumerate() {
        if at > 0 {
            text.push(',');
        }
        let attributes: Vec<_> = part.iter().collect();
        for (at, attribute) in attributes.iter().rev().enumerate() {
            if at > 0 {
                text.push('+');
            }
            write_attribute(&mut text, attribute);
        }
    }
    text
}

fn write_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let oid = attribute.attr_type().to_id_string();
    let known = short_name(&oid);
    text.push_str(known.unwrap_or(&oid));
    text.push('=');
    if let Some(value) = known.and_then(|_| value(attribute)) {
        write_escaped(text, value.as_bytes());
    } else {
        // What is no text, or nobody knows what, is dumped (RFC 2253 2.4).
        text.push('#');
        text.push_str(&hex(&attribute.attr_value().to_der_vec().unwrap_or_default()).to_ascii_uppercase());
    }
}

/// The value as Unicode, if it is one of the kinds of strings that X.520 names.
fn value(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    let bytes = attribute.as_slice();
    match attribute.attr_value().tag().0 {
        // UTF8String, NumericString, PrintableString, IA5String, VisibleString
        12 | 18 | 19 | 22 | 26 => String::from_utf8(bytes.to_vec()).ok(),
        // TeletexString: Latin-1 in practice
        20 => Some(bytes.iter().map(|byte| char::from(*byte)).collect()),
        // UniversalString
        28 => {
            let (units, rest) = bytes.as_chunks::<4>();
            let text = units.iter().map(|unit| char::from_u32(u32::from_be_bytes(*unit))).collect::<Option<_>>()?;
            rest.is_empty().then_some(text)
        }
        // BMPString
        30 => {
            let (units, rest) = bytes.as_chunks::<2>();
            let units: Vec<_> = units.iter().map(|unit| u16::from_be_bytes(*unit)).collect();
            String::from_utf16(&units).ok().filter(|_| rest.is_empty())
        }
        _ => None,
    }
}

fn write_escaped(text: &mut String, value: &[u8]) {
    for (at, byte) in value.iter().enumerate() {
        let at_end = (at == 0 && matches!(byte, b' ' | b'#')) || (at + 1 == value.len() && *byte == b' ');
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => text.extend(['\\', char::from(*byte)]),
            b' ' | b'#' if at_end => text.extend(['\\', char::from(*byte)]),
            b' '..=b'~' => text.push(char::from(*byte)),
            // Writing to a string cannot fail.
            _ => {
                let _ = write!(text, "\\{byte:02X}");
            }
        }
    }
}

/// OpenSSL's short names of what certificates' names are made of.
fn short_name(oid: &str) -> Option<&'static str> {
    Some(match oid {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "street",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "title",
        "2.5.4.13" => "description",
        "2.5.4.15" => "businessCategory",
        "2.5.4.17" => "postalCode",
        "2.5.4.41" => "name",
        "2.5.4.42" => "GN",
        "2.5.4.43" => "initials",
        "2.5.4.44" => "generationQualifier",
        "2.5.4.46" => "dnQualifier",
        "2.5.4.65" => "pseudonym",
        "2.5.4.97" => "organizationIdentifier",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        "1.2.840.113549.1.9.2" => "unstructuredName",
        _ => return None,
    })
}

fn serial(certificate: &X509Certificate<'_>) -> String {
    let bytes = certificate.tbs_certificate.raw_serial();
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or_else(|| bytes.len().saturating_sub(1));
    hex(bytes.get(start..).unwrap_or_default()).to_ascii_uppercase()
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// RFC 7468, with lines of 64 characters.
fn pem(der: &[u8]) -> String {
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in base64(der).chunks(64) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

#[cfg(test)]
mod tests;
