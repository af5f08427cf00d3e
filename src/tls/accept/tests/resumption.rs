//! Which sessions are taken up again, by whom, and by what a reload makes.

use rustls::NamedGroup;
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption};
use rustls::client::{Tls12ClientSessionValue, Tls13ClientSessionValue};

use super::*;

/// A client's memory that offers what it was given under one name to every other.
#[derive(Debug)]
struct Mixer(ClientSessionMemoryCache);

impl Mixer {
    const NAME: &str = "one.name";

    fn name() -> ServerName<'static> {
        ServerName::try_from(Self::NAME).expect("a name")
    }
}

impl ClientSessionStore for Mixer {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(Self::name(), group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&Self::name())
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(Self::name(), value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&Self::name())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&Self::name());
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(Self::name(), value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&Self::name())
    }
}

/// A client with such a memory.
fn mixing(versions: &[&'static SupportedProtocolVersion], own: Option<&Issued>) -> Arc<ClientConfig> {
    let mut config = client(versions, own);
    config.resumption = Resumption::store(Arc::new(Mixer(ClientSessionMemoryCache::new(32))));
    Arc::new(config)
}

#[tokio::test]
async fn sessions_are_resumed_by_every_later_connection() {
    let acceptor = World::new().acceptor();
    for versions in [V12, V13] {
        let config = Arc::new(client(versions, None));
        assert!(!agree(&acceptor, Arc::clone(&config), "mail.example.org").await.0.resumed);
        for _ in 0..4 {
            let (handshake, _) = agree(&acceptor, Arc::clone(&config), "mail.example.org").await;
            assert!(handshake.resumed);
            assert_eq!(handshake.server_name.as_deref(), Some("mail.example.org"));
        }
    }
}

#[tokio::test]
async fn a_session_is_not_resumed_under_another_name_or_another_configuration() {
    let world = World::new();
    let (acceptor, other) = (world.acceptor(), world.acceptor());
    for versions in [V12, V13] {
        let config = mixing(versions, None);
        agree(&acceptor, Arc::clone(&config), "a.example").await;
        assert!(!agree(&acceptor, Arc::clone(&config), "b.example").await.0.resumed, "bound to the name");
        assert!(agree(&acceptor, Arc::clone(&config), "b.example").await.0.resumed, "the client does offer it");
        assert!(!agree(&other, Arc::clone(&config), "b.example").await.0.resumed, "bound to the configuration");
    }
}

/// What a reload makes of the files and settings as they are now.
fn reloaded(world: &World, before: &Acceptor) -> Acceptor {
    let (certificates, _) = Certificates::load(&world.tls, None).expect("good certificates");
    Acceptor::new(Arc::new(certificates), &world.tls, Some(before)).expect("a good configuration")
}

#[tokio::test]
async fn sessions_are_resumed_across_a_reload_of_certificates() {
    let mut world = World::new();
    world.tls.client_auth = ClientAuth::Optional { ca: world.client_ca() };
    let first = world.acceptor();
    let ann = emailed(&world, "ann@example.org");
    for versions in [V12, V13] {
        let config = Arc::new(client(versions, Some(&ann)));
        agree(&first, Arc::clone(&config), "mail.example.org").await;
        let files = &world.tls.certificates[0];
        let new = world.ca.server(&["mail.example.org"]);
        new.write(&files.chain.value, &files.key.value);
        let second = reloaded(&world, &first);
        let third = reloaded(&world, &second);
        for acceptor in [&second, &third, &first] {
            let (handshake, _) = agree(acceptor, Arc::clone(&config), "mail.example.org").await;
            assert!(handshake.resumed);
            assert_eq!(user(&handshake).as_deref(), Some("ann@example.org"));
        }
        let (handshake, shown) = agree(&third, client(versions, None), "mail.example.org").await;
        assert_eq!((handshake.resumed, shown), (false, new.der()), "who is new meets the new certificate");
    }
}

#[tokio::test]
async fn sessions_are_not_resumed_across_a_change_of_who_is_let_in() {
    type Change = fn(&mut World);
    let changes: [(&str, Change); 5] = [
        ("the authorities' file", |world| {
            let ca = world.client_ca();
            std::fs::write(ca.value, Authority::new().pem()).expect("a scratch folder");
        }),
        ("no certificates", |world| world.tls.client_auth = ClientAuth::Off),
        ("must have one", |world| world.tls.client_auth = ClientAuth::Required { ca: world.client_ca() }),
        ("another field", |world| world.tls.client_name = CertificateName::CommonName),
        ("the version", |world| world.tls.min_version = TlsVersion::V13),
    ];
    for (what, change) in changes {
        let mut world = World::new();
        world.tls.client_auth = ClientAuth::Optional { ca: world.client_ca() };
        let before = world.acceptor();
        change(&mut world);
        let after = reloaded(&world, &before);
        let ann = emailed(&world, "ann@example.org");
        // TLS 1.2 is refused by one of them, and the client has a session of 1.3 to offer.
        let own = (what != "the authorities' file").then_some(&ann);
        let config = Arc::new(client(V13, own));
        agree(&before, Arc::clone(&config), "mail.example.org").await;
        let (handshake, _) = agree(&before, Arc::clone(&config), "mail.example.org").await;
        assert!(handshake.resumed, "{what}: the client does offer it");
        let (handshake, _) = agree(&after, config, "mail.example.org").await;
        assert!(!handshake.resumed, "{what}");
    }
}

#[tokio::test]
async fn a_resumed_session_is_still_whose_it_was() {
    let mut world = World::new();
    world.tls.client_auth = ClientAuth::Optional { ca: world.client_ca() };
    let acceptor = world.acceptor();
    let (ann, bob) = (emailed(&world, "ann@example.org"), emailed(&world, "bob@example.org"));
    for versions in [V12, V13] {
        let clients = [
            (Arc::new(client(versions, Some(&ann))), Some("ann@example.org")),
            (Arc::new(client(versions, Some(&bob))), Some("bob@example.org")),
            (Arc::new(client(versions, None)), None),
        ];
        for round in 0..3 {
            for (config, name) in &clients {
                let (handshake, _) = agree(&acceptor, Arc::clone(config), "mail.example.org").await;
                assert_eq!(user(&handshake).as_deref(), *name);
                assert_eq!(handshake.resumed, round > 0);
            }
        }
    }
}

#[tokio::test]
async fn a_session_begun_without_certificates_does_not_get_past_a_demand_for_one() {
    let mut world = World::new();
    let open = world.acceptor();
    world.tls.client_auth = ClientAuth::Required { ca: world.client_ca() };
    let strict = world.acceptor();
    for versions in [V12, V13] {
        let config = Arc::new(client(versions, None));
        agree(&open, Arc::clone(&config), "mail.example.org").await;
        let (near, far) = meet(&strict, Arc::clone(&config), "mail.example.org").await;
        assert!(near.is_err() && far.is_err());
    }
}
