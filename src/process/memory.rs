//! How much memory there is and how much of it is in use. A container that needs more than it has is killed with all its
//! sessions; whoever knows that in time turns new ones away instead.

use std::fs;
use std::path::{Component, Path};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::param::page_size;
use tracing::{info, warn};

use crate::config::Memory;

/// Where control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";
/// The kernel writes "no limit" in version 1 as the largest number of whole pages; nobody has a quarter of it.
const NO_LIMIT: u64 = 1 << 61;
/// From so many hundredths of the limit on nobody is let in beyond those who are there ...
const SCARCE: u64 = 90;
/// ... until fewer than so many are in use. Between the two nothing changes, so that it does not flutter.
const ENOUGH: u64 = 85;
/// What a connection needs until it is logged in, which shows only after it was let in.
const NEWCOMER: u64 = 48 * 1024;
/// How often it is to be looked.
pub const EVERY: Duration = Duration::from_millis(250);
/// Whoever has come within so many looks is a newcomer.
const LOOKS: usize = 8;

/// Whether there is memory for more connections.
///
/// What sessions have used and given back stays with the process for long, and serves for the next ones: so it is not waited
/// for until less is in use. As many sessions as there were when memory became scarce there may be, in place of those that go.
#[derive(Debug)]
pub struct MemoryWatch {
    limit: Option<u64>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    used: u64,
    /// Let in since the last look, and between those before.
    newcomers: [u64; LOOKS],
    scarce: Option<Scarce>,
}

/// Memory has become scarce.
#[derive(Debug, Clone, Copy)]
struct Scarce {
    /// So many sessions there may be.
    most: usize,
    /// So much was in use when that was found.
    used: u64,
}

impl MemoryWatch {
    /// With the limit that the configuration says, or that the container has.
    pub fn new(setting: Memory) -> Self {
        let limit = match setting {
            Memory::Auto => container_limit(),
            Memory::Bytes(bytes) => Some(bytes),
            Memory::Off => None,
        };
        Self { limit, state: Mutex::default() }
    }

    /// The limit in bytes, if there is one.
    pub fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Lets one more in, where there are so many sessions, or does not.
    pub fn admits(&self, sessions: usize) -> bool {
        self.limit.is_none_or(|limit| self.state().admits(sessions, limit))
    }

    /// Looks; to be called again and again, with the number of sessions.
    pub fn look(&self, sessions: usize) {
        let (Some(limit), Some(used)) = (self.limit, resident()) else { return };
        match self.state().looked(used, sessions, limit) {
            Some(true) => warn!(used, limit, sessions, "memory is scarce: no more sessions than these (limits.memory)"),
            Some(false) => info!(used, limit, sessions, "there is memory again"),
            None => {}
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn admits(&mut self, sessions: usize, limit: u64) -> bool {
        let admits = match self.scarce {
            Some(scarce) => sessions < scarce.most,
            None => self.used + self.newcomers.iter().sum::<u64>() * NEWCOMER < hundredths(limit, SCARCE),
        };
        if admits && let Some(newcomers) = self.newcomers.first_mut() {
            *newcomers += 1;
        }
        admits
    }

    /// True: memory has become scarce; false: it is not any more.
    fn looked(&mut self, used: u64, sessions: usize, limit: u64) -> Option<bool> {
        self.used = used;
        self.newcomers.rotate_right(1);
        self.newcomers[0] = 0;
        match &mut self.scarce {
            None if used >= hundredths(limit, SCARCE) => {
                self.scarce = Some(Scarce { most: sessions, used });
                Some(true)
            }
            Some(_) if used < hundredths(limit, ENOUGH) => {
                self.scarce = None;
                Some(false)
            }
            // Those who are there need more than they did.
            Some(scarce) if used > scarce.used + hundredths(limit, 1) => {
                *scarce = Scarce { most: scarce.most.min(sessions), used };
                None
            }
            _ => None,
        }
    }
}

fn hundredths(limit: u64, count: u64) -> u64 {
    limit / 100 * count
}

/// The memory of this process that is in RAM and nowhere else: the second number of `proc_pid_statm(5)` less the third. Pages of
/// files (the program itself) are given back under pressure.
fn resident() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = text.split(' ').skip(1).map_while(|number| number.parse::<u64>().ok());
    let own = pages.next()?.saturating_sub(pages.next()?);
    own.checked_mul(u64::try_from(page_size()).ok()?)
}

/// The least limit among our control groups and those around them.
fn container_limit() -> Option<u64> {
    limit_in(&fs::read_to_string("/proc/self/cgroup").ok()?, Path::new(CGROUPS))
}

/// `groups` is a text as in `cgroups(7)`: `0::/path` in version 2, `4:memory:/path` in version 1.
fn limit_in(groups: &str, mount: &Path) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        match controllers {
            "" => least(mount, path, "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                least(&mount.join("memory"), path, "memory.limit_in_bytes")
            }
            _ => None,
        }
    });
    limits.min()
}

/// Seen from within a container the path may lead to nowhere (it is the host's), and its own group is the mount itself.
fn least(mount: &Path, path: &str, file: &str) -> Option<u64> {
    let names = Path::new(path).components().filter(|part| matches!(part, Component::Normal(_)));
    let own = mount.join(names.collect::<std::path::PathBuf>());
    let groups = own.ancestors().take_while(|folder| folder.starts_with(mount));
    let read = |folder: &Path| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
    groups.filter_map(read).filter(|limit| *limit > 0 && *limit < NO_LIMIT).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 100_000_000;

    #[test]
    fn from_90_percent_on_those_who_go_are_replaced_and_until_there_are_less_than_85() {
        let mut state = State::default();
        assert_eq!(state.looked(85_000_000, 100, LIMIT), None);
        assert!(state.admits(100, LIMIT));
        assert_eq!(state.looked(90_000_000, 101, LIMIT), Some(true));
        assert!(!state.admits(101, LIMIT) && state.admits(100, LIMIT));
        assert_eq!(state.looked(89_000_000, 101, LIMIT), None);
        assert!(!state.admits(101, LIMIT));
        assert_eq!(state.looked(92_000_000, 95, LIMIT), None, "they need more than they did");
        assert!(!state.admits(95, LIMIT) && state.admits(94, LIMIT));
        assert_eq!(state.looked(92_000_000, 0, LIMIT), None);
        assert!(state.admits(0, LIMIT), "what was given back serves for the next");
        assert_eq!(state.looked(84_999_999, 50, LIMIT), Some(false));
        assert!(state.admits(1000, LIMIT));
    }

    #[test]
    fn newcomers_count_before_their_memory_does() {
        let mut state = State::default();
        state.looked(80_000_000, 0, LIMIT);
        let mut let_in = 0;
        while state.admits(let_in, LIMIT) {
            let_in += 1;
        }
        assert_eq!(let_in, 204, "10 MB of 48 KiB each");
        for _ in 1..LOOKS {
            state.looked(80_000_000, let_in, LIMIT);
            assert!(!state.admits(let_in, LIMIT));
        }
        state.looked(85_000_000, let_in, LIMIT);
        assert!(state.admits(let_in, LIMIT), "what they have taken is seen by now");
    }

    #[test]
    fn what_this_process_uses_is_measured_and_acted_on() {
        let used = resident().expect("a number");
        assert!((1 << 20..1 << 40).contains(&used), "{used}");
        let tight = MemoryWatch::new(Memory::Bytes(used / 2));
        tight.look(5);
        assert!(!tight.admits(5) && tight.admits(4));
        let wide = MemoryWatch::new(Memory::Bytes(1 << 50));
        wide.look(5);
        assert!(wide.admits(5));
        let off = MemoryWatch::new(Memory::Off);
        off.look(5);
        assert!(off.limit().is_none() && off.admits(5));
    }

    #[test]
    fn the_least_limit_of_all_groups_around_us_counts() {
        let mount = tempfile::tempdir().expect("a scratch folder");
        let write = |folder: &str, file: &str, text: &str| {
            let folder = mount.path().join(folder);
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(folder.join(file), text).expect("written");
        };
        let limit = |groups: &str| limit_in(groups, mount.path());
        assert_eq!(limit("0::/a/b\n"), None, "nothing there");
        write("a/b", "memory.max", "max\n");
        assert_eq!(limit("0::/a/b\n"), None);
        write("a", "memory.max", "1073741824\n");
        assert_eq!(limit("0::/a/b\n"), Some(1 << 30), "the parent's");
        write("a/b", "memory.max", "536870912\n");
        assert_eq!(limit("0::/a/b\n"), Some(512 << 20));
        assert_eq!(limit("0::/../../a\n"), Some(1 << 30), "from another namespace");
        assert_eq!(limit("0::/of/the/host\n"), None);
        write("", "memory.max", "2147483648\n");
        assert_eq!(limit("0::/of/the/host\n"), Some(2 << 30), "our own is the mount");

        write("memory", "memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/c", "memory.limit_in_bytes", "268435456\n");
        assert_eq!(limit("9:name=systemd:/\n4:memory:/c/d\n1:cpu,cpuacct:/\n"), Some(256 << 20));
        assert_eq!(limit("4:memory:/\n"), None);
    }
}
