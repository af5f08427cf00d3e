//! Whether the certificates of a chain stand in their order: each was issued by the one behind it (RFC 5246 7.4.2). One
//! that is out of order works with clients of TLS 1.3 and with most others, which sort it themselves (RFC 8446 4.4.2); the
//! rest refuse it, so that its owner hears of it only by and by. Not here: whether anybody trusts the last one.

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::CertificateDer;
use x509_parser::asn1_rs::{Any, FromDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};

use crate::imap::escape;
use crate::tls::facts::rfc2253;

/// The first certificate that does not belong where it stands, and what to do about it.
pub(in crate::tls) fn disorder(chain: &[CertificateDer<'_>], algorithms: &WebPkiSupportedAlgorithms) -> Option<String> {
    // A leaf alone is in order. One that its root has issued needs nothing behind it.
    if chain.len() < 2 {
        return None;
    }
    let mut certificates = Vec::with_capacity(chain.len());
    for (at, der) in chain.iter().enumerate() {
        match x509_parser::parse_x509_certificate(der) {
            Ok((_, certificate)) => certificates.push(certificate),
            Err(why) => return Some(format!("certificate {} in it cannot be read ({why}): take it out", at + 1)),
        }
    }
    let links = certificates.iter().zip(certificates.iter().skip(1));
    for (at, (child, issuer)) in links.enumerate() {
        let (number, before) = (at + 2, at + 1);
        let (name, wanted) = (name(issuer), rfc2253(child.issuer()));
        match issued(child, issuer, algorithms) {
            Issued::Yes => {}
            Issued::ByOneOfThatName => {
                return Some(format!(
                    "certificate {number} ({name}) does not belong there: it has the name, but not the key, of the one \
                     that issued certificate {before}; put the right one of that name in its place"
                ));
            }
            Issued::No => {
                let elsewhere = certificates.iter().position(|other| issued(child, other, algorithms) == Issued::Yes);
                return Some(match elsewhere {
                    Some(other) if other == at => format!(
                        "certificate {number} ({name}) does not belong there: certificate {before} is a root, which \
                         ends a chain; put certificate {number} before it, or take it out"
                    ),
                    Some(other) => format!(
                        "certificate {number} ({name}) does not belong there: certificate {before} was issued by \
                         certificate {} ({wanted}); put the leaf first, and behind each the one that issued it",
                        other + 1
                    ),
                    None => format!(
                        "certificate {number} ({name}) does not belong there: certificate {before} was issued by \
                         {wanted}, which is not in the file; put that one in its place"
                    ),
                });
            }
        }
    }
    None
}

#[derive(Debug, PartialEq, Eq)]
enum Issued {
    Yes,
    No,
    ByOneOfThatName,
}

fn issued(child: &X509Certificate<'_>, issuer: &X509Certificate<'_>, algorithms: &WebPkiSupportedAlgorithms) -> Issued {
    if child.issuer().as_raw() != issuer.subject().as_raw() {
        return Issued::No;
    }
    let signed = is_signed(child, issuer, algorithms).unwrap_or_else(|| key_identifiers_agree(child, issuer));
    if signed { Issued::Yes } else { Issued::ByOneOfThatName }
}

/// `None` where the algorithm is not one that we can verify.
fn is_signed(
    child: &X509Certificate<'_>,
    issuer: &X509Certificate<'_>,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Option<bool> {
    let (_, whole) = Any::from_der(child.as_raw()).ok()?;
    let (behind_the_body, _) = Any::from_der(whole.data).ok()?;
    let (_, signature_algorithm) = Any::from_der(behind_the_body).ok()?;
    let (_, key) = Any::from_der(issuer.public_key().raw).ok()?;
    let (_, key_algorithm) = Any::from_der(key.data).ok()?;
    let algorithm = algorithms.all.iter().find(|algorithm| {
        algorithm.signature_alg_id().as_ref() == signature_algorithm.data
            && algorithm.public_key_alg_id().as_ref() == key_algorithm.data
    })?;
    let (key, signature) = (&issuer.public_key().subject_public_key.data, &child.signature_value.data);
    Some(algorithm.verify_signature(key, child.tbs_certificate.as_ref(), signature).is_ok())
}

/// RFC 5280 4.2.1.1. Where one of them is silent, the names have to do.
fn key_identifiers_agree(child: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    let wanted = child.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(authority) => authority.key_identifier.as_ref(),
        _ => None,
    });
    let found = issuer.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier),
        _ => None,
    });
    wanted.zip(found).is_none_or(|(wanted, found)| wanted == found)
}

/// What people know a certificate by.
fn name(certificate: &X509Certificate<'_>) -> String {
    let subject = rfc2253(certificate.subject());
    if !subject.is_empty() {
        return subject;
    }
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let host = alternative.and_then(|extension| {
        extension.value.general_names.iter().find_map(|name| match name {
            GeneralName::DNSName(name) => Some(escape(name.as_bytes()).to_string()),
            _ => None,
        })
    });
    host.unwrap_or_else(|| "without a name".to_owned())
}

#[cfg(test)]
mod tests;
