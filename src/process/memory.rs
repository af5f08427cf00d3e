//! How much memory there is and how much of it is in use. A container that needs more than it has is killed with all its
//! sessions; whoever knows that in time turns new ones away instead.

use std::fs;
use std::path::{Component, Path};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::param::page_size;
use tracing::{info, warn};

use crate::config::Memory;

/// Where control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";
/// The kernel writes "no limit" in version 1 as the largest number of whole pages; nobody has a quarter of it.
const NO_LIMIT: u64 = 1 << 61;
/// From so many hundredths of the limit on nobody is let in ...
const SCARCE: u64 = 90;
/// ... until fewer than so many are in use. Between the two nothing changes, so that it does not flutter.
const ENOUGH: u64 = 85;

/// Whether memory is scarce, looked at once a second.
#[derive(Debug)]
pub struct MemoryWatch {
    limit: Option<u64>,
    scarce: AtomicBool,
}

impl MemoryWatch {
    /// With the limit that the configuration says, or that the container has.
    pub fn new(setting: Memory) -> Self {
        let limit = match setting {
            Memory::Auto => container_limit(),
            Memory::Bytes(bytes) => Some(bytes),
            Memory::Off => None,
        };
        Self { limit, scarce: AtomicBool::new(false) }
    }

    /// The limit in bytes, if there is one.
    pub fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Whether nobody new should be let in.
    pub fn is_scarce(&self) -> bool {
        self.scarce.load(Ordering::Relaxed)
    }

    /// Looks; to be called once a second.
    pub fn look(&self) {
        let (Some(limit), Some(used)) = (self.limit, resident()) else { return };
        let before = self.is_scarce();
        let scarce = is_scarce(before, used, limit);
        self.scarce.store(scarce, Ordering::Relaxed);
        match (before, scarce) {
            (false, true) => warn!(used, limit, "memory is scarce: new connections are turned away (limits.memory)"),
            (true, false) => info!(used, limit, "there is memory again: new connections are taken"),
            _ => {}
        }
    }
}

/// Whether memory is scarce now, when it was so before.
fn is_scarce(before: bool, used: u64, limit: u64) -> bool {
    let mark = if before { ENOUGH } else { SCARCE };
    used >= limit / 100 * mark
}

/// The memory of this process that is in RAM: the second number of `proc_pid_statm(5)`.
fn resident() -> Option<u64> {
    let pages = fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse::<u64>().ok()?;
    pages.checked_mul(u64::try_from(page_size()).ok()?)
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

    #[test]
    fn scarce_from_90_percent_on_and_until_there_are_less_than_85() {
        let mut scarce = false;
        let mut after = |used| {
            scarce = is_scarce(scarce, used, 1000);
            scarce
        };
        assert_eq!([0, 850, 899, 900, 899, 850].map(&mut after), [false, false, false, true, true, true]);
        assert_eq!([849, 899, 2000].map(&mut after), [false, false, true]);
        assert!(!is_scarce(false, u64::MAX / 2, u64::MAX), "no overflow");
    }

    #[test]
    fn what_this_process_uses_is_measured_and_acted_on() {
        let used = resident().expect("a number");
        assert!((1 << 20..1 << 40).contains(&used), "{used}");
        let tight = MemoryWatch::new(Memory::Bytes(used / 2));
        assert!(!tight.is_scarce());
        tight.look();
        assert!(tight.is_scarce());
        let wide = MemoryWatch::new(Memory::Bytes(1 << 50));
        wide.look();
        assert!(!wide.is_scarce());
        let off = MemoryWatch::new(Memory::Off);
        off.look();
        assert!(off.limit().is_none() && !off.is_scarce());
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
