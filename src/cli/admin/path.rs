//! The path of a question, with its query: whatever stands in a part of it or in a value stays one. Not here: which there are.

/// A path below `/api/v1`.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Path {
    text: String,
    has_query: bool,
}

impl Path {
    /// These parts, one after the other.
    pub(in crate::cli) fn new(parts: &[&str]) -> Self {
        Self { text: parts.iter().map(|part| escaped(part)).collect::<Vec<_>>().join("/"), has_query: false }
    }

    /// With this in the query, where there is something.
    #[must_use]
    pub(in crate::cli) fn with(mut self, key: &str, value: Option<impl AsRef<str>>) -> Self {
        if let Some(value) = value {
            self.text.push(if self.has_query { '&' } else { '?' });
            self.has_query = true;
            self.text.push_str(key);
            self.text.push('=');
            self.text.push_str(&escaped(value.as_ref()));
        }
        self
    }

    /// As it is sent.
    pub(super) fn whole(&self) -> String {
        format!("/api/v1/{}", self.text)
    }
}

/// Whatever stands in it (RFC 3986 2.1).
fn escaped(part: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~@".contains(&byte);
    part.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_users_stay_one_part_of_a_path() {
        assert_eq!(escaped("ann@example.org"), "ann@example.org");
        assert_eq!(escaped("a/b?c d%é"), "a%2Fb%3Fc%20d%25%C3%A9");
    }

    #[test]
    fn values_stay_one_value_of_a_query() {
        let path = Path::new(&["users", "a/b", "move"]).with("to", Some("x&limit=1+2#")).with("for", None::<&str>);
        assert_eq!(path.whole(), "/api/v1/users/a%2Fb/move?to=x%26limit%3D1%2B2%23");
        let path = path.with("and", Some("2001:db8::/32"));
        assert!(path.whole().ends_with("&and=2001%3Adb8%3A%3A%2F32"));
    }
}
