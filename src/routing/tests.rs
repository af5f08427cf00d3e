//! Rules and lookups together, as a login meets them.

use std::path::PathBuf;

use zeroize::Zeroizing;

use super::*;
use crate::config::{At, BackendTls, Glob, Lookup, LookupSource, Rewrite, RewritePiece, Site, When};
use crate::imap::{Credentials, Mechanism, Secret};

fn site() -> Site {
    Site { key: "lookup[0].path".to_owned(), span: 0..0 }
}

fn backend(name: &str, port: u16) -> config::Backend {
    config::Backend {
        name: name.to_owned(),
        host: "127.0.0.1".to_owned(),
        port,
        tls: BackendTls::None,
        proxy_protocol: None,
        forward_id: true,
        source: Vec::new(),
        max_links: 0,
        max_links_per_user: 0,
        weight: std::num::NonZeroU32::MIN,
        health: config::Health::unprobed(),
    }
}

fn rule(when: When, target: Target) -> config::Route {
    config::Route {
        when,
        target,
        rewrite: None,
        login: config::LoginAs::Passthrough,
        authenticate: None,
        pool: config::Pooling::Off,
    }
}

fn glob(pattern: &str) -> Glob {
    Glob(pattern.split('*').map(|piece| piece.as_bytes().into()).collect())
}

/// A router over two backends and, if there is one, a map.
fn router(routes: Vec<config::Route>, map: Option<&str>) -> Result<Router, Vec<Finding>> {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("users.map");
    std::fs::write(&path, map.unwrap_or_default()).expect("written");
    let source = |path: PathBuf| LookupSource::File { path: At { value: path, site: site() } };
    let mut config = Config::for_one_backend("127.0.0.1", 1);
    config.backends = vec![backend("blue", 1), backend("green", 2)];
    config.lookups = map
        .iter()
        .map(|_| Lookup {
            name: "users".to_owned(),
            source: source(path.clone()),
            timeout: Duration::from_secs(5),
            cache: None,
            allow: config::Allow::default(),
            authenticate: false,
            template: None,
        })
        .collect();
    config.routes = routes;
    let metrics = Metrics::new().expect("distinct names");
    let backends = config.backends.iter();
    let backends = backends.map(|config| Arc::new(Backend::new(config.clone(), None, metrics.backend(&config.name))));
    Router::new(&config, backends.collect(), &metrics, None)
}

fn login(user: &str, authzid: Option<&str>) -> Login {
    let name = |name: &str| UserName::new(name.as_bytes()).expect("a name");
    Login {
        mechanism: Mechanism::Plain,
        user: name(user),
        authzid: authzid.map(name),
        credentials: Credentials::Password(Secret::new(Zeroizing::new(Vec::new())).expect("clean")),
    }
}

fn origin() -> Origin {
    let address = |text: &str| text.parse().expect("an address");
    let mut origin = Origin::new(address("192.0.2.1:4000"), address("192.0.2.99:993"));
    origin.server_name = Some("Mail.Example.org".to_owned());
    origin
}

async fn route(router: &Router, login: &Login) -> Result<(String, String), NoRoute> {
    let origin = origin();
    let asker = Asker { login, listener: "imaps", origin: &origin, tls: None, attempt: 1 };
    let route = router.route(&asker).await?;
    Ok((route.backend.config.name.clone(), route.user.to_string()))
}

fn to(backend: &str, user: &str) -> (String, String) {
    (backend.to_owned(), user.to_owned())
}

#[tokio::test]
async fn the_first_rule_that_applies_wins() {
    let all = When {
        user: Some(glob("*")),
        domain: Some(glob("example.org")),
        listener: Some("imaps".to_owned()),
        server_name: Some(glob("mail.*")),
        client: vec!["192.0.2.0/24".parse().expect("a network")],
    };
    let others = [
        When { listener: Some("imap".to_owned()), ..all.clone() },
        When { client: vec!["10.0.0.0/8".parse().expect("a network")], ..all.clone() },
        When { server_name: Some(glob("other")), ..all.clone() },
    ];
    let mut rules: Vec<_> =
        others.into_iter().map(|when| rule(when, Target::Reject("wrong rule".to_owned()))).collect();
    rules.push(rule(all, Target::Backend(1)));
    rules.push(rule(When::default(), Target::Backend(0)));
    let router = router(rules, None).expect("sound");
    assert_eq!(route(&router, &login("Ann@Example.ORG", None)).await, Ok(to("green", "Ann@Example.ORG")));
    assert_eq!(route(&router, &login("ann@example.net", None)).await, Ok(to("blue", "ann@example.net")));
}

#[tokio::test]
async fn a_lookup_that_does_not_know_the_user_lets_the_next_rule_try() {
    let rules = vec![
        rule(When::default(), Target::Lookup(0)),
        rule(When { user: Some(glob("bob")), ..When::default() }, Target::Reject("Moved away.".to_owned())),
    ];
    let router = router(rules, Some("ann\tgreen user=ann.new\n")).expect("sound");
    assert_eq!(route(&router, &login("ann", None)).await, Ok(to("green", "ann.new")));
    assert_eq!(route(&router, &login("bob", None)).await, Err(NoRoute::Rejected("Moved away.".to_owned())));
    assert_eq!(route(&router, &login("cid", None)).await, Err(NoRoute::Unmatched));
}

#[tokio::test]
async fn names_are_rewritten() {
    let rewrite = Rewrite(vec![RewritePiece::Domain, RewritePiece::Text("!".to_owned()), RewritePiece::Local]);
    let rules = vec![config::Route { rewrite: Some(rewrite), ..rule(When::default(), Target::Backend(0)) }];
    let router = router(rules, None).expect("sound");
    assert_eq!(route(&router, &login("ann@example.org", None)).await, Ok(to("blue", "example.org!ann")));
}

#[tokio::test]
async fn a_rewrite_that_leaves_no_name_does_not_send_the_password_to_the_next_rule() {
    let rewrite = Some(Rewrite(vec![RewritePiece::Domain]));
    let rules = vec![
        config::Route { rewrite, ..rule(When::default(), Target::Backend(0)) },
        rule(When::default(), Target::Backend(1)),
    ];
    let router = router(rules, None).expect("sound");
    assert_eq!(route(&router, &login("ann@example.org", None)).await, Ok(to("blue", "example.org")));
    assert_eq!(route(&router, &login("ann", None)).await, Err(NoRoute::Unmatched));
}

#[tokio::test]
async fn what_a_map_says_of_one_user_counts_for_more_than_a_rewrite() {
    let rewrite = Some(Rewrite(vec![RewritePiece::Local]));
    let rules = vec![config::Route { rewrite, ..rule(When::default(), Target::Lookup(0)) }];
    let router =
        router(rules, Some("ann@a.example\tblue\n*\tgreen\nbob@a.example\tgreen user=robert\n")).expect("sound");
    assert_eq!(route(&router, &login("ann@a.example", None)).await, Ok(to("blue", "ann")));
    assert_eq!(route(&router, &login("bob@a.example", None)).await, Ok(to("green", "robert")));
}

#[tokio::test]
async fn who_has_no_domain_is_in_none() {
    let rules = vec![rule(When { domain: Some(glob("*")), ..When::default() }, Target::Backend(0))];
    let router = router(rules, None).expect("sound");
    assert_eq!(route(&router, &login("ann", None)).await, Err(NoRoute::Unmatched));
    assert_eq!(route(&router, &login("ann@x", None)).await, Ok(to("blue", "ann@x")));
}

#[tokio::test]
async fn who_acts_for_another_goes_where_the_other_is() {
    let rules = vec![rule(When::default(), Target::Lookup(0))];
    let router = router(rules, Some("ann\tgreen\nadmin\tblue\n")).expect("sound");
    assert_eq!(route(&router, &login("admin", Some("ann"))).await, Ok(to("green", "ann")));
}

#[test]
fn what_is_wrong_with_a_map_is_told_with_its_line() {
    let rules = vec![rule(When::default(), Target::Lookup(0))];
    let findings = router(rules, Some("ann\tred\nbob\n")).err().expect("mistakes");
    let shown: Vec<_> = findings.iter().map(|finding| finding.message.rsplit('/').next().unwrap_or_default()).collect();
    assert_eq!(shown, ["users.map:1: no such backend: \"red\"", "users.map:2: expected user, TAB, backend"]);
}

#[test]
fn a_master_password_that_cannot_be_read_is_a_finding() {
    let password_file = At { value: PathBuf::from("/nonexistent/master"), site: site() };
    let login = config::LoginAs::Master { user: "master".to_owned(), password_file, form: config::MasterForm::Authzid };
    let rules = vec![config::Route { login, ..rule(When::default(), Target::Backend(0)) }];
    let findings = router(rules, None).err().expect("a mistake");
    assert!(findings[0].message.contains("/nonexistent/master"), "{findings:?}");
}

#[test]
fn referrals_lead_to_configured_backends_only() {
    let router = router(vec![rule(When::default(), Target::Backend(0))], None).expect("sound");
    assert_eq!(router.backend_at("127.0.0.1", 2).map(|backend| backend.config.name.as_str()), Some("green"));
    assert!(router.backend_at("127.0.0.1", 3).is_none() && router.backend_at("192.0.2.1", 2).is_none());
}

#[test]
fn a_host_is_the_same_however_it_is_written() {
    for (one, other) in [
        ("IMAP.example.org", "imap.example.org."),
        ("2001:db8::1", "[2001:DB8:0::1]"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
    ] {
        assert!(is_same_host(one, other), "{one} and {other}");
    }
    for (one, other) in [("imap.example.org", "imap.example.org.evil"), ("192.0.2.1", "192.0.2.10"), ("", "192.0.2.1")]
    {
        assert!(!is_same_host(one, other), "{one} and {other}");
    }
}
