//! The map file: a line per user, `user<TAB>backend [key=value ...]`, with `@domain` for a whole domain and `*` for
//! everybody else. `#` begins a comment line. Where a line has no TAB, the first run of blanks separates. Letter case
//! of users makes no difference (ASCII).
//!
//! A million lines are held as the file's own bytes and four more for each line.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::Answer;
use crate::imap::{UserName, escape};

/// So many mistakes are shown, the rest is counted.
const MOST_SHOWN: usize = 20;

/// A whole map.
pub struct Map {
    /// The file, its users in lower case.
    text: Vec<u8>,
    /// Where in it lines begin, by the hash of their user.
    lines: HashTable<u32>,
    /// With a key of its own, so that nobody can make up names that collide.
    hasher: RandomState,
    backends: HashMap<Box<[u8]>, usize>,
}

/// A mistake in a map file. Shows as `LINE: what is wrong`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapError {
    /// The line's number, from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

/// A line that says something.
struct Entry<'a> {
    user: &'a [u8],
    backend: &'a [u8],
    name: Option<&'a [u8]>,
}

impl Map {
    /// Reads a map file. Backends are known by these names; their places are what answers give.
    ///
    /// # Errors
    /// Every mistake in it, up to twenty; the rest is counted in the last one.
    pub fn parse(mut text: Vec<u8>, backends: &[&str]) -> Result<Self, Vec<MapError>> {
        if u32::try_from(text.len()).is_err() {
            return Err(vec![MapError { line: 1, message: "the file is larger than 4 GiB".to_owned() }]);
        }
        let backends = backends.iter().enumerate().map(|(index, name)| (name.as_bytes().into(), index)).collect();
        lower_users(&mut text);
        let mut map = Self { text: Vec::new(), lines: HashTable::new(), hasher: RandomState::new(), backends };
        let mut errors = Vec::new();
        let mut at = 0;
        for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let start = at;
            at += line.len() + 1;
            if let Err(message) = map.add(&text, start, line) {
                errors.push(MapError { line: number + 1, message });
            }
        }
        if errors.is_empty() {
            text.shrink_to_fit();
            map.lines.shrink_to_fit(|_| 0);
            map.text = text;
            return Ok(map);
        }
        let hidden = errors.len().saturating_sub(MOST_SHOWN);
        errors.truncate(MOST_SHOWN);
        if hidden > 0
            && let Some(last) = errors.last_mut()
        {
            last.message.push_str(&format!(" (and {hidden} more mistakes in this file)"));
        }
        Err(errors)
    }

    /// What the map says of this user: by the whole name, else by its domain, else by the line for everybody.
    pub fn find(&self, user: &UserName) -> Option<Answer> {
        let name = user.normalised();
        let domain = name.iter().rposition(|byte| *byte == b'@').map(|at| &name[at..]);
        let keys = [Some(&*name), domain, Some(&b"*"[..])];
        let entry = keys.into_iter().flatten().find_map(|key| self.entry(key))?;
        let backend = *self.backends.get(entry.backend)?;
        let user = match entry.name {
            Some(name) => Some(UserName::new(name).ok()?),
            None => None,
        };
        Some(Answer { backend, user })
    }

    fn entry(&self, user: &[u8]) -> Option<Entry<'_>> {
        let found = self.lines.find(self.hasher.hash_one(user), |at| user_at(&self.text, *at) == user)?;
        Entry::parse(line_at(&self.text, *found)).ok().flatten()
    }

    fn add(&mut self, text: &[u8], start: usize, line: &[u8]) -> Result<(), String> {
        let Some(entry) = Entry::parse(line)? else { return Ok(()) };
        if !self.backends.contains_key(entry.backend) {
            return Err(format!("no such backend: \"{}\"", escape(entry.backend)));
        }
        let hash = self.hasher.hash_one(entry.user);
        if self.lines.find(hash, |at| user_at(text, *at) == entry.user).is_some() {
            return Err(format!("the user \"{}\" stands in the file twice", escape(entry.user)));
        }
        // The whole text is shorter than u32::MAX.
        let at = u32::try_from(start).unwrap_or(u32::MAX);
        let hasher = &self.hasher;
        self.lines.insert_unique(hash, at, |at| hasher.hash_one(user_at(text, *at)));
        Ok(())
    }
}

impl<'a> Entry<'a> {
    /// Reads a line; `None` when it says nothing.
    fn parse(line: &'a [u8]) -> Result<Option<Self>, String> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.trim_ascii().is_empty() || line.starts_with(b"#") {
            return Ok(None);
        }
        if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err("a control character".to_owned());
        }
        let (user, rest) = split_user(line);
        let mut words = rest.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
        let Some(backend) = words.next().filter(|_| !user.is_empty()) else {
            return Err("expected user, TAB, backend".to_owned());
        };
        let mut entry = Self { user, backend, name: None };
        for word in words {
            let value = word.strip_prefix(b"user=").or_else(|| word.strip_prefix(b"destuser="));
            match value {
                Some(value) if !value.is_empty() && entry.name.is_none() => entry.name = Some(value),
                Some(_) => return Err("user= is empty or stands there twice".to_owned()),
                None => {
                    return Err(format!("\"{}\" is no field; expected user=NAME (or destuser=NAME)", escape(word)));
                }
            }
        }
        Ok(Some(entry))
    }
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.message)
    }
}

impl std::error::Error for MapError {}

/// The user of a line, and what stands behind.
fn split_user(line: &[u8]) -> (&[u8], &[u8]) {
    let end = line.iter().position(|byte| *byte == b'\t').or_else(|| line.iter().position(|byte| *byte == b' '));
    line.split_at(end.unwrap_or(line.len()))
}

fn line_at(text: &[u8], at: u32) -> &[u8] {
    let rest = text.get(at as usize..).unwrap_or_default();
    rest.split(|byte| *byte == b'\n').next().unwrap_or_default()
}

fn user_at(text: &[u8], at: u32) -> &[u8] {
    split_user(line_at(text, at)).0
}

fn lower_users(text: &mut [u8]) {
    for line in text.split_mut(|byte| *byte == b'\n') {
        let end = split_user(line).0.len();
        line[..end].make_ascii_lowercase();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BACKENDS: [&str; 2] = ["blue", "green"];

    fn map(text: &str) -> Map {
        Map::parse(text.as_bytes().to_vec(), &BACKENDS).expect("well formed")
    }

    fn find(map: &Map, user: &str) -> Option<(usize, Option<String>)> {
        let answer = map.find(&UserName::new(user.as_bytes()).expect("a name"))?;
        Some((answer.backend, answer.user.map(|user| user.to_string())))
    }

    #[test]
    fn the_user_then_the_domain_then_everybody() {
        let map = map("# users\nann@example.org\tblue\n\n@example.org\tgreen\r\nBob blue user=Robert\n*\tgreen\n");
        assert_eq!(find(&map, "Ann@Example.org"), Some((0, None)));
        assert_eq!(find(&map, "cid@example.org"), Some((1, None)));
        assert_eq!(find(&map, "BOB"), Some((0, Some("Robert".to_owned()))));
        assert_eq!(find(&map, "nobody"), Some((1, None)));
    }

    #[test]
    fn without_a_line_for_everybody_a_stranger_is_unknown() {
        assert_eq!(find(&map("ann\tblue"), "bob"), None);
        assert_eq!(find(&map(""), "bob"), None);
    }

    #[test]
    fn a_tab_lets_names_have_blanks_and_8_bit() {
        let map = Map::parse(b"j\xf6rg von k\tblue\nplain   green\n".to_vec(), &BACKENDS).expect("well formed");
        assert!(map.find(&UserName::new(&b"J\xf6rg von K"[..]).expect("a name")).is_some());
        assert_eq!(find(&map, "plain"), Some((1, None)));
    }

    #[test]
    fn every_mistake_is_found_by_its_line() {
        let text = b"ann\tblue\nbob\nANN\tgreen\ncid\tred\ndan\tblue x=1\neve\tblue\x01\n\tblue\nfay\tblue user=\n";
        let errors = Map::parse(text.to_vec(), &BACKENDS).err().expect("mistakes");
        let shown: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "2: expected user, TAB, backend",
                "3: the user \"ann\" stands in the file twice",
                "4: no such backend: \"red\"",
                "5: \"x=1\" is no field; expected user=NAME (or destuser=NAME)",
                "6: a control character",
                "7: expected user, TAB, backend",
                "8: user= is empty or stands there twice",
            ]
        );
        let many = Map::parse("x\n".repeat(30).into_bytes(), &BACKENDS).err().expect("mistakes");
        assert_eq!(many.len(), 20);
        assert!(many[19].message.ends_with("(and 10 more mistakes in this file)"));
    }

    proptest! {
        #[test]
        fn as_a_plain_table_says(entries in prop::collection::hash_map("[a-z@.]{1,8}", 0_usize..2, 0..40), asked in "[a-zA-Z@.]{1,8}") {
            let text: String = entries.iter().map(|(user, backend)| format!("{user}\t{}\n", BACKENDS[*backend])).collect();
            let map = map(&text);
            let name = asked.to_ascii_lowercase();
            let domain = name.rfind('@').map(|at| name[at..].to_owned());
            let expected = entries.get(&name).or_else(|| entries.get(&domain?)).copied();
            prop_assert_eq!(find(&map, &asked).map(|found| found.0), expected);
        }

        #[test]
        fn nothing_panics(text in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(map) = Map::parse(text, &BACKENDS) {
                map.find(&UserName::new(&b"ann@x"[..]).expect("a name"));
            }
        }
    }
}
