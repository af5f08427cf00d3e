//! The tracker, by way of the follower that feeds it: by example. What is proven against a model is in `proof.rs`.

use super::*;
use crate::imap::follower::Follower;

mod model;
mod proof;

use By::{Backend, Client};
use model::By;

/// What a relay does with a follower that tracks: it keeps what the follower leaves, and offers it again with more.
struct Link {
    follower: Follower,
    kept: Vec<u8>,
    /// All that was passed on or came from the backend, in that order.
    heard: Vec<(By, Vec<u8>)>,
}

impl Link {
    fn new() -> Self {
        Self { follower: Follower::tracking(), kept: Vec::new(), heard: Vec::new() }
    }

    fn hear(&mut self, by: By, bytes: &[u8]) {
        match by {
            Backend => {
                self.follower.from_backend(bytes);
                self.heard.push((by, bytes.to_vec()));
            }
            Client => {
                self.kept.extend_from_slice(bytes);
                if !self.follower.logout() {
                    let passed = self.follower.from_client(&self.kept);
                    self.heard.push((by, self.kept.drain(..passed).collect()));
                }
                assert!(self.kept.len() <= 64 || self.follower.logout(), "{}", self.kept.escape_ascii());
            }
        }
    }
}

const CLEAN: Remains = Remains::Clean(Reset { done: false, unselect: false, identified: false });
const UNSELECT: Remains = Remains::Clean(Reset { done: false, unselect: true, identified: false });
const DONE: Remains = Remains::Clean(Reset { done: true, unselect: false, identified: false });
const DONE_UNSELECT: Remains = Remains::Clean(Reset { done: true, unselect: true, identified: false });
const MARKED: Remains = Remains::Marked(Reset { done: false, unselect: false, identified: false });
const MARKED_UNSELECT: Remains = Remains::Marked(Reset { done: false, unselect: true, identified: false });

fn dirty(dirt: Dirt) -> Remains {
    Remains::Dirty(dirt.words())
}

/// A dialogue, each line as `C: ` or `S: ` and what is said, without its line end; played whole and byte by byte. A line
/// that ends in `\` has none: `C: a NO\`.
fn play(dialogue: &[&str]) -> Link {
    let (mut whole, mut bytewise) = (Link::new(), Link::new());
    for line in dialogue {
        let by = if line.starts_with("C: ") { Client } else { Backend };
        let said = line[3..].strip_suffix('\\').map_or_else(|| format!("{}\r\n", &line[3..]), str::to_owned);
        whole.hear(by, said.as_bytes());
        said.bytes().for_each(|byte| bytewise.hear(by, &[byte]));
        assert_eq!(whole.follower.remains(), bytewise.follower.remains(), "{dialogue:?} at {line}");
        assert_eq!(whole.follower.in_flight(), bytewise.follower.in_flight(), "{dialogue:?} at {line}");
        assert_eq!(whole.kept, bytewise.kept, "{dialogue:?} at {line}");
    }
    whole
}

fn after(dialogue: &[&str]) -> Remains {
    play(dialogue).follower.remains()
}

/// A command that is answered so.
fn after_one(command: &str, answer: &str) -> Remains {
    after(&[&format!("C: a {command}"), &format!("S: a {answer}")])
}

#[test]
fn without_tracking_nothing_is_clean_and_nothing_held_back() {
    let mut follower = Follower::default();
    assert_eq!(follower.from_client(b"a LOGOUT\r\n"), 10);
    assert_eq!(follower.remains(), dirty(Dirt::Untracked));
    assert!(!follower.logout() && follower.logged_out() && !follower.in_flight());
}

#[test]
fn a_link_that_was_not_used_is_clean() {
    assert_eq!(after(&[]), CLEAN);
    assert_eq!(after(&["S: * OK still here", "S: * CAPABILITY IMAP4rev1", "S: * 3 EXISTS"]), CLEAN);
}

#[test]
fn a_client_that_says_who_it_is_is_remembered() {
    let identified = Remains::Clean(Reset { identified: true, ..Reset::default() });
    for answer in ["OK x", "NO x", "BAD x"] {
        let link = play(&["C: a ID (\"name\" \"x\")", &format!("S: a {answer}")]);
        assert_eq!(link.follower.remains(), identified);
    }
}

#[test]
fn what_leaves_nothing_is_clean_once_answered() {
    for command in [
        "NOOP",
        "noop",
        "CAPABILITY",
        "NAMESPACE",
        "LIST \"\" *",
        "LIST (SUBSCRIBED) \"\" * RETURN (CHILDREN STATUS (MESSAGES UNSEEN))",
        "LSUB \"\" *",
        "STATUS INBOX (MESSAGES UIDNEXT)",
        "CREATE x",
        "DELETE x",
        "SUBSCRIBE CONDSTORE",
        "CHECK",
        "EXPUNGE",
        "UID EXPUNGE 1",
        "FETCH 1 (FLAGS BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])",
        "UID FETCH 1:* (UID FLAGS)",
        "STORE 1 +FLAGS.SILENT (\\Seen)",
        "UID COPY 1 x",
        "MOVE 1 x",
        "UID SEARCH RETURN (MIN MAX COUNT ALL SAVE) SUBJECT \"update the context\"",
        "UID SEARCH RETURN (PARTIAL 1:500) RETURN",
        "SORT (DATE) UTF-8 ALL",
        "THREAD REFERENCES UTF-8 ALL",
        "GETQUOTAROOT INBOX",
        "SETACL x y lrs",
        "GETMETADATA INBOX /shared/comment",
    ] {
        assert_eq!(after(&[&format!("C: a {command}")]), dirty(Dirt::InFlight), "{command}");
        for answer in ["OK done", "NO no", "BAD what", "ok"] {
            assert_eq!(after_one(command, answer), CLEAN, "{command}: {answer}");
        }
    }
}

#[test]
fn what_is_not_known_is_never_clean() {
    for command in [
        "NOTIFY NONE",
        "LANGUAGE DE",
        "COMPARATOR x",
        "CONVERT 1 x",
        "XFOO",
        "X-FOO",
        "LOGIN a b",
        "LOGOUT now",
        "LOGOUT ",
        "CANCELUPDATE \"a\"",
        "ESEARCH IN (mailboxes x) ALL",
        "GENURLAUTH x INTERNAL",
        "REPLACE 1 x",
        "NOOPS",
        "NOOP\tx",
        "FETCH(1",
        "UID",
        "UID  FETCH 1 UID",
        "UID SELECT x",
        "UID NOOP",
        "UID UID FETCH 1 UID",
        "IDLE now",
        "IDLE ",
    ] {
        assert_eq!(after(&[&format!("C: a {command}"), "S: a BAD no"]), dirty(Dirt::UnknownCommand), "{command}");
    }
    for command in ["COMPRESS DEFLATE", "STARTTLS", "AUTHENTICATE PLAIN", "UNAUTHENTICATE"] {
        assert_eq!(after_one(command, "NO"), dirty(Dirt::UnknownCommand), "{command}");
    }
}

#[test]
fn what_enables_is_marked() {
    for command in [
        "SELECT x (CONDSTORE)",
        "EXAMINE \"a b\" (qresync (1 2))",
        "SELECT x (ANNOTATE) ",
        "STATUS x (MESSAGES HIGHESTMODSEQ)",
        "LIST \"\" * RETURN (STATUS (HIGHESTMODSEQ))",
        "FETCH 1 (MODSEQ)",
        "UID FETCH 1 FLAGS (CHANGEDSINCE 5)",
        "UID FETCH 1 FLAGS (CHANGEDSINCE 5 VANISHED)",
        "STORE 1 (unchangedsince 5) FLAGS ()",
        "SEARCH MODSEQ 5",
        "SEARCH \"MODSEQ\" 5",
        "SEARCH \"MOD\\SEQ\" 5",
        "UID SORT (DATE) UTF-8 ModSeq 5",
    ] {
        for answer in ["OK", "NO", "BAD"] {
            assert!(matches!(after_one(command, answer), Remains::Marked(_)), "{command}: {answer}");
        }
    }
    assert_eq!(after(&["C: a SEARCH {6}", "S: + go", "C: MODSEQ 1", "S: a OK"]), MARKED, "there are such servers");
    assert_eq!(after(&["C: a SELECT {5+}", "C: a\"(b) (CONDSTORE)", "S: a OK"]), MARKED_UNSELECT);
    let far = format!("C: a FETCH {}1 MODSEQ", "1,".repeat(5000));
    assert_eq!(after(&[&far, "S: a OK"]), MARKED, "however far from the start");
    assert_eq!(after_one("ENABLE CONDSTORE", "OK"), MARKED);
    assert_eq!(after_one("ENABLE X", "BAD"), CLEAN);
    assert_eq!(after(&["S: * ENABLED UTF8=ACCEPT"]), MARKED, "whyever");
    assert_eq!(after(&["S: * ENABLED"]), CLEAN);
    assert_eq!(after(&["C: a APPEND x {6+}", "C: MODSEQ", "S: a OK"]), CLEAN);
}

#[test]
fn a_search_that_goes_on_is_dirty() {
    for search in
        ["RETURN (UPDATE) ALL", "RETURN(COUNT context) ALL", "RETURN ( SAVE \"UPDATE\" ) ALL", "RETURN (X) ALL"]
    {
        assert_eq!(after_one(&format!("UID SEARCH {search}"), "OK"), dirty(Dirt::Search), "{search}");
    }
    assert_eq!(after_one("SORT RETURN (UPDATE) (DATE) UTF-8 ALL", "OK"), dirty(Dirt::Search));
}

#[test]
fn the_selection_is_known() {
    let opened = ["C: a SELECT x", "S: * 1 EXISTS", "S: a OK [READ-WRITE]"];
    for (dialogue, remains) in [
        (&["C: b NOOP", "S: b OK"][..], UNSELECT),
        (&["C: b CLOSE", "S: b OK"], CLEAN),
        (&["C: b UNSELECT", "S: b OK"], CLEAN),
        (&["C: b UNSELECT", "S: b BAD"], UNSELECT),
        (&["C: b EXAMINE y", "S: * OK [CLOSED] x", "S: b OK"], UNSELECT),
        (&["C: b EXAMINE y", "S: b NO none"], CLEAN),
        (&["C: b EXAMINE y z", "S: b BAD what"], UNSELECT),
        (&["C: b SELECT {5}", "S: b NO too long"], UNSELECT),
        // The answers come in another order than the commands, and either may have taken effect last.
        (&["C: b CLOSE", "C: c SELECT y", "S: c OK", "S: b OK"], UNSELECT),
        (&["C: b SELECT y", "C: c CLOSE", "S: b OK", "S: c OK"], UNSELECT),
        (&["C: b NOOP", "C: c CLOSE", "S: b OK", "S: c OK"], UNSELECT),
    ] {
        assert_eq!(after(&[&opened, dialogue].concat()), remains, "{dialogue:?}");
    }
    assert_eq!(after_one("SELECT x", "NO"), CLEAN);
    assert_eq!(after_one("SELECT x", "BAD"), UNSELECT);
}

#[test]
fn idle_is_undone_once_it_was_granted() {
    let idle = ["C: a IDLE", "S: + idling", "S: * 5 EXISTS", "C: DONE", "S: a OK"];
    for (heard, remains) in [(1, dirty(Dirt::InFlight)), (2, DONE), (3, DONE), (4, dirty(Dirt::InFlight)), (5, CLEAN)] {
        assert_eq!(after(&idle[..heard]), remains, "{:?}", &idle[..heard]);
    }
    for (dialogue, remains) in [
        (&["C: s SELECT x", "S: s OK", "C: a IDLE", "S: + idling"][..], DONE_UNSELECT),
        (&["C: z NOOP", "C: a IDLE", "S: + idling"], dirty(Dirt::InFlight)),
        (&["C: z NOOP", "C: a IDLE", "S: + idling", "S: z OK"], DONE),
        (&["C: a IDLE", "S: + idling", "C: DON\\"], dirty(Dirt::HalfCommand)),
        (&["C: a IDLE", "S: + idling", "S: * 5 EXI\\"], dirty(Dirt::HalfResponse)),
        (&["C: a IDLE", "S: a NO"], CLEAN),
        (&["C: a IDLE", "S: a OK"], dirty(Dirt::OddAnswer)),
        (&["C: a IDLE", "S: + idling", "S: a OK timeout"], CLEAN),
        (&["C: a IDLE", "S: + idling", "S: a OK timeout", "C: DONE"], dirty(Dirt::StrayLine)),
        (&["C: a IDLE", "S: + idling", "S: a BAD"], dirty(Dirt::OddAnswer)),
        (&["C: a IDLE", "C: DONE", "S: + idling", "S: a OK"], CLEAN),
        // It was not granted, so the DONE was a line of its own.
        (&["C: a IDLE", "C: DONE", "S: a BAD"], dirty(Dirt::OddAnswer)),
        (&["C: a IDLE", "C: DONE", "S: a OK"], dirty(Dirt::OddAnswer)),
        (&["C: a IDLE", "S: + idling", "C: DONE", "C: b IDLE", "S: a OK", "S: + idling"], DONE),
        (&["C: a IDLE", "S: + idling", "C: b NOOP"], dirty(Dirt::Doubt)),
    ] {
        assert_eq!(after(dialogue), remains, "{dialogue:?}");
    }
}

#[test]
fn literals_are_followed() {
    for (dialogue, remains) in [
        (&["C: a APPEND x {9}"][..], dirty(Dirt::HalfCommand)),
        (&["C: a APPEND x {9}", "S: + go"], dirty(Dirt::HalfCommand)),
        (&["C: a APPEND x {9}", "S: + go", "C: b NOOP"], dirty(Dirt::HalfCommand)),
        (&["C: a APPEND x {10}", "S: + go", "C: b NOOP x", "C: "], dirty(Dirt::InFlight)),
        (&["C: a APPEND x {8}", "S: + go", "C: b LOGOUT", "S: a OK"], CLEAN),
        (&["C: a APPEND x (\\Seen) ~{8+}", "C: b LOGOUT", "S: a OK"], CLEAN),
        (&["C: a APPEND x CATENATE (TEXT {8+}", "C: b LOGOUT)", "S: a OK"], CLEAN),
        (&["C: a APPEND x {0}", "S: + go"], dirty(Dirt::HalfCommand)),
        (&["C: a APPEND x {900}", "S: a NO [TOOBIG]"], CLEAN),
        (&["C: a APPEND x {900}", "S: a OK"], dirty(Dirt::OddAnswer)),
        (&["C: a APPEND x {8}", "S: + go", "S: a NO"], dirty(Dirt::OddAnswer)),
        (&["C: a APPEND x {8}", "S: + go", "C: b LOGOUT\\", "S: a NO"], dirty(Dirt::OddAnswer)),
        // It may have taken the literal for a command.
        (&["C: a APPEND x {8+}", "C: b LOGOUT", "S: a BAD"], dirty(Dirt::LostLiteral)),
        (&["C: a APPEND x {8+}", "C: b LOGOUT", "S: a NO"], dirty(Dirt::LostLiteral)),
        (&["C: a NOOP {8+}", "C: b LOGOUT", "S: a OK"], dirty(Dirt::OddLine)),
        (&["C: a CREATE x{8+}", "C: b LOGOUT", "S: a OK"], dirty(Dirt::OddLine)),
        (&["C: a CREATE \"x {10+}", "C: b LOGOUT\"", "S: a OK"], dirty(Dirt::OddLine)),
        (&["C: a CREATE x~{8+}", "C: b LOGOUT", "S: a OK"], dirty(Dirt::OddLine)),
    ] {
        assert_eq!(after(dialogue), remains, "{dialogue:?}");
    }
}

#[test]
fn what_another_reader_could_read_otherwise_is_dirty() {
    for line in ["a NOOP\nb NOOP", "a CREATE x\rb NOOP", "a CREATE x\0", "a CREATE \"x", "a CREATE \"x\\\"", "a NOOP\r"]
    {
        assert_eq!(after(&[&format!("C: {line}"), "S: a OK", "S: b OK"]), dirty(Dirt::OddLine), "{line}");
    }
    for tag in ["*", "+", "a+", "{", "%", "a\"", "a\\b", "(a"] {
        assert_eq!(after(&[&format!("C: {tag} NOOP"), &format!("S: {tag} OK")]), dirty(Dirt::OddLine), "{tag}");
    }
    for line in ["", "DONE"] {
        assert_eq!(after(&[&format!("C: {line}")]), dirty(Dirt::StrayLine), "{line}");
    }
    for line in ["a CREATE \"x\\\\\"", "a CREATE &AOk-", "a CREATE \u{e9}", "a] NOOP", "a LIST \"\" \"%\""] {
        let tag = line.split(' ').next().expect("a tag");
        assert_eq!(after(&[&format!("C: {line}"), &format!("S: {tag} OK")]), CLEAN, "{line}");
    }
}

#[test]
fn answers_have_to_be_answers() {
    for (dialogue, remains) in [
        (&["S: a OK"][..], dirty(Dirt::UnknownTag)),
        (&["C: a NOOP", "S: b OK"], dirty(Dirt::UnknownTag)),
        (&["C: a NOOP", "S: A OK"], dirty(Dirt::UnknownTag)),
        (&["C: a NOOP", "S: a OK", "S: a OK"], dirty(Dirt::UnknownTag)),
        (&["C: a NOOP", "C: a NOOP", "S: a OK", "S: a OK"], dirty(Dirt::SameTag)),
        (&["C: a NOOP", "S: a OK", "C: a NOOP", "S: a OK"], CLEAN),
        (&["C: a NOOP\\", "S: a OK"], dirty(Dirt::UnknownTag)),
        (&["C: a NOOP", "S: * BAD what", "S: a OK"], dirty(Dirt::OddAnswer)),
        (&["C: a NOOP", "S: * NO hm", "S: a OK"], CLEAN),
        (&["S: * PREAUTH"], dirty(Dirt::OddAnswer)),
        (&["C: a NOOP", "S: + go", "S: a OK"], dirty(Dirt::Doubt)),
        (&["S: * BYE"], dirty(Dirt::Bye)),
        (&["C: a FETCH 1 FLAGS", "S: * 1 FETCH (X {6}", "S: a OK"], dirty(Dirt::HalfResponse)),
        (&["C: a FETCH 1 FLAGS", "S: * 1 FETCH (X {4}", "S: a OK)", "S: a OK"], CLEAN),
        (&["C: a FETCH 1 FLAGS", "C: b NOOP", "S: b OK"], dirty(Dirt::InFlight)),
        (&["C: a FETCH 1 FLAGS", "C: b NOOP", "S: b OK", "S: a NO"], CLEAN),
    ] {
        assert_eq!(after(dialogue), remains, "{dialogue:?}");
    }
}

#[test]
fn a_logout_is_held_back() {
    for (line, tag) in [("a LOGOUT\r\n", "a"), ("a. logout\r\n", "a."), ("DONE LogOut\r\nb NOOP\r\n", "DONE")] {
        let link = play(&["C: n NOOP", "S: n OK", &format!("C: {line}\\")]);
        assert_eq!(link.follower.logout_tag(), Some(tag.as_bytes()), "{line}");
        assert_eq!(link.kept, line.as_bytes());
        assert!(link.follower.logged_out() && !link.follower.in_flight() && !link.follower.said_bye());
        assert_eq!(link.follower.remains(), CLEAN);
    }
    for line in ["a  LOGOUT", "a LOGOUT ", "a LOGOUTS", "a\tLOGOUT", "LOGOUT", "* LOGOUT", "+ LOGOUT", "a LOGOUT\n"] {
        let link = play(&[&format!("C: {line}")]);
        assert!(!link.follower.logout() && link.kept.is_empty(), "{line}");
        assert!(matches!(link.follower.remains(), Remains::Dirty(_)), "{line}");
    }
    let longest = "t".repeat(32);
    assert!(play(&[&format!("C: {longest} LOGOUT")]).follower.logout());
    assert!(!play(&[&format!("C: {longest}t LOGOUT")]).follower.logout());
}

#[test]
fn a_logout_behind_commands_waits_for_them() {
    let mut link = play(&["C: a SELECT x", "C: b FETCH 1 FLAGS", "C: c LOGOUT"]);
    assert!(link.follower.logout() && link.follower.in_flight());
    link.hear(Backend, b"a OK\r\nb OK\r\n");
    assert!(!link.follower.in_flight());
    assert_eq!(link.follower.remains(), UNSELECT);
    assert!(play(&["C: a IDLE", "S: + idling", "C: DONE\r\nb LOGOUT"]).follower.logout());
    assert!(!play(&["C: a APPEND x {8+}", "C: b LOGOUT"]).follower.logout(), "no command");
    assert!(!play(&["C: a APPEND x {3}", "S: + go", "C: abcb LOGOUT"]).follower.logout(), "nor this");
}

#[test]
fn a_logout_is_let_go() {
    let mut link = play(&["C: a LOGOUT"]);
    assert_eq!(link.follower.from_client(&link.kept), 0, "still");
    link.follower.release_logout();
    assert!(!link.follower.logout() && link.follower.logged_out());
    link.hear(Client, b"");
    assert!(link.kept.is_empty());
    assert_eq!(link.follower.remains(), dirty(Dirt::UnknownCommand));
    assert!(play(&["C: x FOO", "C: a LOGOUT"]).kept.is_empty(), "nothing is gained by holding it back");
}

/// A line of which the backend has not got a byte leaves no trace; one of which it has got the first is half a command.
#[test]
fn what_was_not_passed_on_does_not_count() {
    for (begun, kept) in
        [("a", 1), ("tag7", 4), ("a ", 2), ("a LOG", 5), ("a LOGOUT", 8), ("a LOGOUT\r", 9), ("a N", 0)]
    {
        let link = play(&["C: n NOOP", "S: n OK", &format!("C: {begun}\\")]);
        assert_eq!(link.kept.len(), kept, "{begun}");
        let remains = if kept > 0 { CLEAN } else { dirty(Dirt::HalfCommand) };
        assert_eq!((link.follower.remains(), link.follower.in_flight()), (remains, kept == 0), "{begun}");
    }
    let mut link = play(&["C: a LOGO\\", "S: + what"]);
    link.hear(Client, b"");
    assert!(link.kept.is_empty(), "doubt holds nothing back");
}

#[test]
fn it_is_bounded() {
    let mut link = Link::new();
    for tag in 0..MOST_IN_FLIGHT {
        link.hear(Client, format!("{tag:032} NOOP\r\n").as_bytes());
        assert_eq!(link.follower.remains(), dirty(Dirt::InFlight));
    }
    assert!(size_of::<Tracker>() + MOST_IN_FLIGHT * size_of::<Sent>() <= 1536, "{}", size_of::<Sent>());
    link.hear(Client, b"one-more NOOP\r\n");
    assert_eq!(link.follower.remains(), dirty(Dirt::TooMany));
    assert!(!link.follower.in_flight(), "nothing to wait for");
    assert!(!link.follower.doubts() && link.follower.vouches(), "as without tracking");
}

#[test]
fn it_tells_nothing() {
    let mut link = play(&["C: secret1 SEARCH SUBJECT secret2", "C: secret3 CREATE secret4\\"]);
    link.hear(Backend, b"* secret5");
    let told = format!("{:?}", link.follower).to_lowercase();
    assert!(!told.contains("secret"), "{told}");
    assert!(!format!("{:?}", play(&["C: secret LOGOUT"]).follower).contains("secret"));
}

#[test]
fn a_tracker_is_small_while_its_client_idles() {
    let mut tracker = Tracker::default();
    let mut say = |number: usize, said: &[u8]| {
        tracker.hear_command(Tag::new(number.to_string().as_bytes()).expect("short"), said);
        tracker.hear_line(false, None);
        tracker.in_flight.capacity()
    };
    assert_eq!(say(0, b"IDLE"), 1);
    for number in 1..MOST_IN_FLIGHT {
        say(number, b"NOOP");
    }
    assert_eq!(tracker.in_flight.len(), MOST_IN_FLIGHT);
    (1..MOST_IN_FLIGHT).for_each(|number| tracker.hear_answer(number.to_string().as_bytes(), Status::Ok));
    assert_eq!((tracker.in_flight.len(), tracker.in_flight.capacity()), (1, 1));
    assert!(size_of::<Tracker>() + size_of::<Sent>() <= 136, "{} {}", size_of::<Tracker>(), size_of::<Sent>());
}
