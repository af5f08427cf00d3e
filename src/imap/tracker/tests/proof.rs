//! The proof, by dialogues and by bytes at random, that whatever the tracker calls clean is so in the model too, and that it
//! makes no difference in what pieces they come. Not here: the model (`model.rs`), examples (`tests.rs`).

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::model::{By, read};
use super::{Link, Remains};
use By::{Backend, Client};

/// The tracker's verdict is no better than the model's.
fn check(link: &Link) {
    let remains = link.follower.remains();
    let (reset, marked) = match remains {
        Remains::Dirty(_) => return,
        Remains::Clean(reset) => (reset, false),
        Remains::Marked(reset) => (reset, true),
    };
    let heard = || -> Vec<String> {
        link.heard.iter().map(|(by, bytes)| format!("{by:?}: {}", bytes.escape_ascii())).collect()
    };
    let Some(needs) = read(&link.heard) else { panic!("{remains:?}: {:#?}", heard()) };
    assert_eq!(reset.done, needs.done, "{:#?}", heard());
    assert!(reset.unselect || !needs.unselect, "{:#?}", heard());
    assert!(marked || !needs.marked, "{:#?}", heard());
    assert!(reset.done || !link.follower.in_flight());
}

/// Plays it in these pieces and byte by byte, checks both after every piece, and gives what it has come to.
fn play(said: &[(By, Vec<u8>)], cuts: &[Index]) -> Link {
    let (mut pieced, mut bytewise) = (Link::new(), Link::new());
    for (by, bytes) in said {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        for cut in cuts.windows(2).filter(|cut| cut[0] < cut[1]) {
            let doubted = pieced.follower.doubts();
            pieced.hear(*by, &bytes[cut[0]..cut[1]]);
            check(&pieced);
            bytes[cut[0]..cut[1]].iter().for_each(|byte| bytewise.hear(*by, &[*byte]));
            check(&bytewise);
            assert_eq!(pieced.follower.remains(), bytewise.follower.remains(), "{said:?}");
            assert_eq!(pieced.follower.in_flight(), bytewise.follower.in_flight(), "{said:?}");
            assert_eq!(pieced.follower.logout_tag(), bytewise.follower.logout_tag(), "{said:?}");
            assert_eq!(pieced.kept, bytewise.kept, "{said:?}");
            assert!(!doubted || pieced.follower.doubts());
        }
    }
    pieced
}

/// Commands without their tags. The model knows what each of them means.
const COMMANDS: [&str; 38] = [
    "NOOP",
    "noop",
    "CAPABILITY",
    "ID NIL",
    "LIST \"\" *",
    "LIST \"\" * RETURN (STATUS (HIGHESTMODSEQ))",
    "STATUS x (MESSAGES)",
    "STATUS x (HIGHESTMODSEQ)",
    "CREATE \"a {5}\"",
    "CHECK",
    "EXPUNGE",
    "FETCH 1 (FLAGS BODY[])",
    "UID FETCH 1:* FLAGS",
    "UID FETCH 1:* FLAGS (CHANGEDSINCE 1)",
    "STORE 1 +FLAGS (\\Seen)",
    "STORE 1 (UNCHANGEDSINCE 1) +FLAGS (\\Seen)",
    "UID COPY 1 x",
    "UID MOVE 1 x",
    "SEARCH ALL",
    "UID SEARCH RETURN (SAVE) ALL",
    "UID SEARCH RETURN (ALL UPDATE) ALL",
    "SEARCH MODSEQ 1",
    "SELECT x",
    "SELECT x",
    "SELECT x (CONDSTORE)",
    "EXAMINE \"(x)\"",
    "EXAMINE y",
    "CLOSE",
    "CLOSE",
    "UNSELECT",
    "ENABLE CONDSTORE",
    "GETQUOTAROOT x",
    "NOTIFY NONE",
    "LOGIN a b",
    "XFOO",
    "UID NOOP",
    "COMPRESS DEFLATE",
    "LOGOUT",
];

/// What stands in literals: all that would be dangerous outside of them.
fn body() -> impl Strategy<Value = String> {
    let piece = select(
        &[
            "x",
            "\r\n",
            "\n",
            "\"",
            "* BYE\r\n",
            "+ go\r\n",
            "t1 OK\r\n",
            "{5}\r\n",
            "{5+}\r\n",
            "t LOGOUT\r\n",
            ")\r\n",
            "MODSEQ",
        ][..],
    );
    prop::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

fn data() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just(String::new()),
        2 => body().prop_map(|body| format!("* 1 FETCH (BODY[] {{{}}}\r\n{body} FLAGS ())\r\n", body.len())),
        1 => select(&["* 3 EXISTS\r\n", "* OK hm\r\n", "* NO hm\r\n", "* ENABLED\r\n", "* OK [CLOSED] x\r\n"][..]).prop_map(str::to_owned),
    ]
}

fn status() -> impl Strategy<Value = &'static str> {
    prop_oneof![6 => Just("OK"), 1 => Just("NO"), 1 => Just("BAD")]
}

/// What each side says in turn, the client first; `T` stands for the tag.
type Turns = Vec<(String, String)>;

fn exchange() -> impl Strategy<Value = Turns> {
    prop_oneof![
        6 => (select(&COMMANDS[..]), data(), status())
            .prop_map(|(command, data, status)| vec![(format!("T {command}\r\n"), format!("{data}T {status} x\r\n"))]),
        1 => (select(&["APPEND x ", "SELECT ", "SEARCH SUBJECT ", "APPEND x CATENATE (TEXT "][..]), body(), status()).prop_map(|(command, body, status)| vec![
            (format!("T {command}{{{}}}\r\n", body.len()), "+ go\r\n".to_owned()),
            (format!("{body}\r\n"), format!("T {status} x\r\n")),
        ]),
        1 => (select(&["APPEND x ", "CREATE ", "NOOP ", "UID SEARCH TEXT ", "CREATE x"][..]), body(), status()).prop_map(|(command, body, status)| vec![
            (format!("T {command}{{{}+}}\r\n{body}\r\n", body.len()), format!("T {status} x\r\n")),
        ]),
        1 => select(&["NO", "BAD"][..]).prop_map(|status| vec![("T APPEND x {1000}\r\n".to_owned(), format!("T {status} x\r\n"))]),
        2 => (data(), status()).prop_map(|(data, status)| vec![
            ("T IDLE\r\n".to_owned(), format!("+ idling\r\n{data}")),
            ("DONE\r\n".to_owned(), format!("T {status} x\r\n")),
        ]),
        1 => status().prop_map(|status| vec![("T IDLE\r\nDONE\r\n".to_owned(), format!("+ idling\r\nT {status} x\r\n"))]),
        1 => status().prop_map(|status| vec![("T IDLE\r\n".to_owned(), format!("T {status} x\r\n"))]),
    ]
}

/// Whether the client goes on without waiting for the answer, what is said where it should not be (mostly nothing), and
/// how many bytes each side says before the other.
fn dialogue() -> impl Strategy<Value = Vec<(By, Vec<u8>)>> {
    let noise = prop_oneof![
        12 => Just(None),
        1 => (by(), select(&WIRE[..])).prop_map(Some),
    ];
    prop::collection::vec((exchange(), any::<bool>(), noise), 0..7).prop_map(|exchanges| {
        let mut said: Vec<(By, Vec<u8>)> = Vec::new();
        let mut late = String::new();
        for (number, (turns, pipelines, noise)) in exchanges.into_iter().enumerate() {
            let tagged = |text: &str| {
                let text = text.replace("\r\nT ", &format!("\r\nt{number} "));
                text.strip_prefix("T ").map_or_else(|| text.clone(), |text| format!("t{number} {text}"))
            };
            if let Some((by, noise)) = noise {
                said.push((by, noise.as_bytes().to_vec()));
            }
            let last = turns.len() - 1;
            for (at, (client, backend)) in turns.into_iter().enumerate() {
                said.push((Client, tagged(&client).into_bytes()));
                said.push((Backend, std::mem::take(&mut late).into_bytes()));
                if at == last && pipelines {
                    late = tagged(&backend);
                } else {
                    said.push((Backend, tagged(&backend).into_bytes()));
                }
            }
        }
        said.push((Backend, late.into_bytes()));
        said
    })
}

fn by() -> impl Strategy<Value = By> {
    prop_oneof![Just(Client), Just(Backend)]
}

/// Pieces of which dangerous streams are made.
const WIRE: [&str; 48] = [
    "\r\n",
    "\n",
    "\r",
    "\0",
    " ",
    "a",
    "b",
    "{",
    "}",
    "\"",
    "\\",
    "~{1}\r\n",
    "{2+}\r\n",
    " {3}\r\n",
    " {4+}\r\n",
    " {12}\r\n",
    "DONE\r\n",
    "DON",
    "IDLE",
    "a IDLE\r\n",
    "b IDLE\r\n",
    "a APPEND x {3}\r\n",
    "b APPEND x {7+}\r\n",
    "a NOOP\r\n",
    "b NOOP\r\n",
    "a SELECT x\r\n",
    "b CLOSE\r\n",
    "a SEARCH MOD",
    "SEQ 1\r\n",
    "a FETCH 1 MODSEQ\r\n",
    "a SEARCH RETURN (",
    "UPDATE) ALL\r\n",
    "SAVE) ALL\r\n",
    "LOGOUT\r\n",
    "b LOGOUT\r\n",
    "b LOG",
    "+ go\r\n",
    "a OK\r\n",
    "a NO no\r\n",
    "b OK\r\n",
    "b BAD no\r\n",
    "* 1 EXISTS\r\n",
    "* 1 FETCH (BODY[] {4}\r\n",
    ")\r\n",
    "* BYE\r\n",
    "* BAD\r\n",
    "* ENABLED X\r\n",
    "b OK {3}\r\n",
];

/// What one side may well say when the other has said that.
fn soup() -> impl Strategy<Value = Vec<(By, Vec<u8>)>> {
    let likely = select(
        &[
            (Client, "a NOOP\r\n"),
            (Backend, "a OK\r\n"),
            (Client, "b NOOP\r\n"),
            (Backend, "b OK\r\n"),
            (Client, "a IDLE\r\n"),
            (Backend, "+ go\r\n"),
            (Client, "DONE\r\n"),
            (Backend, "a OK\r\n"),
            (Client, "a APPEND x {3}\r\n"),
            (Client, "abc"),
            (Client, "\r\n"),
            (Client, "b SELECT x\r\n"),
            (Backend, "b NO\r\n"),
            (Client, "b CLOSE\r\n"),
            (Backend, "a BAD\r\n"),
            (Client, "a CREATE {3+}\r\nx\r\n\r\n"),
            (Client, "b LOGOUT\r\n"),
            (Backend, "* 1 FETCH ({4}\r\n\r\nx\n)\r\n"),
        ][..],
    );
    let piece = prop_oneof![
        6 => likely.prop_map(|(by, said)| (by, said.as_bytes().to_vec())),
        1 => (by(), select(&WIRE[..])).prop_map(|(by, said)| (by, said.as_bytes().to_vec())),
    ];
    prop::collection::vec(piece, 0..14)
}

fn cuts() -> impl Strategy<Value = Vec<Index>> {
    prop::collection::vec(any::<Index>(), 0..5)
}

/// Cut off somewhere.
fn until(said: &[(By, Vec<u8>)], end: Index) -> Vec<(By, Vec<u8>)> {
    let mut left = end.index(said.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() + 1);
    let mut cut = Vec::new();
    for (by, bytes) in said {
        let n = left.min(bytes.len());
        cut.push((*by, bytes[..n].to_vec()));
        left -= n;
    }
    cut
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn what_is_clean_in_a_dialogue_is_clean_in_the_model(said in dialogue(), cuts in cuts(), end: Index) {
        play(&said, &cuts);
        play(&until(&said, end), &cuts);
    }

    #[test]
    fn what_is_clean_in_any_bytes_is_clean_in_the_model(said in soup(), cuts in cuts(), end: Index) {
        play(&said, &cuts);
        play(&until(&said, end), &cuts);
    }
}
