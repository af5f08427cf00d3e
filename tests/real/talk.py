"""One IMAP connection in lock-step: what is sent and what is answered is asked for, in turn, and kept for a mistake's report.

Nothing of users and mail: see accounts.py.
"""

import collections
import re
import socket
import ssl
import struct
import zlib

WAIT = 30


class Mistake(Exception):
    """A reply that is not right, on this connection."""

    def __init__(self, connection, what):
        super().__init__(f"{connection.name}: {what}")
        self.connection = connection


class Reply:
    """What was said from one command's turn until its tagged line."""

    def __init__(self, untagged, tag=b"", status=b"OK", text=b""):
        self.untagged, self.tag, self.status, self.text = untagged, tag, status, text

    def plain(self):
        """Without what differs from one session to the next."""
        return [plain(line) for line in self.untagged] + [self.status + b" " + plain(self.text)]


def plain(line):
    line = re.sub(rb" ?\([0-9.]+ \+ [0-9.+ ]+ secs\)| ?\([0-9.]+ secs?( \d+ calls)?\)", b"", line)
    return re.sub(rb"SESSIONID=<[^>]*>", b"SESSIONID", line)


class Connection:
    tags = 0
    step = 0

    def __init__(self, port, name, owner=None, context=None):
        """`owner` is whose tokens may arrive here."""
        self.name = name
        self.owner = owner
        self.history = collections.deque(maxlen=400)
        self.buffer = self.tail = b""
        self.inflate = self.deflate = None
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context:
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")

    def note(self, arrow, data):
        self.history.append((Connection.step, arrow, data if len(data) < 300 else data[:150] + b" ... " + data[-100:]))

    def report(self, steps):
        """What was said in the connection's last so many steps."""
        first = sorted({step for step, _, _ in self.history})[-steps:][:1]
        return "\n".join(f"  step {step} {arrow} {data!r}" for step, arrow, data in self.history if [step] >= first)

    def tag(self):
        """No two commands of a run have the same: a reply that strays from one session to another is known as such."""
        Connection.tags += 1
        return b"t%d" % Connection.tags

    def send(self, data, asked=False):
        """`asked` says that the server may have spoken meanwhile."""
        if not asked:
            self.silent()
        self.note(">", data)
        if self.deflate:
            data = self.deflate.compress(data) + self.deflate.flush(zlib.Z_SYNC_FLUSH)
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise Mistake(self, f"cannot send: {error}")

    def silent(self):
        """Nobody has asked, nobody may speak."""
        self.socket.settimeout(0)
        try:
            data = self.socket.recv(65536)
            self.take(data)
            raise Mistake(self, "spoke unasked" if data else "was closed")
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        except OSError as error:
            raise Mistake(self, f"was closed: {error}")
        finally:
            self.socket.settimeout(WAIT)
        if self.buffer:
            raise Mistake(self, f"said more than it was asked: {self.buffer!r}")

    def take(self, data):
        if self.inflate:
            data = self.inflate.decompress(data)
        self.buffer += data
        self.tail += data
        for token in re.findall(rb"TOK[0-9A-F]{8}", self.tail):
            if token != self.owner:
                self.note("<", self.buffer)
                raise Mistake(self, f"{token!r} is somebody else's, we are {self.owner!r}")
        self.tail = self.tail[-10:]

    def fill(self):
        try:
            data = self.socket.recv(65536)
        except OSError as error:
            raise Mistake(self, f"no answer: {error!r}, after {self.buffer!r}")
        if not data:
            raise Mistake(self, f"was closed, after {self.buffer!r}")
        self.take(data)

    def line(self):
        """One response, with the literals in it."""
        whole = b""
        while True:
            while b"\r\n" not in self.buffer:
                self.fill()
            line, self.buffer = self.buffer.split(b"\r\n", 1)
            whole += line
            literal = re.search(rb"\{(\d+)\}$", line)
            if not literal:
                self.note("<", whole)
                return whole
            size = int(literal[1])
            while len(self.buffer) < size:
                self.fill()
            whole += b"\r\n" + self.buffer[:size]
            self.buffer = self.buffer[size:]

    def reply(self, tags, bye=False):
        """Up to a tagged line with one of these tags."""
        untagged = []
        while True:
            line = self.line()
            if line.startswith(b"* BYE") and not bye:
                raise Mistake(self, f"said good-bye: {line!r}")
            if line.startswith(b"* "):
                untagged.append(line)
                continue
            found = re.fullmatch(rb"(\S+) (OK|NO|BAD) (.*)", line, re.S)
            if not found or found[1] not in tags:
                raise Mistake(self, f"is no answer to {tags}: {line!r}")
            return Reply(untagged, *found.groups())

    def continuation(self):
        line = self.line()
        if not line.startswith(b"+"):
            raise Mistake(self, f"no continuation: {line!r}")

    def command(self, line):
        tag = self.tag()
        self.send(tag + b" " + line + b"\r\n")
        return self.reply([tag])

    def compress(self):
        """RFC 4978: raw deflate, from the tagged OK on."""
        self.inflate = zlib.decompressobj(-15)
        self.deflate = zlib.compressobj(wbits=-15)

    def rest(self, *forgiven):
        """Everything until the other side closes."""
        try:
            while data := self.socket.recv(65536):
                self.take(data)
        except (ConnectionError, *forgiven):
            pass
        except OSError as error:
            raise Mistake(self, f"does not close: {error!r}")
        whole, self.buffer = self.buffer, b""
        if whole:
            self.note("<", whole)
        return whole

    def some(self, count):
        """The beginning of an answer, for a client that does not wait for the end."""
        while len(self.buffer) < count:
            self.fill()
        self.note("<", self.buffer)

    def die(self, how):
        """`fin`: closed. `rst`: gone without a word. `half`: says no more, but listens to the end."""
        self.note("!", how.encode())
        if how == "half":
            try:
                # Under TLS this closes without a close_notify, as many do, and may be answered by an alert.
                socket.socket.shutdown(self.socket, socket.SHUT_WR)
            except OSError:
                pass
            self.rest(ssl.SSLError)
        if how == "rst":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def parse(data):
    """A parenthesised list, nested, with strings and literals as bytes."""
    stack, at = [[]], 0
    token = re.compile(rb'[ ]*(?:(\()|(\))|"((?:[^"\\]|\\.)*)"|~?\{(\d+)\}\r\n|((?:\[[^\]]*\](?:<\d+>)?|[^ ()"\[\{])+))', re.S)
    while at < len(data):
        found = token.match(data, at)
        if not found:
            raise ValueError(f"not IMAP: {data[at:]!r}")
        at = found.end()
        if found[1]:
            stack.append([])
        elif found[2]:
            done = stack.pop()
            stack[-1].append(done)
        elif found[4]:
            stack[-1].append(data[at : at + int(found[4])])
            at += int(found[4])
        else:
            stack[-1].append(found[5] if found[5] is not None else re.sub(rb"\\(.)", rb"\1", found[3]))
    return stack[0]
