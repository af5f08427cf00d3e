"""What is measured stands between a backend and load programs, with certificates and map files to read. Not here: what is measured.
"""

import contextlib
import pathlib
import subprocess
import time

from measures import Backend, Failed, Load, Reading, measured
from proxy import Mailmux
from world import until

PAIRS = pathlib.Path(__file__).with_name("pairs.py")
# The name that a certificate is for, by its number.
HOST = "mail.customer{:05}.example.org"


class Stand:
    """A mailmux between its backend and load programs."""

    def __init__(self, options, backend, mailmux):
        self.options, self.backend, self.mailmux = options, backend, mailmux

    def load(self, *words):
        return Load(self.options.load, self.mailmux.port, self.mailmux.folder / "mail.pem", *words)

    def measured(self, *words):
        return measured(self.load(*words), self.mailmux, self.backend)

    def logins(self, count):
        """So many, 16 at a time."""
        result, cpu, busy = self.measured("logins", "--count", count)
        if result["count"] != count:
            raise Failed(f"of {count} logins {result['count']} were made")
        return {"cpu_us": cpu / count * 1e6, "rate": count / result["seconds"], "latency": result["latency"], "busy": busy}

    def pace(self, seconds):
        """Logins at a steady pace."""
        per_second = self.options.per_second
        result, cpu, busy = self.measured("pace", "--per-second", per_second, "--seconds", seconds)
        if result["count"] != per_second * seconds:
            raise Failed(f"of {per_second * seconds} logins {result['count']} were made")
        return {"cores": cpu / result["seconds"], "latency": result["latency"], "busy": busy}

    def cores(self, load, seconds):
        """What it uses while nothing is said."""
        time.sleep(1)
        before = Reading(self.mailmux, load, self.backend)
        time.sleep(seconds)
        now = Reading(self.mailmux, load, self.backend)
        return now.since(before)[0] / (now.time - before.time)

    def hold(self, idle, size):
        """The load goes on to this number of sessions in IDLE."""
        idle.go()
        held = idle.phase("held")
        self.all_there(size, held["ended"])

    def all_there(self, size, ended=0):
        there = self.backend.idle()
        if ended or there != size:
            raise Failed(f"of {size} sessions {ended} have ended, and {there} are in IDLE")

    def settle(self):
        """Waits until nobody is logged in."""
        until(lambda: self.backend.connections() == 0, "all links to be closed")

    def memory(self):
        return self.mailmux.memory()


class Bench:
    """Starts what is measured, each time anew."""

    def __init__(self, options, interrupts, folder):
        self.options, self.interrupts, self.folder = options, interrupts, folder
        self.started = 0

    @contextlib.contextmanager
    def stand(self, **settings):
        self.started += 1
        with contextlib.ExitStack() as stack:
            with self.interrupts.held():
                backend = Backend(self.options.backend)
                stack.callback(backend.stop)
            with self.interrupts.held():
                folder = self.folder / f"{self.started}"
                mailmux = Mailmux(self.options.mailmux, folder, backend.ports, self.folder, **settings)
                stack.callback(self.stop, mailmux)
            mailmux.wait()
            try:
                yield Stand(self.options, backend, mailmux)
            except Failed as failed:
                raise Failed(f"{failed} mailmux says: {mailmux.words() or 'nothing'}") from failed
            except AssertionError as waited:
                raise Failed(str(waited)) from waited

    def stop(self, mailmux):
        with self.interrupts.held():
            mailmux.stop()

    def pairs(self, name, count):
        """A folder of certificates, made by two processes, unless it is there already."""
        folder = self.folder / name
        if folder.exists():
            return folder
        folder.mkdir()
        half = count // 2
        makers = []
        for first, part in ((0, half), (half, count - half)):
            makers.append(subprocess.Popen(["/usr/bin/python3", "-B", PAIRS, folder, str(first), str(part), HOST]))
        if any([maker.wait() for maker in makers]):
            raise Failed("certificates could not be made")
        return folder

    def map(self, lines, everybody=False):
        """A map file. With `everybody` its last line is for whoever is not in it."""
        path = self.folder / f"users-{lines}"
        with open(path, "w") as text:
            text.writelines(f"user{number}\tmail\n" for number in range(lines - everybody))
            if everybody:
                text.write("*\tmail\n")
        return path
