//! The dialogue with a backend, step by step, over in-memory streams: backends as they should be, and the zoo. Each runs
//! with a wide pipe and with one that carries a single byte at a time.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::wire::Aside;
use super::{Caller, Greeted, Link, LinkError, LoggedIn, Progress, Used, connect};
use crate::backend::{Backend, LoginAs, Place, Prescribed, Proof, Route};
use crate::config::{self, BackendTls, MasterForm};
use crate::imap::{Credentials, Login, Mechanism, Reset, Secret, UserName, Welcome};
use crate::metrics::{BackendError, Metrics};
use crate::outcome::Refusal;
use crate::tls::Connector;

mod lending;

pub(super) fn backend(host: &str, port: u16, tls: BackendTls) -> Arc<Backend> {
    let config = config::Backend {
        name: "blue".to_owned(),
        host: host.to_owned(),
        port,
        tls,
        proxy_protocol: None,
        forward_id: true,
        source: Vec::new(),
        max_links: 0,
        max_links_per_user: 0,
        weight: std::num::NonZeroU32::MIN,
        health: config::Health::unprobed(),
    };
    let connector = Connector::for_backend(&config.tls).expect("right");
    Arc::new(Backend::new(config, connector, Metrics::new().expect("fresh").backend("blue")))
}

pub(super) fn caller() -> Caller<'static> {
    Caller {
        session: "abc",
        client: "192.0.2.7:4711".parse().expect("an address"),
        local: "198.51.100.1:993".parse().expect("an address"),
        secure: true,
        server_name: Some("mail.example.org"),
        ttl: 6,
        id: &[],
    }
}

fn user(name: &str) -> UserName {
    UserName::new(name.as_bytes()).expect("clean")
}

fn secret(bytes: &[u8]) -> Secret {
    Secret::new(Zeroizing::new(bytes.to_vec())).expect("clean")
}

pub(super) fn route() -> Route {
    Route::new(backend("localhost", 143, BackendTls::None), user("ann"), LoginAs::Client)
}

fn login(mechanism: Mechanism, credentials: Credentials) -> Login {
    Login { mechanism, user: user("ann"), authzid: None, credentials }
}

pub(super) fn password(bytes: &[u8]) -> Login {
    login(Mechanism::Plain, Credentials::Password(secret(bytes)))
}

/// One thing a scripted backend does.
#[derive(Debug, Clone, Copy)]
enum Act<'a> {
    /// Waits for exactly this line. A line that begins with `T ` carries a tag, whatever it is.
    Hear(&'a [u8]),
    /// Says this; `%T` is the last tag heard.
    Say(&'a [u8]),
    /// Hangs up.
    Close,
}

use Act::{Close, Hear, Say};

/// Plays the script and gives back the stream, still open.
async fn play(mut stream: DuplexStream, script: &[Act<'_>]) -> Option<DuplexStream> {
    let mut tag = Vec::new();
    for act in script {
        match act {
            Hear(expected) => {
                let mut line = Vec::new();
                while !line.ends_with(b"\r\n") {
                    // Whoever gives up on a hostile backend hears no more of its script.
                    let Ok(byte) = stream.read_u8().await else { return None };
                    line.push(byte);
                }
                line.truncate(line.len() - 2);
                if expected.starts_with(b"T ") {
                    let at = line.iter().position(|byte| *byte == b' ').expect("a tag");
                    assert_ne!(tag, &line[..at], "every command has its own tag");
                    tag = line[..at].to_vec();
                    line.splice(..at, *b"T");
                }
                assert_eq!(line.escape_ascii().to_string(), expected.escape_ascii().to_string());
            }
            Say(text) => {
                let text = String::from_utf8_lossy(text).replace("%T", &String::from_utf8_lossy(&tag));
                if stream.write_all(text.as_bytes()).await.is_err() {
                    return None;
                }
            }
            Close => return None,
        }
    }
    Some(stream)
}

/// Greeting, capabilities and ID, with a caller that has nothing to say.
async fn greet(stream: DuplexStream) -> Result<Link<Greeted, DuplexStream>, LinkError> {
    let mut aside = Aside::default();
    let (wire, capabilities) = connect::greeted(stream, &mut aside).await?;
    Ok(Link { wire, capabilities, aside, place: Place::default(), told: None, state: Greeted(()) })
}

type Outcome = Result<Progress<DuplexStream>, LinkError>;

/// Greets and logs in against the script, with a pipe of that width.
async fn log_in(width: usize, script: &[Act<'_>], route: &Route, login: &Login) -> (Outcome, Option<DuplexStream>) {
    let (near, far) = duplex(width);
    let ours = async { greet(near).await?.log_in(route, login).await };
    let both = async { tokio::join!(ours, play(far, script)) };
    timeout(Duration::from_mins(1), both).await.expect("neither side waits for ever")
}

/// The same over both pipes; what came out must not depend on them.
async fn logged_in(script: &[Act<'_>], route: &Route, login: &Login) -> (Link<LoggedIn, DuplexStream>, Welcome) {
    let mut welcomes = Vec::new();
    let mut link = None;
    for width in [1, 64 * 1024] {
        match log_in(width, script, route, login).await.0 {
            Ok(Progress::Done(done, welcome)) => {
                welcomes.push(welcome);
                link = Some(done);
            }
            other => panic!("not let in: {other:?}"),
        }
    }
    let (Some(narrow), Some(wide), Some(link)) = (welcomes.pop(), welcomes.pop(), link) else { panic!("two logins") };
    assert_eq!(
        (&narrow.untagged, &narrow.text, &narrow.capabilities),
        (&wide.untagged, &wide.text, &wide.capabilities)
    );
    (link, narrow)
}

async fn refused(script: &[Act<'_>], route: &Route, login: &Login) -> LinkError {
    let mut errors = Vec::new();
    for width in [1, 64 * 1024] {
        errors.push(log_in(width, script, route, login).await.0.expect_err("not let in"));
    }
    assert_eq!(errors[0], errors[1]);
    errors.swap_remove(0)
}

const PLAIN_IR: Act<'static> = Say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN AUTH=LOGIN] hello\r\n");
const HEAR_PLAIN: Act<'static> = Hear(b"T AUTHENTICATE PLAIN AGFubgBodW50ZXIy");
const LET_IN: Act<'static> = Say(b"%T OK [CAPABILITY IMAP4rev1 IDLE] welcome\r\n");

#[tokio::test(start_paused = true)]
async fn plain_goes_out_with_the_command_where_that_is_offered() {
    let (link, welcome) = logged_in(&[PLAIN_IR, HEAR_PLAIN, LET_IN], &route(), &password(b"hunter2")).await;
    assert_eq!(welcome.text, b"[CAPABILITY IMAP4rev1 IDLE] welcome");
    assert!(welcome.ok_had_capabilities && welcome.capabilities.has("IDLE") && !welcome.capabilities.has("SASL-IR"));
    assert_eq!(link.user(), &user("ann"));
}

#[tokio::test(start_paused = true)]
async fn plain_waits_for_the_prompt_where_it_must() {
    let script = [
        Say(b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hello\r\n"),
        Hear(b"T AUTHENTICATE PLAIN"),
        Say(b"+\r\n"),
        Hear(b"AGFubgBodW50ZXIy"),
        LET_IN,
    ];
    logged_in(&script, &route(), &password(b"hunter2")).await;
    // A line that is too long for a command waits too, whatever is offered.
    let long = password(&[b'x'; 5000]);
    let (near, far) = duplex(64 * 1024);
    let ours = async { greet(near).await?.log_in(&route(), &long).await };
    let (_, theirs) = tokio::join!(ours, play(far, &[PLAIN_IR, Hear(b"T AUTHENTICATE PLAIN"), Close]));
    assert!(theirs.is_none());
}

#[tokio::test(start_paused = true)]
async fn authenticate_login_does_not_look_at_the_words_of_the_prompts() {
    let script = [
        Say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=LOGIN LOGINDISABLED] hello\r\n"),
        Hear(b"T AUTHENTICATE LOGIN"),
        Say(b"+ VXNlcm5hbWU6\r\n"),
        Hear(b"YW5u"),
        Say(b"+ Password please\r\n"),
        Hear(b"aHVudGVyMg=="),
        LET_IN,
    ];
    logged_in(&script, &route(), &password(b"hunter2")).await;
}

#[tokio::test(start_paused = true)]
async fn the_login_command_quotes_or_sends_literals_as_the_bytes_need() {
    let clear = |hear: &'static [u8]| [Say(b"* OK [CAPABILITY IMAP4rev1] hello\r\n"), Hear(hear), LET_IN];
    logged_in(&clear(b"T LOGIN \"ann\" \"hunt er\\\"\\\\2\""), &route(), &password(b"hunt er\"\\2")).await;
    logged_in(&clear(b"T LOGIN \"ann\" \"\""), &route(), &password(b"")).await;

    let synchronising = [
        Say(b"* OK [CAPABILITY IMAP4rev1] hello\r\n"),
        Hear(b"T LOGIN \"ann\" {2}"),
        Say(b"+ go on\r\n"),
        Hear(b"\xc3\xa9"),
        LET_IN,
    ];
    logged_in(&synchronising, &route(), &password(b"\xc3\xa9")).await;
    for announced in
        [&b"* OK [CAPABILITY IMAP4rev1 LITERAL+] hello\r\n"[..], b"* OK [CAPABILITY IMAP4rev1 LITERAL-] x\r\n"]
    {
        let script = [Say(announced), Hear(b"T LOGIN \"ann\" {2+}"), Hear(b"\xc3\xa9"), LET_IN];
        logged_in(&script, &route(), &password(b"\xc3\xa9")).await;
    }
    // LITERAL- allows 4096 bytes unasked, no more.
    let long = vec![b'x'; 4097];
    let script = [
        Say(b"* OK [CAPABILITY IMAP4rev1 LITERAL-] hello\r\n"),
        Hear(b"T LOGIN \"ann\" {4097}"),
        Say(b"+ \r\n"),
        Hear(&long),
        LET_IN,
    ];
    logged_in(&script, &route(), &password(&long)).await;

    let both = Route { user: user("\u{e4}nn"), ..route() };
    let script = [
        Say(b"* OK [CAPABILITY IMAP4rev1] hello\r\n"),
        Hear(b"T LOGIN {4}"),
        Say(b"+ \r\n"),
        Hear("\u{e4}nn {1}".as_bytes()),
        Say(b"+ \r\n"),
        Hear(b"\t"),
        LET_IN,
    ];
    logged_in(&script, &both, &password(b"\t")).await;
}

#[tokio::test(start_paused = true)]
async fn no_password_goes_where_logins_are_disabled() {
    let script = [Say(b"* OK [CAPABILITY IMAP4rev1 LOGINDISABLED] x\r\n"), Hear(b"")];
    assert_eq!(refused(&script, &route(), &password(b"x")).await.refusal, Refusal::BackendMisconfigured);
}

#[tokio::test(start_paused = true)]
async fn acting_as_somebody_else_is_kept_or_refused() {
    let bob = || Login { authzid: Some(user("bob")), ..password(b"hunter2") };
    let to_bob = Route { user: user("bob"), ..route() };
    let kept = [PLAIN_IR, Hear(b"T AUTHENTICATE PLAIN Ym9iAGFubgBodW50ZXIy"), LET_IN];
    logged_in(&kept, &to_bob, &bob()).await;
    // Ann acts as ann, and is called anna there: both names are hers.
    let herself = Login { authzid: Some(user("ann")), ..password(b"hunter2") };
    let renamed = Route { user: user("anna"), ..route() };
    let both = [PLAIN_IR, Hear(b"T AUTHENTICATE PLAIN YW5uYQBhbm5hAGh1bnRlcjI="), LET_IN];
    logged_in(&both, &renamed, &herself).await;
    for offered in [&b"* OK [CAPABILITY IMAP4rev1 AUTH=LOGIN] x\r\n"[..], b"* OK [CAPABILITY IMAP4rev1] x\r\n"] {
        assert_eq!(refused(&[Say(offered), Hear(b"")], &route(), &bob()).await.refusal, Refusal::Unsupported);
    }
    let token = Login { authzid: Some(user("bob")), ..login(Mechanism::XOAuth2, Credentials::Token(secret(b"t"))) };
    let script = [Say(b"* OK [CAPABILITY IMAP4rev1 AUTH=XOAUTH2 AUTH=PLAIN] x\r\n"), Hear(b"")];
    assert_eq!(refused(&script, &route(), &token).await.refusal, Refusal::Unsupported);
}

#[tokio::test(start_paused = true)]
async fn a_master_user_acts_for_the_user_in_one_of_two_forms() {
    let key = || Arc::new(secret(b"key"));
    let master = |form| LoginAs::Master { user: user("root"), password: key(), form, proof: Proof::seen() };
    let routed = |form| Route { login: master(form), ..route() };
    for login in [login(Mechanism::External, Credentials::Certificate), password(b"her own, which nobody sees")] {
        let script = [PLAIN_IR, Hear(b"T AUTHENTICATE PLAIN YW5uAHJvb3QAa2V5"), LET_IN];
        logged_in(&script, &routed(MasterForm::Authzid), &login).await;
        let script = [PLAIN_IR, Hear(b"T AUTHENTICATE PLAIN AGFubipyb290AGtleQ=="), LET_IN];
        logged_in(&script, &routed(MasterForm::Starred), &login).await;
    }
    let no_plain = [Say(b"* OK [CAPABILITY IMAP4rev1 AUTH=LOGIN] x\r\n"), Hear(b"")];
    let refused = refused(&no_plain, &routed(MasterForm::Authzid), &password(b"x")).await;
    assert_eq!(refused.refusal, Refusal::Unsupported);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_opens_nothing_by_itself() {
    let certificate = login(Mechanism::External, Credentials::Certificate);
    assert_eq!(refused(&[PLAIN_IR, Hear(b"")], &route(), &certificate).await.refusal, Refusal::Unsupported);
}

#[tokio::test(start_paused = true)]
async fn a_password_that_a_lookup_gives_takes_the_place_of_the_clients() {
    let given = LoginAs::Given { password: Arc::new(secret(b"key")), proof: Proof::seen() };
    let route = Route { login: given, prescribed: Some(Prescribed::Plain), ..route() };
    logged_in(&[PLAIN_IR, Hear(b"T AUTHENTICATE PLAIN AGFubgBrZXk="), LET_IN], &route, &password(b"x")).await;
    let prescribed = Route { prescribed: Some(Prescribed::Login), ..route };
    let only_plain = [Say(b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] x\r\n"), Hear(b"")];
    assert_eq!(refused(&only_plain, &prescribed, &password(b"x")).await.refusal, Refusal::Unsupported);
}

#[tokio::test(start_paused = true)]
async fn tokens_go_by_the_clients_mechanism_or_the_other_one() {
    let token = |mechanism| login(mechanism, Credentials::Token(secret(b"tok")));
    let xoauth2: &[u8] = b"T AUTHENTICATE XOAUTH2 dXNlcj1hbm4BYXV0aD1CZWFyZXIgdG9rAQE=";
    let both: &[u8] = b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=OAUTHBEARER AUTH=XOAUTH2] x\r\n";
    let one: &[u8] = b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=XOAUTH2] x\r\n";
    logged_in(&[Say(both), Hear(xoauth2), LET_IN], &route(), &token(Mechanism::XOAuth2)).await;
    logged_in(&[Say(one), Hear(xoauth2), LET_IN], &route(), &token(Mechanism::OAuthBearer)).await;
    let none = [PLAIN_IR, Hear(b"")];
    assert_eq!(refused(&none, &route(), &token(Mechanism::XOAuth2)).await.refusal, Refusal::Unsupported);
}

/// Answers the challenge against the rest of the script.
async fn challenged(
    script: &[Act<'_>],
    route: &Route,
    login: &Login,
    answers: &[Option<&[u8]>],
) -> (Vec<Vec<u8>>, Outcome) {
    let (near, far) = duplex(4096);
    let ours = async {
        let mut heard = Vec::new();
        let link = match greet(near).await {
            Ok(link) => link,
            Err(error) => return (heard, Err(error)),
        };
        let mut progress = link.log_in(route, login).await;
        for answer in answers {
            progress = match progress {
                Ok(Progress::Challenge(link, challenge)) => {
                    heard.push(challenge);
                    link.answer(*answer).await
                }
                other => return (heard, other),
            };
        }
        (heard, progress)
    };
    let both = async { tokio::join!(ours, play(far, script)).0 };
    timeout(Duration::from_mins(1), both).await.expect("neither side waits for ever")
}

#[tokio::test(start_paused = true)]
async fn the_reason_why_a_token_fails_reaches_the_client() {
    let token = login(Mechanism::XOAuth2, Credentials::Token(secret(b"tok")));
    let script = [
        Say(b"* OK [CAPABILITY IMAP4rev1 AUTH=OAUTHBEARER] x\r\n"),
        Hear(b"T AUTHENTICATE OAUTHBEARER"),
        Say(b"+ \r\n"),
        Hear(b"bixhPWFubiwBYXV0aD1CZWFyZXIgdG9rAQE="),
        Say(b"+ eyJzdGF0dXMiOiI0MDEifQ==\r\n"),
        // OAUTHBEARER's own acknowledgement, although the client gave XOAUTH2's.
        Hear(b"AQ=="),
        Say(b"%T NO [AUTHENTICATIONFAILED] no\r\n"),
    ];
    let (heard, outcome) = challenged(&script, &route(), &token, &[Some(b"")]).await;
    assert_eq!(heard, [b"{\"status\":\"401\"}"]);
    assert_eq!(outcome.expect_err("a bad token").refusal, Refusal::BadCredentials);
}

const SCRAM: Act<'static> = Say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=SCRAM-SHA-256] x\r\n");
const SCRAM_FIRST: Act<'static> = Hear(b"T AUTHENTICATE SCRAM-SHA-256 biwsbj1hbm4scj1h");

fn scram() -> Login {
    login(Mechanism::ScramSha256, Credentials::ScramFirst(secret(b"n,,n=ann,r=a")))
}

#[tokio::test(start_paused = true)]
async fn scram_is_relayed_message_by_message() {
    let with_final =
        [SCRAM, SCRAM_FIRST, Say(b"+ cj1hYg==\r\n"), Hear(b"Yz1iaXdz"), Say(b"+ dj1vaw==\r\n"), Hear(b""), LET_IN];
    let (heard, outcome) = challenged(&with_final, &route(), &scram(), &[Some(b"c=biws"), Some(b"")]).await;
    assert_eq!(heard, [&b"r=ab"[..], b"v=ok"]);
    assert!(matches!(outcome, Ok(Progress::Done(..))), "{outcome:?}");

    let without = [SCRAM, SCRAM_FIRST, Say(b"+ cj1hYg==\r\n"), Hear(b"Yz1iaXdz"), LET_IN];
    let (_, outcome) = challenged(&without, &route(), &scram(), &[Some(b"c=biws")]).await;
    assert!(matches!(outcome, Ok(Progress::Done(..))), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn scram_needs_the_clients_own_name_and_its_own_proof() {
    let rewritten = Route { user: user("ann@example.org"), ..route() };
    assert_eq!(refused(&[SCRAM, Hear(b"")], &rewritten, &scram()).await.refusal, Refusal::Unsupported);
    assert_eq!(refused(&[PLAIN_IR, Hear(b"")], &route(), &scram()).await.refusal, Refusal::Unsupported);
    // A client may name itself twice; nobody else.
    for login in [scram(), Login { authzid: Some(user("ann")), ..scram() }] {
        let early = refused(&[SCRAM, SCRAM_FIRST, LET_IN], &route(), &login).await;
        assert_eq!(early.kind, Some(BackendError::Protocol), "{early}");
    }
    let bob = Login { authzid: Some(user("bob")), ..scram() };
    assert_eq!(refused(&[SCRAM, Hear(b"")], &route(), &bob).await.refusal, Refusal::Unsupported);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_gives_up_ends_the_exchange() {
    let script = [SCRAM, SCRAM_FIRST, Say(b"+ cj1hYg==\r\n"), Hear(b"*"), Say(b"%T BAD aborted\r\n")];
    let (_, outcome) = challenged(&script, &route(), &scram(), &[None]).await;
    assert!(outcome.is_err());
    let script = [SCRAM, SCRAM_FIRST, Say(b"+ cj1hYg==\r\n"), Hear(b"*"), LET_IN];
    let (_, outcome) = challenged(&script, &route(), &scram(), &[None]).await;
    assert_eq!(outcome.expect_err("not let in").kind, Some(BackendError::Protocol));
}

#[tokio::test(start_paused = true)]
async fn challenges_end() {
    let mut script = vec![SCRAM, SCRAM_FIRST, Say(b"+ cj1hYg==\r\n")];
    for _ in 0..10 {
        script.extend([Hear(b"YQ=="), Say(b"+ cj1hYg==\r\n")]);
    }
    let (heard, outcome) = challenged(&script, &route(), &scram(), &[Some(&b"a"[..]); 10]).await;
    assert_eq!(heard.len(), 4);
    assert_eq!(outcome.expect_err("not for ever").kind, Some(BackendError::Protocol));
    let broken = [SCRAM, SCRAM_FIRST, Say(b"+ !!!\r\n")];
    assert_eq!(refused(&broken, &route(), &scram()).await.kind, Some(BackendError::Protocol));
}

#[tokio::test(start_paused = true)]
async fn the_client_learns_what_was_said_meanwhile() {
    let script = [
        PLAIN_IR,
        HEAR_PLAIN,
        Say(b"* CAPABILITY IMAP4rev1 QUOTA\r\n* OK [ALERT] quota\r\n* ID NIL\r\n* LIST () \"/\" {3}\r\na\r\n\r\n%T OK done\r\n"),
    ];
    let (_, welcome) = logged_in(&script, &route(), &password(b"hunter2")).await;
    assert_eq!(welcome.untagged, b"* OK [ALERT] quota\r\n* LIST () \"/\" {3}\r\na\r\n\r\n");
    assert!(!welcome.ok_had_capabilities && welcome.capabilities.has("QUOTA"));
    assert_eq!(welcome.text, b"done");
}

#[tokio::test(start_paused = true)]
async fn alerts_from_before_the_login_are_kept_and_nothing_else() {
    let script = [
        Say(b"* OK hello\r\n"),
        Hear(b"T CAPABILITY"),
        Say(b"* OK [ALERT] down at noon\r\n* OK chatter\r\n* 3 EXISTS\r\n* CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN\r\n%T OK x\r\n"),
        HEAR_PLAIN,
        LET_IN,
    ];
    let (_, welcome) = logged_in(&script, &route(), &password(b"hunter2")).await;
    assert_eq!(welcome.untagged, b"* OK [ALERT] down at noon\r\n");
}

#[tokio::test(start_paused = true)]
async fn capabilities_are_asked_for_when_nobody_told_them() {
    let script = [
        PLAIN_IR,
        HEAR_PLAIN,
        Say(b"%T OK in\r\n"),
        Hear(b"T CAPABILITY"),
        Say(b"* CAPABILITY IMAP4rev1 NAMESPACE\r\n%T OK done\r\n"),
    ];
    let (_, welcome) = logged_in(&script, &route(), &password(b"hunter2")).await;
    assert!(welcome.capabilities.has("NAMESPACE") && !welcome.capabilities.has("SASL-IR"));
    let unwilling = [PLAIN_IR, HEAR_PLAIN, Say(b"%T OK in\r\n"), Hear(b"T CAPABILITY"), Say(b"%T BAD what?\r\n")];
    let (_, welcome) = logged_in(&unwilling, &route(), &password(b"hunter2")).await;
    assert!(welcome.capabilities.is_empty(), "nothing of the list from before the login");
}

#[tokio::test(start_paused = true)]
async fn what_follows_the_ok_in_one_segment_is_the_clients() {
    let script =
        [PLAIN_IR, HEAR_PLAIN, Say(b"%T OK [CAPABILITY IMAP4rev1] in\r\n* 1 EXISTS\r\n* OK {3}\r\nA1 "), Close];
    let (outcome, _) = log_in(4096, &script, &route(), &password(b"hunter2")).await;
    let Ok(Progress::Done(link, _)) = outcome else { panic!("not let in: {outcome:?}") };
    let mut rest = Vec::new();
    link.lend().0.read_to_end(&mut rest).await.expect("reads");
    assert_eq!(rest, b"* 1 EXISTS\r\n* OK {3}\r\nA1 ");
}

#[tokio::test(start_paused = true)]
async fn a_no_means_what_its_code_says() {
    let cases: [(&[u8], Refusal, Option<BackendError>); 12] = [
        (b"NO user unknown", Refusal::BadCredentials, None),
        (b"NO", Refusal::BadCredentials, None),
        (b"NO [AUTHENTICATIONFAILED] no", Refusal::BadCredentials, None),
        (b"NO [authorizationfailed] no", Refusal::BadCredentials, None),
        (b"NO [CAPABILITY IMAP4rev1] no", Refusal::BadCredentials, None),
        (b"NO [UNAVAILABLE] later", Refusal::BackendDown, Some(BackendError::Unavailable)),
        (b"NO [SERVERBUG] oops", Refusal::BackendMisconfigured, Some(BackendError::ServerBug)),
        (b"NO [LIMIT] too many", Refusal::Coded(b"[LIMIT] too many".to_vec()), None),
        (b"NO [X-OWN \"1\"]", Refusal::Coded(b"[X-OWN \"1\"]".to_vec()), None),
        (b"NO [REFERRAL http://x/] no", Refusal::BackendDown, Some(BackendError::Unavailable)),
        (b"BAD ann hunter2?", Refusal::Unsupported, None),
        (b"BAD [ALERT] no", Refusal::Coded(b"[ALERT] no".to_vec()), None),
    ];
    for (answer, refusal, kind) in cases {
        let answer = [b"%T ", answer, b"\r\n"].concat();
        let error = refused(&[PLAIN_IR, HEAR_PLAIN, Say(&answer)], &route(), &password(b"hunter2")).await;
        assert_eq!((&error.refusal, error.kind), (&refusal, kind), "{}", answer.escape_ascii());
        assert!(!error.detail.contains("hunter2") && !error.detail.contains("unknown"), "{error}");
        assert_eq!(error.referral, None);
    }
    let script = [PLAIN_IR, HEAR_PLAIN, Say(b"%T NO [REFERRAL imap://ann@green.example.org:144/] go\r\n")];
    let error = refused(&script, &route(), &password(b"hunter2")).await;
    assert_eq!(error.referral, Some(("green.example.org".to_owned(), 144)));
}

#[tokio::test(start_paused = true)]
async fn backends_with_little_to_say_still_let_people_in() {
    let none = [
        Say(b"* OK\r\n"),
        Hear(b"T CAPABILITY"),
        Say(b"%T BAD unknown command\r\n"),
        Hear(b"T LOGIN \"ann\" \"hunter2\""),
        LET_IN,
    ];
    logged_in(&none, &route(), &password(b"hunter2")).await;
    let rev2 = [Say(b"* OK [CAPABILITY IMAP4rev2 SASL-IR AUTH=PLAIN] x\r\n"), HEAR_PLAIN, LET_IN];
    logged_in(&rev2, &route(), &password(b"hunter2")).await;
    let in_the_answer = [
        Say(b"* OK hi\r\n"),
        Hear(b"T CAPABILITY"),
        Say(b"%T OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] x\r\n"),
        HEAR_PLAIN,
        LET_IN,
    ];
    logged_in(&in_the_answer, &route(), &password(b"hunter2")).await;
}

#[tokio::test(start_paused = true)]
async fn only_an_ok_is_a_greeting() {
    let endless = vec![b'x'; 20_000];
    for greeting in [
        &b"* PREAUTH you are root\r\n"[..],
        b"* BYE go away\r\n",
        b"* NO\r\n",
        b"A1 OK\r\n",
        b"+ \r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"* OK\nhello\r\n",
        b"* OK \0\r\n",
        b"\r\n",
        &endless,
    ] {
        let error = refused(&[Say(greeting), Hear(b"")], &route(), &password(b"x")).await;
        assert_eq!((error.kind, error.refusal), (Some(BackendError::Greeting), Refusal::BackendDown));
    }
    assert_eq!(refused(&[Close], &route(), &password(b"x")).await.kind, Some(BackendError::Closed));
}

#[tokio::test(start_paused = true)]
async fn hostile_answers_cost_only_this_link() {
    let chatter = b"* OK chatter, chatter, chatter\r\n".repeat(9000);
    let gifts = b"* OK [ALERT] 0123456789012345678901234567890123456789\r\n".repeat(1300);
    for (answer, kind) in [
        (&b"A1 OK in\r\n"[..], BackendError::Protocol),
        (b"%Tx OK in\r\n", BackendError::Protocol),
        (b"%T BYE\r\n", BackendError::Protocol),
        (b"%T FINE\r\n", BackendError::Protocol),
        (b"+ more\r\n", BackendError::Protocol),
        (b"* PREAUTH root\r\n%T OK\r\n", BackendError::Protocol),
        (b"* X {4294967295}\r\n", BackendError::Protocol),
        (b"* X {99999999999999999999}\r\n", BackendError::Protocol),
        (b"%T OK\rin\r\n", BackendError::Protocol),
        (b"* BYE\r\n%T OK in\r\n", BackendError::Closed),
        (&chatter, BackendError::Protocol),
        (&gifts, BackendError::Protocol),
    ] {
        // The long ones would take their time byte by byte.
        let width = if answer.len() > 1000 { 64 * 1024 } else { 1 };
        let script = [PLAIN_IR, HEAR_PLAIN, Say(answer), Close];
        let error = log_in(width, &script, &route(), &password(b"hunter2")).await.0.expect_err("not let in");
        assert_eq!((error.kind, error.refusal), (Some(kind), Refusal::BackendDown), "{}", error.detail);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_before_its_question_does_not_count() {
    // Ahead of the command; the tag cannot be known yet.
    let ahead = [Say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] x\r\nA1 OK in\r\n1 OK in\r\n"), HEAR_PLAIN];
    let (outcome, _) = log_in(4096, &ahead, &route(), &password(b"hunter2")).await;
    assert_eq!(outcome.expect_err("not let in").kind, Some(BackendError::Protocol));
    // After the first half of it.
    let half = [Say(b"* OK [CAPABILITY IMAP4rev1] x\r\n"), Hear(b"T LOGIN \"ann\" {2}"), LET_IN];
    assert_eq!(refused(&half, &route(), &password(b"\xc3\xa9")).await.kind, Some(BackendError::Protocol));
    let half = [Say(b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] x\r\n"), Hear(b"T AUTHENTICATE PLAIN"), LET_IN];
    assert_eq!(refused(&half, &route(), &password(b"x")).await.kind, Some(BackendError::Protocol));
    let half = [
        Say(b"* OK [CAPABILITY IMAP4rev1 AUTH=LOGIN] x\r\n"),
        Hear(b"T AUTHENTICATE LOGIN"),
        Say(b"+ \r\n"),
        Hear(b"YW5u"),
        LET_IN,
    ];
    assert_eq!(refused(&half, &route(), &password(b"x")).await.kind, Some(BackendError::Protocol));
    // A refusal may come at any time.
    let no = [Say(b"* OK [CAPABILITY IMAP4rev1] x\r\n"), Hear(b"T LOGIN \"ann\" {2}"), Say(b"%T NO [LIMIT] x\r\n")];
    assert_eq!(refused(&no, &route(), &password(b"\xc3\xa9")).await.refusal, Refusal::Coded(b"[LIMIT] x".to_vec()));
}

#[tokio::test(start_paused = true)]
async fn a_backend_may_go_away_at_any_byte() {
    let said: [&[u8]; 3] = [
        b"* OK hello\r\n",
        b"* CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN\r\n%T OK x\r\n",
        b"* OK [ALERT] x {9}\r\n* LIST () \"/\" {3}\r\nabc\r\n%T OK [CAPABILITY IMAP4rev1] in\r\n",
    ];
    let heard: [&[u8]; 2] = [b"T CAPABILITY", b"T AUTHENTICATE PLAIN AGFubgBodW50ZXIy"];
    let (route, login) = (route(), password(b"hunter2"));
    for (step, text) in said.iter().enumerate() {
        for end in 0..text.len() {
            // Cut inside "%T" and the tag would be wrong instead of short.
            if text[..end].ends_with(b"%") {
                continue;
            }
            let mut script = Vec::new();
            for before in 0..step {
                script.extend([Say(said[before]), Hear(heard[before])]);
            }
            script.extend([Say(&text[..end]), Close]);
            let error = refused(&script, &route, &login).await;
            assert_eq!((error.kind, error.refusal), (Some(BackendError::Closed), Refusal::BackendDown), "{step} {end}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_backend_is_the_callers_to_leave() {
    let (near, _far) = duplex(64);
    assert!(timeout(Duration::from_secs(5), greet(near)).await.is_err());
}

/// STARTTLS against the script; what is left of the stream on success.
async fn start_tls(script: &[Act<'_>]) -> Result<DuplexStream, LinkError> {
    let (near, far) = duplex(4096);
    let both = async { tokio::join!(connect::start_tls(near), play(far, script)).0 };
    timeout(Duration::from_mins(1), both).await.expect("neither side waits for ever")
}

#[tokio::test(start_paused = true)]
async fn starttls_is_wanted_or_nothing() {
    const OFFERED: Act<'static> = Say(b"* OK [CAPABILITY IMAP4rev1 STARTTLS AUTH=PLAIN] x\r\n");
    const ASKED: Act<'static> = Hear(b"T STARTTLS");
    assert!(start_tls(&[OFFERED, ASKED, Say(b"%T OK go\r\n")]).await.is_ok());
    let told = [
        Say(b"* OK x\r\n"),
        Hear(b"T CAPABILITY"),
        Say(b"* CAPABILITY IMAP4rev1 STARTTLS\r\n%T OK x\r\n"),
        ASKED,
        Say(b"%T OK go\r\n"),
    ];
    assert!(start_tls(&told).await.is_ok());

    for stripped in [
        &[Say(b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] x\r\n"), Hear(b"")][..],
        &[OFFERED, ASKED, Say(b"%T NO\r\n")],
        &[OFFERED, ASKED, Say(b"%T BAD\r\n")],
    ] {
        let error = start_tls(stripped).await.expect_err("never goes on in clear");
        assert_eq!((error.kind, error.refusal), (Some(BackendError::StartTls), Refusal::BackendMisconfigured));
    }
    for injected in [
        &[OFFERED, ASKED, Say(b"%T OK go\r\n* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n")][..],
        &[OFFERED, ASKED, Say(b"%T OK go\r\n*")],
        &[OFFERED, ASKED, Say(b"* CAPABILITY IMAP4rev1\r\n%T OK go\r\n")],
        &[OFFERED, ASKED, Say(b"* OK [ALERT] evil\r\n%T OK go\r\n")],
        &[OFFERED, ASKED, Say(b"* ID NIL\r\n%T OK go\r\n")],
        &[OFFERED, ASKED, Say(b"* BYE\r\n%T OK go\r\n")],
        &[OFFERED, ASKED, Say(b"+ \r\n")],
        &[Say(b"* OK [CAPABILITY IMAP4rev1 STARTTLS] x\r\n* OK more\r\n"), ASKED, Say(b"%T OK\r\n")],
    ] {
        let error = start_tls(injected).await.expect_err("bytes in clear");
        assert_eq!((error.kind, error.refusal), (Some(BackendError::Protocol), Refusal::BackendDown), "{injected:?}");
    }
    assert!(start_tls(&[Say(b"* PREAUTH x\r\n")]).await.is_err());
}

/// What is sent as ID, against the answer.
async fn identify(greeting: &[u8], caller: &Caller<'_>, hear: &[u8], answer: &[u8]) -> Result<(), LinkError> {
    let (near, far) = duplex(4096);
    let ours = async {
        let mut link = greet(near).await?;
        link.identify(caller, true).await
    };
    let script = [Say(greeting), Hear(hear), Say(answer)];
    let both = async { tokio::join!(ours, play(far, &script)).0 };
    timeout(Duration::from_mins(1), both).await.expect("neither side waits for ever")
}

#[tokio::test(start_paused = true)]
async fn the_backend_is_told_who_the_client_is_if_it_listens() {
    let hear = b"T ID (\"x-session-id\" \"abc\" \"x-originating-ip\" \"192.0.2.7\" \"x-originating-port\" \"4711\" \
        \"x-connected-ip\" \"198.51.100.1\" \"x-connected-port\" \"993\" \"x-proxy-ttl\" \"6\" \
        \"x-client-transport\" \"TLS\" \"x-connected-name\" \"mail.example.org\")";
    let with: &[u8] = b"* OK [CAPABILITY IMAP4rev1 ID] x\r\n";
    for harmless in [&b"* ID NIL\r\n%T OK\r\n"[..], b"%T NO no\r\n", b"%T BAD no\r\n", b"%T NO [ALERT] no\r\n"] {
        assert_eq!(identify(with, &caller(), hear, harmless).await, Ok(()));
    }
    let error = identify(with, &caller(), hear, b"%T NO [SERVERBUG] x\r\n").await.expect_err("a server bug");
    assert_eq!((error.kind, error.refusal), (Some(BackendError::ServerBug), Refusal::BackendMisconfigured));
    assert!(identify(with, &caller(), hear, b"+ \r\n").await.is_err());
    // Silence towards a backend that did not announce it: its script would fail at any line.
    assert_eq!(identify(b"* OK [CAPABILITY IMAP4rev1] x\r\n", &caller(), b"", b"").await, Ok(()));
}

/// ID in one write with a login, against the answers to both; `%1` and `%2` are their tags.
async fn announce(answers: &str) -> Result<Progress<DuplexStream>, LinkError> {
    let (near, mut far) = duplex(4096);
    let ours = async {
        let mut link = greet(near).await?;
        link.announce(&caller(), true);
        link.log_in(&route(), &password(b"hunter2")).await
    };
    let theirs = async {
        far.write_all(b"* OK [CAPABILITY IMAP4rev1 ID SASL-IR AUTH=PLAIN] x\r\n").await.expect("taken");
        let mut said = vec![0; 4096];
        let n = far.read(&mut said).await.expect("comes");
        let said = String::from_utf8_lossy(&said[..n]).into_owned();
        let tags: Vec<_> = said.lines().map(|line| line.split_once(' ').expect("a tag")).collect();
        assert!(
            matches!(tags[..], [(one, id), (two, login)]
            if one != two && id.starts_with("ID (\"x-session-id\"") && login.starts_with("AUTHENTICATE PLAIN ")),
            "{said}"
        );
        let answers = answers.replace("%1", tags[0].0).replace("%2", tags[1].0);
        // Whoever has given up hears no more.
        let _ = far.write_all(answers.as_bytes()).await;
        far
    };
    let both = Box::pin(async { tokio::join!(ours, theirs).0 });
    timeout(Duration::from_mins(1), both).await.expect("neither side waits for ever")
}

#[tokio::test(start_paused = true)]
async fn who_is_told_of_the_client_with_the_login_answers_both() {
    for id in
        ["* ID (\"name\" \"x\")\r\n%1 OK\r\n", "%1 BAD what?\r\n", "%1 NO no\r\n", "* LIST () \"/\" x\r\n%1 OK\r\n"]
    {
        let progress = announce(&format!("{id}* OK welcome\r\n%2 OK [CAPABILITY IMAP4rev1] in\r\n")).await;
        let Ok(Progress::Done(_, welcome)) = progress else { panic!("{id:?}: {progress:?}") };
        assert_eq!(welcome.untagged, b"* OK welcome\r\n", "{id:?}: what was said before is not the client's");
    }
    let error = announce("%1 NO [SERVERBUG] x\r\n%2 OK in\r\n").await.expect_err("a server bug");
    assert_eq!((error.kind, error.refusal), (Some(BackendError::ServerBug), Refusal::BackendMisconfigured));
    let error = announce("%1 OK\r\n%2 NO [AUTHENTICATIONFAILED] x\r\n").await.expect_err("a wrong password");
    assert_eq!((error.kind, error.refusal), (None, Refusal::BadCredentials));
    for confused in [
        "+ \r\n",
        "x OK\r\n",
        "%2 OK in\r\n%1 OK\r\n",
        "%1 OK\r\n%1 OK\r\n",
        "%1 PREAUTH\r\n%2 OK in\r\n",
        "%1 BYE\r\n%2 OK in\r\n",
    ] {
        let error = announce(confused).await.expect_err("confused");
        assert_eq!(error.kind, Some(BackendError::Protocol), "{confused:?}");
    }
}

/// Says one piece after every line it hears, `%T` being that line's first word, and hangs up.
async fn babble(mut stream: DuplexStream, pieces: &[Vec<u8>]) {
    let (near, mut far) = tokio::io::split(&mut stream);
    let mut near = tokio::io::BufReader::new(near);
    let mut tag = String::new();
    for piece in pieces {
        let text = String::from_utf8_lossy(piece).replace("%T", &tag);
        if far.write_all(text.as_bytes()).await.is_err() {
            return;
        }
        let mut line = Vec::new();
        // What it does not wait for in time is not coming: our side waits for more of this piece.
        if timeout(Duration::from_secs(1), near.read_until(b'\n', &mut line)).await.is_ok() {
            tag = String::from_utf8_lossy(line.split(|byte| *byte == b' ').next().unwrap_or_default()).into_owned();
        }
    }
}

fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let piece = prop_oneof![
        3 => Just(&b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] x\r\n"[..]),
        2 => Just(&b"* OK\r\n"[..]),
        3 => Just(&b"%T OK done\r\n"[..]),
        2 => Just(&b"* CAPABILITY IMAP4rev1 ID AUTH=LOGIN\r\n%T OK\r\n"[..]),
        2 => Just(&b"+ \r\n"[..]),
        1 => Just(&b"%T NO [LIMIT] x\r\n"[..]),
        1 => Just(&b"* X {3}\r\n"[..]),
        1 => Just(&b"* BYE\r\n"[..]),
        1 => Just(&b"* OK [ALERT]\xc3\xa9\r\n"[..]),
    ];
    let noise = proptest::collection::vec(any::<u8>(), 0..20);
    let piece = prop_oneof![9 => piece.prop_map(<[u8]>::to_vec), 1 => noise];
    proptest::collection::vec(piece, 0..8)
}

proptest! {
    #[test]
    fn whatever_a_backend_says_a_login_ends(pieces in pieces()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let outcome = runtime.expect("a runtime").block_on(async {
            let (near, far) = duplex(64 * 1024);
            let (route, login) = (route(), password(b"hunter2"));
            let ours = async { greet(near).await?.log_in(&route, &login).await };
            let both = async { tokio::join!(ours, babble(far, &pieces)).0 };
            timeout(Duration::from_mins(1), both).await
        });
        let outcome: Outcome = outcome.expect("it ends when the backend has ended");
        if outcome.is_ok() {
            let oks = pieces.iter().filter(|piece| piece.starts_with(b"%T OK") || piece.ends_with(b"%T OK\r\n")).count();
            prop_assert!(oks > 0, "let in without a tagged OK");
        }
    }
}
