"""From another proxy to mailmux, with the files in config/migrate/: the old proxy runs from the one that says "before", mailmux from
the one that says "after", both in front of the same Dovecots, and both are to do the same with every user.

Nothing in the files is changed but addresses and paths, each of which must be there.
"""

import concurrent.futures
import getpass
import grp
import imaplib
import os
import pathlib
import re
import shutil
import socket
import sqlite3
import ssl
import subprocess
import tempfile
import unittest

import pages
from responder import Responder
from world import ROOT, WAIT, Dovecot, Mailmux, free_port, make_certificates, until

FILES = ROOT / "config/migrate"
# Where each user is, under which name, and with which password.
PEOPLE = {
    "blue": {"ann@example.org": "ann-secret", "box-17": "inner-secret"},
    "green": {"bob@example.org": "bob-secret"},
}

# Wrong passwords are answered at once, however many there were.
IMPATIENT = """
auth_failure_delay = 0
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
"""


class Before:
    """The old proxy, in the foreground, until it is stopped."""

    def __init__(self, ports, log, *command):
        self.log = log
        with open(log, "wb") as out:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        for port in ports:
            until(lambda port=port: self.answers(port), f"{command[0]} to answer")

    def answers(self, port):
        if self.process.poll() is not None:
            raise AssertionError("the old proxy has ended:\n" + self.log.read_text(errors="replace"))
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=WAIT):
                return True
        except OSError:
            return False

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(WAIT)


def program(name):
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if not found:
        raise AssertionError(f"{name} is not installed; tests/run installs what these tests need")
    return found


class Migration(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="mailmux-migration."))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        os.chmod(cls.folder, 0o711)
        make_certificates(cls.folder, "mailmux test")
        # The old proxies read it as whoever they run as.
        os.chmod(cls.folder / "mail.key", 0o644)
        cls.tls = ssl.create_default_context(cafile=cls.folder / "ca.pem")
        cls.backends = {}
        for name, people in PEOPLE.items():
            cls.backends[name] = Dovecot(cls.folder / name, people, IMPATIENT)
            cls.addClassCleanup(cls.backends[name].stop)

    def setUp(self):
        self.maps = []
        self.before, self.after = ({"imaps": free_port(), "imap": free_port()} for _ in range(2))

    def shipped(self, name, **words):
        """A file of config/migrate/, with other addresses and paths. Words are written as they stand there."""
        return self.replaced((FILES / name).read_text(), name, words)

    def replaced(self, text, name, words):
        for old, new in words.items():
            self.assertIn(old, text, name)
            text = text.replace(old, str(new))
        self.assertNotIn("/etc/", text, name)
        return self.at_home(text)

    def at_home(self, text):
        """The two servers' addresses, with a port or without one, are those of our Dovecots."""
        for number, name in ((1, "blue"), (2, "green")):
            text = re.sub(rf"10\.0\.0\.1{number}(:143)?\b", f"127.0.0.1:{self.backends[name].port}", text)
        return text

    def certificate(self):
        return {
            "/etc/mail-certs/mail.example.org.pem": self.folder / "mail.pem",
            "/etc/mail-certs/mail.example.org.key": self.folder / "mail.key",
        }

    def start_after(self, name, words, listeners):
        """mailmux from the file that says "after"."""
        folder = self.folder / name
        folder.mkdir()
        words = words | self.certificate() | {f"[::]:{usual}": f"127.0.0.1:{self.after[of]}" for of, usual in listeners.items()}
        config = self.shipped(f"{name}.toml", **words)
        # The rest of its section is the world's.
        self.assertTrue(config.endswith("[admin]\n"))
        for path in self.maps:
            shutil.copy(path, folder)
        mailmux = Mailmux(folder, config.removesuffix("[admin]\n"))
        self.addCleanup(mailmux.stop)
        return mailmux

    def convert(self, part, usual, path, name):
        """Does what README.md says with a map of the old proxy."""
        command = pages.command(part)
        done = self.folder / name
        for old, new in ((usual, path), (f"/etc/mailmux/{name}", done)):
            self.assertEqual(command.count(old), 1, command)
            command = command.replace(old, str(new))
        subprocess.run(command, shell=True, check=True)
        self.maps.append(done)

    def reach(self, ports, listener):
        if listener == "imaps":
            return imaplib.IMAP4_SSL("localhost", ports["imaps"], ssl_context=self.tls, timeout=WAIT)
        connection = imaplib.IMAP4("localhost", ports["imap"], timeout=WAIT)
        connection.starttls(self.tls)
        return connection

    def both(self, check):
        """The old proxy and mailmux do the same."""
        for what, ports in (("before", self.before), ("after", self.after)):
            with self.subTest(what):
                check(ports)

    def lets_in(self, ports, listener, user, password, backend, inner=None):
        before = {name: dovecot.callers() for name, dovecot in self.backends.items()}
        connection = self.reach(ports, listener)
        try:
            self.assertEqual(connection.login(user, password)[0], "OK")
            self.assertEqual(connection.select("INBOX")[0], "OK")
        finally:
            connection.shutdown()
        for name, dovecot in self.backends.items():
            expected = [inner or user] if name == backend else []
            self.assertEqual(dovecot.callers()[len(before[name]) :], expected, f"{user} at {name}")

    def refuses(self, ports, *logins):
        """All at once: refusals are slow on purpose."""
        with concurrent.futures.ThreadPoolExecutor(len(logins)) as pool:
            list(pool.map(lambda login: self.is_refused(ports, *login), logins))

    def is_refused(self, ports, listener, user, password):
        connection = self.reach(ports, listener)
        try:
            with self.assertRaises(imaplib.IMAP4.error):
                connection.login(user, password)
        finally:
            connection.shutdown()

    def test_nginx(self):
        responder = Responder(self.say)
        self.addCleanup(responder.kill)
        url = {"127.0.0.1:9000": f"127.0.0.1:{responder.port}"}
        ports = {
            "listen 993 ssl": f"listen 127.0.0.1:{self.before['imaps']} ssl",
            "listen 143": f"listen 127.0.0.1:{self.before['imap']}",
        }
        config = self.folder / "nginx.conf"
        config.write_text(self.shipped("nginx-mail.conf", **ports, **url, **self.certificate()))
        log = self.folder / "nginx.log"
        settings = f"daemon off; pid {self.folder}/nginx.pid; error_log {log};"
        nginx = Before(self.before.values(), log, program("nginx"), "-c", config, "-g", settings)
        self.addCleanup(nginx.stop)
        self.start_after("nginx-mail", url, {"imaps": 993, "imap": 143})

        def check(ports):
            for listener in ("imaps", "imap"):
                self.lets_in(ports, listener, "ann@example.org", "ann-secret", "blue")
                self.lets_in(ports, listener, "bob@example.org", "bob-secret", "green")
                # The responder gives another name and password.
                self.lets_in(ports, listener, "carl@example.org", "carl-secret", "blue", "box-17")
            wrong = [("carl@example.org", "inner-secret"), ("ann@example.org", "bob-secret"), ("nobody@example.org", "x")]
            self.refuses(ports, *((listener, *login) for listener in ("imaps", "imap") for login in wrong))

        self.both(check)
        keys = [[line for line in question if line.lower() == b"x-auth-key: our-own-key"] for question in responder.questions]
        self.assertTrue(all(keys), "the header is with each question")

    def say(self, path, user, password):
        """A responder as it was written for nginx: it looks at passwords."""
        blue, green = ({"Auth-Status": "OK", "Auth-Server": "127.0.0.1", "Auth-Port": str(self.backends[name].port)} for name in ("blue", "green"))
        people = {
            (b"ann@example.org", b"ann-secret"): blue,
            (b"bob@example.org", b"bob-secret"): green,
            (b"carl@example.org", b"carl-secret"): blue | {"Auth-User": "box-17", "Auth-Pass": "inner-secret"},
        }
        self.assertEqual(path, "/auth")
        return people.get((user, password), {"Auth-Status": "Invalid login or password"})

    def test_dovecot(self):
        version = subprocess.run([program("dovecot"), "--version"], capture_output=True, check=True).stdout.decode()
        if not version.startswith("2.3"):
            self.skipTest(f"the file is for Dovecot 2.3, and here is {version}")
        home = self.folder / "proxy"
        home.mkdir()
        database = home / "users.db"
        with sqlite3.connect(database) as connection:
            connection.execute("CREATE TABLE mailboxes (username TEXT, domain TEXT, host TEXT, port INTEGER, destuser TEXT)")
            rows = [("ann", "blue", None), ("annie", "blue", "ann@example.org")]
            rows = [(user, "example.org", "127.0.0.1", self.backends[name].port, inner) for user, name, inner in rows]
            connection.executemany("INSERT INTO mailboxes VALUES (?, ?, ?, ?, ?)", rows)
        sql, users = home / "sql", home / "passwd"
        sql.write_text(self.shipped("dovecot-proxy-sql.conf.ext", **{"/var/lib/mail/users.db": database}))
        # Here address and port stand in two words.
        users.write_text(re.sub(r"host=\S+ port=143", f"host=127.0.0.1 port={self.backends['green'].port}", (FILES / "dovecot-proxy.passwd").read_text()))
        config = home / "dovecot.conf"
        words = {"/etc/dovecot/dovecot-proxy-sql.conf.ext": sql, "/etc/dovecot/dovecot-proxy.passwd": users, "listen = *, ::": "listen = 127.0.0.1"}
        words |= {f"port = {usual}": f"port = {self.before[name]}" for name, usual in (("imaps", 993), ("imap", 143))}
        whose = ("nobody", "nogroup") if os.getuid() == 0 else (getpass.getuser(), grp.getgrgid(os.getgid()).gr_name)
        config.write_text(self.shipped("dovecot-proxy.conf", **words, **self.certificate()) + f"""
{IMPATIENT}
base_dir = {home}/run
state_dir = {home}
log_path = {home}/log
default_internal_user = {whose[0]}
default_internal_group = {whose[1]}
default_login_user = {whose[0]}
service imap-login {{
  chroot =
}}
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
""")
        dovecot = Before(self.before.values(), home / "log", program("dovecot"), "-F", "-c", config)
        self.addCleanup(dovecot.stop)
        self.convert("passwd >", "/etc/dovecot/dovecot-proxy.passwd", users, "dovecot-proxy.map")
        self.start_after("dovecot-proxy", {"/var/lib/mail/users.db": database}, {"imaps": 993, "imap": 143})

        def check(ports):
            for listener in ("imaps", "imap"):
                self.lets_in(ports, listener, "ann@example.org", "ann-secret", "blue")
                self.lets_in(ports, listener, "annie@example.org", "ann-secret", "blue", "ann@example.org")
                self.lets_in(ports, listener, "bob@example.org", "bob-secret", "green")
                self.lets_in(ports, listener, "robert@example.org", "bob-secret", "green", "bob@example.org")
            self.refuses(ports, ("imaps", "ann@example.org", "bob-secret"), ("imap", "nobody@example.org", "ann-secret"))

        self.both(check)

    def test_perdition(self):
        popmap = self.folder / "popmap"
        popmap.write_text(self.at_home((FILES / "perdition.popmap").read_text()))
        database = self.folder / "popmap.gdbm.db"
        with open(popmap) as text:
            subprocess.run([program("makegdbm"), database], stdin=text, check=True)
        config = self.folder / "perdition.conf"
        words = {"listen_port 993": f"listen_port {self.before['imaps']}", "/etc/perdition/popmap.gdbm.db": database}
        config.write_text(self.shipped("perdition.conf", **words, **self.certificate()))
        del self.before["imap"]
        settings = ["--no_daemon", "-F", "-", "-b", "127.0.0.1", "--pid_file", ""]
        perdition = Before(self.before.values(), self.folder / "perdition.log", program("perdition.imaps"), "-f", config, *settings)
        self.addCleanup(perdition.stop)
        self.convert("popmap >", "/etc/perdition/popmap", popmap, "perdition.map")
        self.start_after("perdition", {}, {"imaps": 993})

        def check(ports):
            self.lets_in(ports, "imaps", "bob@example.org", "bob-secret", "green")
            self.lets_in(ports, "imaps", "robert@example.org", "bob-secret", "green", "bob@example.org")
            # Who is not in the map.
            self.lets_in(ports, "imaps", "ann@example.org", "ann-secret", "blue")
            self.refuses(ports, ("imaps", "bob@example.org", "ann-secret"), ("imaps", "nobody@example.org", "ann-secret"))

        self.both(check)


if __name__ == "__main__":
    unittest.main()
