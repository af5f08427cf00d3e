"""A group of three Dovecots, of which one is killed under load and comes back: who notices, and for how long."""

import collections
import imaplib
import os
import re
import signal
import subprocess
import threading
import time
import unittest

from world import Case, Dovecot, until

PASSWORD = "shared-secret"
PEOPLE = [f"user{number:02}@example.org" for number in range(20)]
# Seconds from the beginning of the load.
KILLED, STARTED, ENDED = 5, 10, 18
# So long after the kill may clients notice, and a handful of them at most.
NOTICED, HANDFUL = 3, 5
PAUSE = 0.2


class Failover(Case):
    @classmethod
    def people(cls, _):
        return dict.fromkeys(PEOPLE, PASSWORD)

    @classmethod
    def config(cls):
        cls.backends["red"] = Dovecot(cls.folder / "red", cls.people("red"))
        cls.addClassCleanup(cls.backends["red"].stop)
        sections = cls.backend_sections().replace('tls = "none"\n', 'tls = "none"\nhealth = { interval = "1s" }\n')
        return f"""
[[listener]]
name = "imaps"
address = "127.0.0.1:{cls.imaps}"
tls = "implicit"
[[tls.certificate]]
chain = "mail.pem"
key = "mail.key"
{sections}
[[group]]
name = "eu"
members = ["blue", "green", "red"]
choose = "hash"
[[route]]
group = "eu"
[limits]
logins_per_user = "off"
"""

    def test_a_member_of_a_group_is_killed_and_comes_back(self):
        order = {user: self.order(user) for user in PEOPLE}
        hers = [user for user in PEOPLE if order[user][0] == "red"]
        self.assertGreater(len(hers), 2, "some live where it happens")
        up = 'mailmux_backend_up{backend="red"}'
        red = self.backends["red"]

        load = Load(self)
        load.wait(KILLED)
        self.assertTrue(all(user in load.let_in() for user in PEOPLE), "everybody has been in")
        killed = load.now()
        kill(red)
        until(lambda: self.mailmux.metric(up) == 0, "mailmux to notice")
        noticed = load.now()
        load.wait(STARTED)
        before = len(red.log())
        red.start()
        started = load.now()
        until(lambda: self.mailmux.metric(up) == 1, "mailmux to see that it is back")
        back = load.now()
        # Logins under way may still end where they began.
        load.wait(back + 1)
        since = {name: len(backend.log()) for name, backend in self.backends.items()}
        load.wait(max(ENDED, back + 3))
        load.stop()
        print(f"\nkilled at {killed:.1f} s, down at {noticed:.1f} s, started at {started:.1f} s, up at {back:.1f} s")
        print(load.table(), flush=True)

        trouble = [event for event in load.events if event.what != "ok"]
        for event in trouble:
            self.assertIn(event.user, hers, f"lives elsewhere: {event}")
            self.assertTrue(killed <= event.at <= killed + NOTICED, f"{event}, and the kill was at {killed:.1f}")
        failed = [event for event in trouble if event.what == "failed"]
        self.assertLessEqual(len(failed), HANDFUL)
        # Each has one session at a time, and who was in when it died is in at most once.
        self.assertLessEqual(len(trouble) - len(failed), len(hers))

        self.assertEqual(logins(red.log()[before:]) & set(hers), set(hers), "they are back")
        for name in ("blue", "green"):
            late = logins(self.backends[name].log()[since[name] :])
            self.assertFalse(late & set(hers), f"and no longer at {name}")
        for name, backend in self.backends.items():
            for user in set(backend.callers()):
                place = order[user].index(name)
                self.assertTrue(place == 0 or (place == 1 and user in hers), f"{user} was at {name}: {order[user]}")

    def order(self, user):
        said, code = self.mailmux.route(user)
        self.assertEqual(code, 0, said)
        order = re.findall(r"^group eu: (\w+)", said, re.MULTILINE)
        self.assertEqual(sorted(order), ["blue", "green", "red"])
        return order


Event = collections.namedtuple("Event", "at user what heard took")


class Load:
    """Everybody logs in, selects, and logs out, again and again."""

    def __init__(self, case):
        self.case = case
        self.events = []
        self.began = time.monotonic()
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.live, args=(user,)) for user in PEOPLE]
        for thread in self.threads:
            thread.start()
        case.addCleanup(self.stop)

    def now(self):
        return time.monotonic() - self.began

    def wait(self, moment):
        time.sleep(max(0, moment - self.now()))

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def let_in(self):
        return {event.user for event in self.events if event.what == "ok"}

    def live(self, user):
        while not self.over.wait(PAUSE):
            began = self.now()
            what, heard = self.visit(user)
            self.events.append(Event(self.now(), user, what, heard, self.now() - began))

    def visit(self, user):
        """failed: there was no OK; cut: the session ended behind it, before its LOGOUT."""
        what = "failed"
        try:
            connection = imaplib.IMAP4_SSL("localhost", self.case.imaps, ssl_context=self.case.tls, timeout=30)
        except (OSError, imaplib.IMAP4.error) as error:
            return what, str(error)
        try:
            connection.login(user, PASSWORD)
            what = "cut"
            connection.select("INBOX")
            connection.logout()
            return "ok", ""
        except (OSError, imaplib.IMAP4.error) as error:
            return what, str(error)
        finally:
            self.case.close(connection)

    def table(self):
        lines = ["second    ok  failed  cut  slowest  heard"]
        by_second = collections.defaultdict(list)
        for event in self.events:
            by_second[int(event.at)].append(event)
        for second in range(max(by_second) + 1):
            events = by_second[second]
            count = collections.Counter(event.what for event in events)
            heard = collections.Counter(event.heard for event in events if event.heard)
            slowest = max((event.took for event in events), default=0)
            words = "; ".join(f"{count} x {text}" for text, count in heard.items())
            lines.append(f"{second:6}{count['ok']:6}{count['failed']:8}{count['cut']:5}{slowest:7.1f} s  {words}".rstrip())
        return "\n".join(lines)


def logins(log):
    return set(re.findall(r"imap-login: Info: Login: user=<([^>]+)>", log))


def kill(dovecot):
    """All of its processes at once, as when the power goes. All are children of the first, which is stopped before, so that
    there are no more of them than we see."""
    master = int((dovecot.folder / "run/master.pid").read_text())
    os.kill(master, signal.SIGSTOP)
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(master)], capture_output=True, check=True).stdout
    for pid in [master, *map(int, children.split())]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


if __name__ == "__main__":
    unittest.main()
