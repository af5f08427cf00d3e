//! Which files this process may open: those in the folders that the configuration names and that the system's libraries
//! need, where the kernel has Landlock (`landlock(7)`). A fault that lets somebody read files through mailmux reads little then.
//!
//! Folders and not files, since files get replaced. Only opening is restricted: sockets of every kind, signals and what is
//! open already stay as they are. It holds for this thread and those it starts, so it has to come before there is another;
//! and for a new binary that is started from here, which can only restrict itself further.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, fs};

use landlock::{
    ABI, Access, AccessFs, BitFlags, LandlockStatus, RestrictSelfError, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, make_bitflags, path_beneath_rules,
};
use rustix::io::Errno;
use tracing::{info, warn};

use crate::config::{Config, Finding, NamedFile, Role};

/// What is restricted. Later versions also restrict with whom one talks over sockets, which is not meant here.
const VERSION: ABI = ABI::V8;
/// What the system's libraries read: the settings of the resolver, authorities, libraries that are loaded when needed, our
/// own process and control group.
const SYSTEM: [&str; 12] = [
    "/etc",
    "/usr",
    "/lib",
    "/lib64",
    "/nix/store",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/proc",
    "/sys/fs/cgroup",
    "/dev/null",
    "/dev/urandom",
    "/dev/random",
];
/// Files of the system that may be links to other places.
const LINKS: [&str; 4] = ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/ssl/certs/ca-certificates.crt"];
/// Where other places for authorities are named.
const VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];
/// Where the loader of programs lies, which the kernel starts for each of them.
const LOADERS: [&str; 4] = ["/lib", "/lib64", "/usr/lib", "/nix/store"];

/// What the process may open.
#[derive(Debug)]
pub struct Confinement {
    folders: Folders,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    /// Only what is in the folders; the version of Landlock that sees to it.
    Confined(ABI),
    /// Those that started us have confined themselves, so often that the kernel adds no more.
    ByThoseBefore,
    /// `confine = false`
    NotWanted,
    /// The kernel has no Landlock.
    NotThere,
    Failed(RulesetError),
}

/// Folders, and a few files whose folder would be everything.
#[derive(Debug, Default)]
struct Folders {
    read: BTreeSet<PathBuf>,
    /// And written to, with new files in them.
    write: BTreeSet<PathBuf>,
    /// Sockets are made in them.
    sockets: BTreeSet<PathBuf>,
    start: BTreeSet<PathBuf>,
}

impl Confinement {
    /// Restricts this thread, and those it will start, to what this configuration needs, which was read from `file`. In the
    /// folders of `sockets` it may make sockets and remove them.
    ///
    /// Where that fails the process serves on without it; [`Self::log`] says so.
    pub fn begin(config: &Config, file: Option<&Path>, sockets: &[&Path]) -> Self {
        let mut folders = Folders::of_the_system();
        if let Some(file) = file {
            add_folder_of(&mut folders.read, file);
        }
        for file in config.files() {
            folders.add(&file);
        }
        for socket in sockets {
            add_folder_of(&mut folders.sockets, socket);
        }
        let outcome = if config.server.confine { restrict(&folders) } else { Outcome::NotWanted };
        Self { folders, outcome }
    }

    /// Says what came of it, once there is a log.
    pub fn log(&self) {
        match &self.outcome {
            Outcome::Confined(version) => {
                let (read, write) = (self.folders.read.len(), self.folders.write.len() + self.folders.sockets.len());
                info!(landlock = %*version as u32, read, write, "confined to these numbers of folders");
            }
            Outcome::ByThoseBefore => info!("confined as the processes before this one are, and no further"),
            Outcome::NotWanted => info!("not confined to the folders that are needed: server.confine is false"),
            Outcome::NotThere => info!("not confined to the folders that are needed: the kernel has no Landlock"),
            Outcome::Failed(error) => warn!(%error, "could not be confined to the folders that are needed"),
        }
    }

    /// The files of a new configuration that cannot be opened because of what was named at the start.
    pub fn refuses(&self, config: &Config) -> Vec<Finding> {
        if !matches!(self.outcome, Outcome::Confined(_) | Outcome::ByThoseBefore) {
            return Vec::new();
        }
        let outside = config.files().into_iter().filter(|file| !self.folders.hold(file));
        outside
            .map(|file| Finding {
                message: format!(
                    "{} lies outside of the folders that mailmux has confined itself to at its start\n\
                     expected a file in one of these, or a restart; [server] read names folders for later",
                    file.path.display()
                ),
                site: Some(file.site),
            })
            .collect()
    }
}

impl Folders {
    fn of_the_system() -> Self {
        let mut folders = Self::default();
        folders.read.extend(SYSTEM.map(PathBuf::from));
        for link in LINKS {
            add_folder_of(&mut folders.read, Path::new(link));
        }
        for path in VARIABLES.iter().filter_map(env::var_os).map(PathBuf::from) {
            add_folder_of(&mut folders.read, &path);
            folders.read.insert(path);
        }
        folders.start.extend(LOADERS.map(PathBuf::from));
        if let Ok(own) = env::current_exe() {
            add_folder_of(&mut folders.start, &own);
        }
        // As it was called, which may be a link to another place.
        if let Some(called) = env::args_os().next().filter(|called| called.as_encoded_bytes().contains(&b'/')) {
            add_folder_of(&mut folders.start, Path::new(&called));
        }
        folders
    }

    fn add(&mut self, file: &NamedFile) {
        match file.role {
            Role::File => add_folder_of(&mut self.read, &file.path),
            Role::Folder => {
                self.read.extend([absolute(&file.path), real(&file.path)].into_iter().flatten());
                // What lies in it may be a link to another place, as an ACME client's certificates are.
                let entries = fs::read_dir(&file.path).into_iter().flatten().flatten();
                let links = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()));
                for link in links {
                    add_folder_of(&mut self.read, &link.path());
                }
            }
            Role::Database => add_folder_of(&mut self.write, &file.path),
            Role::DatabaseUrl => {
                add_folder_of(&mut self.read, &file.path);
                for file in named_in(file) {
                    self.add(&file);
                }
            }
        }
    }

    /// Whether a file lies in them. What is not there is no matter of ours.
    fn hold(&self, file: &NamedFile) -> bool {
        let Some(real) = real(&file.path) else { return true };
        let is_in = |folders: &BTreeSet<PathBuf>| folders.iter().any(|folder| real.starts_with(folder));
        match file.role {
            Role::File | Role::Folder => is_in(&self.read) || is_in(&self.write),
            Role::Database => is_in(&self.write),
            Role::DatabaseUrl => is_in(&self.read) && named_in(file).iter().all(|file| self.hold(file)),
        }
    }
}

/// What the URL in a file names. A file that cannot be read is complained of by whoever needs it.
fn named_in(file: &NamedFile) -> Vec<NamedFile> {
    let url = fs::read(&file.path).map(zeroize::Zeroizing::new).unwrap_or_default();
    str::from_utf8(&url).map(|url| NamedFile::in_url(url, &file.site)).unwrap_or_default()
}

/// The folder that a file lies in, and the one that it really lies in, if it is a link. For a file in the root folder it is
/// the file itself: that folder holds everything.
fn add_folder_of(folders: &mut BTreeSet<PathBuf>, file: &Path) {
    for path in [absolute(file), real(file)].into_iter().flatten() {
        let folder = path.parent().filter(|folder| folder.parent().is_some());
        folders.insert(folder.map_or_else(|| path.clone(), Path::to_owned));
    }
}

fn absolute(path: &Path) -> Option<PathBuf> {
    std::path::absolute(path).ok()
}

fn real(path: &Path) -> Option<PathBuf> {
    fs::canonicalize(path).ok()
}

fn restrict(folders: &Folders) -> Outcome {
    match try_to_restrict(folders) {
        Ok(RestrictionStatus { landlock: LandlockStatus::Available { effective_abi, .. }, ruleset, .. })
            if ruleset != RulesetStatus::NotEnforced =>
        {
            Outcome::Confined(effective_abi)
        }
        Ok(_) => Outcome::NotThere,
        // The kernel bounds how many confinements lie within each other; each upgrade adds one.
        Err(RulesetError::RestrictSelf(RestrictSelfError::RestrictSelfCall { source, .. }))
            if source.raw_os_error() == Some(Errno::TOOBIG.raw_os_error()) =>
        {
            Outcome::ByThoseBefore
        }
        Err(error) => Outcome::Failed(error),
    }
}

/// The library leaves out what the kernel does not know, and folders that are not there.
fn try_to_restrict(folders: &Folders) -> Result<RestrictionStatus, RulesetError> {
    let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let start = read | AccessFs::Execute;
    let write = read | make_bitflags!(AccessFs::{WriteFile | Truncate | MakeReg | RemoveFile});
    let sockets = read | make_bitflags!(AccessFs::{MakeSock | RemoveFile});
    let null: BitFlags<AccessFs> = AccessFs::WriteFile.into();
    Ruleset::default()
        .handle_access(AccessFs::from_all(VERSION))?
        .create()?
        .add_rules(path_beneath_rules(&folders.read, read))?
        .add_rules(path_beneath_rules(&folders.start, start))?
        .add_rules(path_beneath_rules(&folders.write, write))?
        .add_rules(path_beneath_rules(&folders.sockets, sockets))?
        .add_rules(path_beneath_rules(["/dev/null"], null))?
        .restrict_self()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process::Command;
    use std::thread;

    use super::*;

    /// A configuration with one certificate pair, `keys/a.pem` and `keys/a.key`, and a database, in a scratch folder beside
    /// which there is `secret`.
    fn scene(more: &str) -> (tempfile::TempDir, Config) {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let root = scratch.path();
        for folder in ["etc", "etc/keys", "archive", "db", "run", "elsewhere"] {
            fs::create_dir(root.join(folder)).expect("a folder");
        }
        for file in ["secret", "etc/mailmux.toml", "etc/keys/a.key", "archive/a1.pem", "db/users.db", "elsewhere/x"] {
            fs::write(root.join(file), file).expect("written");
        }
        symlink("../../archive/a1.pem", root.join("etc/keys/a.pem")).expect("a link");
        let config = load(root, more);
        (scratch, config)
    }

    fn load(root: &Path, more: &str) -> Config {
        let text = format!(
            "{more}\n[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n\
             [[tls.certificate]]\nchain = \"keys/a.pem\"\nkey = \"keys/a.key\"\n\
             [[lookup]]\nname = \"users\"\ntype = \"sql\"\nurl = \"sqlite:../db/users.db\"\nquery = \"SELECT 1\"\n\
             [[route]]\nlookup = \"users\"\n"
        );
        Config::parse(&text, &root.join("etc/mailmux.toml")).unwrap_or_else(|findings| panic!("{findings}"))
    }

    /// The test of a kernel without Landlock ends where it cannot be tested.
    fn confined<T: Send + 'static>(
        root: &Path,
        config: Config,
        then: impl FnOnce(Confinement, &Path) -> T + Send + 'static,
    ) -> Option<T> {
        let root = root.to_owned();
        // It holds for one thread, and what that one starts.
        let thread = thread::spawn(move || {
            let socket = root.join("run/admin.sock");
            let confinement = Confinement::begin(&config, Some(&root.join("etc/mailmux.toml")), &[&socket]);
            if matches!(confinement.outcome, Outcome::NotThere) {
                eprintln!("not tested: this kernel has no Landlock");
                return None;
            }
            Some(then(confinement, &root))
        });
        thread.join().expect("no panic")
    }

    #[test]
    fn what_is_not_named_cannot_be_opened() {
        let (scratch, config) = scene("");
        let outside = UnixListener::bind(scratch.path().join("elsewhere/sock")).expect("bound");
        confined(scratch.path(), config, |confinement, root| {
            assert!(matches!(confinement.outcome, Outcome::Confined(_)), "{confinement:?}");
            let denied =
                |result: io::Result<()>| result.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
            let read = |path: &str| fs::read(root.join(path)).map(drop);
            let write = |path: &str| fs::write(root.join(path), "x");

            for path in ["etc/mailmux.toml", "etc/keys/a.pem", "etc/keys/a.key", "archive/a1.pem", "db/users.db"] {
                assert!(read(path).is_ok(), "{path}");
            }
            for path in ["/etc/passwd", "/proc/self/statm", "/dev/urandom"] {
                assert!(fs::File::open(path).is_ok(), "{path}");
            }
            assert!(denied(read("secret")) && denied(read("elsewhere/x")) && denied(fs::read_dir(root).map(drop)));
            assert!(denied(fs::read_dir("/root").map(drop)) && denied(fs::read_dir("/").map(drop)));
            // By way of what is named neither.
            symlink(root.join("secret"), root.join("etc/keys/b.pem")).expect_err("no links are made either");
            assert!(denied(read("etc/keys/../../secret")));

            assert!(write("db/users.db-journal").is_ok() && fs::remove_file(root.join("db/users.db-journal")).is_ok());
            assert!(fs::write("/dev/null", "x").is_ok());
            for path in ["etc/mailmux.toml", "etc/keys/new", "elsewhere/new", "run/new"] {
                assert!(denied(write(path)), "{path}");
            }
            drop(UnixListener::bind(root.join("run/admin.sock")).expect("a socket"));
            fs::remove_file(root.join("run/admin.sock")).expect("removed");
            assert!(denied(UnixListener::bind(root.join("elsewhere/new.sock")).map(drop)));
            // Those of others can be connected to, wherever they are.
            UnixStream::connect(root.join("elsewhere/sock")).expect("connected");

            // Our own binary can be started, and is as confined; others cannot.
            let own = Command::new(env::current_exe().expect("our path")).arg("--list").output();
            assert!(own.expect("started").status.success());
            assert!(denied(Command::new("/usr/bin/id").output().map(drop)));
        });
        drop(outside);
    }

    #[test]
    fn a_reload_that_names_a_file_elsewhere_is_told_so() {
        let (scratch, config) = scene("[server]\nread = [\"../archive\"]\n");
        confined(scratch.path(), config, |confinement, root| {
            assert_eq!(confinement.refuses(&load(root, "")), []);
            let folder = |name: &str| load(root, &format!("[tls]\ndirectory = \"../{name}\"\n"));
            assert_eq!(confinement.refuses(&folder("archive")), []);
            assert_eq!(confinement.refuses(&folder("not-there")), []);
            let refused = confinement.refuses(&folder("elsewhere"));
            let [Finding { site: Some(site), message }] = &refused[..] else { panic!("{refused:?}") };
            assert_eq!(site.key, "tls.directory");
            assert!(message.contains("elsewhere lies outside") && message.contains("[server] read"), "{message}");
        });
    }

    #[test]
    fn a_url_in_a_file_and_links_in_a_folder_are_followed() {
        let (scratch, config) = scene("[tls]\ndirectory = \"keys\"\n");
        let root = scratch.path();
        fs::write(root.join("etc/url"), format!("sqlite:{}\n", root.join("elsewhere/x").display())).expect("written");
        let mut folders = Folders::default();
        for file in config.files() {
            folders.add(&file);
        }
        assert!(folders.read.contains(&root.join("archive")), "{folders:?}");
        let site = config.files().pop().expect("files").site;
        folders.add(&NamedFile { path: root.join("etc/url"), site, role: Role::DatabaseUrl });
        assert!(folders.write.contains(&root.join("elsewhere")), "{folders:?}");
    }

    #[test]
    fn the_root_folder_is_never_meant_as_a_whole() {
        let mut folders = BTreeSet::new();
        add_folder_of(&mut folders, Path::new("/mailmux.toml"));
        assert_eq!(folders, BTreeSet::from(["/mailmux.toml".into()]));
    }

    #[test]
    fn who_does_not_want_it_opens_everything() {
        let (scratch, config) = scene("[server]\nconfine = false\n");
        let root = scratch.path().to_owned();
        let read = thread::spawn(move || {
            let confinement = Confinement::begin(&config, None, &[]);
            (matches!(confinement.outcome, Outcome::NotWanted), fs::read(root.join("secret")).is_ok())
        });
        assert_eq!(read.join().expect("no panic"), (true, true));
    }

    #[test]
    fn upgrade_after_upgrade_stays_confined() {
        let (scratch, config) = scene("");
        let again = config.clone();
        confined(scratch.path(), config, move |_, root| {
            let outcomes: Vec<_> = (0..20).map(|_| Confinement::begin(&again, None, &[]).outcome).collect();
            assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Confined(_) | Outcome::ByThoseBefore)));
            assert!(matches!(outcomes.last(), Some(Outcome::ByThoseBefore)), "the kernel has a bound");
            assert!(fs::read(root.join("secret")).is_err() && fs::read(root.join("db/users.db")).is_ok());
        });
    }
}
