"""Days that nobody wants: each is brought about for real, and mailmux serves on. Who was in stays in, what is wrong stands in the
log, and when it is over all is as before.

    tests/hard-days            all of them, minutes
    tests/real/run hard_days   those that take seconds (HARD_DAYS=all is the difference)
"""

import asyncio
import collections
import itertools
import multiprocessing
import os
import pathlib
import re
import resource
import signal
import socket
import subprocess
import threading
import time
import unittest

from crowd import Bye, Cut, Loop, Refused, Wire, refuses, storm
from generations import cpu_seconds, fields, signal_to
from world import MAILMUX, WAIT, Case, Mailmux, free_port, until

LONG = unittest.skipUnless(os.environ.get("HARD_DAYS") == "all", "takes long: tests/hard-days")
PASSWORD = "shared-secret"
PEOPLE = [f"user{number:02}@example.org" for number in range(12)]
ANN, BOB = "ann@blue.example.org", "bob@green.example.org"


class HardDay(Case):
    """Two Dovecots with the same users, and for each test a mailmux of its own."""

    @classmethod
    def people(cls, _):
        return dict.fromkeys([*PEOPLE, ANN, BOB], PASSWORD)

    @classmethod
    def start(cls):
        """Each test starts its own."""

    def setUp(self):
        self.clients = Loop(self)

    def settings(self, more="", listener="", backends=None, health='{ interval = "1s" }'):
        backends = backends or {name: f"127.0.0.1:{backend.port}" for name, backend in self.backends.items()}
        sections = "".join(
            f'[[backend]]\nname = "{name}"\naddress = "{address}"\ntls = "none"\nhealth = {health}\n' for name, address in backends.items()
        )
        return f"""
{more}
[[listener]]
name = "imaps"
address = "127.0.0.1:{self.imaps}"
tls = "implicit"
{listener}
[[tls.certificate]]
chain = "mail.pem"
key = "mail.key"
{sections}
[[route]]
domain = "blue.example.org"
backend = "blue"
[[route]]
domain = "green.example.org"
backend = "green"
"""

    def begin(self, config, command=(MAILMUX,), **how):
        self.mailmux = Mailmux(self.folder, config, command, **how)
        self.addCleanup(self.mailmux.stop)

    def open(self):
        return self.clients.run(Wire.open(self.imaps, self.tls))

    def log_in(self, user=BOB):
        wire = self.open()
        self.clients.run(wire.log_in(user, PASSWORD))
        self.clients.run(wire.command(b"SELECT INBOX"))
        return wire

    def ask(self, wire, words=b"NOOP"):
        return self.clients.run(wire.command(words))

    def up(self, backend):
        return self.mailmux.metric(f'mailmux_backend_up{{backend="{backend}"}}')

    def logged(self, pattern, since=0):
        return until(lambda: re.search(pattern, self.mailmux.log()[since:]), f"the log to say {pattern!r}; it says:\n{self.mailmux.log()[since:]}")


class OnThisMachine(HardDay):
    def test_out_of_file_descriptors(self):
        self.begin(self.settings(), ["prlimit", "--nofile=64:64", MAILMUX])
        here, pid = self.log_in(), self.mailmux.process.pid
        there, waiting = [], []
        while not waiting:
            come = self.clients.begin(Wire.open(self.imaps, self.tls))
            until(lambda: come.done() or "Too many open files" in self.mailmux.log(), "a greeting or a word about descriptors")
            there.append(come.result()) if come.done() else waiting.append(come)
        self.logged(r"WARN accept failed.*Too many open files")
        waiting += [self.clients.begin(Wire.open(self.imaps, self.tls)) for _ in range(5)]
        greeted = len(there)

        async def live():
            """Those who are in notice nothing; a login gets an answer, and seldom a descriptor that a probe has given back."""
            answers = collections.Counter()
            # Longer than it takes to find a backend down.
            end = time.monotonic() + 6
            while time.monotonic() < end:
                login = asyncio.ensure_future(there[-1].log_in(ANN, PASSWORD))
                while not login.done():
                    await here.command(b"NOOP")
                    await asyncio.sleep(0.05)
                    answers["NOOP"] += 1
                try:
                    await login
                    answers["let in"] += 1
                    there.pop().close()
                except Refused as error:
                    if not re.search(r"UNAVAILABLE|LIMIT", str(error)):
                        raise
                    answers["refused"] += 1
            return answers

        before = cpu_seconds(pid)
        answers = self.clients.run(live(), 60)
        cpu = cpu_seconds(pid) - before
        self.assertTrue([come for come in waiting if not come.done()], "nobody who waits has been let in or sent away")
        for wire in there[-16:]:
            wire.close()
        for come in waiting:
            come.result(WAIT)
        self.ask(here)
        self.ask(self.log_in(ANN))
        print(
            f"\n    {greeted} sessions with 64 descriptors; full for 6 s: {cpu:.2f} s of CPU, {dict(answers)};"
            f" {len(waiting)} waited, and were let in when others had gone"
        )
        self.assertLess(cpu, 2, "it does not spin")
        self.assertGreater(answers["refused"], 0)
        self.assertNotRegex(self.mailmux.log(), "backend is down", "none of this is a backend's fault")
        self.assertEqual((self.up("blue"), self.up("green")), (1, 1))

    def test_a_port_that_is_taken(self):
        with socket.create_server(("127.0.0.1", free_port())) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            extra = f'[[listener]]\nname = "taken"\naddress = "{address}"\ntls = "implicit"\n'
            path = self.folder / "taken.toml"
            path.write_text(self.settings(listener=extra))
            done = subprocess.run([MAILMUX, "serve", "--config", path], capture_output=True, timeout=WAIT)
            said = done.stderr.decode()
            self.assertNotEqual(done.returncode, 0, said)
            self.assertRegex(said, rf"cannot listen on {address}: Address already in use")
            self.assertTrue(refuses(self.imaps), "and nothing else was served")

            self.begin(self.settings())
            here = self.log_in()
            failed = 'mailmux_config_reloads_total{outcome="failed"}'
            self.mailmux.write(self.settings(listener=extra).replace("green.example.org", "elsewhere.example.org"))
            self.mailmux.process.send_signal(signal.SIGHUP)
            until(lambda: self.mailmux.metric(failed) == 1, "the reload to be refused; the log:\n" + self.mailmux.log())
            self.logged(rf"cannot listen on {address}: Address already in use")
            self.ask(here)
            self.ask(self.log_in(), b"NOOP")
        ok = 'mailmux_config_reloads_total{outcome="ok"}'
        self.mailmux.process.send_signal(signal.SIGHUP)
        until(lambda: self.mailmux.metric(ok) == 1, "the same file to be taken when the port is free")
        self.ask(here)
        print(f"\n    at the start: exit code {done.returncode}, {said.strip().splitlines()[-1]}")

    @unittest.skipUnless(os.geteuid() == 0, "only root mounts")
    def test_the_disk_is_full_under_the_log(self):
        disk = self.folder / "disk"
        disk.mkdir()
        own = 'mount -t tmpfs -o size=64k tmpfs "$1" || exit 1; log=$1/log; shift; exec "$@" 2>"$log"'
        self.begin(self.settings() + '[limits]\nlogins_per_user = "off"\n', ["unshare", "-m", "sh", "-c", own, "sh", disk, MAILMUX])
        # A mount of its own, which is seen from outside by way of the process.
        disk = pathlib.Path(f"/proc/{self.mailmux.process.pid}/root") / disk.relative_to("/")
        self.mailmux.log_path = disk / "log"
        here = self.log_in()
        with open(disk / "filler", "wb", buffering=0) as filler:
            with self.assertRaises(OSError):
                while True:
                    filler.write(bytes(4096))
        size, served = self.mailmux.log_path.stat().st_size, 0
        # What still fits into the log's last page is little.
        while served < 60:
            wire = self.log_in(ANN)
            self.clients.run(wire.command(b"LOGOUT", bye=True))
            served += 1
        self.ask(here)
        full = self.mailmux.log_path.stat().st_size
        self.assertLess(full - size, 5000, "the disk was full")
        dropped = until(lambda: self.mailmux.metric("mailmux_log_lines_dropped_total"), "lines that could not be written to be counted")
        (disk / "filler").unlink()
        wire = self.log_in(ANN)
        self.clients.run(wire.command(b"LOGOUT", bye=True))
        self.logged(r"session closed", full)
        self.ask(here)
        day = r"\d{4}-\d\d-\d\dT"
        broken = [line for line in self.mailmux.log().splitlines() if not re.fullmatch(rf"{day}\S+ +[A-Z]+ (?!.*{day}).*", line)]
        self.assertEqual(broken, [], "a line that could be written in part is a line all the same")
        self.logged(r"WARN .*lines", size)
        print(f"\n    {served} sessions while the disk was full, {dropped:.0f} lines lost, and counted; the log goes on with:")
        print("    " + self.mailmux.log()[full:].strip().splitlines()[0][:200])

    def test_the_clock_jumps(self):
        library = next(iter(sorted(pathlib.Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
        self.assertIsNotNone(library, "Debian's faketime is missing")
        clock = self.folder / "clock"
        clock.write_text("+0\n")
        self.begin(
            self.settings() + '[limits]\nlogins_per_user = { rate = "1/h", burst = 3 }\n',
            env=os.environ
            | {
                "LD_PRELOAD": str(library),
                "FAKETIME_TIMESTAMP_FILE": str(clock),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "DONT_FAKE_MONOTONIC": "1",
            },
        )
        here, waits, early = self.log_in(BOB), self.log_in(BOB), self.open()
        tag = self.clients.run(waits.idle())
        with self.assertRaisesRegex(Refused, "LIMIT"):
            for _ in range(5):
                self.log_in(BOB)
        days = []
        for jump in ("+1d", "-1d", "+0"):
            clock.write_text(jump + "\n")
            log = len(self.mailmux.log())
            wire = self.log_in(ANN)
            self.clients.run(wire.command(b"LOGOUT", bye=True))
            days.append(self.logged(r"(?m)^(\d{4}-\d\d-\d\d)T\S+ .*session closed", log)[1])
            self.ask(here)
            with self.assertRaisesRegex(Refused, "LIMIT"):
                self.log_in(BOB)
        self.clients.run(waits.wake(tag))
        self.ask(early)
        self.assertEqual(sorted(set(days)), [days[1], days[2], days[0]], "the clock was moved")
        self.assertEqual((self.up("blue"), self.up("green")), (1, 1))
        self.assertEqual(self.mailmux.log().count("session closed"), 3, "those that logged out")
        print(f"\n    the log's days: {', '.join(days)}; nobody was cut, the limit held")


class NameServer:
    """Knows one address for every name, for a second; until it is gone, or silent."""

    def __init__(self, case):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", free_port()))
        self.port = self.socket.getsockname()[1]
        self.answered = 0
        self.is_silent = False
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()
        case.addCleanup(self.stop)

    def serve(self):
        while True:
            question, caller = self.socket.recvfrom(512)
            if question == b"over":
                return
            if self.is_silent:
                continue
            end = question.index(b"\0", 12) + 5
            is_a = question[end - 4 : end - 2] == b"\0\1"
            # An answer, recursion available: one question, and where an address is asked for, one of TTL 1.
            reply = question[:2] + bytes([0x81, 0x80, 0, 1, 0, is_a, 0, 0, 0, 0]) + question[12:end]
            if is_a:
                reply += bytes([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 1])
            self.socket.sendto(reply, caller)
            self.answered += 1

    def hush(self):
        self.is_silent = True

    def stop(self):
        """Questions are answered by the kernel now: nobody is there."""
        if self.thread.is_alive():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
                end.sendto(b"over", ("127.0.0.1", self.port))
            self.thread.join()
            self.socket.close()


class OnTheNetwork(HardDay):
    def test_dns_is_gone(self):
        self.without_dns("gone", NameServer.stop)

    def test_dns_says_nothing(self):
        self.without_dns("silent", NameServer.hush)

    def without_dns(self, what, happens):
        names = NameServer(self)
        backends = {name: f"{name}.mail.test:{backend.port}" for name, backend in self.backends.items()}
        self.begin(
            self.settings(f'[server]\nname_servers = ["127.0.0.1:{names.port}"]', backends=backends)
            + '[limits]\nlogins_per_user = "off"\n'
        )
        here = self.log_in()
        self.assertGreater(names.answered, 0)
        happens(names)
        began, took = time.monotonic(), []
        # Longer than the TTL, and than a backend that cannot be reached is taken for well.
        while time.monotonic() - began < 6:
            started = time.monotonic()
            wire = self.log_in()
            self.clients.run(wire.command(b"LOGOUT", bye=True))
            took.append(time.monotonic() - started)
        self.ask(here)
        took.sort()
        print(f"\n    the name server is {what}: {len(took)} logins, all let in, p50 {took[len(took) // 2]:.2f} s, max {took[-1]:.2f} s")
        self.assertEqual((self.up("blue"), self.up("green")), (1, 1))
        self.assertNotIn("backend is down", self.mailmux.log())
        self.logged(r"WARN .*(name server|DNS)")

    def test_a_backend_that_accepts_and_says_nothing(self):
        """It is stopped as by a debugger: the kernel still accepts for it."""
        self.begin(
            self.settings(health='{ interval = "1s", timeout = "1s", rise = 1, fall = 2 }')
            + """
[[group]]
name = "eu"
members = ["blue", "green"]
choose = "hash"
[[route]]
group = "eu"
[limits]
logins_per_user = "off"
"""
        )
        hers = {user for user in PEOPLE if "=> backend green" in self.mailmux.route(user)[0]}
        self.assertTrue(0 < len(hers) < len(PEOPLE), hers)
        here = self.log_in(ANN)
        visits, over = [], threading.Event()

        async def live(user):
            while not over.is_set():
                began = time.monotonic()
                try:
                    wire = await Wire.open(self.imaps, self.tls)
                    await wire.log_in(user, PASSWORD)
                    await wire.command(b"LOGOUT", bye=True)
                    wire.close()
                    visits.append((user, began, time.monotonic() - began, ""))
                except (OSError, Bye, Cut, Refused) as error:
                    visits.append((user, began, time.monotonic() - began, repr(error)))
                await asyncio.sleep(0.2)

        async def everybody():
            await asyncio.gather(*map(live, PEOPLE))

        def in_since(moment, first=0):
            return {user for user, began, _, what in visits[first:] if not what and began > moment}

        load = self.clients.begin(everybody())
        self.addCleanup(over.set)
        until(lambda: {user for user, _, _, _ in visits} == set(PEOPLE), "everybody to have been in")
        log = len(self.mailmux.log())
        processes = tree(int((self.backends["green"].folder / "run/master.pid").read_text()))
        stopped = time.monotonic()
        for number in (signal.SIGSTOP, signal.SIGCONT):
            self.addCleanup(signal_all, processes, signal.SIGCONT)
            signal_all(processes, number)
            if number == signal.SIGSTOP:
                why = self.logged(r'WARN backend is down backend="green" why="?([^"\n]+)', log)[1]
                noticed = time.monotonic()
                since = len(visits)
                until(lambda: in_since(noticed, since) >= hers, "everybody to be in again")
                moved = time.monotonic()
                self.ask(here)
        until(lambda: self.up("green") == 1, "it to be up again")
        back = time.monotonic()
        until(lambda: in_since(back) == set(PEOPLE), "everybody to be in")
        over.set()
        load.result(WAIT)
        self.ask(here)
        failed = [visit for visit in visits if visit[3]]
        others = max(took for user, _, took, _ in visits if user not in hers)
        worst = max(took for user, _, took, _ in visits if user in hers)
        print(
            f"\n    {len(hers)} of {len(PEOPLE)} lived there; down after {noticed - stopped:.1f} s ({why}),"
            f" all in elsewhere after {moved - stopped:.1f} s;\n    {len(visits)} logins, {len(failed)} failed;"
            f" the slowest of those who lived there {worst:.1f} s, of others {others:.1f} s"
        )
        self.assertLess(noticed - stopped, 6)
        self.assertEqual([visit for visit in failed if visit[0] not in hers], [], "others notice nothing")
        self.assertLess(others, 2)
        self.assertLessEqual(len(failed), len(hers), "each of hers may hear it once")
        self.assertEqual([visit for visit in failed if visit[1] > noticed], [], "and not when it is known")


def tree(pid):
    """A process and its children, all the way down."""
    children = [int(path.name) for path in pathlib.Path("/proc").glob("[0-9]*") if (fields(path.name) or [0, 0])[1] == str(pid)]
    return [pid, *itertools.chain(*map(tree, children))]


def signal_all(processes, number):
    for pid in processes:
        signal_to(pid, number)


class Container:
    """A memory control group of this size, in either version."""

    def __init__(self, case, size):
        self.path = None
        for root, limit, events in (
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.oom_control"),
            ("/sys/fs/cgroup", "memory.max", "memory.events"),
        ):
            path = pathlib.Path(root) / f"mailmux-test-{os.getpid()}"
            try:
                path.mkdir()
            except OSError:
                continue
            case.addCleanup(lambda path=path: until(lambda: gone(path), f"{path} to be empty"))
            if (path / limit).exists():
                (path / limit).write_text(str(size))
                self.path, self.events = path, path / events
                return
        case.skipTest("no memory control group can be made here")

    def command(self):
        return ["sh", "-c", 'echo $$ >"$1/cgroup.procs" || exit 1; shift; exec "$@"', "sh", self.path, MAILMUX]

    def kills(self):
        return int(re.search(r"^oom_kill (\d+)", self.events.read_text(), re.MULTILINE)[1])

    def most(self):
        for name in ("memory.max_usage_in_bytes", "memory.peak"):
            if (self.path / name).exists():
                return int((self.path / name).read_text()) >> 20
        return 0


def gone(path):
    try:
        path.rmdir()
        return True
    except FileNotFoundError:
        return True
    except OSError:
        return False


@LONG
class InGreatNumbers(HardDay):
    LIMITED = 'mailmux_limited_total{limit="memory"}'

    def begin_in(self, container):
        self.begin(
            self.settings("[server]\nworkers = 2")
            + '[limits]\nsessions_per_network = 0\n[timeouts]\nlogin = "10m"\ntls_handshake = "1m"\n',
            container.command(),
        )
        self.there, self.away = [], []
        return self.log_in()

    async def come(self, count):
        """Greeted and staying, or turned away."""
        clients = [Wire.open(self.imaps, self.tls) for _ in range(count)]
        for done in await asyncio.gather(*clients, return_exceptions=True):
            (self.away if isinstance(done, BaseException) else self.there).append(done)

    def test_the_container_has_little_memory(self):
        container = Container(self, 64 << 20)
        here = self.begin_in(container)
        while not self.mailmux.metric(self.LIMITED):
            self.clients.run(self.come(50))
            self.assertLess(len(self.there), 10_000, "64 MiB are not enough for so many")
        self.clients.run(self.come(200))
        self.ask(here)
        held, away = len(self.there), len(self.away)
        for wire in self.there[:: held // 50]:
            self.ask(wire)
        self.assertEqual(container.kills(), 0)
        self.assertGreater(away, 100, "more are turned away")
        self.assertEqual(self.mailmux.metric(self.LIMITED), away)
        self.logged(r"(?i)WARN .*memory")
        for wire in self.there:
            wire.close()
        self.there.clear()

        def let_in():
            self.clients.run(self.come(1))
            return self.there

        until(let_in, "somebody to be let in again")
        self.ask(here)
        self.ask(self.log_in(ANN))
        print(
            f"\n    {held} TLS connections in 64 MiB (at most {container.most()} MiB used), {away} turned away, nobody cut;"
            " let in again when they had gone"
        )

    def test_many_at_once_come_to_a_container_that_has_little_memory(self):
        container = Container(self, 64 << 20)
        here = self.begin_in(container)
        self.clients.run(self.come(3000), 60)
        self.assertEqual(container.kills(), 0)
        self.ask(here)
        for wire in self.there[:: 1 + len(self.there) // 50]:
            self.ask(wire)
        self.assertEqual(self.mailmux.metric(self.LIMITED), len(self.away))
        self.assertGreater(len(self.away), 0)
        print(
            f"\n    of 3000 at once {len(self.there)} were let in, {len(self.away)} turned away;"
            f" at most {container.most()} MiB used, nobody cut"
        )

    def test_thousands_come_back_in_one_second(self):
        count, processes = 3000, 2
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.begin(
            self.settings() + '[limits]\nsessions_per_network = 0\nlogins_per_user = "off"\n[timeouts]\ntls_handshake = "30s"\n'
        )
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            # When all of them have begun, there is a second to get ready.
            pool.map(time.sleep, [0.1] * processes, 1)
            at = time.time() + 1
            words = [(self.imaps, self.folder / "ca.pem", count // processes, 0.5, at)] * processes
            done = pool.starmap(storm, words, 1)
            pool.close()
            pool.join()
        waited = sorted(wait for waits, _ in done for wait in waits)
        wrong = [what for _, whats in done for what in whats]
        parts = {"p50": 0.5, "p99": 0.99, "max": 0.99999}
        figures = ", ".join(f"{name} {waited[int(len(waited) * part)]:.2f} s" for name, part in parts.items())
        cpu, theirs = cpu_seconds(self.mailmux.process.pid), resource.getrusage(resource.RUSAGE_CHILDREN)
        print(
            f"\n    {count} TLS connections within half a second: {len(waited)} greeted ({figures}), {len(wrong)} refused, reset or lost;"
            f" mailmux took {cpu:.1f} s of CPU, the clients {theirs.ru_utime + theirs.ru_stime - before.ru_utime - before.ru_stime:.1f} s"
        )
        self.assertEqual((wrong, len(waited)), ([], count))
        self.ask(self.log_in())


if __name__ == "__main__":
    unittest.main()
