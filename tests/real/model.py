"""Random clients of several users, in front of two kinds of server; every reply must be the right user's, and right.

Clients log in, use their mail, die at any byte or log out, several at once and of the same user too. What they are told is
compared with a model of the user's mail, and with what the backend says directly (accounts.py). Nobody may be told a word of
what somebody else, or an earlier session, has asked for.

    tests/real/run model                             two minutes, with a seed that is printed
    tests/real/run model --seconds 3600 --seed 7     for hours, or one sequence again

or by MODEL_SECONDS and MODEL_SEED. MODEL_POOL says how mailmux pools its links (`pool` of a route), which is "reuse".

A seed replays a run: clients take turns, and what they do next depends on nothing that takes time. A mistake is printed with
the seed, the step, and the last that was said on its connection.

The files: model.py (the world, the counting), steps.py and uses.py (what clients do), accounts.py (what is right), talk.py
(a connection), cyrus.py (the other server).
"""

import os
import pathlib
import random
import re
import shutil
import ssl
import tempfile
import time
import unittest

from accounts import Account
from cyrus import Cyrus
from steps import Steps
from talk import Connection, Mistake
from world import MAILMUX, Dovecot, Mailmux, free_port, make_certificates, until, zlib_settings

SECONDS = float(os.environ.get("MODEL_SECONDS", "120"))
SEED = int(os.environ.get("MODEL_SEED") or random.SystemRandom().randrange(1 << 32))
POOL = os.environ.get("MODEL_POOL", "reuse")
LAST = 30

# Wrong passwords are answered at once, and many sessions may begin in a second.
DOVECOT = """
auth_failure_delay = 0
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
"""


class ChangingDovecot(Dovecot):
    """Its users' logins are counted, and their passwords change."""

    def logins(self, user):
        return len(re.findall(rf"imap-login: .*?(?:Login|Logged in): user=<{re.escape(user)}>,", self.log()))

    def set_password(self, user, password):
        path = self.folder / "users"
        lines = [line for line in path.read_text().splitlines(True) if not line.startswith(user + ":")]
        fresh = path.with_name("users.new")
        fresh.write_text("".join([*lines, f"{user}:{{PLAIN}}{password}\n"]))
        fresh.replace(path)


class Model(unittest.TestCase):
    def setUp(self):
        self.rng = random.Random(SEED)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="mailmux-real."))
        self.addCleanup(shutil.rmtree, self.folder)
        os.chmod(self.folder, 0o711)
        make_certificates(self.folder, "mailmux test")
        names = {"dovecot": ["ada", "ben", "cleo", "dan"], "cyrus": ["eve", "finn", "gus", "hana"]}
        words = {user: f"{user}-%08x" % self.rng.randrange(1 << 32) for users in names.values() for user in users}
        of = {kind: {user: words[user] for user in users} for kind, users in names.items()}
        home = {user: kind for kind, users in names.items() for user in users}
        self.servers = {"dovecot": ChangingDovecot(self.folder / "dovecot", of["dovecot"], DOVECOT + zlib_settings())}
        self.addCleanup(self.servers["dovecot"].stop)
        self.servers["cyrus"] = Cyrus(self.folder / "cyrus", of["cyrus"])
        self.addCleanup(self.servers["cyrus"].stop)
        changing = [users[0] for users in names.values()]
        self.accounts = [self.account(user, words[user], kind, user in changing) for user, kind in home.items()]
        (self.folder / "users.map").write_text("".join(f"{user}\t{kind}\n" for user, kind in home.items()))
        self.ports = [free_port(), free_port()]
        self.mailmux = Mailmux(self.folder, self.config())
        self.addCleanup(self.mailmux.stop)

    def account(self, user, password, kind, changes):
        account = Account(user, password, kind, self.servers[kind], b"TOK%08X" % self.rng.randrange(1 << 32), changes)
        self.addCleanup(account.twin.die, "fin")
        for size in (400, 9000, 30000):
            text = (b"%s in a long line of %d.\r\n" % (account.token, size)) * (size // 30)
            self.put(account, account.large, b"Subject: %s large\r\n\r\n%s" % (account.token, text))
        for number in range(2):
            self.put(account, account.boxes[b"INBOX"], b"Subject: %s %d\r\n\r\n%s.\r\n" % (account.token, number, account.token))
        return account

    @staticmethod
    def put(account, box, body):
        account.direct(b"APPEND %s {%d+}\r\n%s" % (box.name, len(body), body))
        box.add(body, [])

    def config(self):
        backends = "".join(
            f'[[backend]]\nname = "{kind}"\naddress = "127.0.0.1:{server.port}"\ntls = "none"\n'
            for kind, server in self.servers.items()
        )
        return f"""
[[listener]]
name = "imap"
address = "127.0.0.1:{self.ports[0]}"
tls = "none"
[[listener]]
name = "imaps"
address = "127.0.0.1:{self.ports[1]}"
tls = "implicit"
[[tls.certificate]]
chain = "mail.pem"
key = "mail.key"
{backends}
[[lookup]]
name = "users"
type = "file"
path = "users.map"
[[route]]
lookup = "users"
pool = "{POOL}"
[pool]
warm = {0 if POOL == "off" else 2}
reuse_ttl = "3s"
reuse_max = 1000
[server]
drain_timeout = "1s"
[timeouts]
refusal_grid = "1ms"
[limits]
sessions_per_user = 0
logins_per_user = "off"
failures_per_user = "off"
"""

    def test_random_clients_are_told_what_is_theirs_and_right(self):
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        steps = Steps(self.rng, self.accounts, self.ports, context, either=POOL == "reuse")
        print(f"\n    seed {SEED}, {SECONDS:.0f} s, pool {POOL}", flush=True)
        end = time.monotonic() + SECONDS
        try:
            while time.monotonic() < end:
                steps.step()
            steps.everybody_out()
            self.count()
        except Mistake as mistake:
            said = mistake.connection.report(LAST)
            print(f"\n    MODEL_SEED={SEED}, step {Connection.step}: {mistake}\n{said}", flush=True)
            print(f"    and everybody's last steps:\n{steps.recently()}", flush=True)
            raise

    def count(self):
        """What reached the backends, by their logs, is what was logged in through mailmux, but for what was reused."""
        series = [f'mailmux_pool_checkouts_total{{backend="{kind}",outcome="hit"}}' for kind in self.servers]
        hits = sum(self.mailmux.metric(name) for name in series)
        certain = sum(account.count["logins"] for account in self.accounts)
        perhaps = certain + sum(account.count["unknown"] for account in self.accounts)

        def reached():
            return {account.user: account.server.logins(account.user) - account.count["direct"] for account in self.accounts}

        try:
            until(lambda: sum(reached().values()) + hits >= certain, f"{certain} logins to be in the backends' logs")
        finally:
            there = reached()
            print("    " + "".join(f"{word:>9}" for word in ["user", "server", *self.accounts[0].count, "reached"]))
            for account in self.accounts:
                words = [account.user, account.kind, *account.count.values(), there[account.user]]
                print("    " + "".join(f"{word:>9}" for word in words))
            print(f"    {Connection.step} steps, {certain} logins and perhaps {perhaps - certain} more,", end=" ")
            print(f"{sum(there.values())} reached a backend, {hits:.0f} were reused", flush=True)
        self.assertLessEqual(sum(there.values()) + hits, perhaps, "logins that nobody asked for")


if __name__ == "__main__":
    unittest.main()
