"""A private Cyrus on loopback: its own master, in a folder of its own, from programs that `unpack` has laid out.

Settings are explained in imapd.conf(5) and cyrus.conf(5). As root it runs as nobody; otherwise as whoever runs the test.
"""

import grp
import os
import pathlib
import pwd
import re
import signal
import socket
import subprocess

from world import WAIT, free_port, until

UNPACKED = pathlib.Path(os.environ.get("CYRUS", "/nonexistent"))
LIBRARIES = UNPACKED / "usr/lib" / (os.uname().machine + "-linux-gnu")

# imapidlepoll: there is no idled. failedloginpause: nobody guesses here. autocreate_quota: who logs in has an INBOX.
IMAPD = """
configdirectory: {folder}/var
defaultpartition: default
partition-default: {folder}/mail
cyrus_user: {user}
cyrus_group: {group}
allowplaintext: yes
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
sasl_sasldb_path: {folder}/sasldb
sasl_mech_list: PLAIN LOGIN
altnamespace: yes
unixhierarchysep: yes
autocreate_quota: 0
expunge_mode: immediate
imapidlepoll: 1s
failedloginpause: 0
"""

CYRUS = """
START {{ }}
SERVICES {{
  imap cmd="{imapd} -C {folder}/imapd.conf" listen="127.0.0.1:{port}" prefork=0 maxchild=500
}}
EVENTS {{ }}
"""


class Cyrus:
    """A backend with users and their passwords."""

    def __init__(self, folder, users):
        self.folder = folder
        self.port = free_port()
        self.environment = os.environ | {"LD_LIBRARY_PATH": str(LIBRARIES)}
        self.counted = {}
        owner = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
        words = {
            "folder": folder,
            "user": owner.pw_name,
            "group": grp.getgrgid(owner.pw_gid).gr_name,
            "imapd": UNPACKED / "usr/lib/cyrus/bin/imapd",
            "port": self.port,
        }
        for path in (folder, folder / "var", folder / "var/log", folder / "mail"):
            path.mkdir()
        (folder / "imapd.conf").write_text(IMAPD.format(**words))
        (folder / "cyrus.conf").write_text(CYRUS.format(**words))
        for user, password in users.items():
            # Where there is such a folder, Cyrus writes down the user's sessions. Its other log is syslog.
            (folder / "var/log" / user).mkdir()
            self.set_password(user, password)
        if os.getuid() == 0:
            for path in [folder, *folder.rglob("*")]:
                os.chown(path, owner.pw_uid, owner.pw_gid)
            for parent in (UNPACKED, *UNPACKED.parents):
                self.open_to_others(parent)
        self.start()

    @staticmethod
    def open_to_others(path):
        if not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)

    def set_password(self, user, password):
        """Cyrus asks for the password of user@host."""
        command = [UNPACKED / "usr/sbin/saslpasswd2", "-p", "-c", "-f", self.folder / "sasldb", user]
        subprocess.run(command, input=password.encode(), env=self.environment, check=True, timeout=WAIT)

    def start(self):
        command = [UNPACKED / "usr/lib/cyrus/bin/master", "-D", "-p", self.folder / "master.pid"]
        command += ["-C", self.folder / "imapd.conf", "-M", self.folder / "cyrus.conf"]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        until(self.answers, "Cyrus to answer")

    def answers(self):
        if self.process.poll() is not None:
            raise AssertionError("Cyrus has ended:\n" + self.log())
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=WAIT) as connection:
                return connection.recv(100).startswith(b"* OK")
        except ConnectionRefusedError:
            return False

    def log(self):
        return (self.folder / "log").read_text(errors="replace")

    def logins(self, user):
        """How often this user has logged in. What has been counted is removed: it is everything that was said."""
        for path in (self.folder / "var/log" / user).iterdir():
            said = path.read_bytes()
            path.unlink()
            heads = re.findall(rb"(?m)^---------- %s \w{3} \w{3} .* \d{4}$" % re.escape(user.encode()), said)
            self.counted[user] = self.counted.get(user, 0) + len(heads)
        return self.counted.get(user, 0)

    def stop(self):
        """The master ends its children too."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(WAIT)
