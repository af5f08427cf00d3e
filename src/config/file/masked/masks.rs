//! What is shown of a URL and of a query: nothing that may be a password. Both would rather hide too much than too little,
//! since what counts is how the library behind reads them. Not here: where they stand.

use super::MASK;

/// What in a URL's parameters is no secret: files, and how strict TLS is.
const HARMLESS: [&str; 11] = [
    "sslrootcert",
    "ssl-root-cert",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "sslca",
    "ssl-ca",
    "sslmode",
    "ssl-mode",
    "mode",
];

/// A URL without user, password and parameters.
pub(super) fn url(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once(':') else { return MASK.to_owned() };
    if !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) {
        return MASK.to_owned();
    }
    let mut shown = format!("{scheme}:");
    let slashes = rest.len() - rest.trim_start_matches('/').len();
    // The last @ there is, even where it should be part of something else: a password may hold ?, # and @ that nobody has
    // escaped. SQLite's have no user, and their files may have any name.
    let at = rest.rfind('@').filter(|_| scheme != "sqlite");
    let behind = match at.and_then(|at| rest.split_at_checked(at + 1)) {
        Some((_, behind)) => {
            shown.extend([rest.get(..slashes).unwrap_or_default(), MASK, "@"]);
            behind
        }
        None => rest,
    };
    let (address, more) = behind.find(['?', '#']).map_or((behind, ""), |at| behind.split_at(at));
    shown.push_str(address);
    let (parameters, fragment) = more.split_once('#').map_or((more, None), |(before, after)| (before, Some(after)));
    if let Some(parameters) = parameters.strip_prefix('?') {
        let parameter = |pair: &str| match pair.split_once('=') {
            Some((key, _)) if HARMLESS.contains(&key) => pair.to_owned(),
            Some((key, _)) => format!("{key}={MASK}"),
            None if pair.is_empty() || pair == MASK => pair.to_owned(),
            None => MASK.to_owned(),
        };
        shown.push('?');
        shown.push_str(&parameters.split('&').map(parameter).collect::<Vec<_>>().join("&"));
    }
    if fragment.is_some() {
        shown.extend(["#", MASK]);
    }
    shown
}

/// A query without its constants, which may be the passwords of master users, and without comments.
pub(super) fn query(text: &str) -> String {
    // How these end depends on the database and its settings.
    let is_doubtful = text.contains(['\\', '$']);
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['\'', '"', '$', '-', '/', '#', '0']) {
        let (before, found) = rest.split_at(at);
        shown.push_str(before);
        let is_in_a_word = shown.ends_with(|before: char| before.is_alphanumeric() || before == '_');
        let quote = found.get(..1).unwrap_or_default();
        let (opening, closing) = match found.as_bytes() {
            [b'\'' | b'"', ..] => (quote, Some(quote)),
            [b'$', ..] => (quote, None),
            [b'-', b'-', ..] => ("--", Some("\n")),
            [b'/', b'*', ..] => ("/*", Some("*/")),
            [b'#', ..] => ("#", Some("\n")),
            [b'0', b'x' | b'X', ..] if !is_in_a_word => {
                shown.extend(["0x", MASK]);
                rest = found.get(2..).unwrap_or_default().trim_start_matches(|digit: char| digit.is_ascii_hexdigit());
                rest = rest.strip_prefix(MASK).unwrap_or(rest);
                continue;
            }
            _ => {
                let (one, behind) = found.split_at(1);
                shown.push_str(one);
                rest = behind;
                continue;
            }
        };
        shown.extend([opening, MASK]);
        let inside = found.get(opening.len()..).unwrap_or_default();
        let end = closing.filter(|_| !is_doubtful).and_then(|closing| inside.split_once(closing));
        let Some((_, behind)) = end else { return shown };
        shown.push_str(closing.unwrap_or_default());
        rest = behind;
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_url_the_way_is_shown_and_no_secret() {
        for (text, shown) in [
            ("http://127.0.0.1:9000/auth", "http://127.0.0.1:9000/auth"),
            ("https://auth.example/a?key=hunter2&x=1", "https://auth.example/a?key=***&x=***"),
            ("https://auth.example/a?hunter2#hunter2", "https://auth.example/a?***#***"),
            ("postgres://mailmux:hunter2@db:5432/mail", "postgres://***@db:5432/mail"),
            ("postgres://m:hun?ter2@db/mail?sslmode=require", "postgres://***@db/mail?sslmode=require"),
            ("postgres://m:hun#ter2@x@db/mail", "postgres://***@db/mail"),
            (
                "postgres:///mail?user=m&password=hunter2&sslrootcert=/ca.pem",
                "postgres:///mail?user=***&password=***&sslrootcert=/ca.pem",
            ),
            ("mysql:m:hunter2@db/mail", "mysql:***@db/mail"),
            ("mysql://m:hunter2@", "mysql://***@"),
            ("sqlite:/srv/my@users.db?mode=ro", "sqlite:/srv/my@users.db?mode=ro"),
            ("ldapi://%2Frun%2Fldapi", "ldapi://%2Frun%2Fldapi"),
            ("hunter2", "***"),
            ("m/hunter2:x", "***"),
            ("", "***"),
        ] {
            assert_eq!(url(text), shown);
            assert_eq!(url(shown), shown, "once is enough");
        }
    }

    #[test]
    fn of_a_query_no_constant_and_no_comment_is_shown() {
        for (text, shown) in [
            ("SELECT host, port FROM users WHERE name = :user", "SELECT host, port FROM users WHERE name = :user"),
            ("SELECT 'hunter2' AS pass, 'root' AS master, h", "SELECT '***' AS pass, '***' AS master, h"),
            ("SELECT 'hun''ter2' AS pass", "SELECT '***''***' AS pass"),
            ("SELECT \"hunter2\" AS pass", "SELECT \"***\" AS pass"),
            (
                "SELECT a - b / c -- hunter2\nFROM t /* hunter2 */ WHERE 1",
                "SELECT a - b / c --***\nFROM t /*****/ WHERE 1",
            ),
            ("SELECT a # hunter2\nFROM t", "SELECT a #***\nFROM t"),
            (
                "SELECT x'68756e' AS pass, 0x68756e AS other, t0x FROM t10",
                "SELECT x'***' AS pass, 0x*** AS other, t0x FROM t10",
            ),
            ("SELECT $$hunter2$$ AS pass", "SELECT $***"),
            ("SELECT 'hunter\\'2 ' AS pass", "SELECT '***"),
            ("SELECT 'hunter2", "SELECT '***"),
            ("SELECT '", "SELECT '***"),
        ] {
            assert_eq!(query(text), shown);
            assert_eq!(query(shown), shown, "once is enough");
        }
    }
}
