"""Clients by the hundred, in one thread of their own. Visitors come one after the other, log in, look, and go: for them every
connection counts. Residents stay: in IDLE, with a NOOP now and then, or moving mail.

What happens to them is written down here and judged in endurance.py and hard_days.py.
"""

import asyncio
import collections
import itertools
import os
import re
import selectors
import socket
import ssl
import threading
import time

# So long a visit, or an answer to a resident, may take.
PATIENCE = 30
# So many visits at a time, after which the next one waits, and so many residents on their way in.
VISITS, ARRIVALS = 200, 20
LARGE = 300_000

Event = collections.namedtuple("Event", "at who stage what")


class Bye(Exception):
    """The server has said good-bye, unasked."""


class Cut(Exception):
    """The connection is over, and nobody said a word."""


class Refused(Exception):
    """The server said NO or BAD."""


class Wire(asyncio.Protocol):
    """One IMAP connection. What was heard before it ended is heard, however it ended."""

    tags = itertools.count()
    there = set()

    def __init__(self):
        self.buffer = bytearray()
        self.news = asyncio.Event()
        self.ended = None

    @classmethod
    async def open(cls, port, context=None, starttls=False, window=None):
        """Connected and greeted; in clear without a context. `window` is how much the kernel takes for us."""
        loop = asyncio.get_running_loop()
        tls = {"ssl": context, "server_hostname": "localhost"} if context and not starttls else {}
        tcp = socket.socket()
        try:
            tcp.setblocking(False)
            if window:
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            await loop.sock_connect(tcp, ("127.0.0.1", port))
            _, wire = await loop.create_connection(cls, sock=tcp, **tls)
        except BaseException:
            tcp.close()
            raise
        try:
            await wire.greeting()
            if starttls:
                await wire.command(b"STARTTLS")
                wire.transport = await loop.start_tls(wire.transport, wire, context, server_hostname="localhost")
        except BaseException:
            wire.close()
            raise
        return wire

    async def greeting(self):
        line = await self.line()
        if not line.startswith(b"* OK"):
            raise Refused(line.decode(errors="replace"))

    def connection_made(self, transport):
        self.transport, self.loop = transport, asyncio.get_running_loop()
        self.port = transport.get_extra_info("sockname")[1]
        Wire.there.add(self)

    def data_received(self, data):
        self.buffer += data
        self.news.set()

    def connection_lost(self, error):
        Wire.there.discard(self)
        self.ended = repr(error) if error else "closed"
        self.news.set()

    def close(self):
        """From any thread."""
        self.loop.call_soon_threadsafe(self.transport.abort)

    async def more(self):
        if self.ended is not None:
            raise Cut(f"{self.ended}, from port {self.port}" + (f", after {bytes(self.buffer[:200])!r}" if self.buffer else ""))
        self.news.clear()
        await self.news.wait()

    async def some(self, count):
        while len(self.buffer) < count:
            await self.more()

    async def line(self):
        """One response, with the literals in it."""
        at = 0
        while True:
            while (end := self.buffer.find(b"\r\n", at)) < 0:
                await self.more()
            literal = re.search(rb"\{(\d+)\}$", self.buffer[max(at, end - 20) : end])
            if not literal:
                line = bytes(self.buffer[:end])
                del self.buffer[: end + 2]
                return line
            at = end + 2 + int(literal[1])
            await self.some(at)

    def send(self, words):
        tag = b"c%d" % next(self.tags)
        self.transport.write(tag + b" " + words + b"\r\n")
        return tag

    async def answer(self, tag, bye=False):
        """What was said up to the tagged OK. With `bye` a BYE may come before it; but alone it is not the answer to a LOGOUT."""
        heard, said = [], None
        while True:
            try:
                line = await self.line()
            except Cut:
                if said:
                    raise Bye(said) from None
                raise
            if line.startswith(tag + b" OK"):
                return heard
            if line.startswith(tag + b" "):
                raise Refused(line.decode(errors="replace"))
            if line.startswith(b"* BYE"):
                said = line.decode(errors="replace")
                if not bye:
                    raise Bye(said)
            heard.append(line)

    async def command(self, words, bye=False):
        return await self.answer(self.send(words), bye)

    async def log_in(self, user, password):
        await self.command(b'LOGIN %s "%s"' % (user.encode(), password.encode()))

    async def continuation(self):
        while not (line := await self.line()).startswith(b"+"):
            if line.startswith(b"* BYE"):
                raise Bye(line.decode(errors="replace"))
            if not line.startswith(b"* "):
                raise Refused(line.decode(errors="replace"))

    async def idle(self):
        """Waits in IDLE from here on; the tag is for the answer to DONE."""
        tag = self.send(b"IDLE")
        await self.continuation()
        return tag

    async def wake(self, tag):
        """From IDLE."""
        self.transport.write(b"DONE\r\n")
        return await self.answer(tag)

    async def end(self):
        """Everything that is said until the other side closes."""
        lines = []
        try:
            while True:
                lines.append(await self.line())
        except Cut:
            return lines


class Loop:
    """Where clients live."""

    def __init__(self, case):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        case.addCleanup(self.close)

    def begin(self, clients):
        return asyncio.run_coroutine_threadsafe(clients, self.loop)

    def run(self, clients, patience=PATIENCE):
        """Waits for what they do; one that takes longer is given up."""
        return self.begin(asyncio.wait_for(clients, patience)).result()

    def close(self):
        async def everybody_out():
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            for wire in [wire for wire in Wire.there if wire.loop is self.loop]:
                wire.transport.abort()
            if tasks:
                await asyncio.wait(tasks, timeout=5)
            while any(wire.loop is self.loop for wire in Wire.there):
                await asyncio.sleep(0.01)

        if not self.loop.is_closed():
            self.begin(everybody_out()).result(PATIENCE)
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join()
            self.loop.close()


class Crowd:
    """`doors` are ways in: (port, whether STARTTLS is said there). `people` have passwords."""

    boxes = itertools.count()

    def __init__(self, case, doors, context, people, rate=50, residents=100):
        self.loop = Loop(case)
        self.context, self.people = context, people
        self.doors, self.users = itertools.cycle(doors), itertools.cycle(people)
        self.rate = rate
        self.began = time.monotonic()
        self.over = False
        # Visits that went well took so long, each; what failed; who was sent away after the login.
        self.took, self.failed, self.told = [], [], []
        self.residents = [Resident(self, kind) for kind in itertools.islice(itertools.cycle(KINDS), residents)]
        self.living = self.visiting = None
        case.addCleanup(self.stop)
        self.loop.run(self.move_in(), 2 * PATIENCE)

    def now(self):
        return time.monotonic() - self.began

    async def move_in(self):
        few = asyncio.Semaphore(ARRIVALS)

        async def arrive(resident):
            async with few:
                await resident.arrive()
                if resident.kind == "moves":
                    await resident.make_box(b"box%d" % next(Crowd.boxes))

        await asyncio.gather(*map(arrive, self.residents))
        self.living = [asyncio.create_task(resident.live()) for resident in self.residents]
        self.visiting = asyncio.create_task(self.receive())

    async def receive(self):
        """Visitors come at a steady rate."""
        visits = set()
        turn = time.monotonic()
        while not self.over:
            turn = max(turn + 1 / self.rate, time.monotonic() - 1)
            await asyncio.sleep(max(0, turn - time.monotonic()))
            visits.add(asyncio.create_task(self.visit()))
            visits = {visit for visit in visits if not visit.done()}
            if len(visits) >= VISITS:
                await asyncio.wait(visits, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.gather(*visits)

    async def visit(self):
        began = self.now()
        stage, wire, (port, starttls), user = "connecting", None, next(self.doors), next(self.users)
        try:
            async with asyncio.timeout(PATIENCE):
                wire = await Wire.open(port, self.context, starttls)
                stage = "login"
                await wire.log_in(user, self.people[user])
                stage = "session"
                await wire.command(b"SELECT INBOX")
                await wire.command(b"NOOP")
                await wire.command(b"LOGOUT", bye=True)
            self.took.append(self.now() - began)
        except (OSError, Cut, Bye, Refused, asyncio.TimeoutError) as error:
            # Who has been let in may be sent away, by those who stop; nobody else.
            where = self.told if stage == "session" and isinstance(error, Bye) else self.failed
            where.append(Event(round(self.now(), 2), f"{user} at {port}", stage, repr(error)))
        finally:
            if wire:
                wire.close()

    def stop(self):
        """The last visitors go, and the residents say whether they are still there."""
        if self.visiting and not self.over:
            self.over = True
            self.loop.run(self.everybody_done(), 3 * PATIENCE)
        self.loop.close()

    async def everybody_done(self):
        await asyncio.gather(self.visiting, *self.living)

    def cut(self):
        return [event for resident in self.residents for event in resident.cut]

    def heard_bye(self):
        return sum(len(resident.byes) for resident in self.residents)

    def figures(self):
        took = sorted(self.took) or [0]
        p50, p99, most = (took[len(took) * part // 100] * 1000 if part < 100 else took[-1] * 1000 for part in (50, 99, 100))
        there = sum(resident.is_there for resident in self.residents)
        return (
            f"{len(self.took)} visits in {self.now():.0f} s went well (p50 {p50:.0f} ms, p99 {p99:.0f} ms, max {most:.0f} ms),"
            f" {len(self.failed)} failed, {len(self.told)} heard BYE after the login; {len(self.residents)} residents:"
            f" {there} there at the end, {self.heard_bye()} times BYE, {len(self.cut())} times cut without a word"
        )


# Half of the residents wait, one in ten moves mail, the others ask now and then.
KINDS = ["waits", "waits", "asks", "waits", "moves", "waits", "asks", "asks", "waits", "asks"]


class Resident:
    """Stays, and comes back at once when it has been told to go."""

    ages = itertools.count()

    def __init__(self, crowd, kind):
        self.crowd, self.kind = crowd, kind
        self.user = next(crowd.users)
        self.byes, self.cut = [], []
        # Residents do not breathe in step, and who moves mail does so where nobody else does.
        age = next(Resident.ages)
        self.breath = 0.8 + age % 17 / 10
        self.box = b"INBOX"
        self.is_there = self.is_let_in = False
        self.wire = None

    async def arrive(self):
        port, starttls = next(self.crowd.doors)
        self.wire = await Wire.open(port, self.crowd.context, starttls)
        await self.wire.log_in(self.user, self.crowd.people[self.user])
        self.is_let_in = True
        await self.wire.command(b"SELECT " + self.box)
        self.is_there = True

    async def make_box(self, name):
        await self.wire.command(b"CREATE " + name)
        await self.wire.command(b"SELECT " + name)
        self.box = name

    async def live(self):
        stage = self.kind
        while True:
            try:
                stage = self.kind
                while not self.crowd.over:
                    await getattr(self, self.kind)()
                async with asyncio.timeout(PATIENCE):
                    await self.wire.command(b"NOOP")
                    await self.wire.command(b"LOGOUT", bye=True)
                return
            except Bye:
                self.byes.append(self.crowd.now())
            except (OSError, Cut, Refused, asyncio.TimeoutError) as error:
                self.note(self.cut, stage, error)
            finally:
                self.wire.close()
            self.is_there = False
            if not await self.come_back():
                return

    async def come_back(self):
        """Until it is in: it may come to one that has begun to drain, where it is let in, and told to go."""
        while not self.is_there:
            self.is_let_in = False
            try:
                async with asyncio.timeout(PATIENCE):
                    await self.arrive()
            except (OSError, Cut, Bye, Refused, asyncio.TimeoutError) as error:
                self.wire.close()
                if not (self.is_let_in and isinstance(error, Bye)):
                    self.note(self.crowd.failed, "coming back", error)
                    return False
                self.byes.append(self.crowd.now())
        return True

    def note(self, where, stage, error):
        where.append(Event(round(self.crowd.now(), 2), f"resident {self.user}", stage, repr(error)))

    async def waits(self):
        """In IDLE, for several breaths."""
        async with asyncio.timeout(PATIENCE):
            tag = await self.wire.idle()
        await self.hear(4 * self.breath)
        async with asyncio.timeout(PATIENCE):
            await self.wire.wake(tag)

    async def asks(self):
        await self.hear(self.breath)
        async with asyncio.timeout(PATIENCE):
            await self.wire.command(b"NOOP")

    async def moves(self):
        """One large mail goes there, and comes back."""
        body = b"Subject: large\r\n\r\n" + b"x" * LARGE
        await self.hear(self.breath)
        async with asyncio.timeout(PATIENCE):
            await self.wire.command(b"APPEND %s {%d+}\r\n%s" % (self.box, len(body), body))
            heard = await self.wire.command(b"FETCH * BODY[]")
            if not any(len(line) > LARGE for line in heard):
                raise Refused("not what was written")
            await self.wire.command(b"STORE * +FLAGS.SILENT \\Deleted")
            await self.wire.command(b"EXPUNGE")

    async def hear(self, seconds):
        """Asks for nothing, so long or until everybody is asked to go; but who is told to go hears it."""
        end = self.crowd.now() + seconds
        while not self.crowd.over and (left := end - self.crowd.now()) > 0:
            try:
                async with asyncio.timeout(min(left, 0.3)):
                    if (line := await self.wire.line()).startswith(b"* BYE"):
                        raise Bye(line.decode(errors="replace"))
            except asyncio.TimeoutError:
                pass


def refuses(port):
    """Nobody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
        return False
    except ConnectionRefusedError:
        return True


def storm(port, ca, count, within, at):
    """So many at once, over that many seconds from a moment of time.time() on. Each shakes hands, is greeted, and goes; gives how
    long each waited for its greeting, and what went wrong. There is no time for asyncio."""
    context = ssl.create_default_context(cafile=ca)
    waited, wrong = [], []
    selector = selectors.DefaultSelector()
    come, there = 0, set()

    def arrive():
        client = context.wrap_socket(socket.socket(), server_hostname="localhost", do_handshake_on_connect=False)
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", port))
        steps = visit(client, time.monotonic())
        there.add(client)
        selector.register(client, selectors.EVENT_WRITE, steps)

    def visit(client, began):
        """What it waits for, in turn."""
        yield selectors.EVENT_WRITE
        failed = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed:
            raise OSError(failed, os.strerror(failed))
        socket.socket.connect(client, ("127.0.0.1", port))
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                yield selectors.EVENT_READ
        heard = b""
        while b"\r\n" not in heard:
            try:
                if not (data := client.recv(4096)):
                    raise OSError(f"closed after {heard!r}")
                heard += data
            except ssl.SSLWantReadError:
                yield selectors.EVENT_READ
        if not heard.startswith(b"* OK"):
            raise OSError(f"{heard!r}")
        waited.append(time.monotonic() - began)
        client.send(b"x LOGOUT\r\n")

    time.sleep(max(0, at - time.time()))
    end = at + 2 * PATIENCE
    while come < count or there:
        while come < count and time.time() >= at + within * come / count:
            arrive()
            come += 1
        for key, _ in selector.select(0.001 if come < count else 1):
            client = key.fileobj
            try:
                selector.modify(client, next(key.data), key.data)
                continue
            except StopIteration:
                pass
            except OSError as error:
                wrong.append(repr(error))
            selector.unregister(client)
            client.close()
            there.discard(client)
        if time.time() > end:
            wrong += ["no greeting"] * len(there)
            break
    for client in there:
        client.close()
    return waited, wrong
