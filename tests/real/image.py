"""The container image, built as deploy/container/build does and run by podman: as nobody, with a root that is read-only."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

from world import MAILMUX, ROOT, Case, free_port, until

BUILD = ROOT / "deploy/container/build"
IMAGE = "localhost/mailmux-test"
BOB = "bob@example.org"
# Minutes on a busy machine, with storage that copies.
LONG = 120
NOBODY = 65534


class Image(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # A storage of its own, that goes away with the folder, and whose driver works everywhere.
        storage = cls.folder / "storage.conf"
        storage.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{cls.folder}/images"\nrunroot = "{cls.folder}/run"\n')
        cls.environment = os.environ | {"CONTAINERS_STORAGE_CONF": str(storage), "PATH": os.environ["PATH"] + ":/usr/sbin"}
        said = cls.run_ok(BUILD, "--binary", MAILMUX, "--tag", IMAGE)
        sys.stderr.write(f"the image: {said.splitlines()[-1]}\n")
        cls.configure()

    @classmethod
    def configure(cls):
        """All that a container gets from here."""
        home = cls.folder / "etc"
        home.mkdir()
        for name in ("mail.pem", "mail.key", "users.map"):
            shutil.copy(cls.folder / name, home)
            os.chown(home / name, NOBODY, NOBODY)
        cls.imaps, cls.admin = free_port(), free_port()
        (home / "mailmux.toml").write_text(f"""
[server]
drain_timeout = "1s"
[[listener]]
name = "imaps"
address = "127.0.0.1:{cls.imaps}"
tls = "implicit"
[[tls.certificate]]
chain = "mail.pem"
key = "mail.key"
{cls.backend_sections()}
[[lookup]]
name = "users"
type = "file"
path = "users.map"
[[route]]
lookup = "users"
[admin]
address = "127.0.0.1:{cls.admin}"
""")

    def setUp(self):
        """Each test has its own container."""
        path = self.folder / self.id()
        path.mkdir()
        # Debian's other runtime does not get along with every machine's control groups. Limits are those of whoever runs this.
        words = ["podman", "--runtime", shutil.which("runc", path=self.environment["PATH"]), "run", "--rm"]
        # Without it podman puts memory on /run that can be written.
        words += ["--read-only", "--read-only-tmpfs=false"]
        words += ["--cap-drop", "all", "--security-opt", "no-new-privileges", "--network", "host", "--cidfile", path / "id"]
        words += ["--ulimit", "nofile=4096:4096", "--ulimit", "nproc=1024:1024"]
        self.log_path = path / "log"
        with open(self.log_path, "wb") as log:
            words += ["--volume", f"{self.folder}/etc:/etc/mailmux:ro", IMAGE]
            self.process = subprocess.Popen(words, stdout=log, stderr=log, env=self.environment)
        self.addCleanup(self.end)
        until(self.has_started, "the container to listen")
        self.container = (path / "id").read_text()

    def end(self):
        if self.process.poll() is None:
            self.podman("kill", self.container)
            self.process.wait(LONG)

    def has_started(self):
        if self.process.poll() is not None:
            raise AssertionError("it has ended:\n" + self.log_path.read_text())
        return "admin port listening" in self.log_path.read_text()

    @classmethod
    def run_ok(cls, *words):
        done = subprocess.run(words, capture_output=True, env=cls.environment, timeout=LONG)
        assert done.returncode == 0, f"{words}: {done.stdout.decode()}{done.stderr.decode()}"
        return done.stdout.decode()

    @classmethod
    def podman(cls, *words):
        return cls.run_ok("podman", *words)

    def pid(self):
        return int(self.podman("inspect", "--format", "{{.State.Pid}}", self.container))

    def proc(self, file):
        return pathlib.Path(f"/proc/{self.pid()}/{file}").read_text().splitlines()

    def test_logins_through_it_and_a_stop(self):
        answer = self.curl(BOB, f"imaps://localhost:{self.imaps}/INBOX", "-X", "NOOP")
        self.assertEqual(answer, "")
        until(lambda: f'user="{BOB}"' in self.log_path.read_text(), "the session in the container's log")
        self.podman("stop", "--time", "30", self.container)
        self.assertEqual(self.process.wait(LONG), 0, "it has ended by itself")

    def test_it_is_nobody_and_has_nothing_to_be_more_with(self):
        status = dict(line.split(":\t", 1) for line in self.proc("status") if ":\t" in line)
        self.assertEqual(status["Uid"].split(), [str(NOBODY)] * 4)
        self.assertEqual(status["Gid"].split(), [str(NOBODY)] * 4)
        self.assertEqual({int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}, {0})
        self.assertEqual(status["NoNewPrivs"], "1")
        self.assertEqual(status["Seccomp"], "2", "filtered")

    def test_nothing_can_be_written(self):
        """Its mounts as it sees them; and whoever tries in its place, as root even, is refused."""
        mounts = self.proc("mountinfo")
        options = {line.split()[4]: line.split()[5].split(",") for line in mounts}
        for point in ("/", "/etc/mailmux"):
            self.assertIn("ro", options[point], point)
        root = f"/proc/{self.pid()}/root"
        for path in ("new", "usr/bin/new", "etc/passwd", "run/mailmux/new", "etc/mailmux/mailmux.toml"):
            with self.subTest(path=path), self.assertRaisesRegex(OSError, "Read-only file system"):
                open(f"{root}/{path}", "ab").close()

    def test_what_is_in_it(self):
        """No shell, nobody's password, nothing that is not listed here."""
        tree = self.folder / "rootfs"
        self.run_ok(BUILD, "--binary", MAILMUX, "--rootfs-only", tree)
        files = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
        libraries = {file for file in files if re.search(r"(^|/)lib[^/]*/.*\.so(\.|$)", file)}
        self.assertEqual(
            files - libraries,
            {"usr/bin/mailmux", "etc/passwd", "etc/group", "etc/nsswitch.conf", "etc/ssl/certs/ca-certificates.crt"},
        )
        self.assertLess(len(libraries), 10)
        self.assertEqual([file for file in files if (tree / file).stat().st_mode & 0o7022], [], "none writable or setuid")
        settings = json.loads(self.podman("image", "inspect", IMAGE))[0]["Config"]
        self.assertEqual(settings["User"], f"{NOBODY}:{NOBODY}")
        command = "/usr/bin/mailmux serve --config /etc/mailmux/mailmux.toml"
        self.assertEqual(settings["Entrypoint"] + settings["Cmd"], command.split())
