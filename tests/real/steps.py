"""What clients do, at random: how they come and go (what they do meanwhile: uses.py).

Which step comes next depends on the seed and on the model alone, never on time, so that a seed replays a run. Sessions that die
in the middle of a command which changes mail do so where nobody counts (a loose mailbox), or before the command is complete.
"""

import base64
import collections

from accounts import Session, quoted
from talk import Connection, Mistake, Reply, plain
from uses import Uses
from world import until

MOST = 10


class Steps(Uses):
    """`ports`: mailmux in clear and, with `tls`, in TLS. `either`: a password that was changed may still be taken for a while."""

    def __init__(self, rng, accounts, ports, tls, either):
        self.rng, self.accounts, self.ports, self.tls, self.either = rng, accounts, ports, tls, either
        self.sessions = []
        self.connections = 0
        self.said = {}
        self.steps = collections.deque(maxlen=60)

    def step(self):
        Connection.step += 1
        sessions = len(self.sessions)
        kinds = {
            self.open: 12 if sessions < MOST else 0,
            self.burst: 2 if sessions < MOST - 4 else 0,
            self.wrong_password: 2,
            self.die_before_login: 3,
            self.new_password: 0.2,
            self.chorus: 3 if sessions > 1 else 0,
            self.end: 12 if sessions else 0,
            self.use: 65 if sessions else 0,
        }
        self.act(kinds)

    def act(self, weights, session=None):
        """One of these steps, which is written down."""
        step = self.rng.choices(list(weights), list(weights.values()))[0]
        name = session.connection.name if session else ""
        self.steps.append(f"  step {Connection.step} {step.__name__} {name}")
        step(session) if session else step()

    def recently(self):
        return "\n".join(self.steps)

    def everybody_out(self):
        for session in list(self.sessions):
            self.log_out(session)

    # --- Logging in ---------------------------------------------------------------------------------------------------

    def connect(self, account):
        secure = self.rng.random() < 0.25
        self.connections += 1
        name = f"connection {self.connections} of {account.user}"
        connection = Connection(self.ports[secure], name, account.token, self.tls if secure else None)
        connection.secure = secure
        self.same(connection, ("greeting", secure), connection.line())
        return connection

    def same(self, connection, what, line):
        """What everybody is told who comes this way is the same every time."""
        if self.said.setdefault(what, plain(line)) != plain(line):
            raise Mistake(connection, f"another {what}: {line!r}, not {self.said[what]!r}")

    def login_pieces(self, tag, account, password):
        """A login in one of its forms, in pieces that each wait for a continuation."""
        user, word = account.user.encode(), password.encode()
        initial = base64.b64encode(b"\0" + user + b"\0" + word)
        forms = [
            [b"%s LOGIN %s %s\r\n" % (tag, quoted(account.user), quoted(password))],
            [b"%s LOGIN {%d+}\r\n%s {%d+}\r\n%s\r\n" % (tag, len(user), user, len(word), word)],
            [b"%s LOGIN {%d}\r\n" % (tag, len(user)), b"%s {%d}\r\n" % (user, len(word)), word + b"\r\n"],
            [b"%s AUTHENTICATE PLAIN %s\r\n" % (tag, initial)],
            [b"%s AUTHENTICATE PLAIN\r\n" % tag, initial + b"\r\n"],
        ]
        return self.rng.choice(forms)

    def send_login(self, connection, account, password):
        """All but the last piece is sent; that one is given."""
        tag = connection.tag()
        *first, last = self.login_pieces(tag, account, password)
        for piece in first:
            connection.send(piece)
            connection.continuation()
        return tag, last

    def logged_in(self, connection, account, tag):
        """The answer to a login that must succeed."""
        reply = connection.reply([tag])
        session = Session(connection, account)
        account.count["logins"] += 1
        alone = all(line.startswith(b"* CAPABILITY ") for line in reply.untagged)
        session.want(reply.status == b"OK" and alone and len(reply.untagged) < 2, "not one OK for a login", reply)
        self.same(connection, ("login", account.kind), b" ".join([*reply.untagged, reply.text]))
        account.sessions.append(session)
        self.sessions.append(session)
        return session

    def open(self, account=None):
        account = account or self.rng.choice(self.accounts)
        account.count["steps"] += 1
        connection = self.connect(account)
        tag, last = self.send_login(connection, account, account.password)
        if self.rng.random() < 0.2:
            # The first commands do not wait for the login.
            session = Session(connection, account)
            behind = session.begin(session.asked(b'LIST "" *'), session.status(account.boxes[b"INBOX"]), before=last)
            session = self.logged_in(connection, account, tag)
            session.finish(behind)
        else:
            connection.send(last)
            session = self.logged_in(connection, account, tag)
            self.look_around(session)

    def look_around(self, session):
        """A fresh login has no mailbox selected, and nothing is said to it."""
        if self.rng.random() < 0.7:
            self.together(session, session.refused(b"FETCH 1 FLAGS"), session.noop())

    def together(self, session, *commands):
        """Commands in one write or one by one."""
        if self.rng.random() < 0.5:
            return session.run(*commands)
        for command in commands:
            session.run(command)

    def burst(self):
        """Several logins at the same moment, mostly of one user."""
        first = self.rng.choice(self.accounts)
        several, begun = [first], []
        for _ in range(self.rng.randint(1, 3)):
            several.append(first if self.rng.random() < 0.7 else self.rng.choice(self.accounts))
        for account in several:
            connection = self.connect(account)
            tag, last = self.send_login(connection, account, account.password)
            connection.send(last)
            begun.append((connection, account, tag))
        for session in [self.logged_in(*login) for login in begun]:
            session.account.count["steps"] += 1
            self.look_around(session)

    def wrong_password(self):
        account = self.rng.choice(self.accounts)
        account.count["steps"] += 1
        others = [other.password for other in self.accounts if other is not account]
        old = account.old_passwords[-1:]
        word = self.rng.choice([account.password + "x", account.password[:-1], *others[:2], *old * 3])
        connection = self.connect(account)
        tag, last = self.send_login(connection, account, word)
        connection.send(last)
        reply = connection.reply([tag])
        account.count["refused" if reply.status == b"NO" else "unknown"] += 1
        session = Session(connection, account)
        may = self.either and word in old
        session.want(may or (reply.status == b"NO" and not reply.untagged), "not refused", reply)
        if not may and self.rng.random() < 0.5:
            # The right password next, of this user or another one.
            account = self.rng.choice([account, self.rng.choice(self.accounts)])
            connection.owner = account.token
            tag, last = self.send_login(connection, account, account.password)
            connection.send(last)
            self.look_around(self.logged_in(connection, account, tag))
        else:
            connection.die(self.way())

    def die_before_login(self):
        account = self.rng.choice(self.accounts)
        account.count["steps"] += 1
        account.count["kills"] += 1
        connection = self.connect(account)
        _, last = self.send_login(connection, account, account.password)
        length = self.rng.choice([len(last), self.rng.randrange(len(last))])
        if length == len(last):
            account.count["unknown"] += 1
        connection.send(last[:length])
        connection.die(self.way())

    def new_password(self):
        account = self.rng.choice([account for account in self.accounts if account.changes])
        account.count["steps"] += 1
        # Another length each time: Dovecot looks at its file again when the second or the size is another.
        word = "new" + "w" * (len(account.old_passwords) % 40) + "%06x" % self.rng.randrange(1 << 24)
        account.old_passwords.append(account.password)
        account.server.set_password(account.user, word)
        until(lambda: account.try_directly(word), "the new password to be known")
        until(lambda: not account.try_directly(account.password), "the old password to be forgotten")
        account.password = word

    # --- Going away ---------------------------------------------------------------------------------------------------

    def way(self):
        return self.rng.choice(["fin", "rst", "half"])

    def gone(self, session, how):
        session.account.count[how] += 1
        session.account.sessions.remove(session)
        self.sessions.remove(session)

    def end(self):
        session = self.rng.choice(self.sessions)
        session.account.count["steps"] += 1
        ends = {
            self.log_out: 40,
            self.die_idle: 8,
            self.die_in_command: 14,
            self.die_in_literal: 8,
            self.die_in_answer: 14,
            self.die_in_idle: 8 if session.box else 0,
            self.die_unheard: 8,
        }
        self.act(ends, session)

    def log_out(self, session):
        commands = self.readings(session) if self.rng.random() < 0.4 else []
        kind = self.rng.random()
        if kind < 0.15:
            session.begin(*commands, session.logout())
            session.connection.die(self.way())
            return self.gone(session, "kills")
        # What is said behind a LOGOUT is nobody's any more.
        behind = session.connection.tag() + b" NOOP\r\n" if kind < 0.3 else b""
        session.finish(session.begin(*commands, session.logout(), behind=behind))
        rest = session.connection.rest()
        session.want(not rest, f"{rest!r} behind a LOGOUT", Reply([]))
        session.connection.die("fin")
        self.gone(session, "logouts")

    def die_idle(self, session):
        session.connection.die(self.way())
        self.gone(session, "kills")

    def die_in_command(self, session):
        """Perhaps some whole commands that only read, and the beginning of one more."""
        before = self.readings(session) if self.rng.random() < 0.5 else []
        box = session.account.boxes[b"INBOX"]
        body = self.body(session.account)
        last = self.rng.choice([
            b"STORE 1:* +FLAGS (\\Deleted)",
            b"UID STORE 1:* FLAGS ()",
            b"DELETE " + max(session.account.boxes),
            b"CREATE " + session.account.token + b"-never",
            b"EXPUNGE",
            b"NOOP",
            b"SELECT INBOX",
            b"COMPRESS DEFLATE",
            b"LOGOUT",
            session.append(box, body, []) + b"{%d+}\r\n%s" % (len(body), body),
        ])  # fmt: skip
        line = session.connection.tag() + b" " + last + b"\r\n"
        session.begin(*before, behind=line[: self.rng.randrange(len(line) - 1)])
        session.connection.die(self.way())
        self.gone(session, "kills")

    def die_in_literal(self, session):
        body = self.body(session.account)
        line = session.append(session.account.boxes[b"INBOX"], body, [])
        session.connection.send(session.connection.tag() + b" " + line + b"{%d}\r\n" % len(body))
        session.connection.continuation()
        session.connection.send(body[: self.rng.randrange(len(body))])
        session.connection.die(self.way())
        self.gone(session, "kills")

    def die_in_answer(self, session):
        """Some kilobytes are on their way."""
        session.run(session.select(session.account.large))
        fetch = session.fetch(session.box.uids(), b"BODY.PEEK[]")
        session.begin(*[fetch] * self.rng.randint(1, 3))
        session.connection.some(self.rng.randrange(1, 15000))
        session.connection.die(self.way())
        self.gone(session, "kills")

    def die_in_idle(self, session):
        session.run(session.noop())
        session.connection.send(session.connection.tag() + b" IDLE\r\n")
        if self.rng.random() < 0.7:
            session.connection.continuation()
            if self.rng.random() < 0.4:
                session.connection.send(b"DONE\r\n", asked=True)
        session.connection.die(self.way())
        self.gone(session, "kills")

    def die_unheard(self, session):
        """Commands that change something, in the loose mailbox; nobody hears whether they did."""
        box, body = session.account.loose, self.body(session.account)
        session.run(session.select(box))
        commands = [
            b"UID STORE 1:* +FLAGS (\\Flagged)",
            session.append(box, body, []) + b"{%d+}\r\n%s" % (len(body), body),
            b"UID STORE 1:* +FLAGS.SILENT (\\Deleted)",
            b"CLOSE",
        ]
        chosen = self.rng.sample(commands, self.rng.randint(1, 3))
        session.begin(*[(line, None) for line in chosen])
        session.connection.die(self.way())
        self.gone(session, "kills")
