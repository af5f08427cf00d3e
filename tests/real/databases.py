"""Databases as a source of routes and of a yes or no to passwords: SQLite and PostgreSQL, asked by mailmux, in front of
real Dovecots whose logs tell who was sent to them."""

import sqlite3
import subprocess

from database_servers import PASSWORD, Postgres
from lookups import AWAY, WRONG, Lookups
from world import until

KINDS = ("sqlite", "postgres")
TABLE = """
CREATE TABLE users (name TEXT PRIMARY KEY, backend TEXT, destuser TEXT, password TEXT);
CREATE TABLE dovecot (username TEXT, domain TEXT, host TEXT, port INTEGER, nologin TEXT, reason TEXT);
"""


def hashed(password, salt="saltsaltsalt"):
    done = subprocess.run(["openssl", "passwd", "-6", "-salt", salt, password], capture_output=True, check=True)
    return done.stdout.decode().strip()


class Databases(Lookups):
    """Both know the same users; Dovecot's masters let mailmux in for those whose password a database has checked."""

    masters = {"mailmux": "master-secret"}
    secrets = ("ann-secret", "eve-secret", "bob-secret", "master-secret", "wrong-secret", "new-secret", PASSWORD, "$6$")
    PEOPLE = {
        "blue": {"ann@example.org": "only dovecot knows", "annie": "ann-secret"},
        "green": {"bob@example.org": "bob-secret", "oneil": "oneil-secret", "eve@example.org": "x"},
    }

    @classmethod
    def people(cls, backend):
        return cls.PEOPLE[backend]

    @classmethod
    def rows(cls):
        green = cls.backends["green"].port
        return f"""
INSERT INTO users VALUES ('ann@example.org', 'blue', NULL, '{hashed("ann-secret")}');
INSERT INTO users VALUES ('alias@example.org', 'blue', 'annie', NULL);
INSERT INTO users VALUES ('bob@example.org', 'green', NULL, '{{SHA512-CRYPT}}{hashed("bob-secret")}');
INSERT INTO users VALUES ('o''neil@example.org', 'green', 'oneil', NULL);
INSERT INTO users VALUES ('eve@example.org', 'green', NULL, '{hashed("eve-secret")}');
INSERT INTO users VALUES ('lost@example.org', 'red', NULL, NULL);
INSERT INTO dovecot VALUES ('bob', 'example.org', '127.0.0.1', {green}, NULL, NULL);
INSERT INTO dovecot VALUES ('gone', 'example.org', '127.0.0.1', {green}, 'y', 'Closed for good.');
"""

    @classmethod
    def config(cls):
        with sqlite3.connect(cls.folder / "users.db") as database:
            database.executescript(TABLE + cls.rows())
        cls.postgres = Postgres()
        cls.addClassCleanup(cls.postgres.stop)
        cls.postgres.execute(TABLE + cls.rows())
        (cls.folder / "url").write_text(cls.postgres.url + "\n")
        (cls.folder / "master").write_text(cls.masters["mailmux"])
        listeners = [f"{kind}-{way}" for kind in KINDS for way in ("where", "dovecot", "check")]
        config = cls.start_of_config(*listeners) + cls.backend_sections()
        for kind, url in (("sqlite", 'url = "sqlite:users.db"'), ("postgres", 'url_file = "url"')):
            config += f"""
[[lookup]]
name = "{kind}-where"
type = "sql"
{url}
query = "SELECT backend, destuser FROM users WHERE name = :user"
timeout = "2s"
cache = {{ ttl = "0s", negative_ttl = "0s", stale = "1h" }}
[[lookup]]
name = "{kind}-dovecot"
type = "sql"
{url}
query = "SELECT 'y' AS proxy, username, domain, host, port, nologin, reason FROM dovecot WHERE username = :local AND domain = :domain"
template = "green"
[[lookup]]
name = "{kind}-check"
type = "sql"
{url}
authenticate = true
cache = {{ ttl = "1h" }}
query = "SELECT backend, password FROM users WHERE name = :user AND password IS NOT NULL"
[[route]]
listener = "{kind}-where"
lookup = "{kind}-where"
[[route]]
listener = "{kind}-dovecot"
lookup = "{kind}-dovecot"
[[route]]
listener = "{kind}-check"
lookup = "{kind}-check"
login = "master"
master_user = "mailmux"
master_password_file = "master"
"""
        return config

    def execute(self, kind, sql):
        if kind == "postgres":
            self.postgres.execute(sql)
        else:
            with sqlite3.connect(self.folder / "users.db") as database:
                database.executescript(sql)

    def test_the_database_says_where_and_under_which_name(self):
        for kind in KINDS:
            self.lets_in(f"{kind}-where", "BOB@example.org", "bob-secret")
            self.lets_in(f"{kind}-where", "alias@example.org", "ann-secret")
            self.lets_in(f"{kind}-where", "o'neil@example.org", "oneil-secret")
            self.refuses(f"{kind}-where", "bob@example.org", "wrong-secret", WRONG)
            self.refuses(f"{kind}-where", "nobody@example.org", "x", WRONG)
            self.refuses(f"{kind}-where", "lost@example.org", "x", AWAY)
        callers = self.callers()
        self.assertLessEqual({"annie"}, set(callers["blue"]))
        self.assertNotIn("bob@example.org", callers["blue"])
        self.assertNotIn("annie", callers["green"])

    def test_a_database_made_for_dovecot(self):
        for kind in KINDS:
            self.lets_in(f"{kind}-dovecot", "bob@example.org", "bob-secret")
            self.refuses(f"{kind}-dovecot", "gone@example.org", "x", "NO Closed for good.")

    def test_passwords_are_checked_against_their_hashes(self):
        for kind in KINDS:
            before = len(self.backends["blue"].callers())
            self.refuses(f"{kind}-check", "ann@example.org", "wrong-secret", WRONG)
            self.refuses(f"{kind}-check", "ann@example.org", "only dovecot knows", WRONG)
            self.refuses(f"{kind}-check", "nobody@example.org", "ann-secret", WRONG)
            self.assertEqual(len(self.backends["blue"].callers()), before, "Dovecot is not asked about wrong passwords")
            self.lets_in(f"{kind}-check", "ann@example.org", "ann-secret")
            self.lets_in(f"{kind}-check", "bob@example.org", "bob-secret")

    def test_a_new_password_is_good_although_the_old_answer_is_kept(self):
        for kind in KINDS:
            self.lets_in(f"{kind}-check", "eve@example.org", "eve-secret")
            self.execute(kind, f"UPDATE users SET password = '{hashed('new-secret')}' WHERE name = 'eve@example.org';")
            # Only an answer younger than a second is not asked for again.
            until(lambda: self.ask(self.reach(f"{kind}-check"), "eve@example.org", "new-secret").startswith("OK "), "the new password")
            self.refuses(f"{kind}-check", "eve@example.org", "eve-secret", WRONG)

    def test_names_are_never_part_of_a_statement(self):
        names = ["' OR '1'='1", "ann@example.org' --", "x'; DROP TABLE users; --", '"', "\\", "%", "_", "ann@example.org\x1b[2J", "ann@example.org\\"]
        for kind in KINDS:
            for name in names:
                self.refuses(f"{kind}-where", name, "x", WRONG)
            self.lets_in(f"{kind}-where", "bob@example.org", "bob-secret")

    def test_postgres_goes_away_and_comes_back(self):
        self.lets_in("postgres-where", "bob@example.org", "bob-secret")
        self.postgres.pause()
        self.lets_in("postgres-where", "bob@example.org", "bob-secret")
        stale = 'mailmux_lookup_cache_total{lookup="postgres-where",way="stale"}'
        self.assertGreaterEqual(self.mailmux.metric(stale), 1)
        self.refuses("postgres-where", "never-seen@example.org", "x", AWAY)
        self.postgres.start()
        back = lambda: self.ask(self.reach("postgres-where"), "never-seen@example.org", "x").startswith(WRONG)
        until(back, "PostgreSQL to be asked again")
