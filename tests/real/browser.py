"""A real Chromium, without a window, steered through chromedriver by W3C WebDriver: JSON over HTTP on loopback."""

import base64
import json
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request

from world import WAIT, free_port, until

# It asks nobody anything, keeps nothing, and runs as root, too.
SWITCHES = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars""".split()
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Escape": "\ue00c", "Space": " "}


class Browser:
    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="mailmux-browser.")
        port = free_port()
        self.driver = f"http://127.0.0.1:{port}"
        command = ["chromedriver", f"--port={port}", "--allowed-ips=127.0.0.1", "--log-level=OFF"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.session = None
        try:
            until(self.is_ready, "chromedriver")
            options = {"binary": shutil.which("chromium"), "args": [*SWITCHES, f"--user-data-dir={self.folder}/profile"]}
            wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            begun = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self.session = f"/session/{begun['sessionId']}"
        except BaseException:
            self.close()
            raise

    def is_ready(self):
        try:
            return self.ask("GET", "/status")["ready"]
        except OSError:
            return False

    def close(self):
        try:
            if self.session:
                self.ask("DELETE", self.session)
        finally:
            self.process.terminate()
            self.process.wait(WAIT)
            shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, method, path, body=None):
        data = json.dumps(body).encode() if body is not None else None
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.driver + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.read().decode()[:600]}") from None

    def tell(self, what, body=None):
        return self.ask("POST", self.session + what, body or {})

    def go(self, url):
        self.tell("/url", {"url": url})

    def run(self, script, *arguments):
        """What a script returns."""
        return self.tell("/execute/sync", {"script": script, "args": list(arguments)})

    def cdp(self, command, **parameters):
        return self.tell("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def screen(self, width, height, scale=1):
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False)

    def prefers(self, **features):
        """What the user of this browser prefers: `color_scheme="dark"`, say."""
        given = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()]
        self.cdp("Emulation.setEmulatedMedia", features=given)

    def text(self, selector):
        """What is to be read there; nothing where it is hidden."""
        script = "const e = document.querySelector(arguments[0]); return e?.checkVisibility() ? e.innerText : ''"
        return self.run(script, selector)

    def element(self, selector):
        found = self.tell("/element", {"using": "css selector", "value": selector})
        return f"/element/{found[ELEMENT]}"

    def click(self, selector):
        self.tell(self.element(selector) + "/click")

    def type(self, selector, text):
        element = self.element(selector)
        self.tell(element + "/clear")
        self.tell(element + "/value", {"text": text})

    def press(self, *keys):
        """Keys, one after the other, to whatever has the focus."""
        actions = []
        for key in keys:
            value = KEYS.get(key, key)
            actions += [{"type": "keyDown", "value": value}, {"type": "keyUp", "value": value}]
        self.tell("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def focus(self):
        """The name of what has the focus, as it is read out."""
        script = "const e = document.activeElement; return e.getAttribute('aria-label') ?? (e.innerText || e.id || e.tagName)"
        return self.run(script)

    def complaints(self):
        """What stands in the console since this was asked last: errors and warnings, but for answers that were not given or
        not good, which Chromium notes by itself."""
        return [line["message"] for line in self.tell("/se/log", {"type": "browser"}) if line["source"] != "network"]

    def screenshot(self):
        return base64.b64decode(self.ask("GET", self.session + "/screenshot"))
