//! What is read, what is refused and where, and which certificate a name gets.

use tempfile::TempDir;

use super::super::testing::{Authority, Issued, Wanted};
use super::*;
use crate::config::{CertificateFiles, CertificateName, ClientAuth, TlsVersion};

fn at(path: PathBuf, key: &str) -> At<PathBuf> {
    At { value: path, site: Site { key: key.to_owned(), span: 0..0 } }
}

/// `[tls]` with these pairs (chain and key in the folder) and perhaps a directory.
fn tls(folder: &TempDir, pairs: &[(&str, &str)], directory: Option<&str>) -> config::Tls {
    let certificates = pairs.iter().enumerate().map(|(n, (chain, key))| CertificateFiles {
        chain: at(folder.path().join(chain), &format!("tls.certificate[{n}].chain")),
        key: at(folder.path().join(key), &format!("tls.certificate[{n}].key")),
    });
    config::Tls {
        min_version: TlsVersion::V12,
        client_auth: ClientAuth::Off,
        client_name: CertificateName::Email,
        certificates: certificates.collect(),
        directory: directory.map(|name| at(folder.path().join(name), "tls.directory")),
    }
}

fn put(folder: &TempDir, name: &str, issued: &Issued) {
    issued.write(&folder.path().join(format!("{name}.pem")), &folder.path().join(format!("{name}.key")));
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a scratch folder")
}

fn stem_for<'a>(certificates: &'a Certificates, name: &str) -> &'a str {
    let at = certificates.named(name).map_or(0, |found| found[0]);
    &certificates.pairs[at].name
}

/// Key and message of the only finding.
fn only(findings: &[Finding]) -> (&str, &str) {
    let [finding] = findings else { panic!("one finding, not {findings:?}") };
    (finding.site.as_ref().map_or("", |site| site.key.as_str()), &finding.message)
}

#[test]
fn a_name_gets_its_certificate_exactly_or_by_wildcard_or_the_default() {
    let (folder, ca) = (folder(), Authority::new());
    put(&folder, "first", &ca.server(&["first.example"]));
    put(&folder, "wild", &ca.server(&["*.wild.example", "wild.example"]));
    put(&folder, "exact", &ca.server(&["Exact.wild.example"]));
    let pairs = [("first.pem", "first.key"), ("wild.pem", "wild.key"), ("exact.pem", "exact.key")];
    let (certificates, warnings) = Certificates::load(&tls(&folder, &pairs, None)).expect("all well");
    assert_eq!(warnings, []);
    for (name, expected) in [
        ("first.example", "first"),
        ("wild.example", "wild"),
        ("any.wild.example", "wild"),
        ("exact.wild.example", "exact"),
        ("a.b.wild.example", "first"),
        (".wild.example", "wild"),
        ("example", "first"),
        ("other.example", "first"),
        ("", "first"),
    ] {
        assert_eq!(stem_for(&certificates, name), expected, "{name:?}");
    }
}

#[test]
fn the_common_name_counts_only_without_alternative_names() {
    let (folder, ca) = (folder(), Authority::new());
    put(&folder, "a", &ca.server(&["a.example"]));
    put(&folder, "old", &ca.issue(Wanted { common_names: &["old.example"], ..Wanted::default() }));
    put(
        &folder,
        "new",
        &ca.issue(Wanted { common_names: &["cn.example"], dns: &["san.example"], ..Wanted::default() }),
    );
    let pairs = [("a.pem", "a.key"), ("old.pem", "old.key"), ("new.pem", "new.key")];
    let (certificates, _) = Certificates::load(&tls(&folder, &pairs, None)).expect("all well");
    assert_eq!(stem_for(&certificates, "old.example"), "old");
    assert_eq!(stem_for(&certificates, "san.example"), "new");
    assert_eq!(stem_for(&certificates, "cn.example"), "a");
}

#[test]
fn a_broken_explicit_pair_is_an_error_where_it_was_written() {
    let (folder, ca) = (folder(), Authority::new());
    put(&folder, "good", &ca.server(&["good.example"]));
    put(&folder, "other", &ca.server(&["other.example"]));
    let cut = ca.server(&["cut.example"]);
    put(&folder, "cut", &cut);
    let pem = cut.certificate.pem();
    fs::write(folder.path().join("cut.pem"), &pem[..pem.len() / 2]).expect("a scratch folder");
    fs::write(folder.path().join("empty.pem"), "").expect("a scratch folder");
    let not_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::write(folder.path().join("junk.pem"), not_der).expect("a scratch folder");
    for (chain, key, site, text) in [
        ("none.pem", "good.key", "chain", "none.pem: cannot be read: No such file"),
        ("good.pem", "none.key", "key", "none.key: cannot be read: No such file"),
        ("good.pem", "other.key", "key", "other.key: does not go with the certificate in "),
        ("empty.pem", "good.key", "chain", "empty.pem: holds no certificate in PEM form"),
        ("good.pem", "good.pem", "key", "good.pem: holds no private key in PEM form (PKCS#8, PKCS#1 or SEC1"),
        ("cut.pem", "cut.key", "chain", "cut.pem: is not well-formed PEM"),
        ("junk.pem", "good.key", "key", "good.key: does not go with the certificate in "),
    ] {
        let errors = Certificates::load(&tls(&folder, &[(chain, key)], None)).expect_err("broken");
        let (where_, message) = only(&errors);
        assert_eq!(where_, format!("tls.certificate[0].{site}"), "{message}");
        assert!(message.contains(text), "{message}");
    }
    let two = [("none.pem", "none.key"), ("good.pem", "other.key")];
    assert_eq!(Certificates::load(&tls(&folder, &two, None)).expect_err("broken").len(), 2, "all mistakes at once");
}

#[test]
fn a_directory_gives_its_good_pairs_and_a_word_about_the_others() {
    let (folder, ca) = (folder(), Authority::new());
    for name in ["b.example", "a.example", "c.example"] {
        put(&folder, name, &ca.server(&[name]));
    }
    fs::copy(folder.path().join("a.example.key"), folder.path().join("c.example.key")).expect("copied");
    fs::write(folder.path().join("alone.pem"), ca.pem()).expect("a scratch folder");
    fs::write(folder.path().join(".hidden.pem"), "").expect("a scratch folder");
    fs::write(folder.path().join("readme.txt"), "").expect("a scratch folder");
    let (certificates, warnings) = Certificates::load(&tls(&folder, &[], Some("."))).expect("two are well");
    let names: Vec<_> = certificates.expiries().map(|(name, _)| name).collect();
    assert_eq!(names, ["a.example", "b.example"]);
    assert_eq!(stem_for(&certificates, "b.example"), "b.example");
    assert_eq!(stem_for(&certificates, "unknown.example"), "a.example", "the first by name is the default");
    let [alone, mismatched] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(alone.message.contains("alone.key: cannot be read"), "{}", alone.message);
    assert!(mismatched.message.contains("c.example.key: does not go with"), "{}", mismatched.message);
    assert_eq!(alone.site.as_ref().map(|site| site.key.as_str()), Some("tls.directory"));
}

#[test]
fn an_explicit_certificate_is_the_default_and_goes_before_the_directory() {
    let (folder, ca) = (folder(), Authority::new());
    fs::create_dir(folder.path().join("more")).expect("a scratch folder");
    put(&folder, "zz", &ca.server(&["shared.example"]));
    put(&folder, "more/aa", &ca.server(&["shared.example"]));
    put(&folder, "more/zz", &ca.server(&["zz.example"]));
    let (certificates, _) = Certificates::load(&tls(&folder, &[("zz.pem", "zz.key")], Some("more"))).expect("well");
    assert_eq!(stem_for(&certificates, "shared.example"), "zz");
    assert_eq!(stem_for(&certificates, "unknown.example"), "zz");
    // Two of one stem are told apart in the metrics.
    let path = folder.path().join("more/zz.pem").display().to_string();
    let names: Vec<_> = certificates.expiries().map(|(name, _)| name).collect();
    assert_eq!(names, ["zz", "aa", &path]);
}

#[test]
fn thousands_of_pairs_are_no_burden() {
    let (folder, ca) = (folder(), Authority::new());
    let issued = ca.server(&["*.many.example"]);
    for n in 0..2000 {
        put(&folder, &format!("{n:04}"), &issued);
    }
    let (certificates, warnings) = Certificates::load(&tls(&folder, &[], Some("."))).expect("all well");
    assert_eq!((certificates.expiries().count(), warnings.len()), (2000, 0));
    assert_eq!(stem_for(&certificates, "x.many.example"), "0000");
}

#[test]
fn without_any_certificate_there_is_no_tls() {
    let folder = folder();
    let errors = Certificates::load(&tls(&folder, &[], None)).expect_err("none");
    assert_eq!(
        only(&errors),
        ("", "TLS needs a certificate: [[tls.certificate]] with chain and key, or tls.directory")
    );
    let errors = Certificates::load(&tls(&folder, &[], Some("."))).expect_err("empty");
    assert!(only(&errors).1.ends_with("holds no usable pair NAME.pem and NAME.key"));
    let errors = Certificates::load(&tls(&folder, &[], Some("missing"))).expect_err("no such directory");
    assert_eq!(only(&errors).0, "tls.directory");
    assert!(only(&errors).1.contains("missing: cannot be read"));
}

#[test]
fn an_expired_certificate_is_used_with_a_warning() {
    let (folder, ca) = (folder(), Authority::new());
    put(&folder, "old", &ca.issue(Wanted { dns: &["old.example"], expired: true, ..Wanted::default() }));
    let (certificates, warnings) = Certificates::load(&tls(&folder, &[("old.pem", "old.key")], None)).expect("used");
    assert!(only(&warnings).1.ends_with("old.pem: the certificate has expired"), "{warnings:?}");
    let ten_days_ago = SystemTime::now() - DAY * 10;
    let ten_days_ago = ten_days_ago.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let (_, expiry) = certificates.expiries().next().expect("one");
    assert!(expiry.abs_diff(i64::try_from(ten_days_ago).expect("fits")) < 60, "{expiry}");
}

#[test]
fn keys_of_every_pem_kind_are_read() {
    let (folder, ca) = (folder(), Authority::new());
    let rsa = ca.issue(Wanted { dns: &["rsa.example"], rsa: true, ..Wanted::default() });
    put(&folder, "rsa", &rsa);
    // A chain longer than one, and text around the PEM as OpenSSL writes it.
    let ec = ca.server(&["ec.example"]);
    put(&folder, "ec", &ec);
    let chain = format!("subject=CN = ec.example\n{}\nissuer\n{}", ec.certificate.pem(), ca.pem());
    fs::write(folder.path().join("ec.pem"), chain).expect("a scratch folder");
    let pairs = [("rsa.pem", "rsa.key"), ("ec.pem", "ec.key")];
    let (certificates, warnings) = Certificates::load(&tls(&folder, &pairs, None)).expect("all well");
    assert_eq!(warnings, []);
    assert_eq!(certificates.pairs[1].certified.cert.len(), 2);
}
