"""What clients do with their mail, at random: a part of the steps. Every reply is checked: see accounts.py.

NOOP comes first almost everywhere: what other sessions have done is told then, and what is asked next has one right answer.
"""

from accounts import FLAGS
from talk import Reply

SEARCHES = [
    (b"ALL", lambda message: True),
    (b"UNSEEN", lambda message: b"\\Seen" not in message.flags),
    (b"FLAGGED UNDELETED", lambda message: b"\\Flagged" in message.flags and b"\\Deleted" not in message.flags),
    (b"LARGER 500", lambda message: len(message.body) > 500),
    (b"BODY even", lambda message: b"even" in message.body.split(b"\r\n\r\n", 1)[1]),
]
WHAT = [b"RFC822.SIZE", b"ENVELOPE", b"BODY.PEEK[]", b"BODY.PEEK[HEADER.FIELDS (SUBJECT)]", b"RFC822.SIZE ENVELOPE BODY.PEEK[]"]
ASKED = [b'LIST "" *', b"CAPABILITY", b"NAMESPACE", b"MYRIGHTS INBOX", b"XYZZY", b'LIST "" ""', b'LSUB "" *']


class Uses:
    def use(self):
        session = self.rng.choice(self.sessions)
        account = session.account
        account.count["steps"] += 1
        box = session.box
        changes = box and not box.loose and not box.still
        uses = {
            self.select: 8 if box else 30,
            self.read: 30,
            self.append: 8,
            self.store: 12 if changes and box.messages else 0,
            self.expunge: 3 if changes and not session.read_only else 0,
            self.leave: 4 if box else 0,
            self.idle: 3 if box else 0,
            self.create: 2 if len(account.boxes) < 7 else 0,
            self.delete: 2 if self.deletable(account) else 0,
            self.enable: 1,
            self.compress: 1 if account.compresses and not session.compressed else 0,
        }
        self.act(uses, session)

    def body(self, account):
        number = self.rng.randrange(10000)
        text = b"%s says %s, line %d.\r\n" % (account.token, b"even" if number % 2 == 0 else b"odd", number)
        head = b"From: %s@example.org\r\nTo: b@example.org\r\nSubject: %s %d\r\n\r\n" % (account.token, account.token, number)
        return head + text * self.rng.choice([1, 2, 10, 50])

    def readings(self, session):
        """Commands that change nothing, one of a kind, for a session that is up to date."""
        account, box = session.account, session.box
        session.run(session.noop())
        others = [each for each in account.boxes.values() if each is not box]
        kinds = {
            "asked": session.asked(self.rng.choice(ASKED)),
            "status": session.status(self.rng.choice(others)),
            "noop": session.noop(),
        }
        if box:
            kinds["search"] = session.search(*self.rng.choice(SEARCHES))
            if box.messages or box.loose:
                kinds["fetch"] = session.fetch(self.some_uids(box), self.rng.choice(WHAT), self.rng.random() < 0.4)
        return [kinds[kind] for kind in self.rng.sample(sorted(kinds), self.rng.randint(1, min(len(kinds), 4)))]

    def some_uids(self, box):
        uids = box.uids()
        return sorted(self.rng.sample(uids, self.rng.randint(1, min(len(uids), 5)))) if uids else []

    def read(self, session):
        self.together(session, *self.readings(session))

    def chorus(self):
        """Several sessions ask at once, and are answered at once."""
        several = self.rng.sample(self.sessions, self.rng.randint(2, min(4, len(self.sessions))))
        ready = [(session, self.readings(session)) for session in several]
        begun = [(session, session.begin(*commands)) for session, commands in ready]
        for session, commands in begun:
            session.account.count["steps"] += 1
            session.finish(commands)

    def select(self, session):
        session.run(session.select(self.rng.choice(list(session.account.boxes.values())), self.rng.random() < 0.3))

    def append(self, session):
        account = session.account
        box = self.rng.choice([box for box in account.boxes.values() if not box.still])
        if len(box.messages) > 25:
            return self.clear(session, box)
        body, flags = self.body(account), self.rng.sample(FLAGS, self.rng.randint(0, 2))
        session.run(session.noop())
        connection, tag = session.connection, session.connection.tag()
        line = tag + b" " + session.append(box, body, flags)
        if self.rng.random() < 0.5:
            connection.send(line + b"{%d+}\r\n%s\r\n" % (len(body), body))
        else:
            connection.send(line + b"{%d}\r\n" % len(body))
            connection.continuation()
            cut = self.rng.randrange(len(body))
            connection.send(body[:cut])
            connection.send(body[cut:] + b"\r\n")
        session.appended(connection.reply([tag]), box, body, flags)

    def clear(self, session, box):
        """Mailboxes do not grow for ever."""
        session.run(session.select(box))
        if box.loose:
            session.connection.command(b"UID STORE 1:* +FLAGS.SILENT (\\Deleted)")
            box.messages = {}
        else:
            session.run(session.store(box.uids()[5:], b"+", [b"\\Deleted"], True))
        session.run(session.leave(b"CLOSE"))

    def store(self, session):
        uids, flags = self.some_uids(session.box), self.rng.sample(FLAGS, self.rng.randint(1, 3))
        store = session.store(uids, self.rng.choice([b"", b"+", b"-"]), flags, self.rng.random() < 0.3)
        session.run(session.noop())
        session.run(store)

    def expunge(self, session):
        session.run(session.noop())
        session.run(session.expunge())

    def leave(self, session):
        # CLOSE expunges what the session has been told of.
        session.run(session.noop())
        close = self.rng.random() < 0.5 and not session.box.loose and not session.box.still
        session.run(session.leave(b"CLOSE" if close else b"UNSELECT"))

    def idle(self, session):
        session.run(session.noop())
        connection, tag, box = session.connection, session.connection.tag(), session.box
        connection.send(tag + b" IDLE\r\n")
        connection.continuation()
        others = [other for other in session.account.sessions if other is not session and other.box is None]
        if others and not box.loose and not box.still and self.rng.random() < 0.6:
            other, body = self.rng.choice(others), self.body(session.account)
            tag_there = other.connection.tag()
            other.connection.send(tag_there + b" " + other.append(box, body, []) + b"{%d+}\r\n%s\r\n" % (len(body), body))
            other.appended(other.connection.reply([tag_there]), box, body, [])
            while len(session.view) < len(box.messages):
                session.just_ok(Reply([connection.line()]))
        connection.send(b"DONE\r\n", asked=True)
        session.just_ok(connection.reply([tag]))

    def create(self, session):
        account = session.account
        account.made += 1
        name = account.token + b"-%d" % account.made
        session.run(session.noop())
        session.just_ok(session.connection.command(b"CREATE " + name))
        account.mailbox(name)

    @staticmethod
    def deletable(account):
        used = [session.box for session in account.sessions]
        return [box for box in account.boxes.values() if box.name != b"INBOX" and not (box.loose or box.still or box in used)]

    def delete(self, session):
        session.run(session.noop())
        box = self.rng.choice(self.deletable(session.account))
        session.just_ok(session.connection.command(b"DELETE " + box.name))
        del session.account.boxes[box.name]

    def enable(self, session):
        session.run(session.noop())
        session.run(session.enable())

    def compress(self, session):
        session.run(session.noop())
        session.just_ok(session.connection.command(b"COMPRESS DEFLATE"))
        session.connection.silent()
        session.connection.compress()
        session.compressed = True
