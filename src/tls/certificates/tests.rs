//! What is read, what is refused and where, which certificate a name gets, and what a reload takes over.

use std::fs;
use std::path::PathBuf;

use rcgen::KeyPair;
use tempfile::TempDir;

use super::super::testing::{Authority, Issued, Wanted};
use super::*;
use crate::config::{At, CertificateName, ClientAuth, Site, TlsVersion};

fn at(path: PathBuf, key: &str) -> At<PathBuf> {
    At { value: path, site: Site { key: key.to_owned(), span: 0..0 } }
}

/// `[tls]` with these pairs (chain and key in the folder) and perhaps a directory.
pub(super) fn tls(folder: &TempDir, pairs: &[(&str, &str)], directory: Option<&str>) -> config::Tls {
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
        watch: None,
    }
}

pub(super) fn put(folder: &TempDir, name: &str, issued: &Issued) {
    issued.write(&folder.path().join(format!("{name}.pem")), &folder.path().join(format!("{name}.key")));
}

pub(super) fn folder() -> TempDir {
    tempfile::tempdir().expect("a scratch folder")
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
    let (certificates, warnings) = Certificates::load(&tls(&folder, &pairs, None), None).expect("all well");
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
        assert_eq!(certificates.shown_for(name), expected, "{name:?}");
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
    let (certificates, _) = Certificates::load(&tls(&folder, &pairs, None), None).expect("all well");
    assert_eq!(certificates.shown_for("old.example"), "old");
    assert_eq!(certificates.shown_for("san.example"), "new");
    assert_eq!(certificates.shown_for("cn.example"), "a");
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
    let turned = [ca.pem(), cut.certificate.pem()].concat();
    fs::write(folder.path().join("turned.pem"), turned).expect("a scratch folder");
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
        ("turned.pem", "cut.key", "key", ": it is that of certificate 2 in it; put that one first"),
        ("junk.pem", "good.key", "key", "good.key: does not go with the certificate in "),
    ] {
        let errors = Certificates::load(&tls(&folder, &[(chain, key)], None), None).expect_err("broken");
        let (where_, message) = only(&errors);
        assert_eq!(where_, format!("tls.certificate[0].{site}"), "{message}");
        assert!(message.contains(text), "{message}");
    }
    let two = [("none.pem", "none.key"), ("good.pem", "other.key")];
    assert_eq!(
        Certificates::load(&tls(&folder, &two, None), None).expect_err("broken").len(),
        2,
        "all mistakes at once"
    );
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
    let (certificates, warnings) = Certificates::load(&tls(&folder, &[], Some(".")), None).expect("two are well");
    let names: Vec<_> = certificates.expiries().map(|(name, _)| name).collect();
    assert_eq!(names, ["a.example", "b.example"]);
    assert_eq!(certificates.shown_for("b.example"), "b.example");
    assert_eq!(certificates.shown_for("unknown.example"), "a.example", "the first by name is the default");
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
    let (certificates, _) =
        Certificates::load(&tls(&folder, &[("zz.pem", "zz.key")], Some("more")), None).expect("well");
    assert_eq!(certificates.shown_for("shared.example"), "zz");
    assert_eq!(certificates.shown_for("unknown.example"), "zz");
    // Two of one stem are told apart in the metrics.
    let path = folder.path().join("more/zz.pem").display().to_string();
    let names: Vec<_> = certificates.expiries().map(|(name, _)| name).collect();
    assert_eq!(names, ["zz", "aa", &path]);
}

/// More than enough for several threads; `benches/certificates.rs` has 5,000 of them.
#[test]
fn each_of_many_pairs_is_found_by_its_name() {
    const MANY: usize = 600;
    let (folder, ca) = (folder(), Authority::new());
    // One key for all: making keys would be most of the test.
    let key = KeyPair::generate().expect("a key");
    for n in 0..MANY {
        let (name, path) = (format!("mail{n}.example"), folder.path().join(format!("{n:04}")));
        let certificate = ca.certify(Wanted { dns: &[&name], ..Wanted::default() }, &key);
        fs::write(path.with_extension("pem"), certificate.pem()).expect("a scratch folder");
        fs::write(path.with_extension("key"), key.serialize_pem()).expect("a scratch folder");
    }
    fs::write(folder.path().join("0300.key"), "").expect("a scratch folder");
    let (certificates, warnings) = Certificates::load(&tls(&folder, &[], Some(".")), None).expect("all but one");
    assert!(only(&warnings).1.contains("0300.key: holds no private key"), "{warnings:?}");
    assert_eq!(certificates.expiries().count(), MANY - 1);
    for n in (0..MANY).filter(|n| *n != 300) {
        assert_eq!(certificates.shown_for(&format!("mail{n}.example")), format!("{n:04}"));
    }
    assert_eq!(certificates.shown_for("mail300.example"), "0000", "the default");
}

#[test]
fn without_any_certificate_there_is_no_tls() {
    let folder = folder();
    let errors = Certificates::load(&tls(&folder, &[], None), None).expect_err("none");
    assert_eq!(
        only(&errors),
        ("", "TLS needs a certificate: [[tls.certificate]] with chain and key, or tls.directory")
    );
    let errors = Certificates::load(&tls(&folder, &[], Some(".")), None).expect_err("empty");
    assert!(only(&errors).1.ends_with("holds no usable pair NAME.pem and NAME.key"));
    let errors = Certificates::load(&tls(&folder, &[], Some("missing")), None).expect_err("no such directory");
    assert_eq!(only(&errors).0, "tls.directory");
    assert!(only(&errors).1.contains("missing: cannot be read"));
}

#[test]
fn an_expired_certificate_is_used_with_a_warning() {
    let (folder, ca) = (folder(), Authority::new());
    put(&folder, "old", &ca.issue(Wanted { dns: &["old.example"], expired: true, ..Wanted::default() }));
    let (certificates, warnings) =
        Certificates::load(&tls(&folder, &[("old.pem", "old.key")], None), None).expect("used");
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
    let (certificates, warnings) = Certificates::load(&tls(&folder, &pairs, None), None).expect("all well");
    assert_eq!(warnings, []);
    assert_eq!(certificates.entries[1].pair.certified.cert.len(), 2);
}

/// One of them, by its name for metrics.
fn pair<'a>(certificates: &'a Certificates, name: &str) -> &'a Arc<Pair> {
    &certificates.entries.iter().find(|entry| entry.name == name).unwrap_or_else(|| panic!("no {name}")).pair
}

#[test]
fn a_reload_reads_only_what_has_changed() {
    let (folder, ca) = (folder(), Authority::new());
    fs::create_dir(folder.path().join("more")).expect("a scratch folder");
    for name in ["default", "more/stays", "more/changes", "more/goes"] {
        put(&folder, name, &ca.server(&[&format!("{name}.example").replace("more/", "")]));
    }
    put(&folder, "more/old", &ca.issue(Wanted { dns: &["old.example"], expired: true, ..Wanted::default() }));
    let tls = tls(&folder, &[("default.pem", "default.key")], Some("more"));
    let (before, _) = Certificates::load(&tls, None).expect("all well");

    put(&folder, "more/changes", &ca.server(&["changed.example"]));
    put(&folder, "more/comes", &ca.server(&["comes.example"]));
    for end in ["pem", "key"] {
        fs::remove_file(folder.path().join("more/goes").with_extension(end)).expect("there");
    }
    let (after, warnings) = Certificates::load(&tls, Some(&before)).expect("all well");
    assert!(only(&warnings).1.ends_with("old.pem: the certificate has expired"), "said at each load: {warnings:?}");
    for name in ["default", "stays", "old"] {
        assert!(Arc::ptr_eq(pair(&before, name), pair(&after, name)), "{name}");
    }
    assert!(!Arc::ptr_eq(pair(&before, "changes"), pair(&after, "changes")));
    for (host, shown) in [
        ("stays.example", "stays"),
        ("changed.example", "changes"),
        ("changes.example", "default"),
        ("comes.example", "comes"),
        ("goes.example", "default"),
    ] {
        assert_eq!(after.shown_for(host), shown, "{host}");
    }
}

#[test]
fn a_pair_of_the_directory_that_breaks_is_served_as_it_was() {
    let (folder, ca) = (folder(), Authority::new());
    for name in ["half", "mixed", "keyless", "well"] {
        put(&folder, name, &ca.server(&[&format!("{name}.example")]));
    }
    let tls = tls(&folder, &[], Some("."));
    let (good, _) = Certificates::load(&tls, None).expect("all well");

    let next = ca.server(&["half.example", "more.example"]);
    let text = next.certificate.pem();
    fs::write(folder.path().join("half.pem"), &text[..text.len() / 2]).expect("a scratch folder");
    fs::copy(folder.path().join("well.key"), folder.path().join("mixed.key")).expect("there");
    fs::remove_file(folder.path().join("keyless.key")).expect("there");
    put(&folder, "new", &next);
    fs::write(folder.path().join("new.pem"), &text[..text.len() / 2]).expect("a scratch folder");
    let (broken, warnings) = Certificates::load(&tls, Some(&good)).expect("three as they were");
    let words: Vec<_> = warnings.iter().map(|warning| warning.message.as_str()).collect();
    let [half, keyless, mixed, new] = words[..] else { panic!("{words:?}") };
    let served_on = "; the pair that was loaded before is served on";
    assert!(half.contains("half.pem: is not well-formed PEM") && half.ends_with(served_on), "{half}");
    assert!(keyless.contains("keyless.key: cannot be read") && keyless.ends_with(served_on), "{keyless}");
    assert!(mixed.contains("mixed.key: does not go with") && mixed.ends_with(served_on), "{mixed}");
    assert!(new.contains("new.pem: is not well-formed PEM") && !new.contains(served_on), "{new}");
    assert_eq!(broken.expiries().count(), 4);
    for name in ["half", "mixed", "keyless", "well"] {
        assert!(Arc::ptr_eq(pair(&good, name), pair(&broken, name)), "{name}");
    }

    // Once it is whole it is read, though what was served meanwhile is older.
    put(&folder, "half", &next);
    let (whole, _) = Certificates::load(&tls, Some(&broken)).expect("well");
    assert_eq!(whole.shown_for("more.example"), "half");
    // What breaks and goes is gone.
    fs::remove_file(folder.path().join("mixed.pem")).expect("there");
    let (less, _) = Certificates::load(&tls, Some(&whole)).expect("well");
    assert_eq!(less.expiries().count(), 3);
}

#[test]
fn a_pair_written_out_that_breaks_is_an_error_at_a_reload_too() {
    let (folder, ca) = (folder(), Authority::new());
    put(&folder, "a", &ca.server(&["a.example"]));
    let tls = tls(&folder, &[("a.pem", "a.key")], None);
    let (before, _) = Certificates::load(&tls, None).expect("well");
    fs::write(folder.path().join("a.pem"), "").expect("a scratch folder");
    let errors = Certificates::load(&tls, Some(&before)).expect_err("broken");
    assert!(only(&errors).1.ends_with("a.pem: holds no certificate in PEM form"), "{errors:?}");
}

#[test]
fn a_chain_out_of_order_is_served_with_a_warning() {
    let (folder, root) = (folder(), Authority::named("root"));
    let between = root.below("between");
    let leaf = between.issue(Wanted { common_names: &["mail.example"], ..Wanted::default() });
    put(&folder, "a", &leaf);
    let write = |parts: [&str; 3]| fs::write(folder.path().join("a.pem"), parts.concat()).expect("a scratch folder");
    let tls = tls(&folder, &[], Some("."));
    write([&leaf.certificate.pem(), &between.pem(), &root.pem()]);
    let (before, warnings) = Certificates::load(&tls, None).expect("well");
    assert_eq!(warnings, []);
    write([&leaf.certificate.pem(), &root.pem(), &between.pem()]);
    let (after, warnings) = Certificates::load(&tls, Some(&before)).expect("served");
    let (site, words) = only(&warnings);
    assert_eq!(site, "tls.directory");
    assert!(
        words.ends_with(
            "a.pem: certificate 2 (CN=root) does not belong there: certificate 1 was issued by certificate 3 (CN=between); \
             put the leaf first, and behind each the one that issued it"
        ),
        "{words}"
    );
    assert_eq!(pair(&after, "a").certified.cert.len(), 3);
}
