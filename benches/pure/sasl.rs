//! SASL messages, from base64 to the attempt: of each mechanism an ordinary one, and the longest that the framer lets in,
//! right and wrong at its very end.

use criterion::Criterion;
use mailmux::imap::framer::SASL_MAX;
use mailmux::imap::sasl::{Exchange, Turn, base64, decode_base64};
use mailmux::imap::{Mechanism, UserName};

use crate::time_bytes;

/// What the longest message has in base64.
const LONGEST: usize = SASL_MAX / 4 * 3;

pub(super) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sasl");
    for (name, mechanism, message, is_good) in messages() {
        let text = base64(&message);
        time_bytes(&mut group, &format!("{} {name}", mechanism.as_str()), &text, |text| {
            assert_eq!(hear(mechanism, text), is_good);
        });
    }
    let mut text = base64(&vec![b'x'; LONGEST]).to_vec();
    time_bytes(&mut group, "base64 the longest", &text, |text| assert!(decode_base64(text).is_some()));
    text.pop();
    time_bytes(&mut group, "base64 wrong at its end", &text, |text| assert!(decode_base64(text).is_none()));
}

/// Name, mechanism, message, and whether that is one.
fn messages() -> Vec<(&'static str, Mechanism, Vec<u8>, bool)> {
    use Mechanism::{External, Login, OAuthBearer, Plain, ScramSha256, XOAuth2};
    let token = "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg".repeat(10);
    // Beginning, end, and as much of a filling as fits between them.
    let long = |begin: &str, filling: &str, end: &str| {
        let times = (LONGEST - begin.len() - end.len()) / filling.len();
        [begin, &filling.repeat(times), end].concat().into_bytes()
    };
    vec![
        ("ordinary", Plain, b"\0ann@example.org\0a usual password".to_vec(), true),
        ("the longest password", Plain, long("\0ann\0", "p", ""), true),
        ("the longest names", Plain, long("", "n", "\0ann\0pw"), true),
        ("wrong at its end", Plain, long("\0ann\0", "p", "\n"), false),
        ("ordinary", Login, b"ann@example.org".to_vec(), true),
        ("the longest", Login, long("", "n", ""), true),
        ("ordinary", XOAuth2, format!("user=ann@example.org\x01auth=Bearer {token}\x01\x01").into_bytes(), true),
        ("the longest token", XOAuth2, long("user=ann\x01auth=Bearer ", "t", "\x01\x01"), true),
        ("wrong at its end", XOAuth2, long("user=ann\x01auth=Bearer ", "t", " \x01\x01"), false),
        (
            "ordinary",
            OAuthBearer,
            format!("n,a=ann@example.org,\x01host=mail.example.org\x01port=993\x01auth=Bearer {token}\x01\x01")
                .into_bytes(),
            true,
        ),
        ("the most fields", OAuthBearer, long("n,a=ann,\x01", "a=\x01", "auth=Bearer t\x01\x01"), true),
        ("a name of commas", OAuthBearer, long("n,a=", "=2C", ",\x01auth=Bearer t\x01\x01"), true),
        (
            "wrong at its end",
            OAuthBearer,
            long("n,a=ann,\x01", "a=\x01", "auth=Bearer t\x01auth=Bearer t\x01\x01"),
            false,
        ),
        ("ordinary", ScramSha256, b"n,,n=ann@example.org,r=rOprNGfwEbeRWgbNEkqOabcd".to_vec(), true),
        ("a name of commas", ScramSha256, long("n,,n=", "=2C", ",r=x"), true),
        ("the most extensions", ScramSha256, long("n,,n=ann,r=x", ",a=b", ""), true),
        ("wrong at its end", ScramSha256, long("n,,n=ann,r=x", ",a=b", ",m=b"), false),
        ("ordinary", External, Vec::new(), true),
        ("of another", External, long("", "n", ""), false),
    ]
}

/// Whether it comes to an attempt. Both messages of LOGIN are the same one.
fn hear(mechanism: Mechanism, text: &[u8]) -> bool {
    let identity = UserName::new(&b"ann@example.org"[..]).expect("a name");
    let mut exchange = Exchange::new(mechanism);
    loop {
        let message = decode_base64(text).expect("base64");
        match exchange.hear(message, Some(&identity)) {
            Ok(Turn::Ask) => {}
            Ok(Turn::Done(_)) => return true,
            Err(_) => return false,
        }
    }
}
