"""The status page in a real Chromium, of a real mailmux in front of real Dovecots."""

import imaplib
import re
import signal

from browser import Browser
from world import USERS, Case, Mailmux, until

TOKEN = "the-token-of-this-test"
# Who is shown as text, or opens a window in which the next word to the browser fails.
HOSTILE = "<img src=x onerror=alert(1)>@example.org"
PASSWORD = "hostile-secret"


class StatusPage(Case):
    # Any name.
    dovecot_settings = "auth_username_chars =\n"

    @classmethod
    def people(cls, backend):
        return super().people(backend) | ({HOSTILE: PASSWORD} if backend == "blue" else {})

    @classmethod
    def backend_sections(cls):
        quick = 'tls = "none"\nhealth = { interval = "500ms", rise = 1, fall = 1 }\n'
        return super().backend_sections().replace('tls = "none"\n', quick)

    @classmethod
    def config(cls):
        return super().config() + '[[route]]\nbackend = "blue"\n'

    @classmethod
    def start(cls):
        (cls.folder / "admin.token").write_text(TOKEN + "\n")
        (cls.folder / "admin.token").chmod(0o600)
        cls.begin()
        cls.addClassCleanup(lambda: cls.mailmux.stop())
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.close)

    @classmethod
    def begin(cls):
        cls.mailmux = Mailmux(cls.folder, cls.config(), admin='token_file = "admin.token"\n')

    def setUp(self):
        self.browser.screen(1400, 1000)
        self.browser.prefers(color_scheme="light", reduced_motion="reduce")
        self.url = f"http://127.0.0.1:{self.mailmux.admin}/"
        self.browser.go(self.url)
        self.browser.run("sessionStorage.clear(); localStorage.clear()")
        self.browser.go(self.url)
        self.browser.complaints()
        self.addCleanup(lambda: self.assertEqual(self.browser.complaints(), []))

    def reads(self, selector, words):
        """Waits until these words are to be read there."""
        try:
            until(lambda: words in self.browser.text(selector), f"{words!r} at {selector}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it says {self.browser.text(selector)!r}") from None

    def open(self):
        """The page with its data."""
        self.browser.type("#token", TOKEN)
        self.browser.press("Enter")
        self.reads("#live", "live")

    def users(self):
        """Whose sessions are shown."""
        script = "return [...document.querySelectorAll('#table-sessions tbody th')].map((cell) => cell.innerText)"
        return self.browser.run(script)

    def hostile(self):
        connection = self.connect()
        connection.login(f'"{HOSTILE}"', PASSWORD)
        return connection

    def hears_bye(self, connection):
        """A mail program that is sent away is told so."""
        line = connection.readline()
        self.assertTrue(line.startswith(b"* BYE Closed by the administrator"), line)

    def test_it_shows_what_is_there_and_nobodys_name_is_more_than_text(self):
        self.hostile()
        self.log_in("bob@example.org")
        wrong = self.connect()
        with self.assertRaises(imaplib.IMAP4.error):
            wrong.login("ann@example.org", "wrong")
        self.open()
        self.reads("#phase", "running")
        self.reads("#version", "version ")
        for row in ("blue", "green"):
            line = until(lambda: re.search(rf"{row}\s.*?Drain", self.browser.text("#table-backends"), re.S), f"{row} in the table")
            self.assertIn("up", line[0])
            self.assertIn(f":{self.backends[row].port}", line[0])
        self.reads("#table-listeners", f"127.0.0.1:{self.imaps}")
        self.reads("#table-certificates", "localhost")
        self.reads("#totals-logins", "wrong password")
        self.reads("#tile-sessions .detail", "logged in")
        until(lambda: {HOSTILE, "bob@example.org"} <= set(self.users()), "both users")
        self.reads("#table-users", HOSTILE)
        script = "return [document.querySelectorAll('img').length, document.title.endsWith('mailmux')]"
        self.assertEqual(self.browser.run(script), [1, True], "the icon is the only image")
        # Sparklines have something to show after the first ten seconds.
        shown = "return document.querySelector('#tile-sessions .line').getAttribute('d')"
        until(lambda: self.browser.run(shown), "a line in the tile of sessions")

    def test_sessions_can_be_filtered(self):
        self.hostile()
        self.log_in("bob@example.org")
        self.open()
        until(lambda: {HOSTILE, "bob@example.org"} <= set(self.users()), "both users")
        self.browser.run("document.activeElement.blur()")
        self.browser.press("/")
        self.assertEqual(self.browser.run("return document.activeElement.id"), "filter-user")
        self.browser.press(*HOSTILE)
        until(lambda: set(self.users()) == {HOSTILE}, "that one alone")
        self.browser.click("#filter-clear")
        until(lambda: len(set(self.users())) > 1, "everybody again")
        choose = "const s = document.getElementById('filter-backend'); s.value = 'green'; s.dispatchEvent(new Event('input', {bubbles: true}))"
        self.browser.run(choose)
        until(lambda: set(self.users()) == {"bob@example.org"}, "those at green")
        self.browser.click("#filter-clear")
        self.browser.type("#filter-network", "192.0.2.0/24")
        self.reads("#table-sessions", "No session is like that")
        self.browser.type("#filter-network", "nonsense")
        self.reads("#sessions-error", "Refused")

    def test_a_session_is_kicked_by_keyboard_alone(self):
        victim, other = self.log_in("cid@example.org"), self.log_in("bob@example.org")
        self.open()
        self.browser.run("document.activeElement.blur()")
        self.browser.press("/", *"cid@example.org", "Enter")
        until(lambda: set(self.users()) == {"cid@example.org"}, "cid alone")
        kick = "Kick the session of cid@example.org from 127.0.0.1"
        for _ in range(12):
            if self.browser.focus() == kick:
                break
            self.browser.press("Tab")
        self.assertEqual(self.browser.focus(), kick)
        ring = self.browser.run("return getComputedStyle(document.activeElement).outlineStyle")
        self.assertEqual(ring, "solid", "one sees where the focus is")
        self.browser.press("Enter")
        self.reads("#ask-title", "Kick cid@example.org?")
        self.browser.press("Escape")
        until(lambda: self.browser.focus() == kick, "the focus to be back where it was")
        self.browser.press("Enter")
        self.reads("#ask-title", "Kick cid@example.org?")
        self.assertEqual(self.browser.focus(), "Cancel", "what is not done by mistake")
        self.browser.press("Tab", "Enter")
        self.hears_bye(victim)
        self.reads("#results", "1 session told to leave")
        self.reads("#table-sessions", "No session is like that")
        self.assertEqual(other.noop()[0], "OK")

    def test_a_backend_is_drained_and_put_back(self):
        self.open()
        self.reads("#table-backends", "Drain")
        self.browser.click('[aria-label="Drain green"]')
        self.browser.run("document.getElementById('ask-time').value = '0s'")
        self.browser.click("#ask-yes")
        self.reads("#results", "green is drained")
        self.reads("#table-backends", "draining")
        self.browser.click('[aria-label="Put green back in use"]')
        self.browser.click("#ask-yes")
        self.reads("#results", "green is in use again")
        until(lambda: "draining" not in self.browser.text("#table-backends"), "green to be in use")
        self.log_in("bob@example.org")

    def test_a_backend_that_dies_is_told_and_so_is_why(self):
        self.open()
        self.reads("#backends-note", "all are up")
        self.backends["green"].stop()
        self.addCleanup(self.backends["green"].start)
        self.reads("#backends-note", "1 down")
        self.reads("#count-backends", "1 of 2")
        self.reads("#table-backends", "refused")
        self.browser.run("[...document.querySelectorAll('#table-backends th button')].find((b) => b.innerText === 'green').click()")
        self.reads("#turns-list", "down since")
        self.browser.press("Escape")
        until(lambda: not self.browser.text("#turns"), "the list to be closed")

    def test_a_wrong_token_is_told_and_the_right_one_is_not_kept_for_long(self):
        self.reads("#locked", "asks for its token")
        self.assertEqual(self.browser.text("#table-backends"), "", "nothing is shown to strangers")
        self.browser.type("#token", "wrong")
        self.browser.press("Enter")
        self.reads("#trouble", "The token is wrong")
        self.open()
        self.reads("#table-backends", "blue")
        self.assertEqual(self.browser.text("#locked"), "")
        kept = "return [sessionStorage, localStorage].map((kept) => JSON.stringify(kept).includes(arguments[0]))"
        self.assertEqual(self.browser.run(kept, TOKEN), [True, False])
        self.browser.click("#token-forget")
        self.reads("#locked", "asks for its token")

    def test_without_a_token_there_everybody_may_look_and_nobody_may_change(self):
        with_token = self.mailmux.admin_section
        self.mailmux.admin_section = with_token.replace('token_file = "admin.token"\n', "")
        self.reload()
        self.addCleanup(self.reload)
        self.addCleanup(setattr, self.mailmux, "admin_section", with_token)
        self.browser.go(self.url)
        self.reads("#table-backends", "green")
        self.browser.click('[aria-label="Drain green"]')
        self.browser.type("#ask-token-field", "any")
        self.browser.click("#ask-yes")
        self.reads("#results", "changes need [admin] token_file")
        self.assertNotIn("draining", self.browser.text("#table-backends"))

    def reload(self):
        reloads = lambda: self.mailmux.log().count("the configuration was reloaded")
        before = reloads()
        self.mailmux.write(self.config())
        self.mailmux.process.send_signal(signal.SIGHUP)
        until(lambda: reloads() > before, "the reload")

    def test_it_is_light_or_dark_as_its_user_prefers(self):
        self.open()
        # Of the page's ground, 0 to 255.
        script = "return getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).slice(0, 3).map(Number)"
        brightness = lambda: sum(self.browser.run(script)) / 3
        self.assertGreater(brightness(), 200)
        self.browser.prefers(color_scheme="dark")
        self.assertLess(brightness(), 50)
        choose = "const s = document.getElementById('theme'); s.value = arguments[0]; s.dispatchEvent(new Event('change'))"
        self.browser.run(choose, "light")
        self.assertGreater(brightness(), 200, "who has chosen is asked no more")
        self.browser.go(self.url)
        self.reads("#live", "live")
        self.assertGreater(brightness(), 200, "and it is remembered")
        for theme in ("light", "dark"):
            self.browser.run(choose, theme)
            self.assertEqual(self.browser.run(FAINT), [], f"text that is hard to read, {theme}")

    def test_on_a_phone_nothing_lies_beside_the_screen(self):
        self.hostile()
        self.log_in("bob@example.org")
        self.browser.screen(360, 740)
        self.open()
        until(lambda: HOSTILE in self.users(), "a long name")
        self.assertEqual(self.browser.run(OUTSIDE), [])
        self.assertEqual(self.browser.run("return document.documentElement.scrollWidth"), 360)
        self.assertIn("Links", self.browser.run("return document.querySelector('#table-backends td:nth-child(4)').dataset.label"))
        self.browser.click('#table-backends [aria-label="Drain blue"]')
        self.reads("#ask-title", "Drain blue?")
        self.assertEqual(self.browser.run("return document.documentElement.scrollWidth"), 360)

    def test_it_can_be_read_out(self):
        self.log_in("bob@example.org")
        self.open()
        until(lambda: self.users(), "somebody")
        tree = self.browser.cdp("Accessibility.getFullAXTree")["nodes"]
        named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node.get("ignored")]
        for role in ("banner", "main", "navigation", "search"):
            self.assertIn(role, [had for had, _ in named])
        headings = [name for role, name in named if role == "heading"]
        for heading in ("mailmux", "Backends", "Sessions", "Certificates"):
            self.assertIn(heading, headings)
        tables = [name for role, name in named if role == "table"]
        self.assertEqual((len(tables), [name for name in tables if not name]), (7, []), "each with its caption")
        nameless = [(role, name) for role, name in named if role in ("button", "textbox", "searchbox", "combobox", "link") and not name]
        self.assertEqual(nameless, [])
        charts = [name for role, name in named if role == "image" and "in the last" in name]
        self.assertEqual(len(charts), 6, "what a line shows is said in words")

    def test_it_survives_a_restart(self):
        self.open()
        self.reads("#table-backends", "blue")
        self.mailmux.stop()
        self.reads("#trouble", "No answer since")
        self.assertIn("blue", self.browser.text("#table-backends"), "what was known last is still there")
        admin = self.mailmux.admin
        given = Mailmux(self.folder, self.config(), admin='token_file = "admin.token"\n', at=admin)
        type(self).mailmux = given
        self.reads("#results", "started anew")
        self.reads("#live", "live")
        self.assertEqual(self.browser.text("#trouble"), "")
        self.log_in("bob@example.org")
        until(lambda: "bob@example.org" in self.users(), "a session of the new one")


# The texts whose contrast to what they stand on is below 4.5, as WCAG 2 counts it.
FAINT = """
const light = (rgb) => {
  const [r, g, b] = rgb.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const colour = (text) => text.match(/[0-9.]+/g).map(Number);
const ground = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const [r, g, b, alpha = 1] = colour(getComputedStyle(at).backgroundColor);
    if (alpha > 0.99) return [r, g, b];
  }
  return [255, 255, 255];
};
const faint = [];
for (const element of document.querySelectorAll("body *")) {
  const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!hasText || !element.checkVisibility() || element.closest(":disabled, noscript, option")) continue;
  const [a, b] = [light(colour(getComputedStyle(element).color)), light(ground(element))].sort((x, y) => y - x);
  const contrast = (a + 0.05) / (b + 0.05);
  if (contrast < 4.5) faint.push(`${element.tagName} ${element.className} ${element.innerText.slice(0, 30)}: ${contrast.toFixed(2)}`);
}
return faint;
"""

# What begins or ends beside the screen, and is in nothing that scrolls by itself.
OUTSIDE = """
const width = document.documentElement.clientWidth;
return [...document.querySelectorAll("body *")].filter((element) => {
  const { left, right } = element.getBoundingClientRect();
  return (left < -1 || right > width + 1) && !element.closest(".sections ul, .hidden, thead, caption, .skip, svg") && element.checkVisibility();
}).map((element) => `${element.tagName} ${element.className} ${element.innerText?.slice(0, 30)}`);
"""
