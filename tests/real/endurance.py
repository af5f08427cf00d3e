"""A running mailmux is reloaded, replaced and stopped, under a steady load of new connections and among sessions that stay:
nobody who comes is refused, cut off or not let in, and who is told to go is told.

    tests/endurance [--reloads 50] [--upgrades 20]     minutes
    tests/real/run endurance                           a handful of each

or by ENDURANCE_RELOADS, ENDURANCE_UPGRADES and ENDURANCE_IDLE (who waits in IDLE while mailmux stops). Clients: crowd.py;
processes: generations.py.
"""

import asyncio
import collections
import imaplib
import itertools
import os
import re
import signal
import socket
import subprocess
import time
import unittest
import urllib.error
import urllib.request
import zlib

from crowd import Bye, Crowd, Cut, Loop, Refused, Wire, refuses
from generations import Generations, Scrapes, is_alive
from world import MAILMUX, WAIT, Case, Dovecot, Mailmux, free_port, issue_certificate, until, zlib_settings

RELOADS = int(os.environ.get("ENDURANCE_RELOADS", "5"))
UPGRADES = int(os.environ.get("ENDURANCE_UPGRADES", "2"))
IDLE = int(os.environ.get("ENDURANCE_IDLE", "60"))
# Every so many reloads the file is broken, or the command asks for it in place of the signal.
BROKEN, COMMANDED = min(10, RELOADS), 3
PASSWORD = "shared-secret"
PEOPLE = {f"user{number:02}@{home}.example.org": PASSWORD for number in range(10) for home in ("blue", "green")}
# Moves to the other backend with each reload; lives at one that comes and goes.
WANDERER, GUEST = "wanderer@example.org", "guest@red.example.org"


class Steady(Case):
    """Two Dovecots with the same users, whose domain says where they live."""

    @classmethod
    def people(cls, _):
        return PEOPLE | {WANDERER: PASSWORD}

    @classmethod
    def server(cls, drain="5m", confine=True):
        return f"""
[server]
drain_timeout = "{drain}"
confine = {str(confine).lower()}
[[listener]]
name = "imaps"
address = "127.0.0.1:{cls.imaps}"
tls = "implicit"
[[listener]]
name = "imap"
address = "127.0.0.1:{cls.imap}"
tls = "starttls"
[[tls.certificate]]
chain = "mail.pem"
key = "mail.key"
{cls.backend_sections()}
[[route]]
domain = "blue.example.org"
backend = "blue"
[[route]]
domain = "green.example.org"
backend = "green"
"""

    def crowd(self, rate=50, residents=100 if UPGRADES > 5 else 40):
        return Crowd(self, [(self.imaps, False)] * 4 + [(self.imap, True)], self.tls, PEOPLE, rate, residents)

    def assert_nobody_was_turned_away(self, crowd):
        self.assertEqual(crowd.failed, [], "refused, reset, not answered or not let in")
        self.assertEqual(crowd.cut(), [], "cut without a word")
        self.assertGreater(len(crowd.took), 10, "there was a load")

    async def stay(self, port, user=WANDERER):
        wire = await Wire.open(port, self.tls)
        await wire.log_in(user, PASSWORD)
        await wire.command(b"SELECT INBOX")
        return wire

    async def ask(self, user, words):
        wire = await self.stay(self.imaps, user)
        said = await wire.command(words)
        await wire.command(b"LOGOUT", bye=True)
        wire.close()
        return said

    @staticmethod
    def directly(backend, user, *words):
        """Without mailmux."""
        with imaplib.IMAP4("127.0.0.1", backend.port, timeout=WAIT) as connection:
            connection.login(user, PASSWORD)
            status, said = getattr(connection, words[0])(*words[1:])
            assert status == "OK", said


class Reloads(Steady):
    @classmethod
    def start(cls):
        cls.extra, cls.red = free_port(), Dovecot(cls.folder / "red", {GUEST: PASSWORD})
        cls.addClassCleanup(cls.red.stop)
        cls.mailmux = Mailmux(cls.folder, cls.settings(0), admin='socket = "admin.sock"\n')
        cls.addClassCleanup(cls.mailmux.stop)

    @classmethod
    def settings(cls, number):
        """No two in a row say the same of listeners, backends, routes, limits and timeouts."""
        more = ""
        if cls.has_extra(number):
            more += f'[[listener]]\nname = "extra"\naddress = "127.0.0.1:{cls.extra}"\ntls = "implicit"\n'
        if cls.has_red(number):
            more += f'[[backend]]\nname = "red"\naddress = "127.0.0.1:{cls.red.port}"\ntls = "none"\n'
            more += '[[route]]\ndomain = "red.example.org"\nbackend = "red"\n'
        rate = '{ rate = "1000/s", burst = 1000 }' if number % 2 else '"off"'
        return f"""
{cls.server()}
{more}
[[route]]
user = "{WANDERER}"
backend = "{cls.wandered_to(number)}"
[limits]
sessions_per_user = {1000 + number}
logins_per_user = {rate}
[timeouts]
login = "{50 + number % 7}s"
relay_idle = "{30 + number % 5}m"
"""

    @staticmethod
    def has_extra(number):
        return number % 2 == 1

    @staticmethod
    def has_red(number):
        return number % 3 == 1

    @staticmethod
    def wandered_to(number):
        return ["blue", "green"][number % 2]

    def test_reloads_in_a_row(self):
        for name, backend in self.backends.items():
            self.directly(backend, WANDERER, "create", f"at-{name}")
        crowd, scrapes, self.clients = self.crowd(), Scrapes(self, self.mailmux, "red"), Loop(self)
        counts = collections.Counter()
        stayed, now, began = [], 0, time.monotonic()
        for number in range(1, RELOADS + 1):
            broken = number % BROKEN == 0
            if number % 4 == 2 and not broken:
                issue_certificate(self.folder)
            self.mailmux.write(self.settings(number) + broken * '[[route]]\nbackend = "nowhere"\n')
            by_command = number % COMMANDED == 0
            said = self.reload(by_command, refused=broken)
            # The command reads the file first, to know whom to ask, and does not ask if it is broken.
            counts["not asked for" if broken and by_command else "failed" if broken else "ok"] += 1
            self.assertEqual({name: self.reloads(name) for name in ("ok", "failed")}, {name: counts[name] for name in ("ok", "failed")}, said)
            if broken:
                self.assertIn("nowhere", said)
            else:
                now = number
            self.look_around(now)
            if self.has_extra(now):
                stayed.append(self.clients.run(self.stay(self.extra)))
        took = time.monotonic() - began
        for wire in stayed:
            self.clients.run(wire.command(b"NOOP"))
        crowd.stop()
        scrapes.stop()
        print(f"\n    {dict(counts)} reloads in {took:.0f} s, {scrapes.count} scrapes; {crowd.figures()}", flush=True)
        self.assert_nobody_was_turned_away(crowd)
        self.assertEqual((crowd.told, crowd.heard_bye()), ([], 0), "told to go")
        self.assertEqual(scrapes.fell, [], "counters went down")
        self.assertGreater(scrapes.count, RELOADS)
        self.assertIsNone(self.mailmux.process.poll(), "it is the same process")
        for wire in stayed:
            wire.close()
        self.stricter()

    def reloads(self, outcome):
        return self.mailmux.metric(f'mailmux_config_reloads_total{{outcome="{outcome}"}}')

    def reload(self, by_command=False, refused=False):
        """What was said of it."""
        if by_command:
            done = subprocess.run([MAILMUX, "reload", "--config", self.mailmux.config_path], capture_output=True, timeout=WAIT)
            said = (done.stdout + done.stderr).decode()
            self.assertEqual(done.returncode, int(refused), said)
            return said
        outcome, log = "failed" if refused else "ok", len(self.mailmux.log())
        before = self.reloads(outcome)
        self.mailmux.process.send_signal(signal.SIGHUP)
        until(lambda: self.reloads(outcome) > before, f"a reload that is {outcome}; the log:\n{self.mailmux.log()[log:]}")
        return self.mailmux.log()[log:]

    def look_around(self, number):
        """What users see of this configuration."""
        if self.has_extra(number):
            self.assertEqual(self.serial(self.extra), self.serial_on_disk())
        else:
            until(lambda: refuses(self.extra), "the removed listener to refuse")
        self.assertEqual(self.serial(self.imaps), self.serial_on_disk(), "the certificate that new connections see")
        boxes = self.clients.run(self.ask(WANDERER, b'LIST "" at-*'))
        self.assertRegex(boxes[-1].decode(), f"at-{self.wandered_to(number)}$", f"with configuration {number}")
        if self.has_red(number):
            self.clients.run(self.ask(GUEST, b"NOOP"))
        else:
            with self.assertRaisesRegex(Refused, "AUTHENTICATIONFAILED"):
                self.clients.run(self.ask(GUEST, b"NOOP"))

    def serial(self, port):
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as tcp:
            with self.tls.wrap_socket(tcp, server_hostname="localhost") as tls:
                return tls.getpeercert()["serialNumber"]

    def serial_on_disk(self):
        words = ["openssl", "x509", "-noout", "-serial", "-in", self.folder / "mail.pem"]
        return subprocess.run(words, capture_output=True, check=True).stdout.decode().strip().removeprefix("serial=")

    def stricter(self):
        """Limits and timeouts count for who comes from now on, and only these."""
        first = self.clients.run(self.stay(self.imaps))
        self.mailmux.write(
            self.server() + f'[[route]]\nuser = "{WANDERER}"\nbackend = "blue"\n[limits]\nsessions_per_user = 1\n'
            '[timeouts]\nlogin = "2s"\nbackend_login = "2s"\nbackend_connect = "1s"\n'
        )
        self.reload()
        with self.assertRaisesRegex(Refused, "LIMIT"):
            self.clients.run(self.stay(self.imaps))
        self.clients.run(first.command(b"NOOP"))
        slow, began = self.clients.run(Wire.open(self.imaps, self.tls)), time.monotonic()
        said = self.clients.run(slow.end())
        self.assertTrue(said and said[-1].startswith(b"* BYE"), said)
        self.assertLess(time.monotonic() - began, 10, "it was most of a minute before")


class Upgrading(Steady):
    CONFINE = True
    DRAIN = 4 if UPGRADES > 5 else 2

    @classmethod
    def start(cls):
        cls.mailmux = Generations(cls.folder, cls.settings())
        cls.addClassCleanup(cls.mailmux.stop)
        cls.notices = cls.mailmux.notices

    @classmethod
    def settings(cls):
        return cls.server(f"{cls.DRAIN}s", cls.CONFINE) + '[limits]\nsessions_per_user = 0\nlogins_per_user = "off"\n'

    def upgrade(self):
        """The new one serves; gives the old one, which drains."""
        old, log = self.mailmux.main(), len(self.mailmux.log())
        os.kill(old, signal.SIGUSR2)
        until(lambda: self.mailmux.main() != old, f"another main process; the log:\n{self.mailmux.log()[log:]}")
        new = self.mailmux.main()
        until(lambda: self.notices.have(new, "READY", "1"), "it to be ready")
        self.assertTrue(is_alive(new))
        return old


class Upgrades(Upgrading):
    def test_upgrades_in_a_row(self):
        crowd, began = self.crowd(), time.monotonic()
        most = collections.Counter()
        for number in range(1, UPGRADES + 1):
            old, at = self.upgrade(), time.monotonic()
            until(lambda: self.predecessors(most)[0] >= 1, "the old one to be seen by operators")
            self.assertTrue(is_alive(old) or self.predecessors(most)[0] == 0, "seen while it drains")
            # Every other time the next one comes while the last one drains.
            if number % 2 == 0 or number == UPGRADES:
                until(lambda: len(self.mailmux.pids()) == 1, "the old ones to end")
                self.assertLess(time.monotonic() - at, self.DRAIN + 4, "the time for it")
                until(lambda: self.predecessors(most) == (0, 0), "the old ones to be gone from the metrics")
        took = time.monotonic() - began
        crowd.stop()
        print(f"\n    {UPGRADES} upgrades in {took:.0f} s, at most {dict(most)}; {crowd.figures()}", flush=True)
        self.assert_nobody_was_turned_away(crowd)
        self.assertGreaterEqual(crowd.heard_bye(), len(crowd.residents), "those who stayed were told to go")
        self.assertGreater(most["sessions"], 10, "the old ones' sessions were counted")

    def predecessors(self, most):
        metrics = self.mailmux.metrics()
        now = metrics.get("mailmux_predecessors", 0), metrics.get("mailmux_predecessor_sessions", 0)
        most["processes"], most["sessions"] = max(most["processes"], now[0]), max(most["sessions"], now[1])
        return now

    def test_the_service_manager_is_told(self):
        main, heard = self.mailmux.main(), len(self.notices.heard)
        self.assertTrue(self.notices.have(main, "READY", "1"))
        os.kill(main, signal.SIGHUP)
        until(lambda: self.notices.have(main, "READY", "1", heard), "READY=1 after a reload")
        said = [said for who, said in self.notices.heard[heard:] if who == main and said.keys() & {"RELOADING", "READY"}]
        self.assertEqual([word for words in said for word in words if word in ("RELOADING", "READY")], ["RELOADING", "READY"])
        self.assertRegex(said[0].get("MONOTONIC_USEC", ""), r"^\d+$", "systemd wants to know when")

    def test_the_command_reaches_the_new_one(self):
        """By a socket in the file system, which the old one has left behind, and the new one has made anew."""
        for wait in (False, True):
            old = self.upgrade()
            if wait:
                until(lambda: len(self.mailmux.pids()) == 1, "the old ones to end")
            done = subprocess.run([MAILMUX, "reload", "--config", self.mailmux.config_path], capture_output=True, timeout=WAIT)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertNotEqual(self.mailmux.main(), old)
            until(lambda: self.mailmux.metric('mailmux_config_reloads_total{outcome="ok"}') == 1, "the new one to have read it")

    def test_signals_that_come_all_at_once(self):
        crowd, old, log = self.crowd(rate=20, residents=20), self.mailmux.main(), len(self.mailmux.log())
        for number in [signal.SIGHUP, signal.SIGUSR2] * 5:
            os.kill(old, number)
        until(lambda: self.mailmux.main() != old, f"another main process; the log:\n{self.mailmux.log()[log:]}")
        until(lambda: not is_alive(old), "the old one to end")
        until(lambda: len(self.mailmux.pids()) == 1, "it to be the only one")
        self.assertEqual(self.mailmux.pids(), [self.mailmux.main()])
        crowd.stop()
        self.assert_nobody_was_turned_away(crowd)


class FailedUpgrades(Upgrading):
    """The scripts that stand in for a new binary need a shell, which a confined process cannot start. One that hangs is waited for
    for a minute, and so is only among those of tests/endurance."""

    CONFINE = False

    def test_a_new_one_that_fails_changes_nothing(self):
        crowd = self.crowd(rate=20, residents=20)
        script = "#!/bin/sh\n"
        for name, binary, broken in (
            ("ends", script + "exit 1\n", ""),
            ("is no program", "nothing that can be run", ""),
            ("finds its configuration broken", None, '[[route]]\nbackend = "nowhere"\n'),
            ("hangs", script + "exec sleep 1000\n", ""),
        )[: 4 if UPGRADES > 5 else 3]:
            with self.subTest(name):
                self.mailmux.replace_binary(binary)
                self.mailmux.write(self.settings() + broken)
                old, log, heard = self.mailmux.main(), len(self.mailmux.log()), len(self.notices.heard)
                os.kill(old, signal.SIGUSR2)
                said = until(
                    lambda: re.search(r"ERROR not upgraded.*", self.mailmux.log()[log:]),
                    "a word about it",
                    # A million lines may have to be read before one is ready, so that patience is long.
                    WAIT + 60,
                )
                print(f"\n    {name}: {said[0]}", end="", flush=True)
                if broken:
                    self.assertIn("nowhere", self.mailmux.log()[log:])
                until(lambda: not self.mailmux.children(old), "what was started to be gone")
                self.assertEqual((self.mailmux.main(), self.mailmux.pids()), (old, [old]))
                until(self.mailmux.is_ready, "the old one to be ready")
                said = [said for _, said in self.notices.heard[heard:]]
                self.assertFalse([words for words in said if "STOPPING" in words], said)
        self.mailmux.replace_binary()
        self.mailmux.write(self.settings())
        self.assertEqual(crowd.heard_bye(), 0)
        old = self.upgrade()
        until(lambda: not is_alive(old), "the old one to end")
        crowd.stop()
        print(f"\n    {crowd.figures()}", flush=True)
        self.assert_nobody_was_turned_away(crowd)


class Drains(Steady):
    """How mailmux stops. Each test has its own."""

    TIME = 10 if IDLE > 100 else 4

    @classmethod
    def start(cls):
        cls.compressing = Dovecot(cls.folder / "compressing", {GUEST: PASSWORD}, zlib_settings())
        cls.addClassCleanup(cls.compressing.stop)
        # More than all the buffers on the way take.
        cls.large = b"Subject: large\r\n\r\n" + (b"y" * 98 + b"\r\n") * 300_000
        cls.directly(cls.backends["blue"], WANDERER, "append", "INBOX", None, None, cls.large)

    def begin(self, seconds):
        self.mailmux = Mailmux(
            self.folder,
            self.server(f"{seconds}s") + f"""
[[backend]]
name = "compressing"
address = "127.0.0.1:{self.compressing.port}"
tls = "none"
[[route]]
user = "{GUEST}"
backend = "compressing"
[[route]]
user = "{WANDERER}"
backend = "blue"
[limits]
sessions_per_user = 0
logins_per_user = "off"
""",
        )
        self.addCleanup(self.mailmux.stop)
        self.clients = Loop(self)

    async def waiting(self, count):
        """So many in IDLE."""
        few = asyncio.Semaphore(20)

        async def one(user):
            async with few:
                wire = await self.stay(self.imaps, user)
                await wire.idle()
                return wire

        return await asyncio.gather(*map(one, itertools.islice(itertools.cycle(PEOPLE), count)))

    def ends(self, wires):
        """Their last words, and when, in seconds from now."""
        began = time.monotonic()

        async def end(wire):
            lines = await wire.end()
            return time.monotonic() - began, lines[-1] if lines else b""

        async def all_ends():
            return await asyncio.gather(*map(end, wires))

        return self.clients.begin(all_ends())

    def stop(self):
        """A first SIGTERM, and what everybody sees at once."""
        self.mailmux.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        until(lambda: self.readyz() == 503, "/readyz to say that it is not")
        for port in (self.imaps, self.imap):
            until(lambda: refuses(port), "new connections to be refused")
        self.assertLess(time.monotonic() - began, 2)
        self.assertEqual(self.mailmux.metric("mailmux_draining"), 1)

    def readyz(self):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.mailmux.admin}/readyz", timeout=WAIT).status
        except urllib.error.HTTPError as error:
            return error.code

    def test_everybody_is_told_and_nobody_is_interrupted(self):
        self.begin(self.TIME)
        waiting = self.clients.run(self.waiting(IDLE))
        early = self.clients.run(Wire.open(self.imaps, self.tls))
        busy = [self.clients.run(begin) for begin in (self.begin_append(), self.begin_append(), self.begin_fetch())]
        squeezed = self.clients.run(self.squeezed())

        ends = self.ends(waiting)
        at_once, without_a_word = self.ends([early]), self.ends([squeezed])
        writing = self.clients.begin(self.write(*busy[0], self.TIME * 0.4))
        reading = self.clients.begin(self.read(*busy[2], self.TIME * 0.4))
        endless = self.clients.begin(self.write(*busy[1], self.TIME * 2))
        self.stop()
        began = time.monotonic()
        left = [self.mailmux.metric("mailmux_drain_sessions_remaining")]
        self.assertTrue(IDLE / 2 < left[0] <= IDLE + 5, left)
        until(lambda: left.append(self.mailmux.metric("mailmux_drain_sessions_remaining")) or left[-1] < left[0] / 2, "half of them to go")
        self.assertEqual(left, sorted(left, reverse=True), "fewer and fewer")
        with self.assertRaises((Bye, Cut), msg="busy beyond the time"):
            endless.result(WAIT)
        cut_after = time.monotonic() - began
        self.assertEqual(self.mailmux.process.wait(WAIT), 0)
        log = self.mailmux.log()

        ends = ends.result(WAIT)
        seconds = collections.Counter(int(at) for at, _ in ends)
        told = sum(words.startswith(b"* BYE") for _, words in ends)
        print(f"\n    {told} of {IDLE} heard BYE, the last after {max(at for at, _ in ends):.1f} s of {self.TIME} s; in each second:", end="")
        print(" " + " ".join(str(seconds[second]) for second in range(max(seconds) + 1)), flush=True)
        self.assertEqual([end for end in ends if not end[1].startswith(b"* BYE")], [], "those in IDLE hear it")
        self.assertLess(max(seconds.values()), IDLE / 2, "not all at once")
        self.assertGreaterEqual(len(seconds), self.TIME / 2, "but over the time")
        self.assertLess(max(at for at, _ in ends), self.TIME + 1)
        at, words = at_once.result(WAIT)[0]
        self.assertTrue(words.startswith(b"* BYE") and at < 2, f"not logged in: {at, words}")
        for name, done in (("APPEND", writing), ("FETCH", reading)):
            self.assertRegex(done.result(WAIT), rb"^\* BYE", f"after the {name}")
        self.assertEqual(without_a_word.result(WAIT)[0][1], b"")
        self.assertEqual(squeezed.buffer, b"", "nobody can speak in the middle of what is compressed")
        self.assertTrue(self.TIME - 2 < cut_after < self.TIME + 2, f"cut after {cut_after:.1f} s")
        self.assertEqual(len(re.findall(r"reason=stopping", log)), IDLE + 5, "each has its line")
        self.assertRegex(log, r"(?m)WARN the time for draining is over.* sessions=1\b")

    async def begin_append(self):
        wire = await self.stay(self.imaps)
        tag = wire.send(b"APPEND INBOX {200000}")
        await wire.continuation()
        return wire, tag

    async def write(self, wire, tag, seconds):
        for _ in range(20):
            if wire.ended:
                break
            wire.transport.write(b"z" * 10_000)
            await asyncio.sleep(seconds / 20)
        wire.transport.write(b"\r\n")
        await wire.answer(tag)
        return (await wire.end())[-1]

    async def begin_fetch(self):
        wire = await Wire.open(self.imaps, self.tls, window=65536)
        await wire.log_in(WANDERER, PASSWORD)
        await wire.command(b"SELECT INBOX")
        tag = wire.send(b"FETCH 1 BODY.PEEK[]")
        await wire.some(10_000)
        wire.transport.pause_reading()
        return wire, tag

    async def read(self, wire, tag, seconds):
        await asyncio.sleep(seconds)
        wire.transport.resume_reading()
        heard = await wire.answer(tag)
        self.assertIn(self.large, heard[0])
        return (await wire.end())[-1]

    async def squeezed(self):
        """RFC 4978."""
        wire = await self.stay(self.imaps, GUEST)
        await wire.command(b"COMPRESS DEFLATE")
        deflate, inflate = zlib.compressobj(wbits=-15), zlib.decompressobj(-15)
        wire.transport.write(deflate.compress(b"x NOOP\r\n") + deflate.flush(zlib.Z_SYNC_FLUSH))
        said = b""
        while b"x OK" not in said:
            await wire.some(1)
            said += inflate.decompress(bytes(wire.buffer))
            wire.buffer.clear()
        return wire

    def test_a_second_signal_ends_it_at_once(self):
        self.begin(300)
        wires = self.clients.run(self.waiting(20))
        ends = self.ends(wires)
        self.stop()
        began = time.monotonic()
        self.mailmux.process.send_signal(signal.SIGTERM)
        self.assertEqual(self.mailmux.process.wait(WAIT), 0)
        took = time.monotonic() - began
        self.assertLess(took, 5)
        ends = ends.result(WAIT)
        told = sum(words.startswith(b"* BYE") for _, words in ends)
        print(f"\n    over {took:.1f} s after the second signal; {told} of {len(ends)} heard BYE", flush=True)
        self.assertEqual(told, len(ends), "a word is said where it can be")
        self.assertEqual(len(re.findall(r"reason=stopping", self.mailmux.log())), len(ends))


if __name__ == "__main__":
    unittest.main()
