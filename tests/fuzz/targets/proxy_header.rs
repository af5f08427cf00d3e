//! The reader of PROXY headers under any bytes: it never wants bytes that a header cannot have, never takes more than it
//! was given or than a header may have, and finds the same header however much stands behind it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mailmux::proxy_header::{Parsed, parse};

const LONGEST: usize = 4096;

fuzz_target!(|data: &[u8]| {
    match parse(data) {
        Parsed::Done(header, used) => {
            assert!(used <= data.len() && used <= LONGEST);
            assert!(matches!(parse(&data[..used]), Parsed::Done(again, all) if again == header && all == used));
            for end in 0..used {
                assert!(
                    matches!(parse(&data[..end]), Parsed::Incomplete { missing } if missing >= 1 && end + missing <= used)
                );
            }
        }
        Parsed::Incomplete { missing } => assert!(missing >= 1 && data.len() + missing <= LONGEST),
        Parsed::Bad(_) => {}
    }
});
