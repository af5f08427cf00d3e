use proptest::prelude::*;
use std::sync::mpsc;
use tokio::sync::oneshot;

use super::*;

/// Each by another program than ours: `doveadm pw`, `openssl passwd`, libcrypt, Python's hashlib, argon2's reference.
const HASHES: [(&str, &str); 22] = [
    // doveadm pw
    ("correct horse", "{BLF-CRYPT}$2y$05$ziOQ8q01aKoJ5/f/uDCHj.TGbN2TcdK.oxzxAuncGo0yU2adqFHo2"),
    (
        "correct horse",
        "{SHA512-CRYPT}$6$Kr5y9GYK7rP3qWMY$r6tJ/4ghOzSG5fdTwmw/1WlvdRY4uaYmo/vmqdIlZTw6UqR9gXYYR0zwz6zCuOZHsY4ZAr0MA4KsP46/KXs8M.",
    ),
    ("correct horse", "{SHA256-CRYPT}$5$vvloT/6hic1Jt98A$4QZEj5dui7Ewo9Hm9mUt8Ovhv6DVDCinE5RZhC2yDAC"),
    ("correct horse", "{SHA256-CRYPT}$5$rounds=1000$0zlk96U4XWxeA.JX$grV/mCB7fYBk/J04o9x645Og/.rWku1.Np7u8d5dqe0"),
    ("correct horse", "{CRYPT}$2y$05$n/wm0bev.FpLaWErifOAF.NhgVH5tp8SwnoI9e7UozoAuCWEDnA/a"),
    ("correct horse", "{crypt}$2y$05$n/wm0bev.FpLaWErifOAF.NhgVH5tp8SwnoI9e7UozoAuCWEDnA/a"),
    // openssl passwd
    (
        "correct horse",
        "$6$abcdefgh$yIZAF3gQPvtKZO/9qOJKffAKKbtS3ef3qmwyugk4uWVjX8YZf/GV3A8SkFxEPY0T56CcilGrHKLffBsp6dLMG.",
    ),
    ("correct horse", "$5$abcdefgh$ruMep1ijHnJPZbETDNiumskxcX3kN4lzZd5VlsqE7eB"),
    // libcrypt
    ("correct horse", "$2b$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2"),
    ("correct horse", "$2a$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2"),
    (
        "correct horse",
        "$6$rounds=1234$saltstring$jCcf.TW0mJZwKsX/lGyOmNrP5mmUtjuip2DA5RkZ4RgrifFxxsOVyCsXxALyx1XjfjIDq70Oiuaz93.cqMjIE1",
    ),
    ("correct horse", "$5$saltstring$vc6YOOogU4kWVvwga8e9zTFgKcy4tb5LaPxIiPJzqEC"),
    (
        "pässwörd",
        "$6$saltstring$6PSVl254uv0cWCoUS0qzSX5NenRA/YFCwPzGA9ONu.MmmxqXTWHerEzD8WyuBl3ukfIZZU9uxLD6Bn6p7S3rG.",
    ),
    // The specification of SHA-crypt: longer salts are cut, by those who make hashes too.
    (
        "Hello world!",
        "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
    ),
    ("Hello world!", "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"),
    (
        "a very much longer text to encrypt.  This one even stretches over morethan one line.",
        "$5$rounds=1400$anotherlongsalts$Rx.j8H.h8HjEDGomFU8bDkXm3XIUnzyxf12oP84Bnq1",
    ),
    // Python's hashlib
    ("correct horse", "$scrypt$ln=10,r=8,p=1$c2l4dGVlbiBieXRlcy4uLg$ZsnsjI93uJX9vBzqFaZjHNs0ElBI+WRjfkrq8Hpeam0"),
    // argon2; the last without the mark of its version, as the first ones were written
    ("correct horse", "{ARGON2ID}$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$ZUDqUgMuBMaaeInW9f9JPW7gJRYc7LolDNmfiyqbGOo"),
    ("correct horse", "$argon2i$v=19$m=256,t=2,p=2$c29tZXNhbHQ$T2ZqJ4JlcjBv7gQWU3jKc9IYEPQnSX6NqC2paPpR/hg"),
    ("correct horse", "$argon2d$v=19$m=256,t=2,p=2$c29tZXNhbHQ$wVS28Im7pl9dXVeEC1chIRE6lYbHAznckN97SvYZmug"),
    ("correct horse", "$argon2i$v=16$m=256,t=2,p=2$c29tZXNhbHQ$5HX88ONulMSK8wnkv1lO7Hlgi8MWAZlzJsF3lGJpNos"),
    ("correct horse", "$argon2i$m=256,t=2,p=2$c29tZXNhbHQ$5HX88ONulMSK8wnkv1lO7Hlgi8MWAZlzJsF3lGJpNos"),
];

fn secret(bytes: &[u8]) -> Secret {
    Secret::new(Zeroizing::new(bytes.to_vec())).expect("clean")
}

async fn why(hash: &str) -> String {
    verify(&secret(b"correct horse"), hash.as_bytes()).await.expect_err("cannot be told")
}

#[tokio::test]
async fn what_other_programs_hashed_is_known_again() {
    for (password, hash) in HASHES {
        assert_eq!(verify(&secret(password.as_bytes()), hash.as_bytes()).await, Ok(true), "{hash}");
        let wrong = format!("{password} ");
        assert_eq!(verify(&secret(wrong.as_bytes()), hash.as_bytes()).await, Ok(false), "{hash}");
    }
}

#[tokio::test]
async fn an_empty_password_is_no_password() {
    for (_, hash) in HASHES {
        assert_eq!(verify(&secret(b""), hash.as_bytes()).await, Ok(false), "{hash}");
    }
}

#[tokio::test]
async fn bcrypt_sees_72_bytes_and_no_password_is_longer_than_512() {
    let hash = b"$2b$05$abcdefghijklmnopqrstuuGUnCqbfgs3htOkLrFduUjAyLBw1Rq/u"; // of 100 "a", by libcrypt
    for (length, expected) in [(71, false), (72, true), (73, true), (100, true), (512, true), (513, false)] {
        assert_eq!(verify(&secret(&vec![b'a'; length]), hash).await, Ok(expected), "{length}");
    }
}

#[tokio::test]
async fn other_schemes_are_named_and_nothing_else_is() {
    assert!(why("{SSHA512}c2VjcmV0").await.starts_with("no password scheme that is known: {SSHA512};"));
    assert!(why("{plain}hunter2").await.starts_with("no password scheme that is known: {PLAIN};"));
    assert!(why("{CRYPT}$1$salt$hunter2").await.starts_with("no password scheme that is known: $1$;"));
    for hash in
        ["", "hunter2", "{hunter2}", "$hunter2$", "{CRYPT}hunter2", "{hunter2", "$", "{", "{ARGON2ID}", "\u{e4}"]
    {
        assert!(why(hash).await.starts_with("no password scheme that is known; expected"), "{hash}");
    }
    assert!(verify(&secret(b"x"), b"\xff\xfe").await.is_err());
}

#[tokio::test]
async fn broken_hashes_are_no_wrong_passwords_and_do_not_appear() {
    let salt = "c29tZXNhbHQ";
    for hash in [
        "$argon2id$v=19$m=256,t=2,p=1$hunter2".to_owned(),
        format!("$argon2id$v=19$m=256,t=2,p=1${salt}"),
        format!("$argon2id$v=18$m=256,t=2,p=1${salt}$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc"),
        format!("$argon2id$v=19$m=0,t=2,p=1${salt}$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc"),
        format!("$argon2id$v=19$m=256,t=2,p=16777215${salt}$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc"),
        format!("$scrypt$ln=0,r=8,p=1${salt}$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc"),
        format!("$scrypt$ln=4,r=0,p=1${salt}$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc"),
        format!("$scrypt$v=1$ln=4,r=8,p=1${salt}$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc"),
        "$2b$05$hunter2".to_owned(),
        "$2b$05$".to_owned(),
        "$6$hunter2".to_owned(),
        "$6$salt$hunter2".to_owned(),
        "$6$rounds=10$salt$hunter2".to_owned(),
        "$6$rounds=+5000$salt$hunter2".to_owned(),
        "$6$rounds=5000".to_owned(),
        format!("$5$salt${}", "hunter2".repeat(13).split_at(86).0),
        format!("$6$salt${}$", "hunter2".repeat(13).split_at(86).0),
    ] {
        let why = why(&hash).await;
        assert!(why.ends_with("is broken") && !why.contains("hunter2"), "{hash}: {why}");
    }
}

#[tokio::test]
async fn no_hash_may_ask_for_everything() {
    let end = "$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc";
    let sha = "a".repeat(86);
    for hash in [
        format!("$argon2id$v=19$m=4194304,t=1,p=1{end}"),
        format!("$argon2id$v=19$m=262145,t=1,p=1{end}"),
        format!("$argon2id$v=19$m=262144,t=5,p=1{end}"),
        format!("$argon2id$v=19$m=8,t=4294967295,p=1{end}"),
        format!("$scrypt$ln=19,r=8,p=1{end}"),
        format!("$scrypt$ln=63,r=8,p=1{end}"),
        format!("$scrypt$ln=10,r=65536,p=65536{end}"),
        format!("$scrypt$ln=4,r=8,p=1,r=65536,p=65536{end}"),
        format!("$scrypt$ln=10,r=8,p=4096{end}"),
        "$2b$17$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2".to_owned(),
        "$2b$31$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2".to_owned(),
        format!("$6$rounds=999999999$salt${sha}"),
        format!("$6$rounds=1000001$salt${sha}"),
    ] {
        assert!(why(&hash).await.ends_with("asks for more time or memory than is allowed"), "{hash}");
    }
}

#[tokio::test]
async fn work_waits_for_a_place_and_keeps_it_when_nobody_waits_for_it() {
    static ONE: Semaphore = Semaphore::const_new(1);
    let (began, has_begun) = oneshot::channel();
    let (go, may_end) = mpsc::channel::<()>();
    let first = tokio::spawn(in_turn(&ONE, move || {
        began.send(()).expect("awaited");
        may_end.recv().expect("told to go");
    }));
    has_begun.await.expect("begins");
    first.abort();
    assert!(first.await.expect_err("aborted").is_cancelled());
    assert_eq!(ONE.available_permits(), 0, "the thread still works");
    let second = in_turn(&ONE, || 2);
    tokio::pin!(second);
    assert!(futures_are_pending(second.as_mut()).await);
    go.send(()).expect("heard");
    assert_eq!(second.await, Ok(2));
    assert!(in_turn(&ONE, || panic!("by design")).await.is_err());
    assert_eq!(ONE.available_permits(), 1);
}

async fn futures_are_pending(future: std::pin::Pin<&mut impl Future>) -> bool {
    let mut future = future;
    std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context).is_pending())).await
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// What is affordable is tried, so the parameters of these are small or absurd.
    #[test]
    fn nothing_panics(
        prefix in prop_oneof!["(\\{(ARGON2ID|CRYPT|BLF-CRYPT)\\})?", "[{}A-Z0-9-]{0,8}"],
        id in prop_oneof!["\\$(argon2id|argon2i|argon2d|scrypt|2[abxy]|[156])", "\\$[a-z0-9]{0,3}"],
        parameters in prop_oneof![
            Just("$v=19$m=8,t=1,p=1".to_owned()),
            "\\$(v=[0-9]{1,3}\\$)?[mtp]=[0-9]{1,2}(,[mtp]=[0-9]{1,2}){0,3}",
            "\\$(ln|r|p)=([0-9]|[0-9]{9,20})(,(ln|r|p)=([0-9]|[0-9]{9,20})){0,4}",
            "\\$rounds=(1[0-9]{3}|[0-9]{0,3}|[0-9]{9,12})",
            "\\$0[0-9]",
            Just(String::new()),
        ],
        rest in prop_oneof![
            "\\$[a-zA-Z0-9./+]{0,24}\\$[a-zA-Z0-9./+]{0,60}",
            "\\$[a-zA-Z0-9./]{53}",
            "\\$[a-z]{0,20}\\$[a-zA-Z0-9./]{43}",
            "\\$[a-z]{0,20}\\$[a-zA-Z0-9./]{86}",
            "\\PC{0,60}",
        ],
        cut in 0_usize..200,
    ) {
        let text = format!("{prefix}{id}{parameters}{rest}");
        let bytes = &text.as_bytes()[..cut.min(text.len())];
        if let Ok(hash) = Hash::read(bytes) {
            prop_assert_ne!(hash.is_of(b"password"), Ok(true));
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        prop_assert!(Hash::read(&bytes).is_err());
    }
}
