"""Metrics, alerts and dashboard as operators have them: Debian's Prometheus scrapes a mailmux in front of real Dovecots.

The rules are those of deploy/prometheus, in a scratch folder and with one change, so that nobody waits for minutes: whatever
lasts there (`for:`, the windows in square brackets) lasts seconds here. Scrapes and evaluations come each second."""

import concurrent.futures
import imaplib
import json
import re
import resource
import signal
import socket
import sqlite3
import subprocess
import threading
import unittest
import urllib.error
import urllib.parse
import urllib.request

from world import EC, ROOT, USERS, WAIT, Case, Dovecot, Mailmux, free_port, make_certificates, openssl, until

DEPLOY = ROOT / "deploy/prometheus"
DASHBOARD = json.loads((ROOT / "deploy/grafana/mailmux.json").read_text())
# Descriptors that mailmux may have.
DESCRIPTORS = 256
# Window and patience of the rules.
WINDOW, PATIENCE = "15s", "1s"
BOB, CID = "bob@example.org", "cid@example.org"


class Server:
    """Prometheus, with the rules and the example of deploy/."""

    def __init__(self, folder, target):
        folder.mkdir()
        rules = (DEPLOY / "mailmux.rules.yml").read_text()
        rules, waits = re.subn(r"^( +for:) \w+$", rf"\1 {PATIENCE}", rules, flags=re.M)
        rules, windows = re.subn(r"\[\d+[mh]\]", f"[{WINDOW}]", rules)
        assert waits > 10 and windows > 5, "the rules are not as they are expected here"
        (folder / "mailmux.rules.yml").write_text(rules)
        config = (DEPLOY / "prometheus.yml").read_text()
        config = config.replace("127.0.0.1:9143", target).replace(": 15s", ": 1s").replace("127.0.0.1:9093", f"127.0.0.1:{free_port()}")
        (folder / "prometheus.yml").write_text(config)
        self.port = free_port()
        self.log_path = folder / "log"
        command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{self.port}"], stdout=log, stderr=log)
        try:
            until(self.is_ready, "Prometheus to be ready")
        except BaseException:
            self.stop()
            raise AssertionError(self.log_path.read_text()) from None

    def is_ready(self):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=WAIT).status == 200
        except OSError:
            return False

    def ask(self, path, **parameters):
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}"
        try:
            with urllib.request.urlopen(url, timeout=WAIT) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def query(self, expression):
        """The values found, without those that are no numbers."""
        values = [series["value"][1] for series in self.ask("query", query=expression)["result"]]
        return [float(value) for value in values if value != "NaN"]

    def firing(self):
        """What fires, each with its labels but for those that all have."""
        common = ("alertname", "job", "instance", "severity")
        return [
            (alert["labels"]["alertname"], {name: value for name, value in alert["labels"].items() if name not in common})
            for alert in self.ask("alerts")["alerts"]
            if alert["state"] == "firing"
        ]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(WAIT)
        finally:
            self.process.kill()


class Traffic:
    """Clients that come and go until the end of a with statement; what fails is raised there."""

    def __init__(self, case):
        self.case, self.over, self.errors = case, threading.Event(), []
        # One user of a pool, two who wait for each other, and one who errs.
        jobs = [lambda: self.session(BOB), lambda: self.session(CID), lambda: self.session(CID), self.mistake]
        self.threads = [threading.Thread(target=self.repeat, args=(job,)) for job in jobs]

    def repeat(self, job):
        try:
            while not self.over.wait(0.05):
                job()
        except Exception as error:  # to be raised by who waits for us
            self.errors.append(error)

    def session(self, user):
        connection = self.reach()
        connection.login(user, USERS[user][1])
        connection.select("INBOX")
        connection.logout()

    def mistake(self):
        connection = self.reach()
        try:
            connection.login("nobody@example.org", "x")
        except imaplib.IMAP4.error:
            connection.logout()

    def reach(self):
        return imaplib.IMAP4_SSL("localhost", self.case.imaps, ssl_context=self.case.tls, timeout=WAIT)

    def __enter__(self):
        for thread in self.threads:
            thread.start()

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join(WAIT)
        if self.errors:
            raise self.errors[0]


class Watched(Case):
    """One world for all; each test leaves it as it was."""

    # Else Dovecot makes those who fail wait, ever longer.
    dovecot_settings = "auth_failure_delay = 0\nservice anvil {\n  unix_listener anvil-auth-penalty {\n    mode = 0\n  }\n}\n"

    @classmethod
    def config(cls):
        # Two that differ in when they expire.
        for name, days in (("mail", 90), ("soon", 5)):
            openssl("req", *EC, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr", cwd=cls.folder)
            (cls.folder / "names").write_text(f"subjectAltName = DNS:{name if name == 'soon' else 'localhost'}\n")
            signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", str(days), "-extfile", "names"]
            openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem", cwd=cls.folder)
        inside = cls.folder / "inside"
        inside.mkdir()
        make_certificates(inside, "inside")
        cert = f"ssl = yes\nssl_cert = <{inside}/mail.pem\nssl_key = <{inside}/mail.key\n"
        tls = Dovecot(cls.folder / "tls", {user: word for user, (_, word) in USERS.items()} | {"probe": "probe"}, cls.dovecot_settings + cert)
        cls.addClassCleanup(tls.stop)
        (cls.folder / "probe").write_text("probe\n")
        with sqlite3.connect(cls.folder / "users.db") as database:
            database.execute("CREATE TABLE users (name TEXT PRIMARY KEY, backend TEXT, pool TEXT)")
            rows = [("ann@example.org", "blue", "off"), (BOB, "tls", "reuse"), (CID, "small", "off")]
            database.executemany("INSERT INTO users VALUES (?, ?, ?)", rows)
        probing = 'interval = "500ms", timeout = "2s", rise = 1, fall = 1'
        return f"""
[[listener]]
name = "imaps"
address = "127.0.0.1:{cls.imaps}"
tls = "implicit"
[[listener]]
name = "imap"
address = "127.0.0.1:{cls.imap}"
tls = "starttls"
[[tls.certificate]]
chain = "mail.pem"
key = "mail.key"
[[tls.certificate]]
chain = "soon.pem"
key = "soon.key"
[[backend]]
name = "blue"
address = "127.0.0.1:{cls.backends["blue"].port}"
tls = "none"
health = {{ {probing} }}
[[backend]]
name = "tls"
address = "127.0.0.1:{tls.port}"
tls = "starttls"
ca = "inside/ca.pem"
health = {{ {probing}, user = "probe", password_file = "probe" }}
[[backend]]
name = "small"
address = "127.0.0.1:{cls.backends["green"].port}"
tls = "none"
max_links = 1
[[group]]
name = "alone"
members = ["blue"]
choose = "first_healthy"
[[group]]
name = "both"
members = ["blue", "tls"]
choose = "hash"
[[lookup]]
name = "users"
type = "sql"
url = "sqlite:users.db"
query = "SELECT backend, pool FROM users WHERE name = :user"
cache = {{ ttl = "1s", negative_ttl = "1s", stale = "1h" }}
[[route]]
lookup = "users"
[[route]]
group = "both"
[limits]
sessions = 5000
sessions_per_user = 1000
sessions_per_network = 1000
connects_per_network = "off"
logins_per_user = "off"
failures_per_network = "off"
failures_per_user = {{ rate = "1/h", burst = 10 }}
exempt = []
[timeouts]
refusal_grid = "10ms"
backend_connect = "20s"
"""

    @classmethod
    def start(cls):
        few = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        cls.mailmux = Mailmux(cls.folder, cls.config(), preexec_fn=few)
        cls.addClassCleanup(cls.mailmux.stop)
        cls.prometheus = Server(cls.folder / "prometheus", f"127.0.0.1:{cls.mailmux.admin}")
        cls.addClassCleanup(cls.prometheus.stop)
        until(lambda: cls.prometheus.query("mailmux_build_info") == [1], "the first scrape")

    def fires(self, alert, **labels):
        until(lambda: (alert, labels) in self.prometheus.firing(), f"{alert} {labels} to fire")

    def ends(self, alert):
        until(lambda: alert not in [name for name, _ in self.prometheus.firing()], f"{alert} to end", wait=40)

    def reload(self):
        before = self.mailmux.metrics()
        reloads = lambda now: now["mailmux_config_reloads_total{outcome=\"ok\"}"] + now["mailmux_config_reloads_total{outcome=\"failed\"}"]
        self.mailmux.process.send_signal(signal.SIGHUP)
        until(lambda: reloads(self.mailmux.metrics()) > reloads(before), "the reload")

    def test_a_certificate_that_expires_in_five_days_and_nothing_else(self):
        self.fires("MailmuxCertificateExpiresSoon", name="soon")
        until(lambda: self.prometheus.firing() == [("MailmuxCertificateExpiresSoon", {"name": "soon"})], "all else to be quiet")

    def test_a_backend_dies(self):
        self.backends["blue"].stop()
        try:
            self.fires("MailmuxBackendDown", backend="blue")
            self.fires("MailmuxGroupDown", group="alone")
            self.assertNotIn(("MailmuxGroupDown", {"group": "both"}), self.prometheus.firing())
        finally:
            self.backends["blue"].start()
        self.ends("MailmuxBackendDown")
        self.ends("MailmuxGroupDown")

    def test_somebody_guesses_passwords(self):
        def guess(number):
            guesser = self.connect()
            with self.assertRaisesRegex(imaplib.IMAP4.error, "AUTHENTICATIONFAILED"):
                guesser.login(f"guess{number}@example.org", "x")

        # Dovecot takes its time for each, but not for all together.
        with concurrent.futures.ThreadPoolExecutor(50) as guessers:
            list(guessers.map(guess, range(50)))
        self.fires("MailmuxAuthFailureSurge")

    def test_a_configuration_is_refused(self):
        good = self.mailmux.config_path.read_text()
        self.mailmux.config_path.write_text(good.replace('tls = "none"', 'tls = "perhaps"'))
        try:
            self.reload()
            self.fires("MailmuxReloadFailed")
        finally:
            self.mailmux.config_path.write_text(good)
        self.reload()
        self.ends("MailmuxReloadFailed")

    def test_there_is_no_place(self):
        first = self.log_in(CID)
        waiting = threading.Thread(target=lambda: self.log_in(CID).logout())
        waiting.start()
        try:
            self.fires("MailmuxQueue", backend="small")
        finally:
            first.logout()
            waiting.join(WAIT)
        self.ends("MailmuxQueue")
        self.assertGreaterEqual(self.mailmux.metric('mailmux_backend_queue_seconds_count{backend="small"}'), 1)

    def test_descriptors_run_out(self):
        sockets = []
        try:
            while self.mailmux.metric("process_open_fds") < 0.85 * DESCRIPTORS:
                sockets += [socket.create_connection(("127.0.0.1", self.imap)) for _ in range(10)]
            self.fires("MailmuxFileDescriptors")
        finally:
            for each in sockets:
                each.close()
        self.ends("MailmuxFileDescriptors")

    def test_promtool_finds_nothing_to_say(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.mailmux.admin}/metrics", timeout=WAIT) as answer:
            text = answer.read()
        checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=WAIT)
        self.assertEqual((checked.stdout + checked.stderr, checked.returncode), (b"", 0))
        for words in (["check", "config", "prometheus.yml"], ["check", "rules", "mailmux.rules.yml"], ["test", "rules", "mailmux.rules.test.yml"]):
            done = subprocess.run(["promtool", *words], cwd=DEPLOY, capture_output=True, timeout=WAIT)
            self.assertEqual(done.returncode, 0, (done.stdout + done.stderr).decode())
        # A name that is misspelt there would be silent for ever.
        shown = set(re.findall(r"^# TYPE (\w+) ", text.decode(), re.M))
        named = "".join((DEPLOY / file).read_text() for file in ("mailmux.rules.yml", "mailmux.rules.test.yml"))
        for name in set(re.findall(r"\b(?:mailmux|process)_\w+", named)):
            self.assertIn(re.sub("_(bucket|count|sum)$", "", name), shown)

    def test_every_alert_says_what_it_means_and_what_to_do(self):
        alerts = self.prometheus.ask("rules", type="alert")["groups"]
        alerts = [rule for group in alerts for rule in group["rules"]]
        self.assertEqual([rule["name"] for rule in alerts if rule["health"] != "ok"], [])
        for rule in alerts:
            self.assertIn(rule["labels"].get("severity"), ("warning", "critical"), rule["name"])
            self.assertGreater(len(rule["annotations"]["summary"]), 20, rule["name"])
            self.assertGreater(len(rule["annotations"]["description"]), 80, rule["name"])

    def filled_in(self, expression):
        """With all that can be chosen chosen, as Grafana does it."""
        for name, choice in self.choices.items():
            expression = expression.replace(f"${name}", choice)
        return expression.replace("$__rate_interval", WINDOW)

    def test_every_query_finds_data(self):
        self.choices = {}
        for variable in DASHBOARD["templating"]["list"][1:]:
            metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()
            values = self.prometheus.ask(f"label/{label}/values", **{"match[]": self.filled_in(metric)})
            self.assertTrue(values, variable)
            self.choices[variable["name"]] = "(" + "|".join(re.escape(value).replace("\\", "\\\\") for value in values) + ")"
        queries = [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]
        self.assertGreater(len(queries), 70)
        with Traffic(self):
            empty = lambda: [query for query in queries if not self.prometheus.query(self.filled_in(query[1]))]
            left = [queries]

            def none_is():
                left[0] = empty()
                return not left[0]

            try:
                until(none_is, "every query to find data", wait=60)
            except AssertionError:
                self.fail("\n".join(f"{title}: {self.filled_in(expression)}" for title, expression in left[0]))


class Dashboard(unittest.TestCase):
    """The dashboard as a file."""

    def test_it_imports_anywhere(self):
        self.assertGreaterEqual(DASHBOARD["schemaVersion"], 39)
        self.assertNotIn("id", DASHBOARD)
        kinds = {variable["name"]: variable["type"] for variable in DASHBOARD["templating"]["list"]}
        self.assertEqual(kinds, {"datasource": "datasource", "instance": "query", "listener": "query", "backend": "query"})
        rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
        self.assertEqual(rows, ["Overview", "Logins", "Backends", "Pool", "Limits", "TLS & certificates", "Process"])

    def test_every_panel_says_what_it_shows(self):
        self.assertEqual(len({panel["id"] for panel in DASHBOARD["panels"]}), len(DASHBOARD["panels"]))
        self.assertEqual(len({panel["title"] for panel in panels()}), len(panels()))
        for panel in panels():
            self.assertTrue(panel["title"] and panel["description"].endswith("."), panel["title"])
            self.assertTrue(panel["fieldConfig"]["defaults"]["unit"], panel["title"])
            for part in (panel, *panel["targets"]):
                self.assertEqual(part["datasource"], {"type": "prometheus", "uid": "${datasource}"}, panel["title"])

    def test_no_two_panels_lie_on_each_other(self):
        taken = {}
        for panel in DASHBOARD["panels"]:
            at = panel["gridPos"]
            for x in range(at["x"], at["x"] + at["w"]):
                for y in range(at["y"], at["y"] + at["h"]):
                    self.assertNotIn((x, y), taken, f"{panel['title']} and {taken.get((x, y))}")
                    taken[x, y] = panel["title"]
            self.assertLessEqual(at["x"] + at["w"], 24)


def panels():
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


if __name__ == "__main__":
    unittest.main()
