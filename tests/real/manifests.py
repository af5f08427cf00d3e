"""The Kubernetes manifests: against the schemas, against each other, and mailmux as a pod has it: as nobody, with the files of
the rendered ConfigMap and of Secrets laid out as the kubelet lays them out. There is no cluster in it."""

import base64
import ipaddress
import os
import pathlib
import re
import shutil
import signal
import ssl
import subprocess
import tempfile
import tomllib
import unittest
import urllib.error
import urllib.request

import kubernetes_validate
import yaml

from world import MAILMUX, ROOT, WAIT, free_port, make_certificates, until

FOLDER = ROOT / "deploy/kubernetes"
# The oldest in which everything means what it says, and the newest whose schemas are here.
VERSIONS = ("1.30", kubernetes_validate.latest_version())
NOBODY = 65534


def run(*words, **more):
    done = subprocess.run(words, capture_output=True, timeout=WAIT, **more)
    assert done.returncode == 0, f"{words}: {done.stdout.decode()}{done.stderr.decode()}"
    return done.stdout.decode()


def seconds(duration):
    number, unit = re.fullmatch(r"(\d+)(s|m|h)", duration).groups()
    return int(number) * {"s": 1, "m": 60, "h": 3600}[unit]


class Rendered(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.rendered = list(yaml.safe_load_all(run("kubectl", "kustomize", FOLDER)))
        cls.kinds = {manifest["kind"]: manifest for manifest in cls.rendered}
        assert len(cls.kinds) == len(cls.rendered), "one of each"
        cls.pod = cls.kinds["Deployment"]["spec"]["template"]
        [cls.container] = cls.pod["spec"]["containers"]
        cls.config = tomllib.loads(cls.kinds["ConfigMap"]["data"]["mailmux.toml"])
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="mailmux-real."))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        os.chmod(cls.folder, 0o711)
        make_certificates(cls.folder, "first")
        cls.secrets = cls.make_secrets()

    @classmethod
    def make_secrets(cls):
        """By the commands that the kustomization tells people to give."""
        told = re.findall(r"^# +(kubectl .* create secret .*)$", (FOLDER / "kustomization.yaml").read_text(), re.M)
        files = {"mail.example.org.pem": "mail.pem", "mail.example.org.key": "mail.key"}
        secrets = {}
        for command in told:
            for name, ours in files.items():
                command = command.replace(name, str(cls.folder / ours))
            secret = yaml.safe_load(run("sh", "-c", command + " --dry-run=client -o yaml"))
            secrets[secret["metadata"]["name"]] = secret
        return secrets


class Manifests(Rendered):
    def test_the_schemas(self):
        self.assertEqual(set(self.kinds), {"Deployment", "PodDisruptionBudget", "Service", "NetworkPolicy", "ConfigMap"})
        for version in VERSIONS:
            for manifest in [*self.rendered, *self.secrets.values()]:
                with self.subTest(version=version, kind=manifest["kind"]):
                    kubernetes_validate.validate(manifest, version, strict=True)

    def test_whom_the_selectors_mean(self):
        labels = self.pod["metadata"]["labels"]
        selectors = [
            self.kinds["Deployment"]["spec"]["selector"]["matchLabels"],
            self.kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
            self.kinds["Service"]["spec"]["selector"],
            self.kinds["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
            self.pod_monitor()["spec"]["selector"]["matchLabels"],
        ] + [spread["labelSelector"]["matchLabels"] for spread in self.pod["spec"]["topologySpreadConstraints"]]
        for selector in selectors:
            self.assertEqual(selector, labels)
        self.assertEqual({manifest["metadata"]["namespace"] for manifest in self.rendered}, {"mailmux"})

    def test_ports(self):
        """From the listeners to the balancer, and to the kubelet and to Prometheus."""
        ports = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        port = lambda section: int(section["address"].rpartition(":")[2])
        expected = {listener["name"]: port(listener) for listener in self.config["listener"]}
        self.assertEqual(ports, expected | {"admin": port(self.config["admin"])})
        self.assertGreater(min(ports.values()), 1023, "no capability is needed")
        served = {one["port"]: one["targetPort"] for one in self.kinds["Service"]["spec"]["ports"]}
        self.assertEqual(served, {993: "imaps", 143: "imap"})
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            self.assertEqual(self.container[probe]["httpGet"]["port"], "admin")

    def test_the_time_to_stop(self):
        needed = self.container["lifecycle"]["preStop"]["sleep"]["seconds"] + seconds(self.config["server"]["drain_timeout"])
        self.assertGreaterEqual(self.pod["spec"]["terminationGracePeriodSeconds"], needed + 10)

    def test_the_networks_are_the_same_here_and_there(self):
        policy = self.kinds["NetworkPolicy"]["spec"]
        balancers = {peer["ipBlock"]["cidr"] for peer in policy["ingress"][0]["from"]}
        self.assertEqual({one["port"] for one in policy["ingress"][0]["ports"]}, {"imaps", "imap"})
        for listener in self.config["listener"]:
            self.assertEqual(set(listener["proxy_protocol_from"]), balancers)
        self.assertEqual([one["port"] for one in policy["ingress"][1]["ports"]], ["admin"])
        backends = [ipaddress.ip_network(peer["ipBlock"]["cidr"]) for peer in policy["egress"][0]["to"]]
        for backend in self.config["backend"]:
            host, _, port = backend["address"].rpartition(":")
            self.assertTrue(any(ipaddress.ip_address(host) in network for network in backends), host)
            self.assertIn(int(port), [one["port"] for one in policy["egress"][0]["ports"]])

    def pod_monitor(self):
        return yaml.safe_load((FOLDER / "podmonitor.yaml").read_text())

    def test_prometheus_has_the_token(self):
        [endpoint] = self.pod_monitor()["spec"]["podMetricsEndpoints"]
        self.assertIn(endpoint["port"], [port["name"] for port in self.container["ports"]])
        credentials = endpoint["authorization"]["credentials"]
        self.assertIn(credentials["key"], self.secrets[credentials["name"]]["data"])


class Pod(Rendered):
    """mailmux as the manifests start it, but for its addresses."""

    def mounted(self):
        """What is in the volume, by path."""
        [volume] = self.pod["spec"]["volumes"]
        self.assertEqual(self.container["volumeMounts"][0]["mountPath"], "/etc/mailmux")
        files = {}
        for source in volume["projected"]["sources"]:
            if "configMap" in source:
                files |= {path: text.encode() for path, text in self.kinds["ConfigMap"]["data"].items()}
            else:
                data = self.secrets[source["secret"]["name"]]["data"]
                files |= {item["path"]: base64.b64decode(data[item["key"]]) for item in source["secret"]["items"]}
        return files, volume["projected"]["defaultMode"]

    def swap(self, home, files, mode, version):
        """As the kubelet does: a new folder, to which the link ..data is moved. All that is seen are links through that one."""
        for path, content in files.items():
            file = home / version / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            file.chmod(mode)
            if os.getuid() == 0:
                os.chown(file, 0, NOBODY)
        (home / "..data_tmp").symlink_to(version)
        (home / "..data_tmp").rename(home / "..data")
        for name in {path.split("/")[0] for path in files}:
            if not (home / name).is_symlink():
                (home / name).symlink_to(f"..data/{name}")

    def test_it_serves_and_takes_what_is_new(self):
        home = self.folder / "etc"
        home.mkdir()
        files, mode = self.mounted()
        imaps, admin = free_port(), free_port()
        as_nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
        self.swap(home, files, mode, "..2026_11_26_11_00_00.1")
        run(MAILMUX, "check", "--config", home / "mailmux.toml", **as_nobody)

        toml = files["mailmux.toml"].decode()
        for old, new in (("[::]:1993", imaps), ("[::]:1143", free_port()), ("[::]:9143", admin)):
            self.assertIn(old, toml)
            toml = toml.replace(old, f"127.0.0.1:{new}")
        toml = toml.replace('["10.0.0.0/16"]', "[]").replace('directory = "tls"', 'directory = "tls"\nwatch = "1s"')
        files["mailmux.toml"] = toml.encode()
        self.swap(home, files, mode, "..2026_11_26_11_00_01.2")
        arguments = [word.replace("/etc/mailmux", str(home)) for word in self.container["args"]]
        log = open(self.folder / "log", "wb")
        self.addCleanup(log.close)
        process = subprocess.Popen([MAILMUX, *arguments], stderr=log, **as_nobody)
        self.addCleanup(process.wait, WAIT)
        self.addCleanup(process.send_signal, signal.SIGKILL)

        def ask(path, **headers):
            if process.poll() is not None:
                raise AssertionError("it has ended: " + (self.folder / "log").read_text())
            try:
                asked = urllib.request.Request(f"http://127.0.0.1:{admin}{path}", headers=headers)
                return urllib.request.urlopen(asked, timeout=WAIT).status
            except urllib.error.HTTPError as error:
                return error.code
            except OSError:
                return None

        probes = [self.container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")]
        for path in probes:
            until(lambda: ask(path) == 200, f"{path} to be 200")
        self.assertEqual(ask("/metrics"), 401)
        self.assertEqual(ask("/metrics", Authorization="Bearer " + files["admin.token"].decode()), 200)

        # As the kustomization tells people to do it, with a mistake in the file and without.
        reload = [MAILMUX, "reload", "--config", home / "mailmux.toml"]
        self.swap(home, files | {"users.map": b"@example.org\torange\n"}, mode, "..2026_11_26_11_30_00.3")
        done = subprocess.run(reload, capture_output=True, timeout=WAIT, **as_nobody)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertIn(b"orange", done.stdout + done.stderr)
        self.swap(home, files, mode, "..2026_11_26_11_31_00.4")
        run(*reload, **as_nobody)

        def shown():
            return ssl.get_server_certificate(("127.0.0.1", imaps), timeout=WAIT)

        first = shown()
        self.assertIn(first.strip(), files["tls/mail.pem"].decode())
        renewed = self.folder / "renewed"
        renewed.mkdir()
        make_certificates(renewed, "second")
        files["tls/mail.pem"] = (renewed / "mail.pem").read_bytes()
        files["tls/mail.key"] = (renewed / "mail.key").read_bytes()
        self.swap(home, files, mode, "..2026_11_26_12_00_00.5")
        until(lambda: shown() != first, "the new certificate to be shown")
        self.assertIn(shown().strip(), files["tls/mail.pem"].decode())
