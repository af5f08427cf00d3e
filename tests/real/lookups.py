"""Where users are sent by what real sources say: an HTTP responder, a directory, groups; and as whom they are let in
there. Each Dovecot's own log tells who was sent to it."""

import base64
import concurrent.futures
import hashlib
import imaplib
import math
import socket
import time
import unittest
import urllib.parse

from directory import SEARCHER, SEARCHER_PASSWORD, SUFFIX, Slapd
from responder import Responder
from world import Case, Dovecot, free_port

AWAY = "NO [UNAVAILABLE] "
WRONG = "NO [AUTHENTICATIONFAILED] "


class Lookups(Case):
    """A mailmux with a listener for each way that is tested."""

    # Nowhere in mailmux's log, whatever happens.
    secrets = ()

    @classmethod
    def start_of_config(cls, *listeners):
        cls.ports = {name: free_port() for name in listeners}
        config = '[[tls.certificate]]\nchain = "mail.pem"\nkey = "mail.key"\n'
        config += '[timeouts]\nrefusal_grid = "20ms"\nbackend_login = "5s"\n[limits]\nlogins_per_user = "off"\n'
        for name, port in cls.ports.items():
            config += f'[[listener]]\nname = "{name}"\naddress = "127.0.0.1:{port}"\ntls = "implicit"\n'
        return config

    def tearDown(self):
        log = self.mailmux.log()
        for secret in self.secrets:
            self.assertNotIn(secret, log)

    def reach(self, listener):
        connection = imaplib.IMAP4_SSL("localhost", self.ports[listener], ssl_context=self.tls, timeout=60)
        self.addCleanup(self.close, connection)
        return connection

    def ask(self, connection, user, password):
        """The answer to LOGIN with two literals, so that they may hold anything."""
        user, password = (word if isinstance(word, bytes) else word.encode() for word in (user, password))
        connection.send(b"x LOGIN {%d+}\r\n%b {%d+}\r\n%b\r\n" % (len(user), user, len(password), password))
        return self.answer(connection)

    def answer(self, connection):
        while not (line := connection.readline()).startswith(b"x "):
            self.assertTrue(line, "the connection was closed")
        return line[2:].decode().rstrip()

    def lets_in(self, listener, user, password):
        connection = self.reach(listener)
        self.assertRegex(self.ask(connection, user, password), "^OK ")
        self.assertEqual(connection.noop()[0], "OK")

    def refuses(self, listener, user, password, words):
        said = self.ask(self.reach(listener), user, password)
        self.assertTrue(said.startswith(words), f"{user}: {said}")

    def callers(self):
        return {name: backend.callers() for name, backend in self.backends.items()}


class Http(Lookups):
    """A responder that says where, and one that looks at passwords too."""

    PEOPLE = {
        "blue": {"ann@example.org": "ann-secret", "box-17": "inner secret%41"},
        "green": {"bob@example.org": "bob-secret", "hostile": "hostile-secret", "fay@example.org": "fay-secret"},
    }
    secrets = ("ann-secret", "bob-secret", "hostile-secret", "carl's own", "inner secret", "gift-secret", "\x1b")

    @classmethod
    def people(cls, backend):
        return cls.PEOPLE[backend]

    @classmethod
    def config(cls):
        cls.trap = socket.create_server(("127.0.0.2", 0))
        cls.addClassCleanup(cls.trap.close)
        cls.trap.setblocking(False)
        cls.responder = Responder(cls.say)
        cls.addClassCleanup(cls.responder.kill)
        cls.mortal = Responder(cls.say)
        cls.addClassCleanup(cls.mortal.kill)
        config = cls.start_of_config("where", "check", "outside", "unlisted", "mortal")
        # Blue is known, green a host that the responder alone names.
        config += f'[[backend]]\nname = "blue"\naddress = "127.0.0.1:{cls.backends["blue"].port}"\ntls = "none"\n'
        config += f'[[backend]]\nname = "clear"\naddress = "127.0.0.1:{free_port()}"\ntls = "none"\nhealth = "off"\n'
        lookup = '[[lookup]]\nname = "{0}"\ntype = "http"\nurl = "http://127.0.0.1:{1}/{0}"\n{2}\n'
        lookup += '[[route]]\nlistener = "{0}"\nlookup = "{0}"\n'
        here = 'template = "clear"\nallow = ["127.0.0.0/8"]\n'
        for name, port, more in (
            ("where", cls.responder.port, here + 'headers = { X-Auth-Key = "mailmux" }'),
            ("check", cls.responder.port, here + "authenticate = true"),
            ("outside", cls.responder.port, 'template = "clear"\nallow = ["127.0.0.1", "blue"]'),
            ("unlisted", cls.responder.port, 'template = "clear"'),
            ("mortal", cls.mortal.port, here + 'timeout = "500ms"\ncache = { ttl = "0s", negative_ttl = "0s" }'),
        ):
            config += lookup.format(name, port, more)
        return config

    @classmethod
    def say(cls, path, user, password):
        def at(port, address="127.0.0.1", **more):
            return {"Auth-Status": "OK", "Auth-Server": address, "Auth-Port": str(port)} | more

        blue, green = (cls.backends[name].port for name in ("blue", "green"))
        if path in ("/outside", "/unlisted"):
            return at(cls.trap.getsockname()[1], "127.0.0.2")
        if path == "/check":
            return cls.check(at(blue, **{"Auth-User": "box-17", "Auth-Pass": "inner secret%41"}), user, password)
        if user == b"gift":
            return at(blue, **{"Auth-User": "box-17", "Auth-Pass": "inner secret%41"})
        if user in (b"ann@example.org", b"bob@example.org", b"fay@example.org"):
            return at(blue if user.startswith(b"ann") else green)
        if user in cls.HOSTILE:
            return at(green, **{"Auth-User": "hostile"})
        return {"Auth-Status": "No such user"}

    @classmethod
    def check(cls, yes, user, password):
        if user == b"patience":
            # First so, then otherwise.
            again = sum(b"Auth-User: patience" in question for question in cls.responder.questions)
            return {"Auth-Status": "WAIT", "Auth-Wait": "1"} if again == 1 else yes
        if (user, password) == (b"carl", b"carl's own 100%\xff"):
            return yes
        return {"Auth-Status": "Invalid login or password", "Auth-Wait": "1" if user == b"slow" else "0"}

    def asked(self, user, path):
        """What was asked about a user, in header lines."""
        start, name = b"GET /%b HTTP/1.1" % path.encode(), b"Auth-User: " + user.encode()
        return [question for question in self.responder.questions if question[0] == start and name in question]

    def test_a_responder_says_where_and_never_sees_a_password(self):
        by_imaplib = self.reach("where")
        by_imaplib.login("ann@example.org", "ann-secret")
        self.assertEqual(by_imaplib.select("INBOX")[0], "OK")
        by_curl = self.curl("bob@example.org", f"imaps://localhost:{self.ports['where']}/", password="bob-secret")
        self.assertIn("INBOX", by_curl)
        self.lets_in("where", "Ann@Example.org", "ann-secret")
        callers = self.callers()
        self.assertEqual(callers["blue"].count("ann@example.org"), 2)
        self.assertEqual(callers["green"].count("bob@example.org"), 1)
        self.assertNotIn("bob@example.org", callers["blue"])
        self.assertNotIn("ann@example.org", callers["green"])
        questions = self.asked("ann@example.org", "where")
        self.assertEqual(len(questions), 1, "the second time the answer was known")
        self.assertEqual(questions[0][1:7], [
            b"Host: 127.0.0.1:%d" % self.responder.port,
            b"Auth-Method: plain",
            b"Auth-User: ann@example.org",
            b"Auth-Protocol: imap",
            b"Auth-Login-Attempt: 1",
            b"Client-Ip: 127.0.0.1",
        ])
        self.assertIn(b"X-Auth-Key: mailmux", [line.replace(b"x-auth-key", b"X-Auth-Key") for line in questions[0]])
        told = b"\n".join(line for question in self.responder.questions if b"/where" in question[0] for line in question)
        self.assertNotIn(b"auth-pass", told.lower())
        self.assertNotIn(b"secret", told)

    def test_a_password_that_nobody_has_checked_opens_no_other_mailbox(self):
        before = self.callers()
        self.refuses("where", "gift", "gift-secret", WRONG)
        self.assertEqual(self.callers(), before)

    def test_a_responder_checks_passwords_and_gives_those_of_the_backend(self):
        right = b"carl's own 100%\xff"
        self.lets_in("check", "carl", right)
        callers = self.callers()
        self.assertIn("box-17", callers["blue"])
        self.assertEqual(self.asked("carl", "check")[0][4], b"Auth-Pass: carl's%20own%20100%25%FF")
        for password in ("wrong", "", b"carl's own", b"\xff"):
            self.refuses("check", "carl", password, WRONG + "Invalid login or password")
        # Who knows the backend's is not let in by that.
        self.refuses("check", "box-17", "inner secret%41", WRONG + "Invalid login or password")
        self.assertEqual(self.callers(), callers, "Dovecot was asked")
        self.lets_in("check", "carl", right)

    def test_after_a_refusal_the_dialogue_goes_on(self):
        connection = self.reach("check")
        self.assertTrue(self.ask(connection, "carl", "wrong").startswith(WRONG))
        self.assertTrue(self.ask(connection, "carl", b"carl's own 100%\xff").startswith("OK "))
        attempts = [line for question in self.asked("carl", "check")[-2:] for line in question if b"Attempt" in line]
        self.assertEqual(attempts, [b"Auth-Login-Attempt: 1", b"Auth-Login-Attempt: 2"])

    def test_nobody_whose_password_is_checked_acts_for_another(self):
        before = self.callers(), len(self.responder.questions)
        connection = self.reach("check")
        message = base64.b64encode(b"ann@example.org\0carl\0carl's own 100%\xff")
        connection.send(b"x AUTHENTICATE PLAIN " + message + b"\r\n")
        self.assertTrue(self.answer(connection).startswith(WRONG))
        self.assertEqual((self.callers(), len(self.responder.questions)), before)

    def test_a_responder_has_clients_wait(self):
        began = time.monotonic()
        self.refuses("check", "slow", "wrong", WRONG + "Invalid login or password")
        self.assertGreaterEqual(time.monotonic() - began, 1)
        began = time.monotonic()
        self.lets_in("check", "patience", "x")
        self.assertGreaterEqual(time.monotonic() - began, 1)
        self.assertEqual(len(self.asked("patience", "check")), 2)

    def test_where_users_may_not_be_sent_nothing_is_sent(self):
        before = self.callers()
        for listener in ("outside", "unlisted"):
            self.refuses(listener, "ann@example.org", "ann-secret", AWAY)
        with self.assertRaises(BlockingIOError):
            self.trap.accept()
        self.assertEqual(self.callers(), before)
        self.assertIn("127.0.0.2 is neither a backend nor in this lookup's allow", self.mailmux.log())

    def test_a_responder_that_hangs_and_one_that_is_gone(self):
        stale = 'mailmux_lookup_cache_total{lookup="mortal",way="stale"}'
        self.lets_in("mortal", "fay@example.org", "fay-secret")
        self.assertEqual(self.mailmux.metric(stale), 0)
        self.mortal.answers.clear()
        began = time.monotonic()
        self.lets_in("mortal", "fay@example.org", "fay-secret")
        self.refuses("mortal", "bob@example.org", "bob-secret", AWAY)
        self.assertLess(time.monotonic() - began, 3, "the time limit of 500 ms, twice")
        self.assertEqual(self.mailmux.metric(stale), 1)
        self.mortal.kill()
        began = time.monotonic()
        self.lets_in("mortal", "fay@example.org", "fay-secret")
        self.refuses("mortal", "bob@example.org", "bob-secret", AWAY)
        self.assertLess(time.monotonic() - began, 3)
        self.assertEqual(self.mailmux.metric(stale), 2)
        self.assertEqual(self.mailmux.metric('mailmux_lookup_seconds_count{lookup="mortal",outcome="failed"}'), 2)
        self.assertEqual(self.callers()["green"].count("fay@example.org"), 3)

    HOSTILE = {
        b'"quoted" \\name\\',
        b"100%25 %0d%0a",
        b"  two  blanks ",
        b"tab\there: x",
        b"j\xf6rg",
        "jörg".encode(),
        b"red\x1b[31m\x07\x7f",
        b"a+b&c=d#e?f/../g",
        b"(){*}{5}",
        b"\xff\xfe\x80",
    }

    def test_whatever_a_name_holds_the_responder_sees_that_name_and_nothing_else(self):
        printable = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")
        for name in self.HOSTILE:
            before = len(self.responder.questions)
            self.lets_in("where", name, "hostile-secret")
            (question,) = self.responder.questions[before:]
            fields = [line.split(b": ", 1) for line in question[1:-1]]
            self.assertEqual(b" ".join(field[0].title() for field in fields),
                             b"Host Auth-Method Auth-User Auth-Protocol Auth-Login-Attempt Client-Ip "
                             b"Auth-Ssl Auth-Ssl-Protocol Auth-Ssl-Cipher X-Auth-Key")
            self.assertEqual(fields[2][1], urllib.parse.quote(name, safe=printable).encode())
        self.assertEqual(self.callers()["green"].count("hostile"), len(self.HOSTILE))

    def test_a_name_with_a_line_break_is_nobodys(self):
        before = self.callers(), len(self.responder.questions)
        for name in (b"ann@example.org\r\nAuth-Pass: x", b"\n", b"a\rb", b"ann@example.org\0"):
            with self.subTest(name):
                said = self.ask(self.reach("where"), name, "ann-secret")
                self.assertRegex(said, "^(NO|BAD) ")
                connection = self.reach("where")
                connection.send(b"x AUTHENTICATE PLAIN " + base64.b64encode(b"\0" + name + b"\0ann-secret") + b"\r\n")
                self.assertRegex(self.answer(connection), "^(NO|BAD) ")
        self.assertEqual((self.callers(), len(self.responder.questions)), before)
