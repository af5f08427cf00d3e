//! What the process does to itself before it serves: no core dumps, as many file descriptors as it may have; and whether
//! that, and its memory, is enough for what the configuration allows.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use tracing::warn;

use crate::config::Limits;

/// What a session needs: a descriptor towards its client and one towards its backend ...
const DESCRIPTORS_PER_SESSION: u64 = 2;
/// ... beside those of the process itself ...
const DESCRIPTORS: u64 = 64;
/// ... and in memory what is on its way both ways, and TLS twice.
const MEMORY_PER_SESSION: u64 = 64 << 10;

/// Turns core dumps (and reading our memory by others of the same user) off, since memory holds passwords for moments,
/// and raises the soft limit on file descriptors to the hard one. Gives the limit that holds now, if there is one.
///
/// What cannot be done is logged and does not keep mailmux from serving.
pub fn harden() -> Option<u64> {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        warn!(%error, "core dumps could not be turned off");
    }
    let limit = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        Ok(()) => limit.maximum,
        Err(error) => {
            warn!(%error, "the limit on file descriptors could not be raised");
            limit.current
        }
    }
}

/// Where the configuration allows more sessions than there can be, in words that name what to change.
pub fn too_much(limits: &Limits, descriptors: Option<u64>, memory: Option<u64>) -> Vec<String> {
    // No limit is an answer too: whoever writes it knows that the machine is the limit.
    let sessions = u64::try_from(limits.sessions).unwrap_or(u64::MAX);
    let mut words = Vec::new();
    let needed = sessions.saturating_mul(DESCRIPTORS_PER_SESSION).saturating_add(DESCRIPTORS);
    if sessions > 0
        && let Some(there) = descriptors.filter(|there| *there < needed)
    {
        words.push(format!(
            "limits.sessions = {sessions} needs {needed} file descriptors, and there are {there}: \
             raise their limit (LimitNOFILE, ulimit -n), or lower limits.sessions"
        ));
    }
    let needed = sessions.saturating_mul(MEMORY_PER_SESSION);
    if let Some(there) = memory.filter(|there| *there < needed) {
        words.push(format!(
            "limits.sessions = {sessions} may need {} MiB of memory, and there are {}: \
             give it more (limits.memory, or the container's), or lower limits.sessions",
            needed >> 20,
            there >> 20
        ));
    }
    words
}

#[cfg(test)]
mod tests {
    use rustix::process::dumpable_behavior;

    use super::*;

    #[test]
    fn what_cannot_be_is_said_beforehand() {
        let limits = |sessions| Limits { sessions, ..crate::config::Config::for_one_backend("a", 1).limits };
        assert_eq!(too_much(&limits(1000), Some(2064), Some(1000 << 16)), Vec::<String>::new());
        assert_eq!(too_much(&limits(1000), None, None), Vec::<String>::new());
        assert_eq!(too_much(&limits(0), Some(1024), Some(1 << 20)), Vec::<String>::new());
        let words = too_much(&limits(100_000), Some(1024), Some(512 << 20));
        assert!(words[0].contains("200064 file descriptors, and there are 1024"), "{words:?}");
        assert!(words[1].contains("6250 MiB") && words[1].contains("are 512"), "{words:?}");
    }

    #[test]
    fn no_core_dumps_and_all_descriptors_there_may_be() {
        let limit = harden();
        assert_eq!(dumpable_behavior().expect("a state"), DumpableBehavior::NotDumpable);
        assert_eq!(limit, getrlimit(Resource::Nofile).maximum);
        assert_eq!(getrlimit(Resource::Nofile).current, getrlimit(Resource::Nofile).maximum);
    }
}
