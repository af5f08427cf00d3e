//! Giving up what is not needed: root becomes `[server] user`, of whose powers only ports below 1024 are left, and nothing
//! that is started from here gets more than we have. What cannot be given up keeps mailmux from starting.
//!
//! All of this works on one thread, so it has to come before there is another. It also comes before certificates, keys and
//! maps are read: what a reload or a new binary could not read fails at the start already. Not here: which files may be
//! opened (`confine.rs`).

use std::ffi::CString;
use std::fmt::Display;

use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid, getresgid, getresuid, initgroups, seteuid, setgid, setuid};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    configure_capability_in_ambient_set, no_new_privs, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities, set_no_new_privs,
};
use tracing::{info, warn};

use crate::config::{At, Finding, Server};

/// All that is kept of root: a reload may add port 143, and so may a new binary.
const KEPT: CapabilitySet = CapabilitySet::NET_BIND_SERVICE;
/// More capabilities than this cannot be.
const CAPABILITIES: u32 = 64;

/// What is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Privileges {
    uid: u32,
    gid: u32,
    low_ports: bool,
}

impl Privileges {
    /// Gives up all that is not needed. Must be called before there is any other thread.
    ///
    /// # Errors
    /// It cannot be given up, or came back; or we should be somebody whom we cannot become.
    pub fn drop_to(server: &Server) -> Result<Self, Finding> {
        let wanted = server.user.as_ref().map(|user| Account::find(user, server.group.as_ref())).transpose()?;
        let is_root = geteuid().is_root();
        match &wanted {
            Some(account) if is_root => account.become_it()?,
            Some(account) => account.is_us_already()?,
            None => {}
        }
        // Root without a user to become is left as it is: without its powers it could not even read others' files.
        let kept = if is_root && wanted.is_none() { None } else { Some(keep_little()?) };
        set_no_new_privs(true).map_err(|error| general("cannot rule out new privileges (no_new_privs)", error))?;
        verify(wanted.as_ref(), kept)?;
        let low_ports = match capabilities(None) {
            Ok(sets) => sets.effective.contains(KEPT),
            Err(error) => return Err(general("cannot read our own capabilities", error)),
        };
        Ok(Self { uid: geteuid().as_raw(), gid: getegid().as_raw(), low_ports })
    }

    /// Says it, once there is a log.
    pub fn log(&self) {
        let Self { uid, gid, low_ports } = self;
        if *uid == 0 {
            warn!("mailmux runs as root; [server] user names whom it should become instead");
        } else {
            info!(uid, gid, low_ports, "no more privileges than these");
        }
    }
}

/// Whom to become.
struct Account {
    name: At<String>,
    uid: Uid,
    gid: Gid,
}

impl Account {
    fn find(name: &At<String>, group: Option<&At<String>>) -> Result<Self, Finding> {
        let user = User::from_name(&name.value).map_err(|error| at(name, format!("cannot be looked up: {error}")))?;
        let Some(user) = user else {
            return Err(at(name, "there is no such user\nexpected an account of this machine"));
        };
        if user.uid.is_root() {
            return Err(at(name, "is root\nexpected a user without special rights, or no such line"));
        }
        let gid = match group {
            None => user.gid,
            Some(group) => {
                let found = Group::from_name(&group.value);
                let found = found.map_err(|error| at(group, format!("cannot be looked up: {error}")))?;
                found.ok_or_else(|| at(group, "there is no such group\nexpected a group of this machine"))?.gid
            }
        };
        Ok(Self { name: name.clone(), uid: user.uid, gid })
    }

    /// Groups first: who is root no more cannot change them. The capabilities survive, for [`keep_little`].
    fn become_it(&self) -> Result<(), Finding> {
        shrink_bounding_set()?;
        let refused = |what: &str, error: &dyn Display| {
            let message = format!(
                "cannot become this user ({what}: {error})\n\
                 expected root with CAP_SETUID and CAP_SETGID, or to be started as this user"
            );
            at(&self.name, message)
        };
        let name = CString::new(self.name.value.as_str()).map_err(|error| refused("its name", &error))?;
        initgroups(&name, self.gid).map_err(|error| refused("its groups", &error))?;
        setgid(self.gid).map_err(|error| refused("its group", &error))?;
        set_keep_capabilities(true).map_err(|error| refused("capabilities", &error))?;
        setuid(self.uid).map_err(|error| refused("its id", &error))?;
        Ok(())
    }

    fn is_us_already(&self) -> Result<(), Finding> {
        let (uid, gid) = (geteuid(), getegid());
        if uid == self.uid && gid == self.gid {
            return Ok(());
        }
        let message = format!(
            "has the ids {}:{}, and mailmux was started as {uid}:{gid}, who cannot become somebody else\n\
             expected to be started as root or as this user, or no such line",
            self.uid, self.gid
        );
        Err(at(&self.name, message))
    }
}

/// Takes all capabilities but one out of what processes started from here could ever have. Without `CAP_SETPCAP` that is not
/// allowed, nor is it needed then: `no_new_privs` keeps them from getting any.
fn shrink_bounding_set() -> Result<(), Finding> {
    for capability in (0..CAPABILITIES).map(|bit| CapabilitySet::from_bits_retain(1 << bit)) {
        match capability_is_in_bounding_set(capability) {
            Ok(true) if capability != KEPT => {}
            Ok(_) => continue,
            // The kernel knows no more of them.
            Err(_) => break,
        }
        match remove_capability_from_bounding_set(capability) {
            Ok(()) | Err(Errno::PERM) => {}
            Err(error) => return Err(general("cannot drop capabilities (bounding set)", error)),
        }
    }
    Ok(())
}

/// Keeps one capability, if it is there, and hands it on to a new binary.
fn keep_little() -> Result<CapabilitySets, Finding> {
    let refused = |error: Errno| general("cannot drop capabilities", error);
    shrink_bounding_set()?;
    let kept = capabilities(None).map_err(refused)?.permitted & KEPT;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: kept };
    clear_ambient_capability_set().map_err(refused)?;
    set_capabilities(None, sets).map_err(refused)?;
    if !kept.is_empty() {
        match configure_capability_in_ambient_set(KEPT, true) {
            // Some systems forbid it (securebits). A new binary is then handed the sockets that are open, and no others.
            Ok(()) | Err(Errno::PERM) => {}
            Err(error) => return Err(refused(error)),
        }
    }
    Ok(sets)
}

/// Believes nothing that cannot be read back.
fn verify(wanted: Option<&Account>, kept: Option<CapabilitySets>) -> Result<(), Finding> {
    let broken = |what: &str| general("what was given up is still there", what);
    if !matches!(no_new_privs(), Ok(true)) {
        return Err(broken("no_new_privs is off"));
    }
    let Some(kept) = kept else { return Ok(()) };
    if capabilities(None) != Ok(kept) {
        return Err(broken("capabilities"));
    }
    if let Some(account) = wanted {
        let uids = getresuid().map(|ids| [ids.real, ids.effective, ids.saved]);
        let gids = getresgid().map(|ids| [ids.real, ids.effective, ids.saved]);
        if uids != Ok([account.uid; 3]) || gids != Ok([account.gid; 3]) {
            return Err(broken("the ids of another user"));
        }
    }
    if setuid(Uid::from_raw(0)).is_ok() || seteuid(Uid::from_raw(0)).is_ok() {
        return Err(broken("mailmux could become root again"));
    }
    Ok(())
}

fn at(name: &At<String>, message: impl Into<String>) -> Finding {
    Finding { site: Some(name.site.clone()), message: message.into() }
}

fn general(what: &str, why: impl Display) -> Finding {
    Finding { site: None, message: format!("{what}: {why}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Site;

    fn name(name: &str) -> At<String> {
        At { value: name.into(), site: Site { key: "server.user".into(), span: 0..0 } }
    }

    #[test]
    fn accounts_that_make_no_sense_are_told_so() {
        let refused = |user: &str, group: Option<&str>| {
            let account = Account::find(&name(user), group.map(name).as_ref());
            account.err().expect("refused").message
        };
        assert!(refused("no-such-user", None).contains("no such user"));
        assert!(refused("root", None).contains("is root"));
        assert!(refused("nobody", Some("no-such-group")).contains("no such group"));
    }

    #[test]
    fn who_is_somebody_else_cannot_become_it_without_root() {
        let stranger = Account { name: name("stranger"), uid: Uid::from_raw(4242), gid: Gid::from_raw(4242) };
        let refused = stranger.is_us_already().expect_err("somebody else").message;
        assert!(refused.contains("4242:4242") && refused.contains("started as root or as this user"), "{refused}");
        assert!(Account { name: name("us"), uid: geteuid(), gid: getegid() }.is_us_already().is_ok());
    }
}
