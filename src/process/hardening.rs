//! What the process does to itself before it serves: no core dumps, as many file descriptors as it may have.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use tracing::warn;

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

#[cfg(test)]
mod tests {
    use rustix::process::dumpable_behavior;

    use super::*;

    #[test]
    fn no_core_dumps_and_all_descriptors_there_may_be() {
        let limit = harden();
        assert_eq!(dumpable_behavior().expect("a state"), DumpableBehavior::NotDumpable);
        assert_eq!(limit, getrlimit(Resource::Nofile).maximum);
        assert_eq!(getrlimit(Resource::Nofile).current, getrlimit(Resource::Nofile).maximum);
    }
}
