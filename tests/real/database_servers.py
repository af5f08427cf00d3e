"""Throw-away database servers on loopback, for whoever needs a real one: PostgreSQL and MariaDB from Debian's packages.

    python3 -B tests/real/database_servers.py COMMAND...

runs it with MAILMUX_TEST_POSTGRES_URL and MAILMUX_TEST_MYSQL_URL, such as `cargo test --lib servers -- --ignored`.
"""

import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

WAIT = 60
PASSWORD = "päss/w@rd"
PASSWORD_IN_URL = "p%C3%A4ss%2Fw%40rd"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server in a folder of its own. Neither of these two wants to be root."""

    account = ""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="mailmux-database."))
        self.port = free_port()
        self.process = None
        self.account = self.account if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        shutil.chown(self.folder, self.account)
        try:
            self.make()
            self.start()
        except BaseException:
            self.stop()
            raise

    def run(self, *command, **how):
        done = subprocess.run(command, cwd="/", user=self.account, capture_output=True, **how)
        if done.returncode:
            raise AssertionError(f"{command[0]} failed:\n{done.stderr.decode()}")
        return done.stdout.decode()

    def start(self):
        """Also after `pause`."""
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(self.command(), cwd="/", user=self.account, stdout=log, stderr=log)
        end = time.monotonic() + WAIT
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError("the database does not come up:\n" + (self.folder / "log").read_text(errors="replace"))
            time.sleep(0.1)

    def is_ready(self):
        try:
            self.execute("SELECT 1")
            return True
        except AssertionError:
            return False

    def pause(self):
        """Stops it; its data stay for the next `start`."""
        if self.process:
            self.process.send_signal(self.end)
            try:
                self.process.wait(WAIT)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def stop(self):
        self.pause()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Postgres(Server):
    account = "postgres"
    end = signal.SIGINT

    @property
    def url(self):
        return f"postgres://mailmux:{PASSWORD_IN_URL}@127.0.0.1:{self.port}/mail"

    def tool(self, name):
        """The newest that is installed."""
        found = list(pathlib.Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
        return str(max(found, key=lambda path: float(path.parts[4])))

    def make(self):
        data = self.folder / "data"
        secret = self.folder / "secret"
        secret.write_text(PASSWORD + "\n")
        shutil.chown(secret, self.account)
        self.run(
            self.tool("initdb"), "-D", data, "-U", "mailmux", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync",
            "--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={secret}",
        )
        with open(data / "postgresql.conf", "a") as settings:
            settings.write(
                f"listen_addresses = '127.0.0.1'\nport = {self.port}\nunix_socket_directories = '{self.folder}'\n"
                "fsync = off\nmax_connections = 30\nlog_connections = on\n"
            )

    def command(self):
        return [self.tool("postgres"), "-D", str(self.folder / "data")]

    def start(self):
        super().start()
        if "mail" not in self.execute("SELECT datname FROM pg_database", "postgres").split():
            self.execute("CREATE DATABASE mail", "postgres")

    def is_ready(self):
        try:
            self.execute("SELECT 1", "postgres")
            return True
        except AssertionError:
            return False

    def execute(self, sql, database="mail"):
        """What psql prints, bare."""
        return self.run(
            self.tool("psql"), "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", self.folder, "-p", str(self.port), "-U", "mailmux",
            database, input=sql.encode(),
        )


class MariaDb(Server):
    account = "mysql"
    end = signal.SIGTERM

    @property
    def url(self):
        return f"mysql://mailmux:{PASSWORD_IN_URL}@127.0.0.1:{self.port}/mail"

    def make(self):
        self.run("mariadb-install-db", "--no-defaults", f"--datadir={self.folder}/data", "--auth-root-authentication-method=normal")

    def command(self):
        return [
            "/usr/sbin/mariadbd", "--no-defaults", f"--datadir={self.folder}/data", f"--socket={self.folder}/socket",
            f"--pid-file={self.folder}/pid", "--bind-address=127.0.0.1", f"--port={self.port}", "--skip-networking=0",
            "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=16M", "--skip-log-bin",
        ]

    def start(self):
        super().start()
        self.execute(
            "CREATE DATABASE IF NOT EXISTS mail CHARACTER SET utf8mb4;"
            f"CREATE USER IF NOT EXISTS mailmux@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';"
            f"CREATE USER IF NOT EXISTS mailmux@localhost IDENTIFIED BY '{PASSWORD}';"
            "GRANT ALL ON mail.* TO mailmux@'127.0.0.1'; GRANT ALL ON mail.* TO mailmux@localhost;",
            "",
        )

    def is_ready(self):
        try:
            self.execute("SELECT 1", "")
            return True
        except AssertionError:
            return False

    def execute(self, sql, database="mail"):
        """What mariadb prints, bare."""
        return self.run(
            "mariadb", "--no-defaults", "-N", "-B", "--default-character-set=utf8mb4", f"--socket={self.folder}/socket",
            "-u", "root", *([database] if database else []), input=sql.encode(),
        )


if __name__ == "__main__":
    with Postgres() as postgres, MariaDb() as mariadb:
        urls = {"MAILMUX_TEST_POSTGRES_URL": postgres.url, "MAILMUX_TEST_MYSQL_URL": mariadb.url}
        sys.exit(subprocess.run(sys.argv[1:], env=os.environ | urls).returncode)
