"""The world of these tests: two real Dovecots and a mailmux in front, all on loopback, in a folder that goes away."""

import imaplib
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import unittest
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
MAILMUX = os.environ["MAILMUX"]
WAIT = 20
# Who logs in at Dovecots directly.
WITNESS = "witness"

# user -> (backend, password)
USERS = {
    "ann@example.org": ("blue", 'ann "secret" \\ päss'),
    "bob@example.org": ("green", "bob-secret"),
    "cid@example.org": ("green", "cid-secret"),
}


# Of those that the kernel gives nobody; where several of these programs run at once, each is given its own.
PORTS = tuple(map(int, os.environ.get("PORTS", "10000-32500").split("-")))
GIVEN_PORTS = set()


def free_port():
    """A port that nobody has, and that nobody will be given: not by the kernel, which has a range of its own for those who
    ask for any, nor by us."""
    while True:
        port = random.randrange(*PORTS)
        try:
            with socket.create_server(("127.0.0.1", port)):
                if port not in GIVEN_PORTS:
                    GIVEN_PORTS.add(port)
                    return port
        except OSError:
            pass


def until(fact, what, wait=WAIT):
    """Waits for a fact, and says which one did not come."""
    end = time.monotonic() + wait
    while time.monotonic() < end:
        value = fact()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {wait} s in vain for {what}")


class Dovecot:
    """A backend, started by the script that the quickstart uses. `masters` may act for its users."""

    def __init__(self, folder, users, extra="", masters=None):
        self.folder = folder
        self.port = free_port()
        self.extra = extra
        folder.mkdir()
        for name, people in (("users", users | {WITNESS: WITNESS}), ("masters", masters)):
            if people:
                (folder / name).write_text("".join(f"{user}:{{PLAIN}}{word}\n" for user, word in people.items()))
        self.start()

    def start(self):
        command = [ROOT / "deploy/dovecot-backend", "start", self.folder, str(self.port)]
        subprocess.run(command, input=self.extra.encode(), check=True)

    def log(self):
        return (self.folder / "log").read_text(errors="replace")

    def callers(self):
        """Everybody who has logged in here or tried to, by the log, in its order. Somebody logs in without mailmux first:
        when that is in the log, all that came before is too."""

        def names():
            return re.findall(r"imap-login: .*?: user=<([^>]+)>, ", self.log())

        before = names().count(WITNESS)
        connection = imaplib.IMAP4("127.0.0.1", self.port, timeout=WAIT)
        connection.login(WITNESS, WITNESS)
        connection.logout()
        until(lambda: names().count(WITNESS) > before, "the witness in Dovecot's log")
        return [name for name in names() if name != WITNESS]

    def maildir(self, user):
        return self.folder / "mail" / user / "Maildir"

    def stop(self):
        subprocess.run([ROOT / "deploy/dovecot-backend", "stop", self.folder], check=True)


class Mailmux:
    """The proxy, from a configuration without its listeners' addresses. `command` is what starts it in place of the binary
    alone, `admin` more of that section, `at` the admin port of one that was there before; other words are for Popen."""

    def __init__(self, folder, config, command=(MAILMUX,), admin="", at=None, **popen):
        self.folder = folder
        self.admin = at or free_port()
        self.admin_section = f'\n[admin]\naddress = "127.0.0.1:{self.admin}"\n{admin}'
        self.config_path = folder / "mailmux.toml"
        self.write(config)
        self.log_path = folder / "mailmux.log"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen([*command, "serve", "--config", self.config_path], stderr=log, **popen)
        try:
            until(self.is_ready, "mailmux to be ready")
        except BaseException:
            self.process.kill()
            self.process.wait(WAIT)
            raise

    def write(self, config):
        """The configuration file, whole or not at all."""
        fresh = self.config_path.with_suffix(".new")
        fresh.write_text(config + self.admin_section)
        fresh.replace(self.config_path)

    def is_ready(self):
        if self.process.poll() is not None:
            raise AssertionError("mailmux has ended:\n" + self.log())
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/readyz", timeout=WAIT).status == 200
        except OSError:
            return False

    def log(self):
        return self.log_path.read_text(errors="replace")

    def metrics(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=WAIT) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    def metric(self, name):
        return self.metrics().get(name, 0)

    def route(self, user, *words):
        """What `mailmux route` says, and its exit code."""
        command = [MAILMUX, "route", "--config", self.config_path, *words, user]
        done = subprocess.run(command, capture_output=True, timeout=WAIT)
        return (done.stdout + done.stderr).decode(), done.returncode

    def stop(self):
        """Two signals that come at once are one, so it is told again until it has ended."""

        def ended():
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
            return self.process.poll() is not None

        try:
            until(ended, "mailmux to end")
        finally:
            self.process.kill()
            self.process.wait(WAIT)


EC = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def openssl(*words, cwd):
    subprocess.run(["openssl", *words], cwd=cwd, check=True, capture_output=True)


def make_certificates(folder, name):
    """ca.pem, and mail.pem with mail.key for localhost."""
    openssl("req", "-x509", *EC, "-days", "7", "-subj", f"/CN={name} CA", "-keyout", "ca.key", "-out", "ca.pem", cwd=folder)
    (folder / "names").write_text("subjectAltName = DNS:localhost, IP:127.0.0.1\n")
    issue_certificate(folder)


def issue_certificate(folder, days=7):
    """Another mail.pem with mail.key, by the authority that is there."""
    openssl("req", *EC, "-subj", "/CN=localhost", "-keyout", "new.key", "-out", "mail.csr", cwd=folder)
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", str(days), "-extfile", "names"]
    openssl("x509", "-req", "-in", "mail.csr", *signed, "-out", "new.pem", cwd=folder)
    for kind in ("key", "pem"):
        (folder / f"new.{kind}").replace(folder / f"mail.{kind}")


class Case(unittest.TestCase):
    """Tests that share one world."""

    maxDiff = 2000
    masters = None
    # Further settings of the Dovecots.
    dovecot_settings = ""

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="mailmux-real."))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        os.chmod(cls.folder, 0o711)
        make_certificates(cls.folder, "mailmux test")
        cls.backends = {}
        for name in ("blue", "green"):
            cls.backends[name] = Dovecot(cls.folder / name, cls.people(name), cls.dovecot_settings, masters=cls.masters)
            cls.addClassCleanup(cls.backends[name].stop)
        cls.imaps, cls.imap = free_port(), free_port()
        users_map = "".join(f"{user}\t{backend}\n" for user, (backend, _) in USERS.items())
        (cls.folder / "users.map").write_text(users_map)
        cls.tls = ssl.create_default_context(cafile=cls.folder / "ca.pem")
        cls.start()

    @classmethod
    def start(cls):
        cls.mailmux = Mailmux(cls.folder, cls.config())
        cls.addClassCleanup(cls.mailmux.stop)

    @classmethod
    def people(cls, backend):
        """The users of a backend, with their passwords."""
        return {user: password for user, (home, password) in USERS.items() if home == backend}

    @classmethod
    def backend_sections(cls):
        return "".join(
            f'[[backend]]\nname = "{name}"\naddress = "127.0.0.1:{backend.port}"\ntls = "none"\n'
            for name, backend in cls.backends.items()
        )

    @classmethod
    def config(cls):
        return f"""
[[listener]]
name = "imaps"
address = "127.0.0.1:{cls.imaps}"
tls = "implicit"
mechanisms = ["PLAIN", "LOGIN", "SCRAM-SHA-1", "SCRAM-SHA-256", "XOAUTH2", "OAUTHBEARER"]
[[listener]]
name = "imap"
address = "127.0.0.1:{cls.imap}"
tls = "starttls"
[[tls.certificate]]
chain = "mail.pem"
key = "mail.key"
{cls.backend_sections()}
[[lookup]]
name = "users"
type = "file"
path = "users.map"
[[route]]
lookup = "users"
[limits]
sessions_per_user = 1000
logins_per_user = "off"
"""

    def connect(self):
        connection = imaplib.IMAP4_SSL("localhost", self.imaps, ssl_context=self.tls, timeout=60)
        self.addCleanup(self.close, connection)
        return connection

    def log_in(self, user="bob@example.org"):
        connection = self.connect()
        connection.login(user, USERS[user][1])
        return connection

    @staticmethod
    def close(connection):
        try:
            connection.shutdown()
        except OSError:
            pass

    def curl(self, user, url, *words, password=None):
        command = ["curl", "-sS", "--fail", "--max-time", str(WAIT), "--cacert", self.folder / "ca.pem"]
        command += ["-u", f"{user}:{password or USERS[user][1]}", url, *words]
        done = subprocess.run(command, capture_output=True)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        return done.stdout.decode()

    def quiet(self):
        """All sessions are gone, and counted out."""
        until(lambda: sum(v for k, v in self.mailmux.metrics().items() if re.match(r"mailmux_sessions\{", k)) == 0, "all sessions to end")


def zlib_settings():
    """For Dovecot, so that it offers COMPRESS: 2.3 does only with a plugin."""
    environment = os.environ | {"PATH": os.environ["PATH"] + ":/usr/sbin"}
    version = subprocess.run(["dovecot", "--version"], capture_output=True, env=environment, check=True).stdout
    if not version.startswith(b"2.3"):
        return ""
    return "mail_plugins = zlib\nprotocol imap {\n  mail_plugins = zlib imap_zlib\n}\n"


def mail(subject, body="Hello.\r\n"):
    return f"From: a@example.org\r\nTo: b@example.org\r\nSubject: {subject}\r\n\r\n{body}".encode()
