"""The webmail: one request is what it does for each click. Nothing here knows which server answers.

Each command is one write, Nagle's algorithm is off, and the next command waits for the answer to the last, so that no
delay in the figures comes from this side. Answers are looked at after the round, not while the clock runs.
"""

import dataclasses
import itertools
import re
import socket
import threading
import time

PAGE = 20
FETCH = f"FETCH 1:{PAGE} (UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE)"
TIMEOUT = 30
# So many failures end a round: what is broken is not worth waiting for.
PATIENCE = 10


def subject(user, number):
    return f"Message {number} of {user}"


class Connection:
    def __init__(self, port, tls, session):
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls:
                self.socket = tls.wrap_socket(self.socket, server_hostname="localhost", session=session)
        except BaseException:
            self.socket.close()
            raise

    def answer(self, tag):
        """All that is said up to the line that begins so. It is the last one: nobody speaks unasked here."""
        said = b""
        while True:
            part = self.socket.recv(65536)
            if not part:
                raise OSError(f"closed while {tag.decode()} was awaited")
            said += part
            if said.endswith(b"\r\n"):
                last = said[said.rfind(b"\n", 0, -1) + 1 :]
                if last.startswith(tag + b" "):
                    if not last.startswith(tag + b" OK"):
                        raise OSError(last.decode(errors="replace").strip())
                    return said

    def ask(self, tag, command):
        self.socket.sendall(b"%s %s\r\n" % (tag, command))
        return self.answer(tag)


@dataclasses.dataclass
class Round:
    seconds: float = 0
    # The load program's own.
    cpu: float = 0
    latencies: list = dataclasses.field(default_factory=list)
    # Of pairs: who was asked for, and what was shown.
    pages: list = dataclasses.field(default_factory=list)
    failures: list = dataclasses.field(default_factory=list)
    resumed: int = 0

    def wrong(self):
        """What is not as it must be, in words."""
        return self.failures + [f"{user} was shown {page!r}" for user, page in self.pages if not is_page_of(user, page)]


SHOWN = re.compile(rb'^\* (\d+) FETCH \(.*\bENVELOPE \("[^"]*" "Message (\d+) of ([^"]*)" ', re.MULTILINE)


def is_page_of(user, page):
    """A whole page, in order, and every message on it this user's."""
    return SHOWN.findall(page) == [(b"%d" % n, b"%d" % n, user.encode()) for n in range(1, PAGE + 1)]


class Browser:
    """Who makes one request after another. It keeps the last TLS session for the next connection."""

    def __init__(self, port, tls):
        self.port, self.tls = port, tls
        self.session = None

    def request(self, user, password, into):
        began = time.perf_counter()
        connection = Connection(self.port, self.tls, self.session)
        try:
            connection.answer(b"*")
            connection.ask(b"a", f'LOGIN "{user}" "{password}"'.encode())
            connection.ask(b"b", b"SELECT INBOX")
            page = connection.ask(b"c", FETCH.encode())
            connection.ask(b"d", b"LOGOUT")
            if self.tls:
                # Not before: TLS 1.3 sends its tickets after the handshake.
                into.resumed += connection.socket.session_reused
                self.session = connection.socket.session
        finally:
            connection.socket.close()
        into.latencies.append(time.perf_counter() - began)
        into.pages.append((user, page))


def play(port, tls, people, requests, concurrency):
    """So many requests, the people in turn, by so many browsers at a time."""
    result = Round()
    turns = iter(itertools.islice(itertools.cycle(people.items()), requests))
    lock = threading.Lock()
    ended = threading.Event()

    def next_turn():
        with lock:
            return next(turns, None)

    def browse():
        browser = Browser(port, tls)
        while not ended.is_set() and (turn := next_turn()):
            try:
                browser.request(*turn, into=result)
            except OSError as error:
                result.failures.append(f"{turn[0]}: {error!r}")
                if len(result.failures) >= PATIENCE:
                    ended.set()

    cpu, began = time.process_time(), time.perf_counter()
    if concurrency == 1:
        browse()
    else:
        threads = [threading.Thread(target=browse, daemon=True) for _ in range(concurrency)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            ended.set()
    result.seconds, result.cpu = time.perf_counter() - began, time.process_time() - cpu
    return result
