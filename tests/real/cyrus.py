"""A private Cyrus on loopback: its own master, in a folder of its own, from programs that `unpack` has laid out.

Settings are explained in imapd.conf(5) and cyrus.conf(5). As root it runs as nobody; otherwise as whoever runs the test.
"""

import grp
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import subprocess

from world import WAIT, free_port, until

UNPACKED = pathlib.Path(os.environ.get("CYRUS", "/nonexistent"))
PROGRAMS = "usr/lib/cyrus/bin/imapd", "usr/lib/cyrus/bin/master", "usr/sbin/saslpasswd2"

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
        self.environment = os.environ | {"LD_LIBRARY_PATH": str(folder / "programs")}
        self.counted = {}
        owner = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
        words = {
            "folder": folder,
            "user": owner.pw_name,
            "group": grp.getgrgid(owner.pw_gid).gr_name,
            "imapd": folder / "programs/imapd",
            "port": self.port,
        }
        for path in (folder, folder / "var", folder / "var/log", folder / "mail"):
            path.mkdir()
        self.copy_programs()
        (folder / "imapd.conf").write_text(IMAPD.format(**words))
        (folder / "cyrus.conf").write_text(CYRUS.format(**words))
        for user, password in users.items():
            # Where there is such a folder, Cyrus writes down the user's sessions. Its other log is syslog.
            (folder / "var/log" / user).mkdir()
            self.set_password(user, password)
        if os.getuid() == 0:
            for path in [folder, *folder.rglob("*")]:
                os.chown(path, owner.pw_uid, owner.pw_gid)
        self.start()

    def copy_programs(self):
        """Where they were unpacked, nobody may not go."""
        (self.folder / "programs").mkdir()
        libraries = UNPACKED.glob("usr/lib/*-linux-gnu/libcyrus*.so.*")
        for path in (*(UNPACKED / program for program in PROGRAMS), *libraries):
            shutil.copy(path, self.folder / "programs")

    def set_password(self, user, password):
        """Cyrus asks for the password of user@host."""
        command = [self.folder / "programs/saslpasswd2", "-p", "-c", "-f", self.folder / "sasldb", user]
        subprocess.run(command, input=password.encode(), env=self.environment, check=True, timeout=WAIT)

    def start(self):
        command = [self.folder / "programs/master", "-D", "-p", self.folder / "master.pid"]
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
