//! Links that are handed back: what a session has left behind is undone, or the link is not used again.

use super::*;

/// A link that a session has used and given back.
async fn used(capabilities: &str, reset: Reset) -> (Link<Used, DuplexStream>, DuplexStream) {
    let (near, far) = duplex(64 * 1024);
    let ok = format!("%T OK [CAPABILITY IMAP4rev1 {capabilities}] welcome\r\n");
    let script = [PLAIN_IR, HEAR_PLAIN, Say(ok.as_bytes())];
    let ours = async { greet(near).await?.log_in(&route(), &password(b"hunter2")).await };
    let (Ok(Progress::Done(link, _)), Some(far)) = tokio::join!(ours, play(far, &script)) else { panic!("not let in") };
    let (stream, lent) = link.lend();
    (lent.returned(stream, reset), far)
}

const AT_REST: Reset = Reset { done: false, unselect: false, identified: false };
const SELECTED: Reset = Reset { done: false, unselect: true, identified: false };
const IDLING: Reset = Reset { done: true, unselect: true, identified: false };

#[tokio::test(start_paused = true)]
async fn what_a_session_left_behind_is_undone() {
    let cases: [(&str, Reset, &[Act<'_>]); 5] = [
        ("UNSELECT", AT_REST, &[Hear(b"T NOOP"), Say(b"* 4 EXISTS\r\n%T OK done\r\n")]),
        ("UNSELECT", SELECTED, &[Hear(b"T UNSELECT"), Say(b"* 1 FETCH (FLAGS ())\r\n%T OK done\r\n")]),
        ("IMAP4rev2", SELECTED, &[Hear(b"T UNSELECT"), Say(b"%T OK done\r\n")]),
        (
            "UNSELECT",
            IDLING,
            &[Hear(b"DONE"), Hear(b"T UNSELECT"), Say(b"* 2 EXISTS\r\nA7 OK idled\r\n%T OK done\r\n")],
        ),
        ("UNSELECT", IDLING, &[Hear(b"DONE"), Say(b"A7 BAD what\r\n"), Hear(b"T UNSELECT"), Say(b"%T OK done\r\n")]),
    ];
    for (capabilities, reset, script) in cases {
        let (link, far) = used(capabilities, reset).await;
        let (clean, far) = tokio::join!(link.reset(), play(far, script));
        let link = clean.expect("clean");
        assert_eq!(link.user(), &user("ann"));
        let text = format!("[CAPABILITY IMAP4rev1 {capabilities}] welcome");
        assert_eq!(link.welcome().text, text.as_bytes(), "the next one is greeted as this one was");
        // Nothing of before stands in front of what comes next.
        let (mut stream, _) = link.lend();
        far.expect("open").write_all(b"x").await.expect("written");
        assert_eq!(stream.read_u8().await.expect("read"), b'x');
    }
}

#[tokio::test(start_paused = true)]
async fn without_unselect_a_mailbox_that_does_not_exist_is_examined() {
    for (answer, is_clean) in [("NO no such mailbox", true), ("OK there it is", false), ("BAD what", false)] {
        let (link, mut far) = used("IDLE", SELECTED).await;
        let theirs = async {
            let mut heard = tokio::io::BufReader::new(&mut far).lines();
            let asked = heard.next_line().await.expect("read").expect("a line");
            let (tag, command) = asked.split_once(' ').expect("a tag");
            assert!(command.starts_with("EXAMINE mailmux-"), "{command}");
            far.write_all(format!("{tag} {answer}\r\n").as_bytes()).await.expect("written");
        };
        assert_eq!(tokio::join!(link.reset(), theirs).0.is_ok(), is_clean, "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn in_doubt_a_link_is_not_used_again() {
    let hear = Hear(b"T UNSELECT");
    let cases: [(Reset, &[Act<'_>]); 9] = [
        (SELECTED, &[hear, Say(b"%T NO cannot\r\n")]),
        (SELECTED, &[hear, Say(b"%T BAD what\r\n")]),
        (SELECTED, &[hear, Say(b"* BYE enough\r\n%T OK done\r\n")]),
        // Under a tag that nobody has used: an answer to another question, or none of ours.
        (SELECTED, &[hear, Say(b"A7 OK done\r\n%T OK done\r\n")]),
        (SELECTED, &[hear, Say(b"+ go on\r\n%T OK done\r\n")]),
        (SELECTED, &[hear, Say(b"%T OK done\r\n* 1 EXISTS\r\n")]),
        (SELECTED, &[hear, Say(b"* OK [ALERT] Your mailbox is full\r\n%T OK done\r\n")]),
        (SELECTED, &[hear, Close]),
        // No answer to the IDLE: ours is taken for it, and missed.
        (IDLING, &[Hear(b"DONE"), hear, Say(b"%T OK done\r\n"), Close]),
    ];
    for (reset, script) in cases {
        let (link, far) = used("UNSELECT", reset).await;
        // Written in one piece with what may stand behind it.
        let (clean, _) = tokio::join!(link.reset(), play(far, script));
        assert!(clean.is_err(), "{script:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_that_waits_hears_its_backend() {
    for (said, ends) in [
        (&b"* OK Still here\r\n* 3 EXISTS\r\n* CAPABILITY IMAP4rev1\r\n"[..], false),
        (b"* BYE Idle for too long\r\n", true),
        (b"* OK [ALERT] Pay your bill\r\n", true),
        (b"A7 OK done\r\n", true),
        (b"+ go on\r\n", true),
        (b"\0\r\n", true),
    ] {
        let (link, far) = used("UNSELECT", AT_REST).await;
        let script = [Hear(b"T NOOP"), Say(b"%T OK done\r\n")];
        let (link, far) = tokio::join!(link.reset(), play(far, &script));
        let (mut link, mut far) = (link.expect("clean"), far.expect("open"));
        far.write_all(said).await.expect("written");
        let ended = timeout(Duration::from_mins(1), link.watch()).await;
        assert_eq!(ended.is_ok(), ends, "{}", said.escape_ascii());
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_can_become_nobodys_again() {
    let (link, far) = used("UNSELECT UNAUTHENTICATE", AT_REST).await;
    let script = [
        Hear(b"T NOOP"),
        Say(b"%T OK done\r\n"),
        Hear(b"T UNAUTHENTICATE"),
        Say(b"%T OK goodbye\r\n"),
        // What was announced to the user says nothing of what there is before a login.
        Hear(b"T CAPABILITY"),
        Say(b"* CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN\r\n%T OK done\r\n"),
        Hear(b"T AUTHENTICATE PLAIN AGFubgBodW50ZXIy"),
        LET_IN,
    ];
    let ours = async {
        let link = link.reset().await?;
        assert!(link.can_unauthenticate());
        link.unauthenticate().await?.log_in(&route(), &password(b"hunter2")).await
    };
    let (outcome, _) = tokio::join!(ours, play(far, &script));
    assert!(matches!(outcome, Ok(Progress::Done(..))), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn a_backend_is_told_of_the_next_client_if_it_is_another() {
    let (link, far) = used("UNSELECT ID", AT_REST).await;
    let at = |client: &str| Caller { client: client.parse().expect("an address"), ..caller() };
    let ours = async {
        let link = link.reset().await?.introduce(&at("192.0.2.7:4711"), true).await?;
        // The same machine again, in another session.
        let link = link.introduce(&Caller { session: "def", ..at("192.0.2.7:4712") }, true).await?;
        link.introduce(&at("192.0.2.8:4713"), true).await?;
        Ok::<_, LinkError>(())
    };
    let theirs = async {
        let Some(mut far) = play(far, &[Hear(b"T NOOP"), Say(b"%T OK done\r\n")]).await else { panic!("closed") };
        for address in ["192.0.2.7", "192.0.2.8"] {
            let mut heard = tokio::io::BufReader::new(&mut far).lines();
            let asked = heard.next_line().await.expect("read").expect("a line");
            let (tag, command) = asked.split_once(' ').expect("a tag");
            assert!(command.starts_with("ID (") && command.contains(address), "{command}");
            far.write_all(format!("* ID NIL\r\n{tag} OK done\r\n").as_bytes()).await.expect("written");
        }
        far
    };
    tokio::join!(ours, theirs).0.expect("all told");
}

#[tokio::test(start_paused = true)]
async fn what_a_client_has_said_of_itself_is_not_held_for_the_next_ones_words() {
    let (link, far) = used("UNSELECT ID", Reset { identified: true, ..AT_REST }).await;
    let script = [Hear(b"T NOOP"), Say(b"%T OK done\r\n"), Hear(b"T ID NIL"), Say(b"%T OK done\r\n")];
    let ours = async {
        let link = link.reset().await?.introduce(&Caller { id: &[], ..caller() }, false).await?;
        // There is nothing more to take back: the script would fail at any line.
        link.introduce(&Caller { id: &[], ..caller() }, false).await
    };
    let (told, far) = tokio::join!(ours, play(far, &script));
    assert!(told.is_ok() && far.is_some());
}
