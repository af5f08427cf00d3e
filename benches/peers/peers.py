"""The peers: how each is set up to do the same work, how it is started, and what it uses of the machine.

All have two workers where they know such a thing, the same certificate, the same backend in clear behind them, long
timeouts, and a log of warnings alone. Otherwise they are as Debian ships them.
"""

import os
import pathlib
import signal
import socket
import subprocess
import time

from servers import IMAPPROXY, cpu_seconds, descendants, unprivileged
from world import free_port, until

# Of connections, where a peer wants to know. Each session takes two files of the 20,000 that a process may open here.
CONNECTIONS = 9900
ABILITIES = "IMAP4rev1 IDLE LITERAL+ ID ENABLE UIDPLUS NAMESPACE"

# mailmux' settings but for its limits, which each bench has its own of.
FRONT = """\
[server]
workers = 2
[[listener]]
name = "imaps"
address = "127.0.0.1:{port}"
tls = "implicit"
[tls]
{tls}
[[tls.certificate]]
chain = "mail.pem"
key = "mail.key"
[[backend]]
name = "mail"
address = "127.0.0.1:{imap}"
tls = "none"
[log]
level = "warn"
"""
ROUTE = """\
[[route]]
backend = "mail"
{pool}
"""
MAILMUX = f"""\
{FRONT}{ROUTE}[limits]
sessions_per_network = 0
sessions_per_user = 0
connects_per_network = "off"
logins_per_user = "off"
[timeouts]
tls_handshake = "1h"
login = "1h"
"""

HAPROXY = """\
global
    nbthread 2
    maxconn {connections}
    ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
    mode tcp
    timeout connect 1h
    timeout client 1h
    timeout server 1h
listen imaps
    bind 127.0.0.1:{port} ssl crt {folder}/both.pem
    server mail 127.0.0.1:{imap}
"""

NGINX = """\
{user}
load_module {modules}/ngx_mail_module.so;
daemon off;
worker_processes 2;
worker_rlimit_nofile {files};
pid {folder}/nginx.pid;
error_log {folder}/log warn;
events {{
    worker_connections {connections};
}}
mail {{
    auth_http 127.0.0.1:{auth}/;
    imap_auth plain login;
    imap_capabilities {abilities};
    timeout 1h;
    proxy_timeout 1h;
    ssl_certificate {folder}/mail.pem;
    ssl_certificate_key {folder}/mail.key;
    ssl_protocols TLSv1.3;
    ssl_session_cache shared:sessions:10m;
    ssl_session_tickets on;
    server {{
        listen 127.0.0.1:{port} ssl;
        protocol imap;
    }}
}}
"""

# Its high-performance mode, as its documentation calls it: a process for each worker, which keeps all its sessions.
DOVECOT = """\
base_dir = {folder}/run
state_dir = {folder}/run
log_path = {folder}/log
info_log_path = /dev/null
protocols = imap
listen = 127.0.0.1
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
auth_mechanisms = plain login
ssl = required
ssl_cert = <{folder}/mail.pem
ssl_key = <{folder}/mail.key
ssl_min_protocol = TLSv1.3
login_greeting = ready
passdb {{
  driver = static
  args = proxy=y nopassword=y host=127.0.0.1 port={imap}
}}
service imap-login {{
  chroot =
  service_count = 0
  process_min_avail = 2
  process_limit = 2
  client_limit = {connections}
  vsz_limit = 0
  inet_listener imap {{
    port = 0
  }}
  inet_listener imaps {{
    port = {port}
    ssl = yes
  }}
}}
service anvil {{
  chroot =
  client_limit = {connections}
}}
service auth {{
  client_limit = {connections}
}}
service stats {{
  chroot =
  client_limit = {connections}
}}
"""

STUNNEL = """\
foreground = yes
pid =
debug = warning
sslVersion = TLSv1.3
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
libwrap = no
[imaps]
accept = 127.0.0.1:{port}
connect = 127.0.0.1:{imap}
cert = {folder}/mail.pem
key = {folder}/mail.key
TIMEOUTidle = 36000
TIMEOUTbusy = 3600
"""

def program(name):
    for folder in ("/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"):
        if os.access(f"{folder}/{name}", os.X_OK):
            return f"{folder}/{name}"
    raise SystemExit(f"{name} is not there")


def written(name, text, known):
    path = known["folder"] / name
    path.write_text(text.format(**known))
    return path


def mailmux(known):
    return [known["mailmux"], "serve", "--config", written("mailmux.toml", MAILMUX, known)]


def pooling(known):
    return mailmux(known | {"pool": 'pool = "reuse"'})


def haproxy(known):
    folder = known["folder"]
    (folder / "both.pem").write_text((folder / "mail.pem").read_text() + (folder / "mail.key").read_text())
    return [program("haproxy"), "-db", "-q", "-f", written("haproxy.cfg", HAPROXY, known)]


def nginx(known):
    own = known | {"user": "user root;" if os.getuid() == 0 else "", "modules": "/usr/lib/nginx/modules"}
    return [program("nginx"), "-e", known["folder"] / "log", "-c", written("nginx.conf", NGINX, own)]


def dovecot(known):
    return [program("dovecot"), "-F", "-c", written("dovecot.conf", DOVECOT, known)]


def stunnel(known):
    return [program("stunnel4"), written("stunnel.conf", STUNNEL, known)]


def perdition(known):
    folder = known["folder"]
    where = ["-b", "127.0.0.1", "-l", known["port"], "-s", "127.0.0.1", "-p", known["imap"], "-M", ""]
    tls = ["--ssl_mode", "ssl_listen", "--ssl_cert_file", folder / "mail.pem", "--ssl_key_file", folder / "mail.key"]
    # With 0, which is to be for ever, it waits for a time that it has not set.
    patience = ["--timeout", "36000", "--authenticate_timeout", "3600", "--connect_relog", "36000"]
    log = ["--no_daemon", "-q", "-F", "-", "--pid_file", "", "-u", known["user"], "-g", known["group"]]
    command = [program("perdition.imap4s"), "-f", "/dev/null", *where, *tls, *patience, *log]
    # Each of its processes closes as many files as it may have open when it ends, and has but a few.
    return ["/usr/bin/prlimit", "--nofile=1024", *map(str, command)]


def imapproxy(known):
    return [program("imapproxyd"), "-f", written("imapproxy.conf", IMAPPROXY, known | {"backend": known["imap"]})]


class Peer:
    """One of them, in the foreground, in a process group and a folder of its own."""

    def __init__(self, command, folder, backend, mailmux):
        self.port, self.folder = free_port(), folder
        user, group = unprivileged()
        known = {
            "folder": folder,
            "port": self.port,
            "user": user,
            "group": group,
            "mailmux": mailmux,
            "tls": "",
            "pool": "",
            "connections": CONNECTIONS,
            "files": 2 * CONNECTIONS + 200,
            "abilities": ABILITIES,
            **backend,
        }
        self.output = folder / "output"
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(command(known), stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True)

    def wait(self):
        until(self.answers, "the peer to answer")

    def answers(self):
        if self.process.poll() is not None:
            raise SystemExit(f"{self.process.args[0]} has ended:\n{self.words()}")
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        except OSError:
            return False

    def words(self):
        """What it said last."""
        texts = [path.read_text(errors="replace") for path in (self.output, self.folder / "log") if path.exists()]
        return "\n".join("".join(texts).splitlines()[-10:])

    def processes(self):
        return [pid for pid, _ in descendants(self.process.pid)]

    def cpu(self):
        """User and system time in seconds, of all its processes: of living ones from their CPU clocks, which count
        nanoseconds, of those that have ended as the kernel adds them to their parent's, in steps of 10 ms."""
        return sum(map(cpu_seconds, self.processes()))

    def memory(self):
        """PSS of all its processes, in kB: what they have for themselves, and their share of what they share."""
        total = 0
        for pid in self.processes():
            try:
                text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                # It has just ended.
                continue
            total += int(text.split("\nPss:", 1)[1].split()[0])
        return total

    def stop(self):
        # Twice: mailmux would else wait for sessions.
        for _ in range(2):
            self.process.terminate()
            time.sleep(0.05)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        # And what it has left behind, which is in its group.
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
