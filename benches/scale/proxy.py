"""The mailmux that is measured: its configuration, how it is started and steered, and one login by hand.

All come from one address, and a user's logins follow each other fast: so limits are wider than their defaults, but on. What they
remember of users and networks is among what is measured. The log says warnings alone.
"""

import pathlib
import shutil
import socket
import ssl
import subprocess
import time

import peers
from measures import Failed

CONFIG = f"""\
{peers.FRONT}{{routes}}
[limits]
exempt = []
sessions_per_network = 0
connects_per_network = "off"
logins_per_user = {{{{ rate = "100/s", burst = 100 }}}}
[admin]
address = "127.0.0.1:{{admin}}"
socket = "admin.sock"
"""
MAP = """\
[[lookup]]
name = "users"
type = "file"
path = "users.map"
[[route]]
lookup = "users"
"""
# How long it may take to begin.
PATIENCE = 120


class Mailmux(peers.Peer):
    """One, in a folder of its own. With `pairs`, a folder, it has the certificates in it; with `users`, a map file, that."""

    def __init__(self, binary, folder, backend, own, pairs=None, users=None):
        folder.mkdir()
        for name in ("mail.pem", "mail.key"):
            shutil.copy(own / name, folder)
        self.binary = binary
        settings = {"tls": f'directory = "{pairs}"' if pairs else "", "routes": peers.ROUTE.format(pool="")}
        if users:
            (folder / "users.map").symlink_to(users)
            settings["routes"] = MAP

        def command(known):
            peers.written("mailmux.toml", CONFIG, known | settings | {"admin": peers.free_port()})
            return [binary, "serve", "--config", folder / "mailmux.toml"]

        self.began = time.monotonic()
        super().__init__(command, folder, backend, binary)

    def wait(self):
        """As its clients would see it: until it answers. They knock more often than other peers are asked."""
        end = self.began + PATIENCE
        while time.monotonic() < end:
            if self.answers():
                return
            time.sleep(0.002)
        raise Failed(f"it has not begun within {PATIENCE} s")

    def peak(self):
        """The most that it ever had in memory, in kB."""
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("\nVmHWM:", 1)[1].split()[0])

    def said(self, command, *words):
        """A command that asks it for something, and must succeed; and how long that took."""
        began = time.monotonic()
        asked = [self.binary, command, "--config", self.folder / "mailmux.toml", *words]
        done = subprocess.run(asked, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise Failed(f"mailmux {command}: {done.stdout}{done.stderr}".strip())
        return time.monotonic() - began

    def reload(self):
        return self.said("reload")

    def kick_all(self):
        return self.said("kick", "--backend", "mail", "--yes")

    def log_in(self, name, user):
        """Logs in and out: the certificate that is shown to who asks for this name, and what is answered to LOGIN."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # Which one is shown is looked at, not who has signed it.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as tcp:
            with context.wrap_socket(tcp, server_hostname=name) as connection:
                lines = connection.makefile("rwb")
                lines.readline()
                lines.write(f"a LOGIN {user} secret\r\n".encode())
                lines.flush()
                answer = lines.readline().decode().strip()
                lines.write(b"z LOGOUT\r\n")
                lines.flush()
                while lines.readline():
                    pass
                return connection.getpeercert(binary_form=True), answer
