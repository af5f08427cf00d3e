//! When to read the certificate files again: [`Stamp`] is how they are now, [`Watch`] decides. Not here: the clock, which is
//! the caller's, and the reading (`certificates.rs`).
//!
//! The files are looked at every now and then, rather than watched by inotify. What changes is often a symbolic link on the
//! way to them (Kubernetes swaps `..data`, certbot points `live/` at other files in `archive/`), which a watch of the files
//! does not see; a network file system tells of nothing that other machines do; and a watch costs a descriptor, of which
//! there may be none, and goes blind when its directory is put in another's place. A look at 10,000 files takes some 30 ms,
//! and nobody waits for it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};

use super::certificates::directory_pairs;
use crate::config::{self, ClientAuth};

/// After so many looks in a row, each of which found the files changed again, they are read all the same: a renewal of
/// thousands takes hours, and the first of them is wanted before its end.
const PATIENCE: u8 = 6;

/// How a file is, without its content. What stands behind a symbolic link counts, not the link. Two that are the same mean the
/// same content, unless it was written twice within one tick of the file system's clock, to the same length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileStamp {
    device: u64,
    inode: u64,
    length: u64,
    /// Seconds and nanoseconds.
    written: [i64; 2],
    /// The same for owner, mode and name; unlike the other it cannot be set back, and tells of a file that may be read now.
    changed: [i64; 2],
}

impl FileStamp {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        Ok(Self {
            device: found.dev(),
            inode: found.ino(),
            length: found.len(),
            written: [found.mtime(), found.mtime_nsec()],
            changed: [found.ctime(), found.ctime_nsec()],
        })
    }
}

/// How all files are that `[tls]` names, and which pairs the directory holds: the same as long as nothing has changed. A
/// digest, since thousands of stamps would be held only to be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp([u8; 32]);

impl Stamp {
    /// Looks at the files. It waits for the disk: not for a thread that serves.
    pub fn of(tls: &config::Tls) -> Self {
        let mut all = Gathered(Context::new(&SHA256));
        if let ClientAuth::Optional { ca } | ClientAuth::Required { ca } = &tls.client_auth {
            all.file(&ca.value);
        }
        for files in &tls.certificates {
            all.file(&files.chain.value);
            all.file(&files.key.value);
        }
        match tls.directory.as_ref().map(directory_pairs) {
            Some(Ok(pairs)) => {
                for files in &pairs {
                    all.file(&files.chain.value);
                    all.file(&files.key.value);
                }
            }
            Some(Err(why)) => all.bytes(why.message.as_bytes()),
            None => {}
        }
        let mut stamp = [0; 32];
        stamp.copy_from_slice(all.0.finish().as_ref());
        Self(stamp)
    }
}

struct Gathered(Context);

impl Gathered {
    fn file(&mut self, path: &Path) {
        self.bytes(path.as_os_str().as_encoded_bytes());
        match FileStamp::of(path) {
            Ok(FileStamp { device, inode, length, written, changed }) => {
                self.0.update(&[1]);
                for number in [device, inode, length] {
                    self.0.update(&number.to_ne_bytes());
                }
                for number in [written, changed].as_flattened() {
                    self.0.update(&number.to_ne_bytes());
                }
            }
            Err(why) => {
                self.0.update(&[0]);
                self.0.update(&why.raw_os_error().unwrap_or_default().to_ne_bytes());
            }
        }
    }

    /// With their length, so that no two different rows of them are the same bytes.
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(&bytes.len().to_ne_bytes());
        self.0.update(bytes);
    }
}

/// Says when to read the files again: when they have changed and have then been the same for two looks in a row, so that
/// nobody is in the midst of writing them.
#[derive(Debug)]
pub struct Watch {
    /// How the files were when they were last read.
    read: Stamp,
    /// How they were at the last look, where that is different.
    seen: Option<Stamp>,
    /// So many looks in a row have found a change.
    unsettled: u8,
}

impl Watch {
    /// Begins with the files as they were just before they were read.
    pub fn new(read: Stamp) -> Self {
        Self { read, seen: None, unsettled: 0 }
    }

    /// Takes a look; true: read them now. Whether that succeeds does not matter, as what failed would fail again, until the
    /// files change.
    #[must_use]
    pub fn look(&mut self, now: Stamp) -> bool {
        if now == self.read {
            *self = Self::new(now);
            return false;
        }
        self.unsettled += 1;
        if self.seen.replace(now) == Some(now) || self.unsettled >= PATIENCE {
            *self = Self::new(now);
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests;
