"""What the webmail talks to: one Dovecot, and a proxy in front of it or none. Also who used how much CPU."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time
import urllib.request

from world import ROOT, WITNESS, Dovecot, free_port, until

MESSAGES = 30


class Interrupts:
    """Ctrl-C and the like end the bench, once, and never between the start of a server and the note that it must end."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self):
        self.holding, self.came = False, None
        for number in self.SIGNALS:
            signal.signal(number, self.take)

    def take(self, number, _frame):
        if self.holding:
            self.came = number
        else:
            self.ignore()
            raise SystemExit(128 + number)

    def ignore(self):
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    @contextlib.contextmanager
    def held(self):
        self.holding = True
        try:
            yield
        finally:
            self.holding = False
            if self.came:
                self.take(self.came, None)


def stat(pid):
    """The fields of /proc/PID/stat behind the name, from "state" on, and the name; None if the process is gone."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    name, fields = text[text.index("(") + 1 :].rsplit(") ", 1)
    return name, fields.split()


def descendants(pid):
    """A process and all below it, with their names."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (known := stat(entry)):
            parents.setdefault(int(known[1][1]), []).append((int(entry), known[0]))
    found = [(pid, stat(pid)[0])]
    for parent, _ in found:
        found += parents.get(parent, [])
    return found


def cpu_seconds(pid):
    """User and system time of a process and of its children that have ended.

    Its own comes from its CPU clock (clock_getcpuclockid), since /proc/PID/stat cuts to 10 ms: of a hundred mail
    processes that have worked for 5 ms each it would see nothing."""
    try:
        own = time.clock_gettime((~pid << 3) | 2)
        children = sum(map(int, stat(pid)[1][13:15])) / os.sysconf("SC_CLK_TCK")
    except (OSError, TypeError):
        # It has just ended. Its time is its parent's at the next reading.
        return 0
    return own + children


# The script that starts it has tests in mind, which cannot wait for a process for each login.
AS_IT_COMES = """
service imap-login {
  service_count = 1
}
"""


class MailServer(Dovecot):
    """Dovecot with an INBOX of a few small messages for each user."""

    def __init__(self, folder, people, fast_logins):
        self.people = people
        super().__init__(folder, people, "" if fast_logins else AS_IT_COMES)

    def start(self):
        for user in self.people:
            for part in ("cur", "new", "tmp"):
                (self.maildir(user) / part).mkdir(parents=True)
            for number in range(1, MESSAGES + 1):
                # Names in order, so that Dovecot numbers them so.
                name = f"{1700000000 + number}.{number}.webmail:2,S"
                (self.maildir(user) / "cur" / name).write_text(message(user, number), newline="")
        super().start()

    def master(self):
        return int((self.folder / "run/master.pid").read_text())

    def settle(self):
        """Waits until nobody is logged in."""
        until(lambda: all(name != "imap" for _, name in descendants(self.master())), "Dovecot's sessions to end")

    def cpu(self):
        """Of the master and all its processes, living or reaped."""
        return sum(cpu_seconds(pid) for pid, _ in descendants(self.master()))

    def cpu_at_rest(self):
        """The same, once nobody does anything any more: what has been asked for is paid then."""
        last, now = -1, self.cpu()
        while now - last > 0.001:
            time.sleep(0.2)
            last, now = now, self.cpu()
        return now

    def logins(self):
        self.callers()
        return self.log().count("imap-login: Info: Login: user=<") - self.log().count(f"imap-login: Info: Login: user=<{WITNESS}>")


def message(user, number):
    """Its subject is what the load program looks for."""
    lines = [
        f"Date: Mon, 23 Nov 2026 12:{number:02}:00 +0000",
        f"From: Sender {number} <sender{number}@example.net>",
        f"To: <{user}>",
        f"Message-ID: <{number}.{user}>",
        f"Subject: Message {number} of {user}",
        "",
        "A few words, as most mails are.",
        "",
    ]
    return "\r\n".join(lines)


class Proxy:
    """A proxy in the foreground, with its log in the folder. Who starts it must stop it."""

    def __init__(self, folder, command, port):
        self.port = port
        self.log = folder / "proxy.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def wait(self):
        until(self.answers, "the proxy to answer")

    def answers(self):
        if self.process.poll() is not None:
            raise SystemExit(f"the proxy has ended:\n{self.log.read_text(errors='replace')}")
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        except OSError:
            return False

    def stop(self):
        # Twice: mailmux would else wait for sessions.
        self.process.terminate()
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def cpu(self):
        return cpu_seconds(self.process.pid)


# Debian's file with these changed: where to listen and whom to ask; a folder of ours; no chroot, which needs preparation;
# and less said to the machine's log.
IMAPPROXY = """\
server_hostname 127.0.0.1
server_port {backend}
listen_address 127.0.0.1
listen_port {port}
connect_retries 10
connect_delay 5
cache_size 3072
cache_expiration_time 300
proc_username {user}
proc_groupname {group}
stat_filename {folder}/pimpstats
protocol_log_filename {folder}/protocol.log
syslog_facility LOG_MAIL
syslog_prioritymask LOG_WARNING
send_tcp_keepalives no
enable_select_cache no
foreground_mode yes
force_tls no
enable_admin_commands no
"""


def unprivileged():
    """Whom a server may become, by user and group: nobody, or whoever we are if that is not root."""
    if os.getuid() == 0:
        return "nobody", "nogroup"
    return tuple(subprocess.check_output(["id", word], text=True).strip() for word in ("-un", "-gn"))


def imapproxy_command(folder, backend):
    """How to run it, and its port."""
    port = free_port()
    user, group = unprivileged()
    path = folder / "imapproxy.conf"
    path.write_text(IMAPPROXY.format(backend=backend, port=port, user=user, group=group, folder=folder))
    return ["/usr/sbin/imapproxyd", "-f", path], port


# `off` is the default, and its row runs with any mailmux.
POOL = """
[pool]
warm = 8
reuse_ttl = "60s"
reuse_max = 10000
"""

MAILMUX = """\
[[listener]]
name = "imaps"
address = "127.0.0.1:{port}"
tls = "implicit"
[[tls.certificate]]
chain = "mail.pem"
key = "mail.key"
[[backend]]
name = "dovecot"
address = "127.0.0.1:{backend}"
tls = "none"
[[route]]
backend = "dovecot"
{route}
[limits]
logins_per_user = "off"
[admin]
address = "127.0.0.1:{admin}"
{pool}"""


class Refused(Exception):
    """mailmux does not accept a configuration, and says why."""


def mailmux_command(mailmux, folder, backend, row, admin):
    """How to run it, and its port."""
    port, pool = free_port(), row if row in ("warm", "reuse") else "off"
    route, section = ("", "") if pool == "off" else (f'pool = "{pool}"\n', POOL)
    path = folder / f"mailmux-{row}.toml"
    path.write_text(MAILMUX.format(port=port, backend=backend, route=route, pool=section, admin=admin))
    checked = subprocess.run([mailmux, "check", "--config", path], capture_output=True, text=True)
    if checked.returncode != 0:
        raise Refused((checked.stdout + checked.stderr).strip())
    return [mailmux, "serve", "--config", path], port


# What an open status page asks for, each time.
PAGE = ["status", "history", "backends", "pool", "limits", "certificates", "users?limit=10", "sessions?limit=50"]


class Watchers:
    """Prometheus, once a second, and an open status page, every two, as long as this is entered."""

    def __init__(self, admin):
        self.admin, self.over, self.failures = admin, threading.Event(), []
        views = [("/metrics", 1), *((f"/api/v1/{path}", 2) for path in PAGE)]
        self.threads = [threading.Thread(target=self.watch, args=view) for view in views]

    def watch(self, path, seconds):
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=10).read()
            except OSError as error:
                self.failures.append(f"{path}: {error}")
            if self.over.wait(seconds):
                return

    def __enter__(self):
        for thread in self.threads:
            thread.start()

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()
        if self.failures:
            raise SystemExit(f"what was to watch did not answer: {self.failures[0]}")


def dovecot_stop(folder):
    subprocess.run([ROOT / "deploy/dovecot-backend", "stop", folder], check=True)
