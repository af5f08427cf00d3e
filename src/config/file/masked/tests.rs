//! Secrets in every place and every notation that TOML has; none of them comes out, and the rest does.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::config::Config;

fn shown(text: &str) -> String {
    Masked::of(text).as_str().to_owned()
}

#[test]
fn what_is_no_secret_is_shown_as_it_was_written() {
    let text = r##"
# mine
[[listener]]       # the first
name = 'imaps' # "quoted" # twice
address = "[::]:993"


# between
[[lookup]]
name = "users"
type = "sql"
url = "sqlite:users.db?mode=ro"
query = """
SELECT backend # no comment
  FROM users WHERE name = :user
"""
cache = { ttl = "60s", stale = "1h" } # kept

[[lookup]]
name = "directory"
bind_password_file = "ldap.secret"
attributes = { userPassword = "password", "#host" = "host" }
allow = [ # these
  "blue", # and
  # nobody
  "10.0.0.0/8",
]
"##;
    let expected = r##"[[listener]]
name = 'imaps'
address = "[::]:993"

[[lookup]]
name = "users"
type = "sql"
url = "sqlite:users.db?mode=ro"
query = """
SELECT backend #***
  FROM users WHERE name = :user
"""
cache = { ttl = "60s", stale = "1h" }

[[lookup]]
name = "directory"
bind_password_file = "ldap.secret"
attributes = { userPassword = "password", "#host" = "host" }
allow = [
  "blue",
  "10.0.0.0/8",
]
"##;
    assert_eq!(shown(text), expected);
    assert_eq!(shown(expected), expected);
}

#[test]
fn secrets_are_not_shown_whatever_way_they_are_written() {
    let text = r#"
# hunter2
[[lookup]]
url = "postgres://mailmux:hunter2@db/mail?sslmode=require" # was hunter1
query = '''
SELECT 'hunter2' AS pass
-- hunter2
FROM users'''
headers = { X-Key = "hunter2", "X-Other" = 'hunter2' }
[[lookup]]
headers.X-Key = """
hunter2"""
"ur\u006c" = "http://127.0.0.1/auth?key=hunter\u0032"
[lookup.headers]
X-Third = "hunter2" # "
[some.new]
api_token = "hunter2"
passwords = ["hunter2", { a = "hunter2", b = 4711 }]
address = "imap://ann:hunter2@example.org"
"#;
    // In this one two tables have one name; each half is well-formed.
    let (first, second) = text.split_once("[lookup.headers]").expect("two halves");
    let expected = r#"[[lookup]]
url = "postgres://***@db/mail?sslmode=require"
query = """
SELECT '***' AS pass
--***
FROM users"""
headers = { X-Key = "***", "X-Other" = "***" }
[[lookup]]
headers.X-Key = "***"
"ur\u006c" = "http://127.0.0.1/auth?key=***"
"#;
    assert_eq!(shown(first), expected);
    let expected = r#"[[lookup]]
[lookup.headers]
X-Third = "***"
[some.new]
api_token = "***"
passwords = ["***", { a = "***", b = "***" }]
address = "imap://***@example.org"
"#;
    assert_eq!(shown(&format!("[[lookup]]\n[lookup.headers]{second}")), expected);
}

#[test]
fn a_configuration_keeps_what_may_be_shown_of_it() {
    let text = "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\ntls = \"none\" # hunter2\n\
                [[lookup]]\nname = \"users\"\ntype = \"http\"\nurl = \"http://127.0.0.1/\"\nheaders = { K = \"hunter2\" }\n\
                [[route]]\nreject = \"No.\"\n";
    let config = Config::parse(text, Path::new("x.toml")).expect("good");
    let shown = config.shown.as_str();
    assert!(!shown.contains("hunter2") && shown.contains("headers = { K = \"***\" }"), "{shown}");
    assert!(Config::parse(shown, Path::new("x.toml")).is_ok(), "{shown}");
}

#[test]
fn the_configuration_without_a_file_is_shown_as_one() {
    for (host, port) in [("mail.example.org", 993), ("127.0.0.1", 14301), ("::1", 143)] {
        let config = Config::for_one_backend(host, port);
        // A certificate is made for it, which no file can say. Whoever is not probed needs no number of successes.
        let text = format!("{}[tls]\ndirectory = \"x\"\nwatch = \"off\"\n", config.shown.as_str());
        let mut read = Config::parse(&text, Path::new("x.toml")).unwrap_or_else(|findings| panic!("{findings}"));
        let tls = config.tls.clone();
        assert_eq!(read.backends[0].health.interval, None);
        read.backends[0].health = config.backends[0].health.clone();
        assert_eq!(Config { file: None, tls, ..read }, config);
    }
}

/// All keys, in their order.
fn keys(text: &str) -> Vec<String> {
    fn add(value: &DeValue<'_>, keys: &mut Vec<String>) {
        match value {
            DeValue::Table(table) => table.iter().for_each(|(key, value)| {
                keys.push(key.get_ref().to_string());
                add(value.get_ref(), keys);
            }),
            DeValue::Array(array) => array.iter().for_each(|value| add(value.get_ref(), keys)),
            _ => {}
        }
    }
    let mut keys = Vec::new();
    add(&DeValue::Table(DeTable::parse(text).expect("TOML").into_inner()), &mut keys);
    keys
}

/// A secret, and the ways in which TOML can write text that holds it.
const SECRET: &str = "hunter2";

fn some_text() -> impl Strategy<Value = String> {
    let quiet = "[a-z#=,\\[\\]{} ]{0,6}";
    (quiet, quiet).prop_map(|(before, behind)| format!("{before}{SECRET}{behind}"))
}

fn basic(text: &str, mark: &str) -> String {
    format!("{mark}{}{mark}", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// In one of its notations; the text has no quotes of either kind.
fn some_notation(text: &str) -> impl Strategy<Value = String> + use<> {
    let escaped = text.replace("hunter", "\\u0068unter");
    prop_oneof![
        Just(basic(text, "\"")),
        Just(basic(text, "\"\"\"")),
        Just(format!("'{text}'")),
        Just(format!("'''\n{text}\n'''")),
        Just(format!("\"\"\"\\\n   {text}\"\"\"")),
        Just(format!("\"{escaped}\"")),
    ]
}

/// A key that hides what is under it with text for it, or a comment.
fn some_line() -> impl Strategy<Value = String> {
    let value = || some_text().prop_flat_map(|text| some_notation(&text));
    let url = some_text().prop_map(|text| format!("postgres://m:{}@db/m?x={text}#{text}", text.replace(' ', "")));
    let query =
        some_text().prop_map(|text| format!("SELECT `{text}` -- {text}\n, $x${text}$x$").replace('`', "\u{22}"));
    prop_oneof![
        ("(password|api_token|\"se\\\\u0063ret\"|a\\.passphrase)", value())
            .prop_map(|(key, value)| format!("{key} = {value}")),
        ("(headers|headers\\.b|passwords)", value(), value())
            .prop_map(|(key, one, other)| format!("{key} = {{ x = {one}, \"y z\" = [{other}, # {SECRET}\n 1] }}")),
        url.prop_flat_map(|text| some_notation(&text)).prop_map(|value| format!("url = {value}")),
        query.prop_map(|text| format!("query = {}", basic(&text, "\"\"\""))),
        some_text().prop_map(|text| format!("# {text}")),
        some_text().prop_map(|text| format!("name = 'x' # {text}")),
        Just("allow = [\n  \"blue\", # hunter2\n]".to_owned()),
        Just("text = \"# no comment\"".to_owned()),
    ]
}

proptest! {
    #[test]
    fn no_secret_comes_out(
        lines in prop::collection::vec((some_line(), "(\n|\n\n|\r\n)", "(|\\[\\[lookup\\]\\]\n|\\[\\[route\\]\\] # hunter2\n)"), 1..8),
    ) {
        let mut text = String::new();
        for (n, (line, end, header)) in lines.iter().enumerate() {
            // Each in a table of its own: a key may stand only once in one.
            let header = if header.is_empty() { format!("[[a{n}]]\n") } else { header.clone() };
            text.extend([&header, line, end].map(String::as_str));
        }
        let is_toml = DeTable::parse(&text).is_ok();
        prop_assume!(is_toml);
        let shown = shown(&text);
        prop_assert!(!shown.contains("unter"), "{}\n----\n{}", text, shown);
        let read = DeTable::parse(&shown);
        prop_assert!(read.is_ok(), "{}\n----\n{}", text, shown);
        let leaves = format!("{read:?}");
        prop_assert!(!leaves.contains("unter"));
        let again = Masked::of(&shown);
        prop_assert_eq!(again.as_str(), &shown);
prop_assert_eq!(keys(&shown), keys(&text));
    }

    #[test]
    fn nothing_panics(text in "[\\[\\]a-z\"'=#.,{}\n\\\\ ]{0,80}") {
        let shown = shown(&text);
        prop_assert!(DeTable::parse(&text).is_ok() || shown.is_empty());
    }
}
