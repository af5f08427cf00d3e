"""`mailmux top` in a real terminal (tmux): what it shows, its keys, a restart of mailmux, and the terminal afterwards."""

import os
import shutil
import subprocess
import unittest

from world import MAILMUX, USERS, WAIT, Case, Mailmux, until


class Terminal:
    """One of a tmux of its own. A shell runs in it, so that something is there when a program has ended."""

    def __init__(self, folder, width=80, height=24):
        self.command = ["tmux", "-S", folder / "tmux", "-f", "/dev/null"]
        environment = {key: value for key, value in os.environ.items() if key not in ("TMUX", "NO_COLOR")} | {"LC_ALL": "C.UTF-8"}
        size = ["-x", str(width), "-y", str(height)]
        subprocess.run([*self.command, "new-session", "-d", *size, "env PS1='ready ' sh"], env=environment, check=True, timeout=WAIT)
        until(lambda: "ready" in self.screen(), "a shell")

    def tmux(self, *words):
        return subprocess.run([*self.command, *words], capture_output=True, check=True, timeout=WAIT).stdout.decode()

    def keys(self, *keys):
        self.tmux("send-keys", *keys)

    def screen(self):
        return self.tmux("capture-pane", "-p")

    def shows(self, *words):
        """Waits for a screen that holds all of these, and gives it."""
        try:
            until(lambda: all(word in self.screen() for word in words), f"a screen with {words}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it shows\n{self.screen()}") from None
        return self.screen()

    def state(self):
        """Whether the screen is another than the shell's, whether there is a cursor."""
        return self.tmux("display-message", "-p", "#{alternate_on} #{cursor_flag}").strip()

    def close(self):
        self.tmux("kill-server")


class Operated(Case):
    """A mailmux with a socket and a token for operators. Users of both backends come and go, whatever their passwords hold."""

    @classmethod
    def start(cls):
        cls.socket = cls.folder / "admin.sock"
        cls.token_file = cls.folder / "token"
        cls.token_file.write_text("a-token-for-operators\n")
        admin = f'socket = "{cls.socket}"\ntoken_file = "{cls.token_file}"\n'
        cls.mailmux = Mailmux(cls.folder, cls.config(), admin=admin)
        # Whichever runs by then.
        cls.addClassCleanup(lambda: cls.mailmux.stop())

    def log_in(self, user="bob@example.org"):
        connection = self.connect()
        connection.authenticate("PLAIN", lambda _: f"\0{user}\0{USERS[user][1]}".encode())
        return connection


class Top(Operated):
    def setUp(self):
        folder = self.folder / self.id().rsplit(".", 1)[1]
        folder.mkdir()
        self.terminal = Terminal(folder)
        self.addCleanup(self.terminal.close)
        self.pid = folder / "pid"

    def run_top(self, *words):
        """`exec` in a shell of its own: its process id is known."""
        line = f"echo $$ >{self.pid}; exec {MAILMUX} top --config {self.mailmux.config_path} --every 200ms {' '.join(words)}"
        self.terminal.keys("-l", f"clear; sh -c '{line}'; echo ended: $?")
        self.terminal.keys("Enter")
        return self.terminal.shows("mailmux 0.", "running", "BACKEND", "USER")

    def terminal_is_as_before(self, words="ended: 0"):
        self.terminal.shows(words)
        until(lambda: self.terminal.state() == "0 1", "the shell's screen, with a cursor")
        self.terminal.keys("-l", "stty -a")
        self.terminal.keys("Enter")
        settings = self.terminal.shows("isig", "icanon").split()
        for setting in ("echo", "icanon", "isig", "icrnl", "opost"):
            self.assertIn(setting, [word.rstrip(";") for word in settings])

    def test_it_shows_who_is_there(self):
        connections = [self.log_in("bob@example.org"), self.log_in("bob@example.org"), self.log_in("ann@example.org")]
        self.run_top()
        screen = self.terminal.shows("sessions 3 (0 before login)", "bob@example.org", "ann@example.org", "green")
        self.assertRegex(screen, r"(?m)^blue +1 ")
        self.assertRegex(screen, r"(?m)^green +2 ")
        connections.pop().logout()
        self.terminal.shows("sessions 2 (0 before login)")
        self.terminal.keys("/")
        self.terminal.keys("-l", "nobody")
        until(lambda: "bob@example.org" not in self.terminal.screen(), "a search that finds nobody")
        self.terminal.keys("Escape")
        self.terminal.shows("bob@example.org")
        self.terminal.keys("s")
        self.terminal.shows("BACKEND/S▾")
        self.terminal.keys("Tab", "s")
        self.terminal.shows("SESS▾")
        self.terminal.keys("?")
        self.terminal.shows("order it by the next column")
        # Escape and what comes at once behind it would be one key.
        self.terminal.keys("x", "p")
        self.terminal.shows("paused", "BACKEND")
        # Smaller than anything it is made for, and back.
        self.terminal.tmux("resize-window", "-x", "20", "-y", "5")
        self.terminal.shows("mailmux 0.")
        self.terminal.tmux("resize-window", "-x", "100", "-y", "30")
        self.terminal.shows("q end", "bob@example.org")
        self.terminal.keys("q")
        self.terminal_is_as_before()

    def test_it_goes_on_over_a_restart_of_mailmux(self):
        self.run_top()
        self.mailmux.stop()
        self.terminal.shows("unreachable since", "cannot reach")
        type(self).start()
        self.terminal.shows("mailmux 0.", "running")
        self.assertNotIn("unreachable", self.terminal.screen())
        self.terminal.keys("C-c")
        self.terminal_is_as_before()

    def test_a_signal_ends_it_too(self):
        for signal in ("-TERM", "-HUP", "-INT"):
            self.run_top()
            subprocess.run(["kill", signal, self.pid.read_text().strip()], check=True)
            self.terminal_is_as_before()
            self.terminal.keys("-l", "clear")
            self.terminal.keys("Enter")
            until(lambda: "ended" not in self.terminal.screen(), "a clear screen")

    @unittest.skipUnless(os.getuid() == 0, "only root can take threads away from somebody")
    def test_a_panic_leaves_the_terminal_as_it_was(self):
        """For one who may have two threads the third, that for the keys, is one too many."""
        program = self.folder / "mailmux"
        shutil.copy(MAILMUX, program)
        nobody = "setpriv --reuid 61234 --regid 61234 --clear-groups"
        place = f"--admin 127.0.0.1:{self.mailmux.admin} --token-file {self.token_file}"
        said = self.pid.with_name("said")
        self.terminal.keys("-l", f"prlimit --nproc=2 {nobody} {program} top {place} 2>{said}; echo ended: $?")
        self.terminal.keys("Enter")
        until(lambda: "ended: " in self.terminal.screen().replace("ended: $", ""), "its end")
        self.assertIn("ended: 101", self.terminal.screen(), said.read_text())
        self.terminal_is_as_before("ended: 101")
        self.assertIn("panicked", said.read_text())

    def test_who_mistypes_something_is_told_without_a_screen(self):
        self.terminal.keys("-l", f"{MAILMUX} top --admin /nonexistent/socket; echo ended: $?")
        self.terminal.keys("Enter")
        self.terminal.shows("cannot reach mailmux at /nonexistent/socket", "ended: 2")


if __name__ == "__main__":
    unittest.main()
