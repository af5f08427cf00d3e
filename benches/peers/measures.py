"""What is measured: a load program, phase by phase, at a peer or at the backend itself, and what the peer uses meanwhile."""

import json
import socket
import subprocess
import tempfile
import time

from servers import cpu_seconds

GIB = 1024**3
# Who is slow at logins measures fewer of them.
LOGIN_SECONDS = 10
# Who would take minutes for more sessions, or cannot have them.
MOST_IDLE = {"perdition": 2000, "imapproxy": 2000}
# What load is told besides. The notes to the table say why.
FOR_LOAD = {"perdition": ["--p256"], "imapproxy": ["--concurrency", "4"]}
IN_CLEAR = ["direct", "imapproxy"]


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


class Round:
    """One round of one row: figures by their keys, of which table.py makes lines."""

    def __init__(self, options, row, peer, backend, certificate):
        self.options, self.row, self.peer, self.backend, self.certificate = options, row, peer, backend, certificate
        self.port = peer.port if peer else backend.ports["imap"]
        self.figures, self.failures = {}, {}

    def run(self, skipped):
        for line in self.options.lines:
            if line in skipped:
                continue
            try:
                getattr(self, line)()
            except Failed as failed:
                said = f" It says: {self.peer.words()}" if self.peer and self.peer.words() else ""
                self.failures[line] = f"{failed}{said}"
                if self.peer and self.peer.process.poll() is not None:
                    raise Failed("it has ended") from failed

    def load(self, *words):
        return Load(self.options.load, self.port, self.certificate, *FOR_LOAD.get(self.row, ()), *words)

    def measured(self, *words):
        """The load's result, and the peer's CPU for it."""
        return measured(self.load(*words), self.peer, self.backend)

    def add(self, key, **figures):
        for name, value in figures.items():
            if isinstance(value, dict):
                self.add(f"{key}.{name}", **value)
            elif value is not None:
                self.figures[f"{key}.{name}"] = value

    def idle(self):
        sizes = [size for size in self.options.sizes if size <= MOST_IDLE.get(self.row, size)]
        with self.load("idle", *sizes) as load:
            load.phase("ready")
            self.wait_for_connections(0)
            floor = self.peer.memory()
            self.add("idle", floor_kb=floor)
            for size in sizes:
                load.go()
                held = load.phase("held")
                if held["ended"] or self.backend.idle() != size:
                    raise Failed(f"of {size} sessions {held['ended']} have ended, and {self.backend.idle()} are in IDLE")
                self.add(f"idle{size}", kb=(self.peer.memory() - floor) / size)
                if size == self.options.watched_size:
                    self.add("idle", silent_cores=self.watch(load), told_cores=self.watch(load, tell=True))
            load.go()
            load.phase("gone")
            self.wait_for_connections(0)
            time.sleep(1)
            self.add("idle", left_kb=(self.peer.memory() - floor) / sizes[-1])
            load.go()
            result = load.line()
            if result["ended"]:
                raise Failed(f"{result['ended']} of {sizes[-1]} sessions have ended before they were to")
            told = self.options.watched_size if self.options.watched_size in sizes else 0
            if not 0.9 * told <= result["heard"] <= 1.2 * told:
                raise Failed(f"{result['heard']} lines were heard, and {told} were told")

    def watch(self, load, tell=False):
        """Cores that the peer uses while sessions idle, in silence or while each is told a line once."""
        seconds = self.options.watch_seconds
        if tell:
            self.backend.ask(f"XTELL {seconds}")
        else:
            time.sleep(1)
        before = Reading(self.peer, load, self.backend)
        time.sleep(seconds)
        cpu, _ = Reading(self.peer, load, self.backend).since(before)
        self.backend.ask("XTELL 0")
        return cpu / seconds

    def wait_for_connections(self, count):
        """imapproxy keeps some, which is what it is for. They are its memory then."""
        end = time.monotonic() + 5
        while time.monotonic() < end and self.backend.connections() > count:
            time.sleep(0.1)

    def logins(self):
        self.some_logins("logins")

    def resumed(self):
        self.some_logins("resumed", "--resume")

    def beside(self):
        self.some_logins("beside", "--beside", self.options.beside)

    def some_logins(self, key, *words):
        result, cpu, busy = self.measured("logins", "--count", self.options.logins, "--seconds", LOGIN_SECONDS, *words)
        count = result["count"]
        rate = count / result["seconds"]
        self.add(key, cpu_us=cpu / count * 1e6, rate=rate, latency=result["latency"], resumed=result["resumed"] / count, busy=busy)

    def down(self):
        self.some_bytes("down", "fetch")

    def up(self):
        self.some_bytes("up", "append")

    def some_bytes(self, key, command):
        for sessions in (1, 8):
            result, cpu, busy = self.measured(command, "--sessions", sessions, "--seconds", self.options.bytes_seconds)
            gib = result["bytes"] / GIB
            self.add(f"{key}{sessions}", cpu_s=cpu / gib, rate=gib / result["seconds"], busy=busy)

    def noop(self):
        for sessions in (1, 8):
            result, cpu, busy = self.measured("noop", "--sessions", sessions, "--seconds", self.options.noop_seconds)
            count = result["count"]
            rate = count / result["seconds"]
            self.add(f"noop{sessions}", cpu_us=cpu / count * 1e6, rate=rate, latency=result["latency"], busy=busy)
