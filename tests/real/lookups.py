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
from world import Case, Dovecot, free_port, make_certificates, until

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

    def test_mailmux_route_has_a_password_checked(self):
        secret = self.folder / "carl.secret"
        words = ["carl", "--listener", "check", "--password-file", secret]
        secret.write_bytes(b"carl's own 100%\xff\n")
        blue = f"127.0.0.1:{self.backends['blue'].port}"
        self.assertEqual(self.mailmux.route(*words), (
            "route[0]: does not apply\nroute[1]: lookup check knows the user\n"
            f'=> backend blue ({blue}) as "box-17", with a password that the lookup gives\n', 0))
        secret.write_bytes(b"wrong\n")
        self.assertEqual(self.mailmux.route(*words), (
            "route[0]: does not apply\nroute[1]: lookup check refuses the user\n"
            "=> nowhere: refused by the source: Invalid login or password\n", 1))


class Directory(Lookups):
    """slapd says where users are, and whether their passwords are right; then a master user lets them in."""

    PEOPLE = {
        "blue": {"ann": "ann-imap", "cid": "cid-imap", "mia": "mia-imap"},
        "green": {"bob": "bob-imap", "joerg": "joerg-imap", "star": "star-imap", "mia": "mia-imap"},
    }
    masters = {"mailmux": "master-secret"}
    secrets = ("ann-imap", "bob-imap", "ann-ldap", "bob-ldap", "master-secret", SEARCHER_PASSWORD)

    @classmethod
    def people(cls, backend):
        return cls.PEOPLE[backend]

    @classmethod
    def person(cls, uid, *lines):
        kinds = ("person", "organizationalPerson", "inetOrgPerson", "inetLocalMailRecipient")
        start = [f"dn: uid={uid},{SUFFIX}", *(f"objectClass: {kind}" for kind in kinds), f"uid: {uid}", "cn: x", "sn: x"]
        return "\n".join([*start, *lines, "", ""])

    @classmethod
    def config(cls):
        cls.slapd = Slapd(cls.folder / "slapd", tls=cls.folder)
        cls.addClassCleanup(cls.slapd.stop)
        cls.slapd.add(
            cls.person("ann", "mailHost: blue", "mail: both@example.org", "userPassword: ann-ldap")
            + cls.person("bob", "mailHost: green", "mail: both@example.org", "userPassword: bob-ldap")
            # Nobody may log in as her.
            + cls.person("cid", "mailHost: blue")
            # Where nobody is.
            + cls.person("dan", "mailHost: red", "userPassword: dan-ldap")
            # Names that Dovecot would not have (the second is "jörg"): these have others there.
            + cls.person("star", "mailHost: green", "mail: *", "mailRoutingAddress: star", "userPassword: star-ldap")
            + cls.person("j", "mailHost: green", "uid:: asO2cmc=", "mailRoutingAddress: joerg")
        )
        # Another one, which dies.
        cls.mortal = Slapd(cls.folder / "mortal")
        cls.addClassCleanup(cls.mortal.stop)
        cls.mortal.add(cls.person("mia", "mailHost: blue", "userPassword: mia-ldap"))
        for name, secret in (("searcher", SEARCHER_PASSWORD), ("stranger", "wrong"), ("master", "master-secret")):
            (cls.folder / f"{name}.secret").write_text(secret + "\n")
        inside = cls.folder / "inside"
        inside.mkdir()
        make_certificates(inside, "somebody else's")

        tls = 'ca = "ca.pem"'
        searched = {
            "clear": (cls.slapd.url, ""),
            "starttls": (cls.slapd.url, "start_tls = true\n" + tls),
            "ldaps": (cls.slapd.ldaps_url, tls),
            "ldapi": (cls.slapd.ldapi_url, ""),
            "shallow": (cls.slapd.url, 'scope = "base"'),
            "untrusted": (cls.slapd.ldaps_url, 'ca = "inside/ca.pem"'),
            "refused": (cls.slapd.url, ""),
            "mortal": (cls.mortal.url, 'timeout = "2s"\ncache = { ttl = "0s", negative_ttl = "0s" }'),
            "bound": (cls.slapd.ldaps_url, "authenticate = true\n" + tls),
            "mortal-bound": (cls.mortal.url, 'authenticate = true\ntimeout = "2s"'),
        }
        master = 'login = "master"\nmaster_user = "mailmux"\nmaster_password_file = "master.secret"\n'
        routes = {
            **{name: f'lookup = "{name}"\n' for name in searched},
            "bound": 'lookup = "bound"\n' + master,
            "mortal-bound": 'lookup = "mortal-bound"\n' + master,
            "starred": 'lookup = "bound"\nmaster_form = "user*master"\n' + master,
            "beside": 'backend = "blue"\nauthenticate = "bound"\n' + master,
        }
        config = cls.start_of_config(*routes) + cls.backend_sections()
        for name, (url, more) in searched.items():
            password = "stranger" if name == "refused" else "searcher"
            config += f"""
[[lookup]]
name = "{name}"
type = "ldap"
url = "{url}"
bind_dn = "{SEARCHER}"
bind_password_file = "{password}.secret"
base = "{SUFFIX}"
filter = "(&(objectClass=person)(|(uid={{user}})(mail={{user}})))"
attributes = {{ mailHost = "backend", mailRoutingAddress = "user" }}
{more}
"""
        return config + "".join(f'[[route]]\nlistener = "{name}"\n{route}' for name, route in routes.items())

    def test_attributes_say_where(self):
        for listener in ("clear", "starttls", "ldaps", "ldapi"):
            with self.subTest(listener):
                before = self.callers()
                self.lets_in(listener, "ann", "ann-imap")
                self.lets_in(listener, "bob", "bob-imap")
                self.lets_in(listener, "jörg", "joerg-imap")
                after = self.callers()
                self.assertEqual(after["blue"][len(before["blue"]) :], ["ann"])
                self.assertEqual(after["green"][len(before["green"]) :], ["bob", "joerg"])

    def test_a_directory_that_cannot_tell_is_no_reason_to_send_anything_anywhere(self):
        before = self.callers()
        self.refuses("untrusted", "ann", "ann-imap", AWAY)
        self.refuses("refused", "ann", "ann-imap", AWAY)
        # Two people have this address, and one lives where nobody is.
        self.refuses("clear", "both@example.org", "ann-imap", AWAY)
        self.refuses("clear", "dan", "dan-imap", AWAY)
        self.refuses("clear", "nobody", "ann-imap", WRONG)
        self.refuses("shallow", "ann", "ann-imap", WRONG)
        self.assertEqual(self.callers(), before)

    def test_who_can_bind_is_let_in_by_a_master_user(self):
        for listener in ("bound", "starred", "beside"):
            with self.subTest(listener):
                before = self.callers()
                self.lets_in(listener, "Ann", "ann-ldap")
                callers = self.callers()
                self.assertEqual(callers, before | {"blue": [*before["blue"], "ann"]})
                # The one that counts at the backend alone opens nothing here, nor do another's and the master's.
                for password in ("wrong", "", "ann-imap", "bob-ldap", "master-secret", b"\xff"):
                    self.refuses(listener, "ann", password, WRONG)
                for user in ("cid", "nobody", "mailmux", "ann*mailmux"):
                    for password in ("", "x", "master-secret"):
                        self.refuses(listener, user, password, WRONG)
                self.assertEqual(self.callers(), callers, "Dovecot was asked")
        mailbox = self.reach("bound")
        mailbox.login("bob", "bob-ldap")
        self.assertEqual(mailbox.create("Bobs")[0], "OK")
        again = self.reach("starred")
        again.login("bob", "bob-ldap")
        self.assertEqual(again.select("Bobs")[0], "OK")

    def test_mailmux_route_names_the_master_user(self):
        said, code = self.mailmux.route("ann", "--listener", "starred")
        blue = f"127.0.0.1:{self.backends['blue'].port}"
        self.assertRegex(said, f'\n=> backend blue \\({blue}\\) as "ann", with the master user "mailmux"\n$')
        self.assertEqual(code, 0)
        (self.folder / "ann.secret").write_text("wrong\n")
        said, code = self.mailmux.route("ann", "--listener", "starred", "--password-file", self.folder / "ann.secret")
        self.assertEqual((said.splitlines()[-1], code), ("=> nowhere: the password is wrong", 1))

    def test_nobody_who_can_bind_acts_for_another(self):
        before = self.callers()
        for listener in ("bound", "starred", "beside"):
            connection = self.reach(listener)
            connection.send(b"x AUTHENTICATE PLAIN " + base64.b64encode(b"ann\0bob\0bob-ldap") + b"\r\n")
            self.assertTrue(self.answer(connection).startswith(WRONG), listener)
        self.assertEqual(self.callers(), before)

    def test_a_name_is_never_a_filter(self):
        before = self.callers()
        names = ["a*", "ann)(uid=*", "*)(uid=ann", "ann)(|(uid=*", "*))(|(uid=*", "(", ")", "\\2a", "\\", "{user}", "&", "a=b"]
        names.append(b"ann\xff")
        asked = [(listener, name) for listener in ("clear", "bound", "starred") for name in names]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda pair: self.refuses(*pair, "ann-ldap", WRONG), asked))
        self.assertEqual(self.callers(), before)
        # There is somebody with that very name.
        self.refuses("bound", "*", "ann-ldap", WRONG)
        self.assertEqual(self.callers(), before)
        self.lets_in("clear", "*", "star-imap")
        self.assertEqual(self.callers(), before | {"green": [*before["green"], "star"]})

    def test_a_directory_that_dies_and_comes_back(self):
        stale = 'mailmux_lookup_cache_total{lookup="mortal",way="stale"}'
        self.lets_in("mortal", "mia", "mia-imap")
        self.lets_in("mortal-bound", "mia", "mia-ldap")
        self.mortal.kill()
        self.assertEqual(self.mailmux.metric(stale), 0)
        self.lets_in("mortal", "mia", "mia-imap")
        self.assertEqual(self.mailmux.metric(stale), 1)
        self.refuses("mortal", "ann", "ann-imap", AWAY)
        # Nobody can tell whether this is right, and that is no wrong password.
        self.refuses("mortal-bound", "mia", "mia-ldap", AWAY)
        self.assertEqual(self.callers()["blue"].count("mia"), 3)
        self.mortal.start()
        self.lets_in("mortal-bound", "mia", "mia-ldap")
        self.mortal.run("ldapmodify", f"dn: uid=mia,{SUFFIX}\nchangetype: modify\nreplace: mailHost\nmailHost: green\n")
        # The directory that was away is asked again after a second.
        until(self.mia_is_at_green, "a fresh answer")

    def mia_is_at_green(self):
        self.lets_in("mortal", "mia", "mia-imap")
        return "mia" in self.backends["green"].callers()


class Groups(Lookups):
    """Backends that share users, and what `mailmux route` says of all that."""

    HASHED = [f"user{number:02}@example.org" for number in range(30)]
    secrets = ("shared-secret",)

    @classmethod
    def people(cls, _):
        return {user: "shared-secret" for user in [*cls.HASHED, "ann", "bob", "eve"]}

    @classmethod
    def config(cls):
        cls.first = Dovecot(cls.folder / "first", cls.people("first"))
        cls.addClassCleanup(cls.first.stop)
        cls.responder = Responder(cls.say)
        cls.addClassCleanup(cls.responder.kill)
        lines = ("ann\tblue", "moved\tgreen user=moved.here", "@closed.example\tnologin=y reason=Closed.", "")
        (cls.folder / "users.map").write_text("\n".join(lines))
        return f"""
{cls.start_of_config("hashed", "ordered", "asked")}
{cls.backend_sections()}
[[backend]]
name = "first"
address = "127.0.0.1:{cls.first.port}"
tls = "none"
health = "off"
[[group]]
name = "hashed"
members = ["blue", "green"]
choose = "hash"
[[group]]
name = "ordered"
members = ["first"]
standby = ["green"]
choose = "first_healthy"
[[lookup]]
name = "users"
type = "file"
path = "users.map"
[[lookup]]
name = "where"
type = "http"
url = "http://127.0.0.1:{cls.responder.port}/"
timeout = "2s"
[[route]]
listener = "asked"
lookup = "where"
[[route]]
listener = "ordered"
group = "ordered"
[[route]]
lookup = "users"
[[route]]
user = "user*@example.org"
group = "hashed"
rewrite = "{{local}}@example.org"
"""

    @classmethod
    def say(cls, path, user, password):
        if user == b"eve":
            return {"Auth-Status": "OK", "Auth-Server": "192.0.2.1", "Auth-Port": "143"}
        if user != b"bob":
            return {"Auth-Status": "Nobody of that name"}
        return {"Auth-Status": "OK", "Auth-Server": "127.0.0.1", "Auth-Port": str(cls.backends["green"].port)}

    @staticmethod
    def home(user, members=("blue", "green")):
        """Where the user belongs: the member with the best draw, the same everywhere and for ever."""

        def draw(member):
            head = hashlib.sha256(f"{member}\0{user.lower()}".encode()).digest()[:8]
            return -1 / math.log(((int.from_bytes(head, "big") >> 11) + 0.5) / 2**53)

        return max(members, key=draw)

    def test_each_user_of_a_hashed_group_is_always_at_one_backend(self):
        before = self.callers()
        # Letter case makes no other user.
        logins = self.HASHED + [user.upper() for user in self.HASHED]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda user: self.lets_in("hashed", user, "shared-secret"), logins))
        callers = self.callers()
        for backend in ("blue", "green"):
            here = sorted(callers[backend][len(before[backend]) :])
            belong = sorted(user for user in self.HASHED if self.home(user) == backend)
            self.assertEqual(here, sorted(belong * 2))
            self.assertGreater(len(belong), 9, "spread over both")

    def test_the_standby_steps_in_and_goes_again(self):
        self.lets_in("ordered", "ann", "shared-secret")
        self.assertEqual(self.first.callers(), ["ann"])
        self.assertNotIn("ann", self.callers()["green"])
        self.first.stop()
        self.lets_in("ordered", "bob", "shared-secret")
        self.lets_in("ordered", "ann", "shared-secret")
        self.assertEqual(self.callers()["green"].count("ann"), 1)
        self.assertEqual(self.mailmux.metric('mailmux_backend_up{backend="first"}'), 0)
        # No probes tell that it is back: now and then a login is sent to find out.
        self.first.start()
        until(self.ann_is_back_at_the_first, "a login at the first again")
        self.assertNotIn("bob", self.first.callers())

    def ann_is_back_at_the_first(self):
        self.lets_in("ordered", "ann", "shared-secret")
        return self.first.callers().count("ann") == 2

    def test_mailmux_route_says_where_and_why(self):
        blue, green = (f"127.0.0.1:{self.backends[name].port}" for name in ("blue", "green"))
        own = "with the client's own credentials"
        user = "User07@example.org"
        ranked = sorted(("blue", "green"), key=lambda name: name != self.home(user))
        skipped = ["route[0]: does not apply", "route[1]: does not apply"]
        known = [*skipped, "route[2]: lookup users knows the user"]
        unknown = [*skipped, "route[2]: lookup users does not know the user"]
        asked = ["--listener", "asked"]
        for words, code, lines in [
            (["ann"], 0, [*known, f'=> backend blue ({blue}) as "ann", {own}']),
            (["moved"], 0, [*known, f'=> backend green ({green}) as "moved.here", {own}']),
            (["x@closed.example"], 1, [*known, "nologin: Closed.", "=> nowhere: rejected: Closed."]),
            ([user], 0, [
                *unknown,
                "route[3]: applies",
                *(f"group hashed: {name}: up, 0 sessions" for name in ranked),
                f'=> backend {ranked[0]} of group hashed ({blue if ranked[0] == "blue" else green}) as "{user}", {own}',
            ]),
            (["nobody"], 1, [*unknown, "route[3]: does not apply", "=> nowhere: no rule sends this user anywhere"]),
            (["bob", *asked], 0, ["route[0]: lookup where knows the user", f'=> backend green ({green}) as "bob", {own}']),
            (["cid", *asked], 1, [
                "route[0]: lookup where refuses the user",
                "=> nowhere: refused by the source: Nobody of that name",
            ]),
            (["eve", *asked], 1, [
                "=> nowhere: lookup where: 192.0.2.1 is neither a backend nor in this lookup's allow",
            ]),
        ]:
            with self.subTest(words):
                said, ended = self.mailmux.route(*words)
                self.assertEqual((said.splitlines(), ended), (lines, code))


if __name__ == "__main__":
    unittest.main()
