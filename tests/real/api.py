"""The admin API, asked for everything that its own description says and for what it says must not be (tests/api): by
schemathesis, which makes requests from the description, right ones and wrong ones, and holds every answer against it."""

import json
import os
import subprocess
import threading
import urllib.error
import urllib.request

from world import Case, Mailmux, until

SCHEMATHESIS = os.environ["SCHEMATHESIS"]
TOKEN = "real-api-token"

# What is asked for is done, and in no time. The description's examples are users and backends that there are.
CONFIG = """
seed = 6
generation.max-examples = 8
generation.deterministic = true
generation.database = "none"
generation.with-security-parameters = false
phases.stateful.enabled = false
request-timeout = 10.0
# Wrong tokens are slowed after a few; that all paths ask for one is tested beside this.
checks.ignored_auth.enabled = false

[auth.openapi.token]
bearer = "TOKEN"

# That one of several is needed, or `after` from an answer, is more than the schema of a parameter can say.
[[operations]]
include-path-regex = "^/api/v1/(sessions|sessions/kick|users|limits|limits/pardon)$"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 404]

[[operations]]
include-path = "/api/v1/backends/{backend}/drain"
parameters = { "query.for" = "10ms" }

[[operations]]
include-path = "/api/v1/users/{user}/trace"
parameters = { "query.for" = "10ms" }
"""


class Api(Case):
    @classmethod
    def start(cls):
        (cls.folder / "admin.token").write_text(TOKEN)
        cls.mailmux = Mailmux(cls.folder, cls.config(), admin='token_file = "admin.token"\n')
        cls.addClassCleanup(cls.mailmux.stop)

    def ask(self, path, method="GET", token=TOKEN, **headers):
        """Status, headers and body."""
        if token:
            headers["Authorization"] = f"Bearer {token}"
        url = f"http://127.0.0.1:{self.mailmux.admin}{path}"
        request = urllib.request.Request(url, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.headers, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read().decode()

    def document(self):
        status, _, text = self.ask("/api/v1/openapi.json")
        self.assertEqual(status, 200)
        return json.loads(text)

    def operations(self):
        """Each path with a method, and whether it takes a token."""
        names = {"{user}": "ann@example.org", "{backend}": "blue", "{id}": "x"}
        for path, methods in self.document()["paths"].items():
            for method, operation in methods.items():
                for name, value in names.items():
                    path = path.replace(name, value)
                yield path, method.upper(), operation.get("security") != []

    def test_schemathesis_finds_nothing(self):
        (self.folder / "schemathesis.toml").write_text(CONFIG.replace("TOKEN", TOKEN))
        (self.folder / "openapi.json").write_text(json.dumps(self.document()))
        url = f"http://127.0.0.1:{self.mailmux.admin}"
        sessions = [self.log_in("bob@example.org"), self.log_in("cid@example.org")]
        done = subprocess.run(
            [SCHEMATHESIS, "--config-file", "schemathesis.toml", "--no-color", "run", "openapi.json", "--url", url],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
        self.assertEqual(done.returncode, 0, done.stdout[-20000:] + done.stderr[-5000:])
        self.assertNotIn("Rate limited", done.stdout, "it was kept out")
        print(done.stdout[done.stdout.index("SUMMARY"):])
        del sessions

    def test_all_but_what_everybody_may_know_takes_the_token(self):
        for path, method, takes_token in self.operations():
            status, headers, body = self.ask(path, method, token=None)
            self.assertEqual(status == 401, takes_token, (method, path, status))
            if takes_token:
                self.assertEqual(headers["WWW-Authenticate"], "Bearer")
                self.assertIn("token", json.loads(body)["error"])
            self.assertEqual(headers["X-Content-Type-Options"], "nosniff")

    def test_who_guesses_is_slowed_and_others_are_not(self):
        mailmux = Mailmux(self.folder_of("guessed"), self.config_elsewhere(), admin='token_file = "../admin.token"\n')
        self.addCleanup(mailmux.stop)
        self.mailmux, ours = mailmux, self.mailmux
        self.addCleanup(setattr, self, "mailmux", ours)
        answers = [self.ask("/api/v1/reload", "POST", token=f"guess-{number}")[:2] for number in range(7)]
        self.assertEqual([status for status, _ in answers], [401] * 5 + [429] * 2)
        self.assertEqual(answers[-1][1]["Retry-After"], "12")
        audit = lambda: [line for line in mailmux.log().splitlines() if " audit " in line]
        lines = until(lambda: len(audit()) >= 7 and audit(), "the last line of the log")
        self.assertEqual(len(lines), 7, "one line each")
        self.assertTrue(all("WARN" in line and 'path="/api/v1/reload"' in line for line in lines), lines)
        self.assertNotIn("guess-", mailmux.log())

    def folder_of(self, name):
        folder = self.folder / name
        folder.mkdir()
        return folder

    def config_elsewhere(self):
        """Other listeners than those that are there, and the same files."""
        from world import free_port

        config = self.config().replace(f":{self.imaps}", f":{free_port()}").replace(f":{self.imap}", f":{free_port()}")
        for name in ("mail.pem", "mail.key", "users.map"):
            config = config.replace(f'"{name}"', f'"../{name}"')
        return config

    def test_a_trace_shows_a_session_and_masks_what_is_secret(self):
        shown = []

        def read():
            url = f"http://127.0.0.1:{self.mailmux.admin}/api/v1/users/bob@example.org/trace?for=1m"
            request = urllib.request.Request(url, method="POST", headers={"Authorization": f"Bearer {TOKEN}"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                for line in answer:
                    shown.append(line.decode())
                    if "no more of this session" in shown[-1]:
                        return

        reader = threading.Thread(target=read)
        reader.start()
        until(lambda: shown, "the trace to begin")
        connection = self.log_in("bob@example.org")
        connection.append("INBOX", None, None, b"Subject: confidential\r\n\r\nconfidential words\r\n")
        connection.select("INBOX")
        self.assertIn(b"confidential words", connection.fetch("1", "(BODY[])")[1][0][1])
        connection.logout()
        reader.join(20)
        self.assertFalse(reader.is_alive(), shown)
        text = "".join(shown)
        self.assertNotIn("confidential", text)
        self.assertNotIn("bob-secret", text)
        for words in ("LOGIN ***", "logged in at green", "{45} ‹45 bytes›", "SELECT INBOX", "BODY[] {", "LOGOUT", "BYE"):
            self.assertIn(words, text)
