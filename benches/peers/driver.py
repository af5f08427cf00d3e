"""What drives the load program and the backend: how they are built, started and asked, and who was busy meanwhile.

Not here: what is measured, and of whom.
"""

import argparse
import json
import os
import pathlib
import platform
import resource
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[1:1] = [str(ROOT / "benches/webmail"), str(ROOT / "tests/real")]
# The tests' world wants to know, but does not use it here.
os.environ.setdefault("MAILMUX", "")

from servers import cpu_seconds


def some_of(known):
    def parse(text):
        for word in text.split(","):
            if word not in known:
                raise argparse.ArgumentTypeError(f"there is no {word!r}; there are {', '.join(known)}")
        return [word for word in known if word in text.split(",")]

    return parse


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def build(*what):
    if subprocess.run(["cargo", "build", "--release", "--locked", *what], cwd=ROOT).returncode:
        raise SystemExit("this does not build: cargo build --release " + " ".join(what))


def release():
    """The folder that all is built into."""
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"


def open_many_files():
    """Whoever is started from here may open as many files as there may be."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def machine():
    with open("/proc/cpuinfo") as text:
        models = [line.split(": ", 1)[1].strip() for line in text if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {models[0] if models else platform.machine()}, Linux {platform.release()}"


class Failed(Exception):
    """A measurement did not come to its end, or saw what must not be."""


class Backend:
    def __init__(self, binary):
        self.process = subprocess.Popen([binary], stdout=subprocess.PIPE, text=True, start_new_session=True)
        self.ports = json.loads(self.process.stdout.readline())

    def ask(self, command):
        """What it says to one of its own commands before the OK."""
        with socket.create_connection(("127.0.0.1", self.ports["imap"]), 10) as connection:
            lines = connection.makefile("rw", newline="\r\n")
            lines.readline()
            lines.write(f"a {command}\r\n")
            lines.flush()
            said = []
            while not (line := lines.readline()).startswith("a OK"):
                if not line or line.startswith("a "):
                    raise Failed(f"the backend says {line!r}")
                said.append(line.strip())
            return said

    def connections(self):
        return int(self.ask("XCOUNT")[0].split()[2])

    def idle(self):
        return int(self.ask("XCOUNT")[0].split()[3])

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class Load:
    """A load program at work, phase by phase."""

    def __init__(self, binary, port, certificate, *words):
        tls = ["--certificate", certificate] if certificate else []
        self.errors = tempfile.TemporaryFile("w+")
        command = [str(word) for word in (binary, "--port", port, *tls, *words)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self.errors, text=True, start_new_session=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.errors.close()

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            raise Failed(self.errors.read().strip() or f"load has ended with {self.process.returncode}")
        return json.loads(line)

    def phase(self, name):
        """Waits until it is there."""
        line = self.line()
        if line.get("phase") != name:
            raise Failed(f"load is at {line}, not at {name}")
        return line

    def go(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()


class Reading:
    """Who has used how much CPU until now."""

    def __init__(self, peer, load, backend):
        self.time = time.monotonic()
        self.peer = peer.cpu() if peer else 0
        self.load, self.backend = (cpu_seconds(one.process.pid) for one in (load, backend))

    def since(self, before):
        """The peer's, and the shares of a core that load and backend were busy for: near 1 they, and not the peer, are measured."""
        passed = self.time - before.time
        busy = {"load": (self.load - before.load) / passed, "backend": (self.backend - before.backend) / passed}
        return self.peer - before.peer, busy


def measured(load, peer, backend):
    """What a load says at its end, and what the peer and the others have used for it."""
    with load:
        load.phase("ready")
        before = Reading(peer, load, backend)
        load.go()
        load.phase("done")
        cpu, busy = Reading(peer, load, backend).since(before)
        load.go()
        return load.line(), cpu, busy
