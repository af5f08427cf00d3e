"""What the servers must say: a small model of each user's mail, and sessions that compare every reply with it.

A session's reply is right if it fits the model; where the model is too small (envelopes, LIST, what a server says about
itself), the same command on a direct connection to the backend right afterwards says what is right.
"""

import re

from talk import Connection, Mistake, Reply, parse

FLAGS = [b"\\Answered", b"\\Deleted", b"\\Draft", b"\\Flagged", b"\\Seen"]


class Message:
    def __init__(self, body, flags):
        self.body, self.flags = body, set(flags)


class Mailbox:
    """`loose`: what sessions that died did here nobody knows, so only whose it is can be checked. `still`: stays as it is."""

    def __init__(self, name, validity, kind="usual"):
        self.name, self.validity, self.loose, self.still = name, validity, kind == "loose", kind == "still"
        self.next = 1
        self.messages = {}

    def uids(self):
        return sorted(self.messages)

    def add(self, body, flags):
        self.messages[self.next] = Message(body, flags)
        self.next += 1

    def expunge(self):
        self.messages = {uid: message for uid, message in self.messages.items() if b"\\Deleted" not in message.flags}


class Account:
    """A user: name and password, the token that is in all of its mail, its mailboxes, and what is counted."""

    def __init__(self, user, password, kind, server, token, changes):
        """`changes`: its password does, now and then."""
        self.user, self.password, self.kind, self.server, self.token = user, password, kind, server, token
        self.changes = changes
        self.old_passwords = []
        self.boxes = {}
        self.sessions = []
        self.made = 0
        self.count = dict.fromkeys(["steps", "logins", "unknown", "refused", "logouts", "kills", "direct"], 0)
        self.twin = None
        self.compresses = b"COMPRESS=DEFLATE" in b"".join(self.direct(b"CAPABILITY")[0].untagged)
        self.mailbox(b"INBOX")
        self.loose = self.make(b"-Loose", "loose")
        self.large = self.make(b"-Large", "still")

    def make(self, name, kind):
        self.direct(b"CREATE " + self.token + name)
        return self.mailbox(self.token + name, kind)

    def direct(self, *lines):
        """The same commands without mailmux, on a connection that stays."""
        if not self.twin:
            self.twin = self.log_in_directly(self.password)
        return [self.twin.command(line) for line in lines]

    def log_in_directly(self, password):
        connection = Connection(self.server.port, f"{self.user}, directly", self.token)
        connection.line()
        if connection.command(b"LOGIN %s %s" % (quoted(self.user), quoted(password))).status != b"OK":
            connection.die("fin")
            return None
        self.count["direct"] += 1
        return connection

    def try_directly(self, password):
        connection = self.log_in_directly(password)
        if connection:
            connection.die("fin")
        return connection is not None

    def mailbox(self, name, kind="usual"):
        """Notes a mailbox that exists, and asks the backend for its number."""
        (status,) = self.direct(b"STATUS %s (UIDVALIDITY)" % name)
        validity = re.search(rb"UIDVALIDITY (\d+)", b"".join(status.untagged))[1]
        self.boxes[name] = Mailbox(name, validity, kind)
        return self.boxes[name]


def asks(line):
    """The name of a command's answers."""
    words = line.split()
    return {b"LOGOUT": b"BYE"}.get(words[0], words[1] if words[0] == b"UID" else words[0])


def says(line):
    words = line.split(None, 3)
    return words[2] if words[1].isdigit() else words[1]


def quoted(word):
    return b'"%s"' % word.encode().replace(b"\\", b"\\\\").replace(b'"', b'\\"')


class Session:
    """A client of mailmux, logged in."""

    def __init__(self, connection, account):
        self.connection, self.account = connection, account
        self.box = None
        self.view = []
        self.read_only = self.condstore = self.compressed = False

    def mistake(self, what):
        return Mistake(self.connection, what)

    def want(self, fact, what, reply):
        if not fact:
            raise self.mistake(f"{what}; the answer was {reply.untagged} {reply.status} {reply.text}")

    # --- Replies ------------------------------------------------------------------------------------------------------

    def begin(self, *commands, before=b"", behind=b"", asked=False):
        """Sends commands, each a line and what checks its reply, in one write, together with what is answered elsewhere."""
        tagged = [(self.connection.tag(), line, check) for line, check in commands]
        self.connection.send(before + b"".join(tag + b" " + line + b"\r\n" for tag, line, _ in tagged) + behind, asked)
        return tagged

    def finish(self, tagged):
        """Servers may answer commands in any order when they have several, and answer one inside another: each kind of answer
        is given to the command that has asked for it, so there must be only one such command."""
        replies, untagged = {}, []
        while len(replies) < len(tagged):
            reply = self.connection.reply([tag for tag, _, _ in tagged], bye=tagged[-1][1] == b"LOGOUT")
            self.want(reply.tag not in replies, "a second answer", reply)
            replies[reply.tag] = reply
            untagged += reply.untagged
        for tag, line, check in tagged:
            reply = replies[tag]
            if len(tagged) > 1:
                reply.untagged = [said for said in untagged if asks(line) == says(said)]
                untagged = [said for said in untagged if said not in reply.untagged]
            else:
                untagged = []
            check(reply)
        # Changes of the mailbox belong to no command.
        untagged, _ = self.changes(Reply(untagged))
        self.want(not untagged, f"for {untagged} nobody has asked", reply)

    def run(self, *commands, asked=False):
        self.finish(self.begin(*commands, asked=asked))

    def changes(self, reply, wanted=()):
        """Takes what is said of the mailbox without being asked out of a reply, and compares it with the model. Gives what
        remains, and the items of the messages that were asked for, by UID."""
        rest, items = [], {}
        for line in reply.untagged:
            found = re.fullmatch(rb"\* (\d+) (EXISTS|RECENT|EXPUNGE|FETCH)( .*)?", line, re.S)
            if not found:
                rest.append(line)
                continue
            self.want(self.box, "no mailbox is selected", reply)
            number = int(found[1])
            if self.box.loose:
                if found[2] == b"FETCH":
                    items[number] = self.items(parse(found[3])[0])
            elif found[2] == b"EXISTS":
                known = self.box.uids()
                self.want(number >= len(self.view), "messages are gone without EXPUNGE", reply)
                self.view += [uid for uid in known if not self.view or uid > self.view[-1]][: number - len(self.view)]
                self.want(number == len(self.view), f"wrong EXISTS: {number}, not {len(self.view)}", reply)
            elif found[2] == b"EXPUNGE":
                self.want(0 < number <= len(self.view), "EXPUNGE of what is not there", reply)
                gone = self.view.pop(number - 1)
                self.want(gone not in self.box.messages, f"EXPUNGE of {gone}, which is still there", reply)
            elif found[2] == b"FETCH":
                self.want(0 < number <= len(self.view), "FETCH of what is not there", reply)
                self.fetched(self.view[number - 1], self.items(parse(found[3])[0]), wanted, items, reply)
        return rest, items

    @staticmethod
    def items(pairs):
        return dict(zip(pairs[::2], pairs[1::2]))

    def fetched(self, uid, got, wanted, items, reply):
        message = self.box.messages.get(uid)
        self.want(message, f"a FETCH of {uid}, which is gone", reply)
        usual = {b"FLAGS", b"UID"} | ({b"MODSEQ"} if self.condstore else set())
        self.want(set(got) <= usual | set(wanted), f"items for which nobody asked: {sorted(set(got))}", reply)
        self.want(int(got.get(b"UID", uid)) == uid, f"wrong UID, not {uid}", reply)
        if b"FLAGS" in got:
            flags = set(got[b"FLAGS"]) - {b"\\Recent"}
            self.want(flags == message.flags, f"wrong flags of {uid}, not {sorted(message.flags)}", reply)
        for name in got:
            if name == b"BODY[]":
                self.want(got[name] == message.body, f"wrong body of {uid}", reply)
            elif name == b"RFC822.SIZE":
                self.want(int(got[name]) == len(message.body), f"wrong size of {uid}", reply)
            elif name == b"ENVELOPE" or name.startswith(b"BODY[HEADER"):
                self.want(self.account.token in repr(got[name]).encode(), f"no token in {uid}", reply)
        items.setdefault(uid, {}).update(got)

    def just_ok(self, reply):
        """Nothing but OK, and changes of the mailbox."""
        rest, _ = self.changes(reply)
        self.want(reply.status == b"OK" and not rest, "not just OK", reply)

    def as_directly(self, reply, line, before=(), after=()):
        """Compares with what the backend says to somebody who is logged in without mailmux."""
        answers = self.account.direct(*before, line, *after)
        right = answers[len(before)]

        def comparable(reply):
            # Whether mail is new for a session is its own affair, and so is that something was selected before.
            # Whether a mailbox is marked Dovecot says when it happens to know.
            lines = [re.sub(rb" ?MODSEQ \(\d+\)", b"", line) for line in reply.plain()]
            lines = [re.sub(rb" ?\\(UnM|M)arked", b"", line) for line in lines]
            lines = [re.sub(rb"FLAGS \(([^)]*)\)", self.flags, line) for line in lines]
            return [line for line in sorted(lines) if not re.match(rb"\* \d+ RECENT|\* OK \[(CLOSED|HIGHESTMODSEQ)", line)]

        got, expected = comparable(reply), comparable(right)
        if self.compressed:
            expected = [line.replace(b" COMPRESS=DEFLATE", b"") for line in expected]
            got = [line.replace(b" COMPRESS=DEFLATE", b"") for line in got]
        self.want(got == expected, f"directly it is {expected}", reply)

    @staticmethod
    def flags(found):
        return b"FLAGS (%s)" % b" ".join(flag for flag in sorted(found[1].split()) if flag != b"\\Recent")

    # --- Commands: a line, and what checks its reply -------------------------------------------------------------------

    def noop(self):
        def check(reply):
            self.just_ok(reply)
            if self.box and not self.box.loose:
                self.want(self.view == self.box.uids(), f"{self.view} are not all changes, not {self.box.uids()}", reply)

        return b"NOOP", check

    def refused(self, line):
        """What a fresh login is refused, in the backend's own words: nothing is selected."""

        def check(reply):
            self.want(reply.status != b"OK", "not refused", reply)
            self.as_directly(reply, line)

        return line, check

    def asked(self, line):
        """Something whose answer is the same for everybody who asks, as LIST or NAMESPACE."""

        def check(reply):
            reply.untagged, _ = self.changes(reply)
            self.as_directly(reply, line)
            if line == b'LIST "" *':
                names = sorted(parse(item[7:])[-1] for item in reply.untagged)
                self.want(names == sorted(self.account.boxes), f"not the user's mailboxes: {names}", reply)

        return line, check

    def status(self, box):
        line = b"STATUS %s (MESSAGES UIDNEXT UIDVALIDITY UNSEEN)" % box.name

        def check(reply):
            rest, _ = self.changes(reply)
            self.want(reply.status == b"OK" and len(rest) == 1, "no STATUS", reply)
            _, _, name, pairs = parse(rest[0])
            unseen = sum(b"\\Seen" not in message.flags for message in box.messages.values())
            right = {b"MESSAGES": len(box.messages), b"UNSEEN": unseen}
            right |= {b"UIDNEXT": box.next, b"UIDVALIDITY": int(box.validity)}
            got = {item: int(value) for item, value in self.items(pairs).items()}
            self.want(name == box.name and (box.loose or got == right), f"not {right}", reply)

        return line, check

    def select(self, box, read_only=False):
        line = (b"EXAMINE " if read_only else b"SELECT ") + box.name

        def check(reply):
            self.box, self.view, self.read_only = box, box.uids(), read_only
            text = b"\n".join([*reply.untagged, reply.status + b" " + reply.text])
            self.want(b"\nOK [READ-%s]" % (b"ONLY" if read_only else b"WRITE") in text, "not selected", reply)
            if not box.loose:
                numbers = b"* OK [UIDVALIDITY %s]" % box.validity, b"* OK [UIDNEXT %d]" % box.next
                for fact in (b"* %d EXISTS" % len(self.view), *numbers):
                    self.want(text.count(fact) == 1, f"no {fact!r}", reply)
                self.as_directly(reply, line, after=[b"UNSELECT"])

        return line, check

    def fetch(self, uids, what, by_number=False):
        """By UID, or by number: then the session must be up to date when this is read."""
        if self.box.loose:
            return self.fetch_loosely(what)
        numbers = [self.box.uids().index(uid) + 1 for uid in uids]
        names = b",".join(b"%d" % number for number in (numbers if by_number else uids))
        line = b"%sFETCH %s (UID FLAGS %s)" % (b"" if by_number else b"UID ", names, what)

        def check(reply):
            wanted = [item.replace(b".PEEK", b"") for item in re.findall(rb"[^ \[]+(?:\[[^\]]*\])?", what)]
            self.as_directly(reply, line, before=[b"EXAMINE " + self.box.name], after=[b"UNSELECT"])
            rest, items = self.changes(reply, wanted)
            self.want(reply.status == b"OK" and not rest and sorted(items) == sorted(uids), f"not {uids}", reply)
            self.want(all(len(got) >= 2 + len(wanted) for got in items.values()), "items are missing", reply)

        return line, check

    def fetch_loosely(self, what):
        def check(reply):
            rest, items = self.changes(reply)
            self.want(reply.status == b"OK" and not rest, "not only messages", reply)
            for got in items.values():
                self.want(self.account.token in repr(got[b"ENVELOPE"]).encode(), "no token", reply)

        return b"UID FETCH 1:* (UID FLAGS ENVELOPE)", check

    def search(self, criteria, fits):
        line = b"UID SEARCH " + criteria

        def check(reply):
            rest, _ = self.changes(reply)
            self.want(reply.status == b"OK" and len(rest) == 1, "no SEARCH", reply)
            right = [uid for uid in self.box.uids() if fits(self.box.messages[uid])]
            got = sorted(map(int, rest[0].split()[2:]))
            self.want(rest[0].startswith(b"* SEARCH") and (self.box.loose or got == right), f"not {right}", reply)

        return line, check

    def store(self, uids, sign, flags, silent):
        line = b"UID STORE %s %sFLAGS%s (%s)"
        line %= b",".join(b"%d" % uid for uid in uids), sign, b".SILENT" if silent else b"", b" ".join(flags)

        def check(reply):
            if self.read_only:
                # Cyrus says NO, Dovecot OK and that it was ignored.
                self.want(reply.status != b"BAD" and self.changes(reply) == ([], {}), "not ignored", reply)
                return
            changed = set()
            for uid in uids:
                message = self.box.messages[uid]
                had = message.flags
                message.flags = {b"": set(flags), b"+": had | set(flags), b"-": had - set(flags)}[sign]
                if message.flags != had:
                    changed.add(uid)
            rest, items = self.changes(reply)
            self.want(reply.status == b"OK" and not rest, "not stored", reply)
            # Cyrus does not mention those that stay as they were.
            self.want(silent or changed <= set(items) <= set(uids), f"not the flags of {uids}", reply)

        return line, check

    def append(self, box, body, flags):
        """The command, up to its literal."""
        return b"APPEND %s (%s) " % (box.name, b" ".join(flags))

    def appended(self, reply, box, body, flags):
        box.add(body, flags)
        rest, _ = self.changes(reply)
        right = b"[APPENDUID %s %d]" % (box.validity, box.next - 1)
        self.want(reply.status == b"OK" and not rest, "not appended", reply)
        self.want(box.loose or reply.text.startswith(right), f"not {right!r}", reply)

    def leave(self, line):
        """CLOSE, which expunges, and UNSELECT, which does not."""

        def check(reply):
            if line == b"CLOSE" and not self.read_only:
                self.box.expunge()
            self.box, self.view = None, []
            self.want(reply.status == b"OK" and not reply.untagged, "not just OK", reply)

        return line, check

    def expunge(self):
        def check(reply):
            self.box.expunge()
            self.just_ok(reply)
            self.want(self.view == self.box.uids(), f"{self.view} remain, not {self.box.uids()}", reply)

        return b"EXPUNGE", check

    def enable(self):
        def check(reply):
            rest, _ = self.changes(reply)
            self.condstore = True
            rest = [line for line in rest if not line.startswith(b"* OK [HIGHESTMODSEQ ")]
            self.want(reply.status == b"OK" and rest in ([b"* ENABLED CONDSTORE"], [b"* ENABLED"], []), "not enabled", reply)

        return b"ENABLE CONDSTORE", check

    def logout(self):
        def check(reply):
            self.want(reply.status == b"OK" and len(reply.untagged) == 1, "not one BYE and OK", reply)
            self.want(reply.untagged[0].startswith(b"* BYE"), "no BYE", reply)

        return b"LOGOUT", check
