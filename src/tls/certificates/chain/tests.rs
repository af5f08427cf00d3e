//! Chains in every disorder that people make, and the words for it.

use rustls::crypto::aws_lc_rs;

use super::super::super::testing::{Authority, Wanted};
use super::*;

fn judged(chain: &[CertificateDer<'_>]) -> String {
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    disorder(chain, &algorithms).unwrap_or_default()
}

#[test]
fn what_is_in_order_needs_no_words() {
    let root = Authority::named("root");
    let between = root.below("between");
    let leaf = between.server(&["mail.example"]).der();
    for chain in [
        vec![leaf.clone()],
        vec![leaf.clone(), between.der()],
        vec![leaf, between.der(), root.der()],
        vec![root.issue(Wanted { rsa: true, ..Wanted::default() }).der(), root.der()],
        vec![root.der()],
    ] {
        assert_eq!(judged(&chain), "");
    }
}

#[test]
fn each_disorder_is_told_with_what_to_do() {
    let (root, stranger) = (Authority::named("root"), Authority::named("stranger"));
    let (between, rekeyed) = (root.below("between"), root.below("between"));
    let leaf = between.server(&["mail.example"]).der();
    let reads = |chain: &[&CertificateDer<'static>], expected: &str| {
        let chain: Vec<_> = chain.iter().map(|der| (*der).clone()).collect();
        assert_eq!(judged(&chain), expected);
    };
    let (root, between, rekeyed, stranger) = (&root.der(), &between.der(), &rekeyed.der(), &stranger.der());
    reads(
        &[&leaf, root],
        "certificate 2 (CN=root) does not belong there: certificate 1 was issued by CN=between, which is not in the \
         file; put that one in its place",
    );
    reads(
        &[&leaf, root, between],
        "certificate 2 (CN=root) does not belong there: certificate 1 was issued by certificate 3 (CN=between); put \
         the leaf first, and behind each the one that issued it",
    );
    reads(
        &[&leaf, &leaf, between],
        "certificate 2 (mail.example) does not belong there: certificate 1 was issued by certificate 3 (CN=between); \
         put the leaf first, and behind each the one that issued it",
    );
    reads(
        &[&leaf, between, root, stranger],
        "certificate 4 (CN=stranger) does not belong there: certificate 3 is a root, which ends a chain; put \
         certificate 4 before it, or take it out",
    );
    reads(
        &[&leaf, rekeyed, root],
        "certificate 2 (CN=between) does not belong there: it has the name, but not the key, of the one that issued \
         certificate 1; put the right one of that name in its place",
    );
    let words = judged(&[leaf.clone(), CertificateDer::from(&b"junk"[..])]);
    assert!(words.starts_with("certificate 2 in it cannot be read (") && words.ends_with("): take it out"), "{words}");
}

#[test]
fn where_the_algorithm_is_unknown_the_key_identifiers_decide() {
    let root = Authority::named("root");
    let (between, rekeyed) = (root.below("between"), root.below("between"));
    let leaf = between.server(&["mail.example"]).der();
    let none = WebPkiSupportedAlgorithms { all: &[], mapping: &[] };
    assert_eq!(disorder(&[leaf.clone(), between.der(), root.der()], &none), None);
    let words = disorder(&[leaf, rekeyed.der()], &none).expect("another key");
    assert!(words.contains("it has the name, but not the key"), "{words}");
}
