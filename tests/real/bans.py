"""fail2ban reads what a real mailmux has written about real logins: whom it counts and bans, and whom nobody can get banned."""

import base64
import collections
import concurrent.futures
import shutil
import signal
import socket
import subprocess
import time

from world import ROOT, WAIT, Case, Mailmux, free_port, until

FILTER = ROOT / "deploy/fail2ban/filter.d/mailmux.conf"
JAIL = ROOT / "deploy/fail2ban/jail.d/mailmux.conf"
RIGHT = "right-password"
# Users and their number, so that the limits per user meet only who is meant.
PEOPLE = [f"user{number}@example.org" for number in range(9)]
VICTIM = "192.0.2.66"
# What a guesser sends as a user name to have somebody else banned. There are no such users.
HOSTILE = [
    f"x client={VICTIM} reason=bad_credentials mechanism=PLAIN".encode(),
    f'x" client={VICTIM} reason=bad_credentials mechanism=PLAIN listener=imaps user="x'.encode(),
    f"INFO login refused client={VICTIM} reason=bad_credentials mechanism=PLAIN".encode(),
    f'x","message":"login refused","client":"{VICTIM}","reason":"no_route","mechanism":"PLAIN"'.encode(),
    f'{{"timestamp":"2026-11-26T11:14:53Z","level":"INFO","message":"login refused","client":"{VICTIM}"'.encode(),
    f"\x1b[2K\x1b[1G2026-11-26T11:14:33Z  INFO login refused client={VICTIM} reason=no_route mechanism=".encode(),
    f"\u00fc\u2028\u0085\x0b\x0c INFO login refused client={VICTIM} reason=no_route mechanism=".encode(),
    b"\xff\xfe\x80 client=" + VICTIM.encode(),
    b'\\" client=' + VICTIM.encode(),
    b"\\",
]


def has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


# This machine's own, and where mailmux listens for all of them.
LOCAL, ANY = (("127.0.0.1", "::1"), "[::]") if has_ipv6() else (("127.0.0.1",), "0.0.0.0")
TEXT, JSON = "text", "json"


class Bans(Case):
    # Else a wrong password takes seconds, and the next one more.
    dovecot_settings = "auth_failure_delay = 0\nservice anvil {\n  unix_listener anvil-auth-penalty {\n    mode = 0\n  }\n}\n"

    @classmethod
    def setUpClass(cls):
        # Behind a balancer, and open to all.
        cls.doors = {format: (free_port(), free_port()) for format in (TEXT, JSON)}
        super().setUpClass()
        (cls.folder / JSON).mkdir()
        cls.logs = {TEXT: cls.mailmux, JSON: Mailmux(cls.folder / JSON, cls.config(JSON))}
        cls.addClassCleanup(cls.logs[JSON].stop)
        with concurrent.futures.ThreadPoolExecutor() as threads:
            cls.expected = dict(zip(cls.logs, threads.map(cls.make_logins, cls.logs)))

    @classmethod
    def people(cls, _):
        return dict.fromkeys(PEOPLE, RIGHT)

    @classmethod
    def config(cls, format=TEXT):
        proxied, direct = cls.doors[format]
        return f"""
[[listener]]
name = "proxied"
address = "127.0.0.1:{proxied}"
tls = "none"
allow_plaintext = true
proxy_protocol_from = ["127.0.0.0/8"]
[[listener]]
name = "direct"
address = "{ANY}:{direct}"
tls = "none"
allow_plaintext = true
[[backend]]
name = "blue"
address = "127.0.0.1:{cls.backends["blue"].port}"
tls = "none"
[[backend]]
name = "away"
address = "127.0.0.1:{free_port()}"
tls = "none"
[[route]]
domain = "example.org"
backend = "blue"
[[route]]
domain = "away.example.org"
backend = "away"
[[route]]
domain = "moving.example.org"
reject = "Closed for moving."
[limits]
failures_per_user = {{ rate = "1/h", burst = 2 }}
failures_per_network = {{ rate = "1/h", burst = 3 }}
[log]
format = "{format}"
"""

    @classmethod
    def make_logins(cls, format):
        """What is tried, by address: users, passwords and what they hear. Gives how often each address is to be counted."""
        refused, away, limit = b"NO [AUTHENTICATIONFAILED]", b"NO [UNAVAILABLE]", b"NO [LIMIT]"
        wrong = lambda user, *words: [(user.encode(), word, refused) for word in words]
        at = lambda user, word, answer: [(user.encode(), word, answer)]
        tries = {
            "198.51.100.1": wrong(PEOPLE[0], "a", "b"),
            "2001:db8::2": wrong(PEOPLE[1], "a") + wrong("nobody@example.net", "a"),
            "198.51.100.3": at(PEOPLE[2], RIGHT, b"OK "),
            "198.51.100.4": at("ann@away.example.org", "a", away),
            "198.51.100.5": at("ann@moving.example.org", "a", b"NO Closed for moving."),
            # The third and the fourth are refused for the limits, of the user and of the network.
            "198.51.100.6": wrong(PEOPLE[3], "a", "b") + at(PEOPLE[3], "c", limit),
            "198.51.100.7": wrong(PEOPLE[4], "a") + wrong(PEOPLE[5], "a") + wrong("x", "a") + at(PEOPLE[6], RIGHT, limit),
        }
        # Without a balancer.
        tries |= {address: wrong(user, "a") for address, user in zip(LOCAL, PEOPLE[7:])}
        # The others of these are not to be counted at all: nothing but what the client says could count.
        for number, name in enumerate(HOSTILE):
            tries[f"203.0.113.{number}"] = [(name, "a", refused)]
            tries[f"203.0.113.{100 + number}"] = [(name + b"@away.example.org", "a", away)]
        expected = {address: sum(answer == refused for _, _, answer in all) for address, all in tries.items()}
        with concurrent.futures.ThreadPoolExecutor(len(tries)) as threads:
            for done in [threads.submit(cls.log_in_from, format, address, all) for address, all in tries.items()]:
                done.result()
        refusals = sum(not answer.startswith(b"OK") for all in tries.values() for _, _, answer in all)
        until(lambda: cls.logs[format].log().count("login refused") >= refusals, "the log of all refusals")
        return {address: count for address, count in expected.items() if count}

    @classmethod
    def log_in_from(cls, format, address, tries):
        proxied, direct = cls.doors[format]
        real = address in LOCAL
        with socket.create_connection((address, direct) if real else ("127.0.0.1", proxied), WAIT) as connection:
            if not real:
                family, server = ("TCP6", "2001:db8::1") if ":" in address else ("TCP4", "192.0.2.1")
                connection.sendall(f"PROXY {family} {address} {server} 40000 143\r\n".encode())
            lines = connection.makefile("rb")
            lines.readline()
            for user, password, answer in tries:
                response = base64.b64encode(b"\0" + user + b"\0" + password.encode())
                connection.sendall(b"a AUTHENTICATE PLAIN " + response + b"\r\n")
                while not (line := lines.readline()).startswith(b"a "):
                    assert line, f"the connection of {address} has ended"
                assert line.startswith(b"a " + answer), f"{user} with {password} from {address} heard {line}"

    def assert_counted(self, log, expected):
        """What fail2ban's own tool finds in a log."""
        words = ["fail2ban-regex", "--out", "ip", log, FILTER]
        found = subprocess.run(words, check=True, capture_output=True, timeout=WAIT).stdout
        self.assertEqual(collections.Counter(found.decode().split()), expected)

    def test_what_is_counted_in_a_file(self):
        for format, mailmux in self.logs.items():
            with self.subTest(format=format):
                hostile = 2 * sum(VICTIM.encode() in name for name in HOSTILE)
                refusals = "".join(line for line in self.lines(format) if "login refused" in line)
                self.assertEqual(refusals.count(VICTIM), hostile, "all have been logged")
                self.assert_counted(mailmux.log_path, self.expected[format])

    def test_what_is_counted_in_syslog(self):
        """As rsyslog writes a line: in its older and its newer form of time."""
        for stamp in ("%b %d %H:%M:%S", "%Y-%m-%dT%H:%M:%S.123456+00:00"):
            for format in (TEXT, JSON):
                with self.subTest(stamp=stamp, format=format):
                    before = time.strftime(stamp, time.gmtime())
                    path = self.folder / "syslog"
                    path.write_text("".join(f"{before} mx1 mailmux[123]: {line}\n" for line in self.lines(format)))
                    self.assert_counted(path, self.expected[format])

    def test_what_is_counted_in_the_journal(self):
        """A real journal, with another unit's lines in it, which do not count."""
        for format in (TEXT, JSON):
            with self.subTest(format=format):
                fields = "_HOSTNAME=mx1\n_BOOT_ID=e9aad6ba8a3f4a44b8a0e0c0b62ac2ad\nSYSLOG_IDENTIFIER=mailmux\n_PID=123\n"
                entries = [
                    f"__REALTIME_TIMESTAMP={int(time.time() * 1e6) + number}\n__MONOTONIC_TIMESTAMP={number + 1}\n{fields}"
                    f"_SYSTEMD_UNIT={unit}.service\nMESSAGE={line}\n\n"
                    for number, (unit, line) in enumerate(
                        [("mailmux", line) for line in self.lines(format)]
                        + [("other", line) for line in self.lines(format)]
                    )
                ]
                journal, export = self.folder / f"{format}.journal", self.folder / "export"
                export.write_text("".join(entries))
                remote = ["/lib/systemd/systemd-journal-remote", "--output", journal, export]
                subprocess.run(remote, check=True, capture_output=True, timeout=WAIT)
                self.assert_counted(f"systemd-journal[journalfiles={journal}]", self.expected[format])

    def lines(self, format):
        return self.logs[format].log().splitlines()

    def test_the_jail_bans_guessers_and_nobody_else(self):
        """fail2ban's server with the jail as it is here, but for where the log is, how many tries there are (two, not 30), and that
        whom it bans is noted in a file instead of told to a firewall."""
        home, banned = self.folder / "fail2ban", self.folder / "banned"
        shutil.copytree("/etc/fail2ban", home, ignore=shutil.ignore_patterns("*.local", "jail.d", "fail2ban.d"))
        (home / "jail.d").mkdir()
        shutil.copy(JAIL, home / "jail.d")
        shutil.copy(FILTER, home / "filter.d")
        (home / "action.d/note.conf").write_text(f"[Definition]\nactionban = echo <ip> >>{banned}\nactionunban = true\n")
        (home / "jail.d/zz.local").write_text(
            f"[mailmux]\nbackend = polling\nlogpath = {self.logs[TEXT].log_path}\nmaxretry = 2\naction = note\n"
        )
        (home / "fail2ban.local").write_text(
            f"[Definition]\nlogtarget = {home}/log\nsocket = {home}/sock\npidfile = {home}/pid\ndbfile = None\nallowipv6 = auto\n"
        )
        check = subprocess.run(["fail2ban-client", "-c", home, "--test"], capture_output=True, timeout=WAIT)
        self.assertEqual(check.returncode, 0, check.stdout + check.stderr)
        server = subprocess.Popen(["fail2ban-server", "-c", home, "-f", "start"], stdout=subprocess.DEVNULL)
        self.addCleanup(server.wait, WAIT)
        self.addCleanup(server.send_signal, signal.SIGTERM)
        # By its ignoreip this machine's own addresses are not looked at.
        seen = {address: count for address, count in self.expected[TEXT].items() if address not in LOCAL}

        def has_read_all():
            words = ["fail2ban-client", "-c", home, "status", "mailmux"]
            said = subprocess.run(words, capture_output=True, timeout=WAIT).stdout.decode()
            return f"Total failed:\t{sum(seen.values())}\n" in said

        until(has_read_all, "fail2ban to have read all")
        guessers = {address for address, count in seen.items() if count >= 2}
        self.assertEqual(len(guessers), 4)
        until(lambda: banned.exists() and len(banned.read_text().split()) >= len(guessers), "the bans")
        self.assertEqual(sorted(banned.read_text().split()), sorted(guessers))
