//! Which files, folders and databases a configuration names, for those who must see to it that they can be opened. Not
//! here: opening them.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::{
    At, BackendTls, CertificateFiles, ClientAuth, Config, DatabaseUrl, LoginAs, Lookup, LookupSource, Roots, Site,
};

/// The keys in a database's URL that name files.
const FILES_IN_URL: [&str; 8] =
    ["sslrootcert", "ssl-root-cert", "sslcert", "ssl-cert", "sslkey", "ssl-key", "sslca", "ssl-ca"];

/// A file or folder that a configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFile {
    /// Relative ones are taken from the folder the process runs in.
    pub path: PathBuf,
    /// Where it was named.
    pub site: Site,
    /// What for.
    pub role: Role,
}

/// What a file is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It is read.
    File,
    /// It is a folder, and what lies in it is read.
    Folder,
    /// It is read, and holds the URL of a database, which may name more: [`NamedFile::in_url`].
    DatabaseUrl,
    /// A database in a file: it is read, and others may lie beside it for as long as it is in use.
    Database,
}

impl Config {
    /// All files and folders that it names.
    pub fn files(&self) -> Vec<NamedFile> {
        let mut files = Vec::new();
        files.extend(self.server.read.iter().map(|at| NamedFile::new(at, Role::Folder)));
        for pair in &self.tls.certificates {
            add_pair(&mut files, pair);
        }
        files.extend(self.tls.directory.iter().map(|at| NamedFile::new(at, Role::Folder)));
        match &self.tls.client_auth {
            ClientAuth::Off => {}
            ClientAuth::Optional { ca } | ClientAuth::Required { ca } => files.push(NamedFile::new(ca, Role::File)),
        }
        for backend in &self.backends {
            if let BackendTls::StartTls(client) | BackendTls::Implicit(client) = &backend.tls {
                if let Some(pair) = &client.client {
                    add_pair(&mut files, pair);
                }
                if let Roots::File(ca) = &client.roots {
                    files.push(NamedFile::new(ca, Role::File));
                }
            }
            files.extend(backend.health.login.iter().map(|(_, at)| NamedFile::new(at, Role::File)));
        }
        for lookup in &self.lookups {
            add_lookup(&mut files, lookup);
        }
        for route in &self.routes {
            if let LoginAs::Master { password_file, .. } = &route.login {
                files.push(NamedFile::new(password_file, Role::File));
            }
        }
        let token = self.admin.as_ref().and_then(|admin| admin.token_file.as_ref());
        files.extend(token.map(|at| NamedFile::new(at, Role::File)));
        files
    }
}

impl NamedFile {
    fn new(at: &At<PathBuf>, role: Role) -> Self {
        Self { path: at.value.clone(), site: at.site.clone(), role }
    }

    /// The files that a database's URL names.
    pub fn in_url(url: &str, site: &Site) -> Vec<Self> {
        let named = |text: &str, role| Self { path: decoded(text), site: site.clone(), role };
        let url = url.trim_end();
        let (before, query) = url.split_once('?').unwrap_or((url, ""));
        if let Some(path) = before.strip_prefix("sqlite://").or_else(|| before.strip_prefix("sqlite:")) {
            let in_memory = path.is_empty() || path.starts_with(':');
            return if in_memory { Vec::new() } else { vec![named(path, Role::Database)] };
        }
        let pairs = query.split('#').next().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| FILES_IN_URL.contains(key)).map(|(_, value)| named(value, Role::File)).collect()
    }
}

fn add_pair(files: &mut Vec<NamedFile>, pair: &CertificateFiles) {
    files.extend([&pair.chain, &pair.key].map(|at| NamedFile::new(at, Role::File)));
}

fn add_lookup(files: &mut Vec<NamedFile>, lookup: &Lookup) {
    let file = |at: &At<PathBuf>| NamedFile::new(at, Role::File);
    match &lookup.source {
        LookupSource::File { path } => files.push(file(path)),
        LookupSource::Http(http) => {
            files.extend(http.headers_file.iter().map(file));
            files.extend(http.ca.iter().map(file));
        }
        LookupSource::Sql(sql) => match &sql.url {
            DatabaseUrl::Written(url) => files.extend(NamedFile::in_url(&url.value, &url.site)),
            DatabaseUrl::File(at) => files.push(NamedFile::new(at, Role::DatabaseUrl)),
        },
        LookupSource::Ldap(ldap) => {
            files.extend(ldap.ca.iter().map(file));
            files.extend(ldap.bind.iter().map(|(_, at)| file(at)));
        }
    }
}

/// A path as it stands in a URL: `%20` is a blank.
fn decoded(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let hex = behind.get(..2).filter(|_| *first == b'%').and_then(|hex| str::from_utf8(hex).ok());
        if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            bytes.push(byte);
            rest = &behind[2..];
        } else {
            bytes.push(*first);
            rest = behind;
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_in_the_urls_of_databases() {
        let site = Site { key: "lookup[0].url".into(), span: 0..0 };
        let named = |url: &str| {
            let files = NamedFile::in_url(url, &site);
            files.into_iter().map(|file| (file.path.display().to_string(), file.role)).collect::<Vec<_>>()
        };
        assert_eq!(named("sqlite:/srv/my%20users.db?mode=ro"), [("/srv/my users.db".to_owned(), Role::Database)]);
        assert_eq!(named("sqlite://users.db\n"), [("users.db".to_owned(), Role::Database)]);
        assert_eq!(named("sqlite::memory:"), []);
        assert_eq!(
            named("postgres://a:b@db/mail?sslmode=verify-full&sslrootcert=/srv/ca.pem&sslkey=%2Fsrv%2Fkey#x"),
            [("/srv/ca.pem".to_owned(), Role::File), ("/srv/key".to_owned(), Role::File)]
        );
        assert_eq!(named("mysql://a@db/mail?ssl-ca=/srv/100%"), [("/srv/100%".to_owned(), Role::File)]);
        assert_eq!(named("postgres://a@db/mail"), []);
    }
}
