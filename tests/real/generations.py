"""A mailmux that is replaced by others of its kind, what it says to the service manager, and its counters over time."""

import array
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import threading

from world import MAILMUX, WAIT, Mailmux, until


def fields(pid):
    """Those of /proc/PID/stat behind the name, from the state on; None when there is no such process."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    except (OSError, IndexError):
        return None


def is_alive(pid):
    """Whether it runs; one that nobody has asked for its end does not."""
    there = fields(pid)
    return there is not None and there[0] not in "ZX"


def cpu_seconds(pid):
    there = fields(pid)
    return (int(there[11]) + int(there[12])) / os.sysconf("SC_CLK_TCK")


class Notices:
    """The service manager's socket: who said what."""

    def __init__(self, path):
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind(str(path))
        # (process, {key: value}), in the order of their arrival.
        self.heard = []
        self.thread = threading.Thread(target=self.listen, daemon=True)
        self.thread.start()

    def listen(self):
        while True:
            data, about, _, _ = self.socket.recvmsg(4096, 1024)
            if data == b"over":
                return
            pid = 0
            for _, kind, value in about:
                if kind == socket.SCM_RIGHTS:
                    descriptors = array.array("i")
                    descriptors.frombytes(value)
                    for descriptor in descriptors:
                        os.close(descriptor)
                if kind == socket.SCM_CREDENTIALS:
                    pid = struct.unpack("iII", value)[0]
            lines = data.decode().splitlines()
            self.heard.append((pid, dict(line.split("=", 1) for line in lines)))

    def close(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"over", str(self.path))
        self.thread.join()
        self.socket.close()

    def have(self, pid, key, value, since=0):
        return any(who == pid and said.get(key) == value for who, said in self.heard[since:])

    def named_main(self):
        """The process that was last said to be the main one."""
        return next((int(said["MAINPID"]) for _, said in reversed(self.heard) if "MAINPID" in said), None)


class Generations(Mailmux):
    """One after the other, each with the same arguments, from a copy of the binary that can be replaced."""

    def __init__(self, folder, config):
        self.binary = folder / "bin/mailmux"
        self.binary.parent.mkdir()
        shutil.copy(MAILMUX, self.binary)
        self.notices = Notices(folder / "notify")
        try:
            admin = 'socket = "admin.sock"\n'
            super().__init__(folder, config, [self.binary], admin, env=os.environ | {"NOTIFY_SOCKET": str(self.notices.path)})
        except BaseException:
            self.notices.close()
            raise

    def main(self):
        return self.notices.named_main() or self.process.pid

    def pids(self):
        """Everybody who was started with our configuration, and runs."""
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if os.fsencode(self.config_path) in (path / "cmdline").read_bytes().split(b"\0") and is_alive(path.name):
                    found.append(int(path.name))
            except OSError:
                pass
        return found

    def children(self, pid):
        """Of this process, whatever they are."""
        everybody = [path.name for path in pathlib.Path("/proc").glob("[0-9]*")]
        return [int(child) for child in everybody if is_alive(child) and (fields(child) or [0, 0])[1] == str(pid)]

    def replace_binary(self, text=None):
        """By a script, or by what it was."""
        fresh = self.binary.with_suffix(".new")
        if text is None:
            shutil.copy(MAILMUX, fresh)
        else:
            fresh.write_text(text)
            fresh.chmod(0o755)
        fresh.replace(self.binary)

    def stop(self):
        """A second signal ends what the first one has left."""

        def ended():
            for pid in self.pids():
                signal_to(pid, signal.SIGTERM)
            return not self.pids()

        try:
            until(ended, "all of them to end")
        finally:
            for pid in self.pids():
                signal_to(pid, signal.SIGKILL)
            self.process.wait(WAIT)
            self.notices.close()


def signal_to(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


class Scrapes:
    """The metrics, read again and again: counters never go down, but for those of a backend that comes and goes."""

    def __init__(self, case, mailmux, fleeting=None):
        self.fleeting = f'backend="{fleeting}"'
        self.mailmux = mailmux
        self.count = 0
        self.fell = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.read)
        self.thread.start()
        case.addCleanup(self.stop)

    def read(self):
        highest = {}
        while not self.over.wait(0.2):
            for name, value in self.mailmux.metrics().items():
                if re.search(r"_(total|count|sum|bucket)(\{|$)", name) and self.fleeting not in name:
                    if value < highest.get(name, 0):
                        self.fell.append(f"{name} from {highest[name]} to {value}")
                    highest[name] = value
            self.count += 1

    def stop(self):
        self.over.set()
        self.thread.join()
