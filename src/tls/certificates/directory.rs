//! Which pairs `tls.directory` holds, by their names alone. Not here: what is in the files.

use std::path::PathBuf;
use std::{fs, io};

use crate::config::{At, CertificateFiles, Finding};

/// Every NAME.pem of the directory with its NAME.key, whether that exists or not, in the order of their names. Hidden files
/// are none: programs that write a file beside its place and then move it there hide it meanwhile.
///
/// # Errors
/// The directory cannot be read.
pub(in crate::tls) fn pairs(directory: &At<PathBuf>) -> Result<Vec<CertificateFiles>, Finding> {
    let unreadable = |why: io::Error| Finding {
        site: Some(directory.site.clone()),
        message: format!("{}: cannot be read: {why}", directory.value.display()),
    };
    let mut chains = Vec::new();
    for entry in fs::read_dir(&directory.value).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "pem") {
            chains.push(path);
        }
    }
    // As bytes: taking paths apart for each comparison costs more than all the rest.
    chains.sort_unstable_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
    let at = |value| At { value, site: directory.site.clone() };
    let pair = |chain: PathBuf| CertificateFiles { key: at(chain.with_extension("key")), chain: at(chain) };
    Ok(chains.into_iter().map(pair).collect())
}
