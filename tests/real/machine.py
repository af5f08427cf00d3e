"""The machine that README.md is about: /etc/mailmux is a folder here, 10.0.0.11 and 10.0.0.12 are two Dovecots, and a mailmux runs from
the first configuration of the page. What is done to it stands in the page; here is how, and what must be seen of it.
"""

import concurrent.futures
import grp
import imaplib
import os
import pathlib
import re
import shutil
import signal
import ssl
import subprocess
import tempfile
import unittest
import urllib.request

import pages
from acme import NAME, Lineage
from world import MAILMUX, ROOT, WAIT, Dovecot, free_port, mail, make_certificates, until

PEOPLE = {"ann@example.org": "ann-secret", "bob": "bob-secret", "carl@example.net": "carl-secret"}
MASTERS = {"mover": "mover-secret"}
UNIT = "deploy/systemd/mailmux.service"


class Machine(unittest.TestCase):
    maxDiff = 4000

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="mailmux-readme."))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        os.chmod(cls.folder, 0o711)
        cls.commands, cls.blocks = pages.read()
        for path in (
            "etc/systemd/system", "etc/mailmux", "etc/haproxy", "etc/keepalived", "etc/fail2ban/filter.d", "etc/fail2ban/jail.d",
            "etc/letsencrypt/renewal-hooks/deploy", "etc/ssl/mail", "etc/dovecot", "etc/perdition", "etc/prometheus", "etc/bash_completion.d", "usr/bin", "usr/local/bin",
            "run/mailmux", "stand-ins",
        ):
            (cls.folder / path).mkdir(parents=True)
        shutil.copy(ROOT / "config/migrate/dovecot-proxy.passwd", cls.folder / "etc/dovecot")
        shutil.copy(ROOT / "config/migrate/perdition.popmap", cls.folder / "etc/perdition/popmap")
        cls.ports = {name: free_port() for name in ("imaps", "imap", "admin")}
        cls.make_backends()
        cls.make_certificates()
        cls.make_stand_ins()
        cls.process = cls.pid = None
        # Her session, and her next login.
        cls.ann = []
        cls.later = concurrent.futures.ThreadPoolExecutor(1)
        cls.addClassCleanup(cls.end)

    @classmethod
    def make_backends(cls):
        home = cls.folder / "backends"
        home.mkdir()
        os.chmod(home, 0o711)
        make_certificates(home, "inner")
        tls = f"ssl = yes\nssl_cert = <{home}/mail.pem\nssl_key = <{home}/mail.key\nauth_failure_delay = 0\n"
        cls.backends = {name: Dovecot(home / name, PEOPLE, tls, MASTERS) for name in ("blue", "green")}
        for backend in cls.backends.values():
            cls.addClassCleanup(backend.stop)
        for program in ("mailmux", "dovecot"):
            shutil.copy(home / "ca.pem", cls.folder / "etc" / program / "internal-ca.pem")
        # What the page adds to the configuration of green.
        (block,) = (block for block in cls.blocks if block.section == "Moving users between servers" and block.language == "text")
        with open(cls.backends["green"].folder / "dovecot.conf", "a") as config:
            config.write(cls.here(block.text))

    @classmethod
    def make_certificates(cls):
        lineage = Lineage(cls.folder / "etc/letsencrypt", NAME)
        lineage.renew()
        for name in ("fullchain.pem", "privkey.pem"):
            shutil.copy(lineage.live / name, cls.folder / "etc/ssl/mail")

    @classmethod
    def make_stand_ins(cls):
        """Programs that would speak of this machine, and not of the one that the page is about."""
        config, log, green = cls.folder / "etc/mailmux/mailmux.toml", cls.folder / "mailmux.log", cls.backends["green"].folder
        cls.config, cls.log = config, log
        programs = {
            # As if the configuration were where mailmux looks for it.
            "mailmux": f'case "$*" in *--config* | completions*) exec {MAILMUX} "$@" ;; esac\nexec {MAILMUX} "$@" --config {config}',
            # The journal of the unit is what mailmux wrote to standard error.
            "journalctl": f'[ "$1 $2" = "-u mailmux" ] || exit 1\nfor pattern; do :; done\ngrep -E "$pattern" {log}',
            "doveadm": f'exec doveadm -c {green}/dovecot.conf "$@"',
        }
        for name, lines in programs.items():
            script = cls.folder / "stand-ins" / name
            path = shutil.which(name, path="/usr/bin:/bin:/usr/sbin") or name
            script.write_text(f"#!/bin/bash\n{lines.replace(f'exec {name} ', f'exec {path} ')}\n")
            script.chmod(0o755)

    @classmethod
    def here(cls, text):
        """What the page says, with the places where things are here."""
        text = re.sub(r"(?<![\w.])/(etc|usr/bin|usr/local/bin|run/mailmux)\b", rf"{cls.folder}/\1", text)
        for number, name in ((1, "blue"), (2, "green")):
            port = cls.backends[name].port
            text = text.replace(f"10.0.0.1{number}:143", f"127.0.0.1:{port}")
            text = text.replace(f"imapc_host = 10.0.0.1{number}", f"imapc_host = 127.0.0.1\nimapc_port = {port}")
        for usual, here in (
            ("[::]:993", f"127.0.0.1:{cls.ports['imaps']}"),
            ("[::]:143", f"127.0.0.1:{cls.ports['imap']}"),
            ("127.0.0.1:9143", f"127.0.0.1:{cls.ports['admin']}"),
            ("mail.example.org:993", f"127.0.0.1:{cls.ports['imaps']}"),
            ("target/release/mailmux", MAILMUX),
            ("-g mailmux", f"-g {grp.getgrgid(os.getgid()).gr_name}"),
        ):
            text = text.replace(usual, str(here))
        return text

    @classmethod
    def there(cls, text):
        """The other way, for what a command has printed."""
        for number, name in ((1, "blue"), (2, "green")):
            text = text.replace(f"127.0.0.1:{cls.backends[name].port}", f"10.0.0.1{number}:143")
        return text.replace(str(cls.folder), "")

    def run_it(self, command):
        path = f"{self.folder}/stand-ins:{self.folder}/usr/local/bin:{os.environ['PATH']}:/usr/sbin:/sbin"
        environment = os.environ | {"PATH": path, "MAILMUX_CERTIFICATES": f"{self.folder}/etc/mailmux/certs", "MAILMUX_GROUP": str(os.getgid())}
        words = ["bash", "-euo", "pipefail", "-c", self.here(command.text)]
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        if command.prints:
            self.assertEqual(self.there(done.stdout).splitlines(), command.prints)
        return done.stdout

    # --- mailmux on it

    def write_the_first_configuration(self):
        configuration = next(block for block in self.blocks if block.section == "A first configuration" and block.language == "toml")
        users = next(block for block in self.blocks if block.section == "A first configuration" and block.language == "text")
        self.config.write_text(self.here(configuration.text))
        (self.folder / "etc/mailmux/users.map").write_text(users.text)
        certs = self.folder / "etc/mailmux/certs"
        certs.mkdir()
        for kind, name in (("fullchain", "pem"), ("privkey", "key")):
            shutil.copy(self.folder / f"etc/ssl/mail/{kind}.pem", certs / f"{NAME}.{name}")

    def start(self, command):
        """`systemctl start`: what the unit starts."""
        installed = self.folder / "etc/systemd/system/mailmux.service"
        words = re.search(r"^ExecStart=(.+)$", installed.read_text(), re.M)[1]
        with open(self.log, "ab") as log:
            # With a group of its own, in which those are found that it starts in turn.
            type(self).process = subprocess.Popen(self.here(words).split(), stderr=log, start_new_session=True)
        type(self).pid = self.process.pid
        until(self.is_ready, "mailmux to be ready")

    def is_ready(self):
        if self.pid == self.process.pid and self.process.poll() is not None:
            raise AssertionError("mailmux has ended:\n" + self.log.read_text())
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.ports['admin']}/readyz", timeout=WAIT).status == 200
        except OSError:
            return False

    @classmethod
    def running(cls):
        """All processes of it, by their group."""
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, group = path.read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(group) == cls.process.pid and state != "Z":
                found.append(int(path.parent.name))
        return found

    @classmethod
    def end(cls):
        if cls.process:
            for _ in range(2):
                try:
                    os.killpg(cls.process.pid, signal.SIGTERM)
                except ProcessLookupError:
                    pass
            cls.process.wait(WAIT)
            until(lambda: not cls.running(), "all of mailmux to end")

    def metric(self, name):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['admin']}/metrics", timeout=WAIT) as answer:
            found = re.search(rf"^{re.escape(name)} (\S+)$", answer.read().decode(), re.M)
        return float(found[1]) if found else 0

    def log_in(self, user, password=None):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = imaplib.IMAP4_SSL("127.0.0.1", self.ports["imaps"], ssl_context=context, timeout=WAIT)
        self.addCleanup(self.close, connection)
        connection.login(user, password or PEOPLE[user])
        return connection

    @staticmethod
    def close(connection):
        try:
            connection.shutdown()
        except OSError:
            pass

    def reload_by_signal(self, command):
        words = re.findall(r"^ExecReload=(.+)$", (ROOT / UNIT).read_text(), re.M)
        self.assertEqual(words[-1], "/bin/kill -HUP $MAINPID")
        before = self.metric('mailmux_config_reloads_total{outcome="ok"}')
        self.process.send_signal(signal.SIGHUP)
        until(lambda: self.metric('mailmux_config_reloads_total{outcome="ok"}') == before + 1, "the reload")

    def stop(self, command):
        """`systemctl stop`, with somebody who is in and hears of it. Then it runs again, for the rest of the page."""
        whole = self.config.read_text()
        # Nobody wants to watch for five minutes that it ends by itself.
        self.config.write_text(whole + '\n[server]\ndrain_timeout = "1s"\n')
        os.kill(self.pid, signal.SIGHUP)
        until(lambda: "the configuration was reloaded" in self.log.read_text(), "the reload")
        connection = self.log_in("carl@example.net")
        os.kill(self.pid, signal.SIGTERM)
        self.assertIn(b"* BYE", connection.readline())
        self.process.wait(WAIT)
        self.config.write_text(whole)
        self.start(command)

    def upgrade(self, command):
        """SIGUSR2: another process serves, and the old one ends with the last who is in."""
        connection = self.log_in("carl@example.net")
        old = self.pid
        os.kill(old, signal.SIGUSR2)
        until(lambda: len(self.running()) == 2, "the new process")
        (type(self).pid,) = set(self.running()) - {old}
        until(lambda: self.metric("mailmux_predecessors") == 1, "the old one to drain")
        self.log_in("carl@example.net").logout()
        self.assertEqual(set(self.running()), {old, self.pid})
        connection.logout()
        until(lambda: self.running() == [self.pid], "the old process to end")

    def journal(self, command):
        """What it shows looks as the page shows it."""
        with self.assertRaises(imaplib.IMAP4.error):
            self.log_in("carl@example.net", "wrong")
        self.log_in("carl@example.net").logout()
        (block,) = (block for block in self.blocks if block.section == "Troubles" and block.language == "text")
        lines = [re.escape(line.replace("192.0.2.7", "127.0.0.1").replace("ann@example.org", "carl@example.net")) for line in block.lines]
        lines = [re.sub(r":50412", r":\\d+", line).replace(r"\.\.\.", ".*").replace("mechanism=PLAIN", r"mechanism=\S+") for line in lines]
        until(lambda: all(re.search(line, self.log.read_text()) for line in lines), f"these lines: {lines}")
        shown = self.run_it(command)
        for line in lines:
            self.assertRegex(shown, line)

    def convert(self, command):
        """What comes of the old proxy's map is what stands beside its files."""
        self.run_it(command)
        name = command.text.rpartition("/")[2]
        self.assertEqual((self.folder / "etc/mailmux" / name).read_text(), (ROOT / "config/migrate" / name).read_text())

    # --- ann moves

    def copy_mail(self, command):
        """While she is in; and once more, when something has come since and she is out."""
        if not self.ann:
            self.deliver("one")
            self.deliver("two")
            self.ann.append(self.log_in("ann@example.org"))
        else:
            self.deliver("three")
        self.run_it(command)
        self.assertEqual(self.mailbox("green"), self.mailbox("blue"))

    def hold(self, command):
        self.run_it(command)
        self.ann.append(self.later.submit(self.log_in, "ann@example.org"))

    def kick(self, command):
        self.run_it(command)
        self.assertIn(b"* BYE", self.ann[0].readline())
        self.assertFalse(self.ann[1].done(), "her login waits")

    def edit_map(self, command):
        self.run_it(command)
        self.assertIn("ann@example.org\tgreen\n", (self.folder / "etc/mailmux/users.map").read_text())

    def move(self, command):
        before = self.backends["green"].callers()
        self.assertFalse(self.ann[1].done(), "her login waits")
        self.run_it(command)
        connection = self.ann[1].result(WAIT)
        self.assertEqual(self.backends["green"].callers()[len(before) :], ["ann@example.org"])
        self.assertEqual(self.look(connection), self.mailbox("blue"), "she finds what was there")
        connection.logout()

    def directly(self, backend):
        connection = imaplib.IMAP4("127.0.0.1", self.backends[backend].port, timeout=WAIT)
        self.addCleanup(self.close, connection)
        connection.login("ann@example.org", PEOPLE["ann@example.org"])
        return connection

    def deliver(self, subject):
        self.assertEqual(self.directly("blue").append("INBOX", "(\\Flagged)", None, mail(subject))[0], "OK")

    def mailbox(self, backend):
        return self.look(self.directly(backend))

    def look(self, connection):
        """All that a mail program remembers of a mailbox."""
        connection.select("INBOX", readonly=True)
        validity = connection.response("UIDVALIDITY")[1]
        mails = connection.uid("FETCH", "1:*", "(FLAGS RFC822.SIZE BODY.PEEK[HEADER.FIELDS (SUBJECT)])")[1]
        # Which session was the first to see a mail is no matter.
        return validity, [re.sub(rb" ?\\Recent", b"", b"".join(one) if isinstance(one, tuple) else one) for one in mails]
