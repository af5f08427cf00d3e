"""`mailmux doctor` finds the usual troubles, each brought about for real: it cannot connect, it does not sync, it is slow, logins
are refused. Faults that real servers do not have on demand: tests/whole/doctor.rs."""

import imaplib
import json
import os
import socket
import subprocess
import threading
import time
import unittest

from world import MAILMUX, USERS, WAIT, Case, Dovecot, Mailmux, free_port, issue_certificate, make_certificates, openssl, until

USER, PASSWORD = "bob@example.org", USERS["bob@example.org"][1]
WRONG = "not-his-password"

# openssl 3.0 sets dates as it likes but in this way.
PAST = """
[ca]
default_ca = past
[past]
new_certs_dir = .
database = index.txt
serial = serial.txt
default_md = sha256
policy = names
[names]
commonName = supplied
"""


def issue_expired(folder):
    """expired.pem with expired.key for localhost."""
    from world import EC

    (folder / "past.cnf").write_text(PAST)
    (folder / "index.txt").write_text("")
    (folder / "serial.txt").write_text("1234\n")
    openssl("req", *EC, "-subj", "/CN=localhost", "-keyout", "expired.key", "-out", "expired.csr", cwd=folder)
    words = ["-batch", "-notext", "-config", "past.cnf", "-cert", "ca.pem", "-keyfile", "ca.key", "-extfile", "names"]
    words += ["-in", "expired.csr", "-out", "expired.pem", "-startdate", "20200101000000Z", "-enddate", "20200201000000Z"]
    openssl("ca", *words, cwd=folder)


class NameServer:
    """Knows one address for every name, but for those that are `nowhere`; of those that are `slow` after a while."""

    def __init__(self, case):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", free_port()))
        self.port = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()
        case.addClassCleanup(self.stop)

    def serve(self):
        while True:
            question, caller = self.socket.recvfrom(512)
            if question == b"over":
                return
            end = question.index(b"\0", 12) + 5
            exists = b"\7nowhere" not in question
            is_a = exists and question[end - 4 : end - 2] == b"\0\1"
            if b"\4slow" in question:
                time.sleep(0.5)
            reply = question[:2] + bytes([0x81, 0x80 if exists else 0x83, 0, 1, 0, is_a, 0, 0, 0, 0]) + question[12:end]
            if is_a:
                reply += bytes([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1])
            self.socket.sendto(reply, caller)

    def stop(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.sendto(b"over", ("127.0.0.1", self.port))
        self.thread.join()
        self.socket.close()


class Deaf:
    """Listens and accepts nobody; its queue is full, so that the kernel throws packets away as a firewall does."""

    def __init__(self, case):
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", free_port()))
        self.socket.listen(0)
        self.port = self.socket.getsockname()[1]
        self.waiting = []
        case.addClassCleanup(self.stop)
        while self.is_heard():
            pass

    def is_heard(self):
        caller = socket.socket()
        caller.settimeout(0.5)
        self.waiting.append(caller)
        try:
            caller.connect(("127.0.0.1", self.port))
            return True
        except TimeoutError:
            return False

    def stop(self):
        for one in (self.socket, *self.waiting):
            one.close()


class Doctor(Case):
    more = ""

    @classmethod
    def config(cls):
        issue_certificate(cls.folder, days=90)
        # What is not said of a machine that has few descriptors.
        return super().config().replace("[limits]\n", "[limits]\nsessions = 20\n") + cls.more

    def examine(self, *words, password=None, code=None, folder=None):
        """What it says, as data. Nothing that it says holds a password."""
        folder = folder or self.folder
        command = [MAILMUX, "doctor", "--config", folder / "mailmux.toml", "--ca", self.folder / "ca.pem", *words]
        if password is not None:
            command += ["--password-file", "-"]
        done = subprocess.run([*command, "--json"], input=password, capture_output=True, text=True, timeout=60)
        self.assertIn(done.returncode, (0, 1), done.stderr)
        self.assertEqual(done.stderr, "")
        if password is not None:
            self.assertNotIn(password, done.stdout)
        said = json.loads(done.stdout)
        self.assertEqual(said["well"], done.returncode == 0)
        self.assertEqual(bool(said["troubles"]), done.returncode == 1, done.stdout)
        return said

    @staticmethod
    def troubles(said):
        """(section, name) -> what is wrong there, but for what depends on how fast this machine is."""
        found = {}
        for trouble in said["troubles"]:
            if not trouble["kind"].startswith("slow_"):
                found.setdefault((trouble["section"], trouble["name"]), []).append(trouble["kind"])
        return found

    def ask(self, *words, **more):
        return self.troubles(self.examine(*words, **more))

    @staticmethod
    def checks(said, section):
        return {check["check"]: check for one in said["sections"] if one["kind"] == section for check in one["checks"]}


class Healthy(Doctor):
    def test_nothing_is_wrong(self):
        said = self.examine("--user", USER, password=PASSWORD)
        self.assertEqual(self.troubles(said), {})
        steps = {"connect", "greeting", "capabilities", "login", "list", "inbox", "idle", "logout"}
        for name in ("imaps", "green"):
            section = next(one for one in said["sections"] if one["name"] == name)
            self.assertLessEqual(steps, {check["check"] for check in section["checks"]}, name)
        (compared,) = said["sections"][-1]["checks"]
        self.assertEqual((compared["status"], compared["text"]), ("ok", "through imaps: let in; at green: let in"))

    def test_people_are_told_the_same(self):
        command = [MAILMUX, "doctor", "--config", self.folder / "mailmux.toml", "--ca", self.folder / "ca.pem"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        self.assertRegex(done.stdout, r"(?m)^listener imap \(127\.0\.0\.1:\d+, STARTTLS\)$")
        self.assertRegex(done.stdout, r"(?m)^  ok    clear text    logins are refused before TLS$")
        self.assertRegex(done.stdout, r"(?m)^  ok    certificate   for localhost, 127\.0\.0\.1, issued by CN=mailmux test CA, 89 days left$")
        self.assertRegex(done.stdout, r"(?m)^backend (blue|green) ")
        if done.returncode == 0:
            self.assertTrue(done.stdout.endswith("Nothing is wrong.\n"), done.stdout)

    def test_only_what_was_asked_for(self):
        said = self.examine("--backend", "blue", "--listener", "imap")
        names = [(one["kind"], one["name"]) for one in said["sections"] if one["name"]]
        self.assertEqual(names, [("listener", "imap"), ("backend", "blue")])

    def test_misuse(self):
        for words in (["--backend", "red"], ["--listener", "red"], ["--password-file", "x"], ["--user", USER, "--password-file", "/nowhere"]):
            command = [MAILMUX, "doctor", "--config", self.folder / "mailmux.toml", *words]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            self.assertEqual((done.returncode, done.stdout), (2, ""), words)
            self.assertTrue(done.stderr)

    def test_listeners_as_strangers_see_them(self):
        command = [MAILMUX, "doctor", "--config", self.folder / "mailmux.toml", "--json"]
        for words, kind in (([], "certificate_unknown_issuer"), (["--ca", self.folder / "ca.pem", "--server-name", "mail.example.org"], "certificate_wrong_name")):
            done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=60)
            found = self.troubles(json.loads(done.stdout))
            self.assertEqual(found, {("listener", "imaps"): [kind], ("listener", "imap"): [kind]})


class Connecting(Doctor):
    @classmethod
    def backend_sections(cls):
        cls.inside = cls.folder / "inside"
        cls.inside.mkdir()
        make_certificates(cls.inside, "inside")
        issue_certificate(cls.inside, days=90)
        issue_expired(cls.inside)
        secure = free_port()
        settings = (
            "listen = 127.0.0.1, 127.0.0.2\nssl = required\n"
            f"ssl_cert = <{cls.inside}/mail.pem\nssl_key = <{cls.inside}/mail.key\n"
            f"local 127.0.0.2 {{\n  ssl_cert = <{cls.inside}/expired.pem\n  ssl_key = <{cls.inside}/expired.key\n}}\n"
            f"service imap-login {{\n  inet_listener secure {{\n    port = {secure}\n    ssl = yes\n  }}\n}}\n"
        )
        cls.tls_backend = Dovecot(cls.folder / "tls", {USER: PASSWORD}, settings)
        cls.addClassCleanup(cls.tls_backend.stop)
        cls.names = NameServer(cls)
        clear = cls.backends["blue"].port
        ca = f'ca = "{cls.inside}/ca.pem"\n'
        named = 'tls_name = "localhost"\n' + ca
        sections = {
            # address, settings, what is found
            "good": (f"127.0.0.1:{cls.tls_backend.port}", 'tls = "starttls"\n' + ca, []),
            "expired": (f"127.0.0.2:{secure}", 'tls = "implicit"\n' + named, ["certificate_expired"]),
            "misnamed": (f"127.0.0.1:{secure}", 'tls = "implicit"\ntls_name = "mail.example.org"\n' + ca, ["certificate_wrong_name"]),
            "untrusted": (f"127.0.0.1:{secure}", 'tls = "implicit"\n', ["certificate_unknown_issuer"]),
            "unverified": (f"127.0.0.2:{secure}", 'tls = "implicit"\ntls_verify = false\n', ["not_verified"]),
            "tls_to_clear": (f"127.0.0.1:{clear}", 'tls = "implicit"\n' + ca, ["tls_not_spoken"]),
            "clear_to_tls": (f"127.0.0.1:{secure}", 'tls = "none"\n', ["clear_towards_tls"]),
            "no_starttls": (f"127.0.0.1:{clear}", 'tls = "starttls"\n' + ca, ["no_starttls"]),
            "closed": (f"127.0.0.1:{free_port()}", 'tls = "none"\n', ["refused"]),
            "deaf": (f"127.0.0.1:{Deaf(cls).port}", 'tls = "none"\n', ["unanswered"]),
            "nameless": ("nowhere.mail.test:143", 'tls = "none"\n', ["name_unknown"]),
            # What the configuration itself cannot see.
            "ourselves": (f"round.mail.test:{cls.imap}", 'tls = "none"\n', ["loop"]),
            "slow": (f"slow.mail.test:{clear}", 'tls = "none"\n', []),
            "named": (f"blue.mail.test:{clear}", 'tls = "none"\n', []),
        }
        cls.expected = {("backend", name): found for name, (*_, found) in sections.items() if found}
        return super().backend_sections() + "".join(
            f'[[backend]]\nname = "{name}"\naddress = "{address}"\nhealth = "off"\n{more}'
            for name, (address, more, _) in sections.items()
        )

    @classmethod
    def config(cls):
        config = super().config()
        return config + f'[server]\nname_servers = ["127.0.0.1:{cls.names.port}"]\n'

    def test_each_is_found(self):
        said = self.examine("--timeout", "4s")
        self.assertEqual(self.troubles(said), self.expected)
        slow = [trouble["name"] for trouble in said["troubles"] if trouble["kind"] == "slow_dns"]
        self.assertIn("slow", slow)
        # Each has words for people.
        for trouble in said["troubles"]:
            self.assertRegex(trouble["cause"], r"^[^\x00-\x1f]+\.$")
            self.assertTrue(trouble["remedy"])


class Certificates(Doctor):
    more = '[tls]\nclient_auth = "required"\nclient_ca = "ca.pem"\n'

    @classmethod
    def config(cls):
        # A section stands before those of its own.
        config = super().config().replace(cls.more, "")
        return config.replace("[[tls.certificate]]", cls.more + "[[tls.certificate]]", 1)

    def test_a_certificate_that_is_asked_of_clients_is_no_trouble(self):
        said = self.examine("--user", USER, password=PASSWORD)
        self.assertEqual(self.troubles(said), {})
        self.assertIn("must show a certificate", self.checks(said, "listener")["greeting"]["text"])


class NobodyThere(Doctor):
    """The listeners' side: no mailmux at all, and one with another configuration."""

    @classmethod
    def start(cls):
        super().start()
        cls.mailmux.stop()

    def test_mailmux_does_not_run(self):
        found = self.ask()
        self.assertEqual(found.pop(("mailmux", "")), ["admin_unreachable"])
        self.assertEqual(found, {("listener", "imaps"): ["refused"], ("listener", "imap"): ["refused"]})

    def test_a_configuration_with_a_mistake(self):
        folder = self.folder / "mistaken"
        folder.mkdir()
        (folder / "mailmux.toml").write_text('[[listener]]\nname = "x"\n')
        said = self.examine(folder=folder)
        self.assertEqual({trouble["kind"] for trouble in said["troubles"]}, {"configuration"})


class Authentication(Doctor):
    # It makes whoever comes after failed logins wait, more each time.
    dovecot_settings = "auth_failure_delay = 0\nservice anvil {\n  unix_listener anvil-auth-penalty {\n    mode = 0\n  }\n}\n"

    @classmethod
    def config(cls):
        config = super().config().replace("sessions_per_user = 1000", "sessions_per_user = 2\nexempt = []\nfailures_per_network = \"off\"\nfailures_per_user = { rate = \"1/h\", burst = 2 }")
        return config + '[timeouts]\nbackend_connect = "2s"\nbackend_login = "4s"\n'

    @classmethod
    def start(cls):
        cls.mailmux = Mailmux(cls.folder, cls.config(), admin=f'socket = "{cls.folder}/admin.sock"\n')
        cls.addClassCleanup(cls.mailmux.stop)

    def login(self, user):
        return self.ask("--user", user, password=USERS[user][1])

    def test_a_wrong_password(self):
        said = self.examine("--user", USER, password=WRONG)
        self.assertEqual(self.troubles(said), {("login", USER): ["wrong_password"]})
        compared = said["sections"][-1]["checks"][0]["text"]
        self.assertEqual(compared.count("[AUTHENTICATIONFAILED] Authentication failed."), 2, compared)

    def test_a_user_whom_routing_does_not_know(self):
        found = self.ask("--user", "nobody@example.org", password=WRONG)
        self.assertEqual(found, {("user", "nobody@example.org"): ["no_route"], ("login", "nobody@example.org"): ["mailmux_refuses"]})
        self.assertEqual(self.ask("--user", "nobody@example.org"), {("user", "nobody@example.org"): ["no_route"]})

    def test_too_many_failures(self):
        for number in range(3):
            with self.assertRaises(imaplib.IMAP4.error):
                self.connect().login("cid@example.org", f"wrong {number}")
        self.assertIn("limited_failures", self.login("cid@example.org")[("login", "cid@example.org")])

    def test_too_many_sessions(self):
        here = [self.log_in() for _ in range(2)]
        self.assertIn("limited_sessions_per_user", self.login(USER)[("login", USER)])
        for connection in here:
            connection.logout()
        self.quiet()
        self.assertEqual(self.login(USER), {})

    def test_a_user_who_is_held(self):
        self.steer("hold", USER)
        try:
            found = self.ask("--user", USER, "--timeout", "2s", password=PASSWORD)
        finally:
            self.steer("release", USER)
        self.assertEqual(found[("login", USER)], ["login_waits"])

    def test_a_map_that_was_not_read_again(self):
        users = self.folder / "users.map"
        before = users.read_text()
        users.write_text(before + "dan@example.org\tblue\n")
        people = self.backends["blue"].folder / "users"
        people.write_text(people.read_text() + "dan@example.org:{PLAIN}dan-secret\n")
        try:
            self.assertEqual(self.ask("--user", "dan@example.org", password="dan-secret")[("login", "dan@example.org")], ["only_at_the_backend"])
            self.steer("reload")
            self.assertEqual(self.ask("--user", "dan@example.org", password="dan-secret"), {})
        finally:
            users.write_text(before)
            self.steer("reload")

    def test_a_backend_that_is_away(self):
        green = self.backends["green"]
        green.stop()
        try:
            found = self.login(USER)
        finally:
            green.start()
        self.assertIn("refused", found[("backend", "green")])
        self.assertEqual(found[("login", USER)], ["backend_down"])
        until(lambda: self.mailmux.metric('mailmux_backend_up{backend="green"}') == 1, "green to be up")

    def test_an_inbox_that_cannot_be_opened(self):
        self.log_in().logout()
        mailbox = self.backends["green"].maildir(USER)
        os.chmod(mailbox, 0)
        try:
            found = self.login(USER)
        finally:
            os.chmod(mailbox, 0o700)
        self.assertIn("inbox_refused", found[("listener", "imaps")])
        self.assertIn("inbox_refused", found[("backend", "green")])

    def steer(self, *words):
        command = [MAILMUX, words[0], "--config", self.folder / "mailmux.toml", *words[1:]]
        subprocess.run(command, check=True, capture_output=True, timeout=WAIT)


class Full(Doctor):
    dovecot_settings = "mail_max_userip_connections = 1\n"

    def test_the_backends_own_limit(self):
        here = self.log_in()
        found = self.ask("--user", USER, password=PASSWORD)
        self.assertEqual(found, {("login", USER): ["backend_limit"]})
        here.logout()


class WithoutIdle(Doctor):
    dovecot_settings = "imap_capability = IMAP4rev1 SASL-IR LITERAL+ ID ENABLE UNSELECT\n"

    def test_mail_programs_are_not_told_of_new_mail(self):
        found = self.ask("--user", USER, password=PASSWORD)
        self.assertEqual(found, {("listener", "imaps"): ["no_idle"], ("backend", "green"): ["no_idle"]})


if __name__ == "__main__":
    unittest.main()
