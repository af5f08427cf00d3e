"""A real PostgreSQL: a cluster of its own, on loopback, in a folder that goes away."""

import glob
import os
import pwd
import shutil
import subprocess

from world import free_port, until

PASSWORD = "database-secret"


class Postgres:
    """A database `mail` of the user `mailmux`, with a password."""

    def __init__(self, folder):
        self.bin = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]
        self.folder, self.data = folder, folder / "data"
        self.port = free_port()
        self.url = f"postgres://mailmux:{PASSWORD}@127.0.0.1:{self.port}/mail?sslmode=disable"
        # It does not run as root.
        self.user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        folder.mkdir()
        (folder / "password").write_text(PASSWORD)
        if os.getuid() == 0:
            shutil.chown(folder, self.user)
            shutil.chown(folder / "password", self.user)
        words = ["-U", "mailmux", "--pwfile", folder / "password", "-A", "scram-sha-256", "-E", "UTF8", "--no-sync"]
        self.run("initdb", "-D", self.data, *words, check=True, capture_output=True)
        self.start()
        self.execute("CREATE DATABASE mail", "postgres")

    def command(self, program, *words):
        command = [f"{self.bin}/{program}", *map(str, words)]
        return ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--init-groups", *command] if os.getuid() == 0 else command

    def run(self, program, *words, **how):
        return subprocess.run(self.command(program, *words), cwd=self.folder, **how)

    def start(self):
        words = ["-D", self.data, "-p", self.port, "-k", self.folder, "-h", "127.0.0.1", "-F"]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(self.command("postgres", *words), cwd=self.folder, stdout=log, stderr=log)
        ready = ["-h", "127.0.0.1", "-p", self.port, "-q"]
        until(lambda: self.run("pg_isready", *ready).returncode == 0, "PostgreSQL to be ready")

    def execute(self, sql, database="mail"):
        url = self.url.replace("/mail?", f"/{database}?")
        subprocess.run([f"{self.bin}/psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", url], input=sql.encode(), check=True)

    def stop(self):
        if self.process.poll() is None:
            # Fast: clients are not waited for.
            self.process.send_signal(2)
            self.process.wait(20)
