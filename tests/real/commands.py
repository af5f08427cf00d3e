"""The commands that ask a mailmux which runs, with real ones: what an operator sees and changes by them, and their exit codes."""

import json
import signal
import subprocess
import unittest

from top import Operated, Terminal
from world import MAILMUX, WAIT, until


class Commands(Operated):
    @classmethod
    def config(cls):
        return super().config() + '[log]\nlevel = "info"\n'

    def run_command(self, *words, place=None):
        place = place or ("--config", self.mailmux.config_path)
        return subprocess.run([MAILMUX, *words, *place], capture_output=True, text=True, timeout=WAIT, stdin=subprocess.DEVNULL)

    def say(self, *words, code=0, place=None):
        """What a command prints on standard output; on standard error where it does not succeed."""
        done = self.run_command(*words, place=place)
        self.assertEqual(done.returncode, code, (words, done.stdout, done.stderr))
        return done.stdout if code == 0 else done.stdout + done.stderr

    def ask(self, *words, code=0):
        return json.loads(self.say(*words, "--json", code=code))

    def ends(self, connection):
        """The session behind a connection ends; its client is told to go or cut off."""

        def ended():
            try:
                return connection.noop()[0] != "OK"
            except (OSError, connection.abort):
                return True

        until(ended, "the end of a session")

    def test_sessions_are_seen_and_sent_away(self):
        bob, ann = self.log_in("bob@example.org"), self.log_in("ann@example.org")
        rows = self.say("sessions").splitlines()
        self.assertEqual(rows[0].split()[:4], ["ID", "USER", "CLIENT", "LISTENER"])
        self.assertEqual(sorted(row.split()[1] for row in rows[1:]), ["ann@example.org", "bob@example.org"])
        (session,) = self.ask("sessions", "--user", "bob@example.org")["sessions"]
        self.assertEqual((session["backend"], session["client"], session["listener"]), ("green", "127.0.0.1", "imaps"))
        self.assertEqual(self.ask("sessions", "--backend", "blue")["total"], 1)
        self.assertEqual(self.ask("sessions", "--network", "127.0.0.0/8", "--limit", "1")["total"], 2)
        self.assertIn("… and 1 more", self.say("sessions", "--limit", "1"))
        self.say("sessions", "--user", "nobody", code=1)
        self.say("sessions", "--network", "127.0.0.0/99", code=2)
        self.say("kick", "--id", str(session["id"]))
        self.ends(bob)
        self.say("kick", "--id", str(session["id"]), code=1)
        self.say("kick", "--network", "127.0.0.0/8")
        self.ends(ann)
        self.say("kick", "ann@example.org", code=1)

    def test_a_question_comes_before_many_are_sent_away(self):
        bob, ann = self.log_in("bob@example.org"), self.log_in("ann@example.org")
        terminal = Terminal(self.folder)
        self.addCleanup(terminal.close)
        command = f"{MAILMUX} kick --network 127.0.0.1 --config {self.mailmux.config_path}; echo ended: $?"
        for answer, code in (("n", 1), ("y", 0)):
            terminal.keys("-l", f"clear; {command}")
            terminal.keys("Enter")
            terminal.shows("kick 2 sessions? [y/N]")
            self.assertEqual([client.noop()[0] for client in (bob, ann)], ["OK", "OK"])
            terminal.keys("-l", answer)
            terminal.keys("Enter")
            terminal.shows(f"ended: {code}")
        self.ends(bob)
        self.ends(ann)

    def test_users_are_held_released_and_moved(self):
        self.say("hold", "cid@example.org")
        self.assertEqual([user["user"] for user in self.ask("users", "--held")["users"]], ["cid@example.org"])
        self.assertIn("held", self.say("users", "cid@example.org").lower())
        self.say("release", "cid@example.org")
        self.say("release", "cid@example.org", code=1)
        self.say("users", "--held", code=1)
        self.say("users", "nobody-at-all", code=1)
        self.say("move", "cid@example.org", "--to", "nowhere", code=1)
        self.say("move", "cid@example.org", "--to", "blue")
        self.assertIn("=> backend blue", self.say("route", "cid@example.org", "--running"))
        self.assertIn("=> backend green", self.say("route", "cid@example.org"), "by the configuration alone")
        self.say("move", "cid@example.org")
        self.assertIn("=> backend green", self.say("route", "cid@example.org", "--running"))
        self.say("route", "nobody", "--running", code=1)

    def test_backends_are_seen_drained_and_weighed(self):
        self.assertRegex(self.say("backends"), r"(?m)^blue +127\.0\.0\.1:\d+ +up ")
        self.assertIn("blue: weighs 7", self.say("weight", "blue", "7"))
        self.assertEqual(self.ask("backends", "blue")["weight"], 7)
        self.say("weight", "blue", "configured")
        self.assertEqual(self.ask("backends", "blue")["weight"], 1)
        self.say("drain", "blue", "--for", "1s")
        self.assertRegex(self.say("backends"), r"(?m)^blue +127\.0\.0\.1:\d+ +draining ")
        self.say("undrain", "blue")
        self.assertEqual(self.ask("backends", "blue")["state"], "up")
        self.say("drain", "nowhere", code=1)
        self.say("backends", "nowhere", code=1)

    def test_the_rest_of_what_there_is_to_see(self):
        self.curl("bob@example.org", f"imaps://localhost:{self.imaps}/INBOX", "-X", "NOOP")
        self.assertIn("mailmux", self.say("status"))
        self.assertGreaterEqual(self.ask("status")["logins"]["ok"], 1)
        self.assertIn("blue", self.say("pool"))
        self.assertIn("users", self.say("lookups"))
        self.assertIn("forgotten", self.say("flush"))
        self.assertIn("localhost", self.say("certificates"))
        self.assertEqual(self.say("limits"), "nobody is held off\n")
        self.say("pardon", "--network", "192.0.2.7", code=1)
        config = self.say("config")
        self.assertIn('name = "blue"', config)
        self.assertNotIn("a-token-for-operators", config)

    def test_the_log_tells_more_for_a_while(self):
        self.assertIn("log level debug", self.say("log-level", "debug", "--for", "10m"))
        self.assertEqual(self.ask("status")["log_level"], "debug")
        self.say("log-level", "info")
        self.assertEqual(self.ask("status")["log_level"], "info")

    def test_a_trace_tells_what_is_said_and_no_secret(self):
        command = [MAILMUX, "trace", "ann@example.org", "--for", "1m", "--config", self.mailmux.config_path]
        with open(self.folder / "trace", "wb") as out:
            trace = subprocess.Popen(command, stdout=out)
        self.addCleanup(trace.wait)
        self.addCleanup(trace.kill)

        def told():
            ann = self.log_in("ann@example.org")
            ann.select()
            ann.logout()
            return b"SELECT" in (self.folder / "trace").read_bytes()

        until(told, "the trace")
        trace.send_signal(signal.SIGINT)
        self.assertEqual(trace.wait(WAIT), 0)
        text = (self.folder / "trace").read_bytes()
        self.assertNotIn(b"secret", text)
        self.assertNotIn(b"bob@example.org", text)

    def test_a_distant_mailmux_is_asked_with_the_token(self):
        address = f"127.0.0.1:{self.mailmux.admin}"
        self.say("status", place=("--admin", address, "--token-file", self.token_file))
        self.say("status", place=("--admin", str(self.socket)))
        self.say("status", code=1, place=("--admin", address))
        wrong = self.folder / "wrong-token"
        wrong.write_text("no\n")
        self.say("kick", "ann", code=1, place=("--admin", address, "--token-file", wrong))
        self.say("kick", "ann", code=2, place=("--admin", address))
        self.say("status", code=2, place=("--admin", "127.0.0.1:1"))

    def test_a_reload_tells_of_mistakes(self):
        self.assertIn("reloaded", self.say("reload"))
        text = self.mailmux.config_path.read_text()
        self.addCleanup(self.mailmux.config_path.write_text, text)
        self.mailmux.config_path.write_text(text.replace('name = "users"', 'name = "others"', 1))
        self.assertIn("users", self.say("reload", code=1, place=("--admin", str(self.socket))))


if __name__ == "__main__":
    unittest.main()
