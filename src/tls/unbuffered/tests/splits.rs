//! Both directions at once, cut and held up in any way: what is heard is what was said, and little is owned.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// The other side says so many bytes.
    Says(usize),
    /// So many bytes of its ciphertext come, as one piece.
    Comes(usize),
    /// Ours reads.
    Reads(usize),
    /// Ours writes.
    Writes(usize),
    /// The socket takes so many bytes more.
    Takes(usize),
    Flushes,
    /// The other side changes its keys.
    Refreshes,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => prop_oneof![1..100_usize, 1..60_000_usize].prop_map(Step::Says),
        8 => prop_oneof![1..30_usize, 1..2000_usize, 1..70_000_usize].prop_map(Step::Comes),
        8 => prop_oneof![1..20_usize, 1..5000_usize, Just(65_536_usize)].prop_map(Step::Reads),
        4 => prop_oneof![1..100_usize, 1..100_000_usize].prop_map(Step::Writes),
        4 => prop_oneof![0..100_usize, 0..50_000_usize].prop_map(Step::Takes),
        1 => Just(Step::Flushes),
        1 => Just(Step::Refreshes),
    ];
    prop::collection::vec(step, 1..120)
}

/// What was said and heard in both directions.
#[derive(Default)]
struct Ledger {
    said: Vec<u8>,
    heard: Vec<u8>,
    written: Vec<u8>,
    taken: Vec<u8>,
}

fn play<S: End>(settings: &Settings, steps: &[Step]) {
    let mut pair = Pair::<S>::shaken(settings);
    pair.near.io.room = 0;
    let (mut ledger, mut on_its_way, mut refreshed) = (Ledger::default(), VecDeque::new(), 0);
    for step in steps {
        match *step {
            Step::Says(len) => {
                let words = noise(len);
                on_its_way.extend(pair.say(&words));
                ledger.said.extend(words);
            }
            Step::Comes(len) => {
                let piece: Vec<u8> = on_its_way.drain(..len.min(on_its_way.len())).collect();
                pair.near.io.coming.extend((!piece.is_empty()).then_some(piece));
            }
            Step::Reads(size) => match pair.read(size) {
                Poll::Ready(read) => {
                    let read = read.expect("no error");
                    assert!(!read.is_empty() && read.len() <= size);
                    ledger.heard.extend(read);
                }
                Poll::Pending => {}
            },
            Step::Writes(len) => {
                let words = noise(len);
                if let Poll::Ready(accepted) = pair.write(&words) {
                    ledger.written.extend(&words[..accepted.expect("no error")]);
                }
            }
            Step::Takes(more) => pair.near.io.room += more,
            Step::Flushes => {
                let _ = pair.flush();
            }
            Step::Refreshes if refreshed < 20 && pair.far.refresh_traffic_keys().is_ok() => {
                refreshed += 1;
                on_its_way.extend(pair.said());
            }
            Step::Refreshes => {}
        }
        assert!(pair.near.owned() <= 6 * RECORD_MAX);
        ledger.taken.extend(pair.carry().expect("nothing wrong"));
    }
    pair.near.io.room = usize::MAX;
    pair.near.io.coming.extend((!on_its_way.is_empty()).then(|| on_its_way.into()));
    assert!(pair.flush().is_ready());
    ledger.taken.extend(pair.carry().expect("nothing wrong"));
    while !pair.near.io.coming.is_empty() || ledger.heard.len() < ledger.said.len() {
        if let Poll::Ready(read) = pair.read(64 * 1024) {
            ledger.heard.extend(read.expect("no error"));
        }
    }
    assert!(ledger.heard == ledger.said && ledger.taken == ledger.written);
    assert_eq!(pair.near.owned(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_is_lost_or_added(steps in steps(), version in prop_oneof![Just(V12), Just(V13)], server: bool) {
        let settings = Settings::of(version);
        if server { play::<Server>(&settings, &steps) } else { play::<Client>(&settings, &steps) }
    }
}
