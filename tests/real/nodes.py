"""Two mailmux nodes behind HAProxy, with the files of deploy/haproxy as they are but for addresses and ports."""

import csv
import imaplib
import os
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request

from world import MAILMUX, ROOT, USERS, WAIT, Case, Mailmux, free_port, until

HAPROXY = ROOT / "deploy/haproxy/haproxy.cfg"
NODE = ROOT / "deploy/haproxy/mailmux.toml"
KEEPALIVED = ROOT / "deploy/keepalived/keepalived.conf"
# Debian has these two where a user's PATH does not look.
ENVIRONMENT = os.environ | {"PATH": os.environ["PATH"] + ":/usr/sbin"}
BOB, BOBS = "bob@example.org", USERS["bob@example.org"][1]
CLIENT = "127.0.0.9"
NAMES = ("one", "two")


def with_these(text, changes):
    """A file of ours with some words changed, all of which must be there."""
    for words, others in changes.items():
        assert words in text, f'"{words}" is not in it'
        text = text.replace(words, others)
    return text


class Nodes(Case):
    @classmethod
    def setUpClass(cls):
        cls.ports = {name: {"imaps": free_port(), "imap": free_port()} for name in NAMES}
        super().setUpClass()
        cls.nodes = {"one": cls.mailmux, "two": None}
        cls.start_node("two")
        cls.front = {"imaps": free_port(), "imap": free_port(), "ready": free_port()}
        cls.start_haproxy()

    @classmethod
    def config(cls, name="one"):
        """Node one's file, whose [admin] section comes from the world."""
        ports = cls.ports[name]
        (cls.folder / "certs").mkdir(exist_ok=True)
        for kind in ("pem", "key"):
            (cls.folder / f"certs/mail.{kind}").write_bytes((cls.folder / f"mail.{kind}").read_bytes())
        changes = {
            "192.0.2.21:993": f"127.0.0.1:{ports['imaps']}",
            "192.0.2.21:143": f"127.0.0.1:{ports['imap']}",
            '"192.0.2.21", "192.0.2.22"': '"127.0.0.1"',
            "192.0.2.31:143": f"127.0.0.1:{cls.backends['blue'].port}",
            "192.0.2.32:143": f"127.0.0.1:{cls.backends['green'].port}",
            'tls = "starttls"\nca = "/etc/mailmux/internal-ca.pem"': 'tls = "none"',
            "/etc/mailmux": str(cls.folder),
        }
        limits = '\n[limits]\nlogins_per_user = "off"\nsessions_per_user = 0\n'
        return with_these(NODE.read_text().split("\n[admin]")[0], changes) + limits

    @classmethod
    def start_node(cls, name):
        folder = cls.folder / name
        folder.mkdir(exist_ok=True)
        node = cls.nodes[name] = Mailmux(folder, cls.config(name))
        cls.addClassCleanup(node.stop)

    @classmethod
    def start_haproxy(cls):
        cls.socket = cls.folder / "haproxy.sock"
        changes = {
            "192.0.2.20:993 transparent": f"127.0.0.1:{cls.front['imaps']}",
            "192.0.2.20:143 transparent": f"127.0.0.1:{cls.front['imap']}",
            "    bind [2001:db8::20]:993 transparent\n": "",
            "    bind [2001:db8::20]:143 transparent\n": "",
            "127.0.0.1:8405": f"127.0.0.1:{cls.front['ready']}",
            "/run/haproxy/admin.sock": str(cls.socket),
            "maxconn 100000": "maxconn 1000",
        }
        for number, name in enumerate(NAMES, 1):
            imaps, imap = (cls.ports[name][kind] for kind in ("imaps", "imap"))
            changes[f"192.0.2.2{number}:993"] = f"127.0.0.1:{imaps} port {cls.nodes[name].admin}"
            changes[f"192.0.2.2{number}:143"] = f"127.0.0.1:{imap}"
        if os.getuid():
            changes["    user haproxy\n    group haproxy\n    chroot /var/lib/haproxy\n"] = ""
        path = cls.folder / "haproxy.cfg"
        path.write_text(with_these(HAPROXY.read_text(), changes))
        log = open(cls.folder / "haproxy.log", "wb")
        cls.addClassCleanup(log.close)
        cls.haproxy = subprocess.Popen(["haproxy", "-db", "-f", path], stdout=log, stderr=log, env=ENVIRONMENT)
        cls.addClassCleanup(cls.haproxy.wait, WAIT)
        cls.addClassCleanup(cls.haproxy.terminate)
        until(lambda: cls.socket.exists() and cls.states() == ["UP", "UP"], "HAProxy to know both nodes")

    @classmethod
    def asked(cls, command):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(cls.socket))
            connection.sendall(command.encode() + b"\n")
            return connection.makefile().read()

    @classmethod
    def column(cls, name, kind="imaps"):
        """What HAProxy knows of node one and of node two."""
        rows = csv.DictReader(cls.asked("show stat").lstrip("# ").splitlines())
        known = {row["svname"]: row[name] for row in rows if row["pxname"] == kind}
        return [known[node] for node in NAMES]

    @classmethod
    def states(cls, kind="imaps"):
        """UP or DOWN; there may be more behind it."""
        return [state.split(" ")[0] for state in cls.column("status", kind)]

    def is_ready(self):
        """What keepalived asks."""
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.front['ready']}/readyz", timeout=WAIT).status == 200
        except urllib.error.HTTPError:
            return False

    def log_in_from(self, client, kind="imaps"):
        """A login through HAProxy, in a session that lasts as long as curl takes."""
        scheme = ("imaps",) if kind == "imaps" else ("imap", "--ssl-reqd")
        self.curl(BOB, f"{scheme[0]}://localhost:{self.front[kind]}/INBOX", "--interface", client, *scheme[1:])

    def session(self):
        """One that stays, through HAProxy. Gives the connection and the node it has come to."""
        before = self.column("stot")
        self.imaps = self.front["imaps"]
        connection = self.log_in(BOB)
        node = lambda: [name for name, one, other in zip(NAMES, before, self.column("stot")) if one != other]
        return connection, until(node, "HAProxy to count the session")[0]

    def test_the_files_are_valid_as_they_are(self):
        for command in (["haproxy", "-c", "-f", HAPROXY], ["keepalived", "--config-test", "-f", KEEPALIVED]):
            done = subprocess.run(command, capture_output=True, env=ENVIRONMENT, timeout=WAIT)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        (self.folder / "admin.token").write_text("a-long-and-secret-token")
        (self.folder / "admin.token").chmod(0o600)
        (self.folder / "internal-ca.pem").write_bytes((self.folder / "ca.pem").read_bytes())
        whole = self.folder / "whole.toml"
        whole.write_text(with_these(NODE.read_text(), {"/etc/mailmux": str(self.folder)}))
        done = subprocess.run([MAILMUX, "check", "--config", whole], capture_output=True, timeout=WAIT)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_who_the_client_is(self):
        for kind, tls in (("imaps", "TLS"), ("imap", "STARTTLS")):
            with self.subTest(kind=kind):
                client = {"imaps": CLIENT, "imap": "127.0.0.10"}[kind]
                self.log_in_from(client, kind)

                def lines():
                    said = "".join(node.log() for node in self.nodes.values()).splitlines()
                    return [line for line in said if "session closed" in line and f" client={client}:" in line]

                line = until(lines, "the session in a node's log")[0]
                self.assertIn(f" listener={kind} peer=127.0.0.1:", line)
                self.assertIn(f' user="{BOB}"', line)

    def test_a_node_is_stopped_and_comes_back(self):
        sessions = [self.session() for _ in range(4)]
        self.assertEqual({node for _, node in sessions}, set(NAMES), "both have some")
        stopped, load = self.nodes["two"], Load(self)
        before = self.nodes["one"].metric('mailmux_sessions_total{listener="imaps"}')
        stopped.process.send_signal(signal.SIGTERM)
        until(lambda: self.states() == ["UP", "DOWN"] and self.states("imap") == ["UP", "DOWN"], "HAProxy to take it out")
        for client in ("127.0.0.11", "127.0.0.12", "127.0.0.13"):
            self.log_in_from(client)
            self.log_in_from(client, "imap")
        self.assertGreaterEqual(self.nodes["one"].metric('mailmux_sessions_total{listener="imaps"}'), before + 3)
        for connection, node in sessions:
            self.assertEqual(connection.noop()[0], "OK", f"a session of {node} lives on")
        self.assertTrue(self.is_ready(), "the machine keeps its address while one node is in")
        so_far = load.logins
        until(lambda: load.logins > so_far + 2, "logins with one node out")
        stopped.stop()
        self.start_node_again("two")
        until(lambda: self.states() == ["UP", "UP"], "HAProxy to take it in again")
        so_far = load.logins
        until(lambda: load.logins > so_far + 2, "logins with both in again")
        load.stop()
        self.assertEqual(load.failures, [], f"of {load.logins} logins")
        until(lambda: self.session()[1] == "two", "somebody to come to it")

    def start_node_again(self, name):
        """With the ports it had, admin port included."""
        node = self.nodes[name]
        with open(node.log_path, "ab") as log:
            node.process = subprocess.Popen([MAILMUX, "serve", "--config", node.folder / "mailmux.toml"], stderr=log)
        until(node.is_ready, "the node to be ready")

    def test_nodes_that_crash(self):
        connection, node = self.session()
        self.nodes[node].process.kill()
        with self.assertRaises((OSError, imaplib.IMAP4.abort)):
            connection.noop()
        self.log_in_from(CLIENT)
        other = next(name for name in NAMES if name != node)
        self.nodes[other].process.kill()
        until(lambda: self.states() == ["DOWN", "DOWN"], "HAProxy to notice")
        self.assertFalse(self.is_ready(), "the other machine is to have the address")
        for name in NAMES:
            self.nodes[name].process.wait(WAIT)
            self.start_node_again(name)
        until(lambda: self.is_ready() and self.states() == ["UP", "UP"], "both nodes to be back")
        self.log_in_from(CLIENT)


class Load:
    """Somebody who logs in all the time."""

    def __init__(self, case):
        self.case, self.logins, self.failures, self.over = case, 0, [], threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        case.addCleanup(self.stop)

    def run(self):
        while not self.over.is_set():
            try:
                self.case.log_in_from("127.0.0.14")
            except AssertionError as error:
                self.failures.append(str(error))
            self.logins += 1

    def stop(self):
        self.over.set()
        self.thread.join(WAIT)
