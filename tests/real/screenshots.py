"""Pictures of the status page for the README: of a real mailmux with three Dovecots, users who read mail, a webmail, and
somebody who guesses passwords. Its clock goes ten times as fast, so that the hour that the page shows is over in six minutes.

    tests/real/run --only screenshots      writes src/admin/page/screenshots/
"""

import imaplib
import itertools
import os
import pathlib
import random
import socket
import ssl
import tempfile
import threading
import time
import unittest
import urllib.request

from browser import Browser
from world import EC, ROOT, Dovecot, Mailmux, free_port, make_certificates, openssl, until

PICTURES = ROOT / "src/admin/page/screenshots"
MOST_BYTES = 200_000
# How much faster the clock goes, and how long the load lasts by ours.
FASTER = 10
MINUTES = float(os.environ.get("PICTURE_MINUTES", "6.2"))
BACKENDS = ("blue", "green", "red")
FIRST = "ann bob cid dan eve fay gus hal ida jon kim leo mia ned oda pia".split()
LAST = "abel baker clark dunn evans frost green hill".split()
USERS = [f"{first}.{last}@example.{('org', 'net')[at % 2]}" for at, (last, first) in enumerate(itertools.product(LAST, FIRST))]
WORD = "secret"


class Program(imaplib.IMAP4):
    """A mail program behind a balancer that says where it is: addresses that are for documentation."""

    def __init__(self, port, address, tls, starts=False):
        self.address, self.tls = address, None if starts else tls
        try:
            super().__init__("127.0.0.1", port, timeout=30)
            if starts:
                self.starttls(tls)
        except BaseException:
            self.close_socket()
            raise

    def __exit__(self, *what):
        try:
            super().__exit__(*what)
        except imaplib.IMAP4.error:
            pass
        self.close_socket()

    def close_socket(self):
        if getattr(self, "sock", None):
            self.sock.close()

    def _create_socket(self, timeout):
        plain = socket.create_connection((self.host, self.port), timeout)
        family, here = ("TCP6", "2001:db8::1") if ":" in self.address else ("TCP4", "198.51.100.1")
        plain.sendall(f"PROXY {family} {self.address} {here} {random.randrange(1024, 65000)} {self.port}\r\n".encode())
        return self.tls.wrap_socket(plain, server_hostname="mail.example.org") if self.tls else plain


class Pictures(unittest.TestCase):
    def test_pictures(self):
        with tempfile.TemporaryDirectory(prefix="mailmux-pictures.") as folder:
            os.chmod(folder, 0o711)
            self.folder = pathlib.Path(folder)
            self.begin()
            try:
                self.live()
                self.take()
            finally:
                self.end.set()
                self.doCleanups()

    def begin(self):
        make_certificates(self.folder, "Example CA")
        (self.folder / "certs").mkdir()
        for name, days in (("mail.example.org", 61), ("mail.example.net", 9)):
            self.issue(name, days)
        self.tls = ssl.create_default_context(cafile=self.folder / "ca.pem")
        self.tls.check_hostname = False
        self.end = threading.Event()
        self.random = random.Random(7)
        self.ports = {name: free_port() for name in ("imaps", "imap", "webmail")}
        backends = ""
        for at, name in enumerate(BACKENDS):
            dovecot = Dovecot(self.folder / name, {user: WORD for user in USERS})
            self.addCleanup(dovecot.stop)
            backends += f"""
[[backend]]
name = "{name}"
address = "127.0.0.1:{dovecot.port}"
tls = "none"
max_links = {(80, 80, 60)[at]}
"""
            setattr(self, name, dovecot)
        library = next(iter(sorted(pathlib.Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))))
        environment = os.environ | {"LD_PRELOAD": str(library), "FAKETIME": f"+0 x{FASTER}"}
        (self.folder / "token").write_text(WORD)
        self.mailmux = Mailmux(self.folder, self.config(backends), admin='token_file = "token"\n', env=environment)
        self.addCleanup(self.mailmux.stop)

    def issue(self, name, days):
        (self.folder / "names").write_text(f"subjectAltName = DNS:{name}, DNS:imap.{name.split('.', 1)[1]}\n")
        pem, key = f"certs/{name}.pem", f"certs/{name}.key"
        openssl("req", *EC, "-subj", f"/CN={name}", "-keyout", key, "-out", "mail.csr", cwd=self.folder)
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", str(days), "-extfile", "names"]
        openssl("x509", "-req", "-in", "mail.csr", *signed, "-out", pem, cwd=self.folder)

    def config(self, backends):
        listeners = "".join(
            f'[[listener]]\nname = "{name}"\naddress = "127.0.0.1:{port}"\ntls = "{tls}"\nproxy_protocol_from = ["127.0.0.0/8"]\n'
            for (name, port), tls in zip(self.ports.items(), ("implicit", "starttls", "implicit"))
        )
        return f"""
{listeners}
[tls]
directory = "certs"
{backends}
[[group]]
name = "all"
members = ["blue", "green", "red"]
choose = "hash"
[pool]
warm = 2
reuse_ttl = "10m"
[[route]]
group = "all"
pool = "reuse"
[limits]
logins_per_user = "off"
[timeouts]
relay_idle = "10h"
"""

    def live(self):
        """What goes on until the pictures are taken."""
        threads = [threading.Thread(target=self.read_mail, args=(user, at), daemon=True) for at, user in enumerate(USERS[:96])]
        threads += [threading.Thread(target=self.click, args=(at,), daemon=True) for at in range(3)]
        threads += [threading.Thread(target=self.guess, daemon=True)]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        passed = lambda: (time.monotonic() - began) / 60 / MINUTES
        until(lambda: passed() > 0.55, "half of the time", MINUTES * 60)
        self.green.stop()
        until(lambda: passed() > 0.62, "green to be missed", MINUTES * 60)
        self.green.start()
        until(lambda: passed() > 0.97, "most of the time", MINUTES * 60)
        self.red.stop()
        until(lambda: passed() > 1, "all of the time", MINUTES * 60)

    def address(self, at):
        return f"2001:db8:{at % 7 + 1}::{at + 16:x}" if at % 3 == 0 else f"192.0.2.{at + 10}"

    def read_mail(self, user, at):
        """A mail program that is there most of the time, in IDLE."""
        here = random.Random(at)
        self.end.wait(here.uniform(0, 90) * (at % 4 > 0))
        while not self.end.is_set():
            try:
                starts = at % 9 == 0
                with Program(self.ports["imap" if starts else "imaps"], self.address(at), self.tls, starts) as mail:
                    mail.login(user, WORD)
                    mail.append("INBOX", None, None, (f"Subject: {at}\r\n\r\n" + "Hello.\r\n" * here.randrange(10, 8000)).encode())
                    mail.select()
                    mail.fetch("1:*", "(RFC822)")
                    if at % 5 == 0:
                        self.end.wait(here.uniform(20, 90))
                        continue
                    mail.send(b"i IDLE\r\n")
                    mail.readline()
                    self.end.wait(here.uniform(60, 200))
                    mail.send(b"DONE\r\n")
                    mail.readline()
            except (OSError, imaplib.IMAP4.error):
                self.end.wait(here.uniform(1, 5))

    def click(self, at):
        """A webmail: a login for every click, more and fewer of them as time goes by."""
        while not self.end.is_set():
            user = self.random.choice(USERS[:48])
            try:
                with Program(self.ports["webmail"], f"198.51.100.{at + 20}", self.tls) as mail:
                    mail.login(user, WORD)
                    mail.select(readonly=True)
                    mail.fetch("1:5", "(ENVELOPE)")
            except (OSError, imaplib.IMAP4.error):
                pass
            wave = 1.2 + abs((time.monotonic() / 140) % 2 - 1)
            self.end.wait(self.random.expovariate(wave * 2))

    def guess(self):
        """Somebody who tries passwords; and people who mistype theirs."""
        for turn in itertools.count():
            attacks = turn % 120 > 84
            address = "203.0.113.66" if attacks else self.address(self.random.randrange(90))
            try:
                with Program(self.ports["imaps"], address, self.tls) as mail:
                    mail.login(self.random.choice(USERS[48:]), f"wrong{turn}")
            except (OSError, imaplib.IMAP4.error):
                pass
            if self.end.wait(0.1 if attacks else self.random.expovariate(0.8)):
                return

    def take(self):
        PICTURES.mkdir(exist_ok=True)
        browser = Browser()
        self.addCleanup(browser.close)
        url = f"http://127.0.0.1:{self.mailmux.admin}/"
        for name, width, height, colours in (("light", 1280, 1000, "light"), ("dark", 1280, 1000, "dark"), ("phone", 390, 844, "dark")):
            browser.screen(width, height)
            browser.prefers(color_scheme=colours, reduced_motion="reduce")
            browser.go(url)
            if browser.text("#token-use"):
                browser.type("#token", WORD)
                browser.press("Enter")
            until(lambda: "live" in browser.text("#live"), "the page")
            # Rates are those of the last seconds.
            until(lambda: browser.text("#tile-logins .figure") not in ("", "–"), "rates")
            time.sleep(8)
            picture = browser.screenshot()
            self.assertLess(len(picture), MOST_BYTES, name)
            (PICTURES / f"{name}.png").write_bytes(picture)
        self.assertEqual(browser.complaints(), [])
