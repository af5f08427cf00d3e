"""Each command and each configuration of README.md, in the order of the page, on the machine that the page is about: machine.py.

A command that nothing here knows fails, and so does an entry here that no command needs. What cannot be run stands in CANNOT, with
the reason, and with what is checked instead. Migration from other proxies is tried by migration.py, with the commands of the page.
"""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import tomllib
import unittest

from acme import NAME
from machine import UNIT, Machine
from world import MAILMUX, ROOT, WAIT


def is_there(*paths):
    """Files of the project that a command names."""

    def check(case, command):
        for path in paths:
            case.assertTrue((ROOT / path).exists(), path)

    return check


def has_help(path):
    """A script of the project that says what it does, with or without having been asked properly."""

    def check(case, command):
        script = ROOT / path
        case.assertTrue(os.access(script, os.X_OK), path)
        done = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=WAIT)
        case.assertIn(done.returncode, (0, 2), done.stderr)
        case.assertRegex(done.stdout + done.stderr, rf"{re.escape(path)}|usage: run ")

    return check


def is_script(path):
    """A script of the project that says in its head how it is called, and can be read by its shell."""

    def check(case, command):
        script = ROOT / path
        case.assertTrue(os.access(script, os.X_OK), path)
        case.assertRegex(script.read_text(), rf"^(?:#.*\n)*#   {re.escape(path)}")
        subprocess.run(["bash", "-n", script], check=True)

    return check


def is_bench(case, command):
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
    case.assertIn(command.split()[-1], [bench["name"] for bench in manifest["bench"]])


def is_binary(case, command):
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
    case.assertIn("mailmux", [binary["name"] for binary in manifest["bin"]])
    case.assertTrue((ROOT / "Cargo.lock").exists())


def is_the_units_user(case, command):
    unit = (ROOT / UNIT).read_text()
    case.assertIn(f"\nUser={command.split()[-1]}\n", unit)


def is_the_image(case, command):
    """The name is that of the build, and the ports are those of the image."""
    case.assertIn(f"tag={command.split()[-1]} ", (ROOT / "deploy/container/build").read_text())
    exposed = re.search(r"^EXPOSE (.*)$", (ROOT / "deploy/container/Containerfile").read_text(), re.M)[1].split()
    published = re.findall(r"--publish \d+:(\d+)", command)
    case.assertTrue(published)
    case.assertLessEqual(set(published), set(exposed))


def is_a_secret(case, command):
    """The pods want one of this name, in this namespace."""
    namespace, name = re.search(r"--namespace (\S+) create secret \w+ (\S+)", command).groups()
    case.assertRegex((ROOT / "deploy/kubernetes/deployment.yaml").read_text(), rf"secretName: {name}\n|secret:\n +name: {name}\n")
    is_namespace(case, namespace)


def is_namespace(case, command):
    case.assertIn(f"\nnamespace: {command.split()[-1]}\n", (ROOT / "deploy/kubernetes/kustomization.yaml").read_text())


def knows_backend(case, command):
    case.assertIn("--backend", command)
    said = subprocess.run([MAILMUX, "serve", "--help"], capture_output=True, text=True, check=True).stdout
    case.assertIn("--backend <HOST:PORT>", said)


def has_subcommand(case, command):
    """One with the options that the page gives it."""
    name, *words = command.split()[1:]
    said = subprocess.run([MAILMUX, name, "--help"], capture_output=True, text=True, check=True).stdout
    for word in words:
        if word.startswith("--"):
            case.assertIn(word, said)


# What is not run here: pattern, why not, and what is checked instead.
CANNOT = (
    (r"tests/run( \w+)?", "this is part of it", has_help("tests/run")),
    (r"deploy/quickstart", "a step of its own of tests/run", has_help("deploy/quickstart")),
    (r"tests/endurance", "takes minutes", is_script("tests/endurance")),
    (r"tests/hard-days", "takes minutes, and root", is_script("tests/hard-days")),
    (r"tests/package", "takes minutes, and root", is_script("tests/package")),
    (r"tests/container", "takes a minute, and root", is_script("tests/container")),
    (r"tests/kubernetes", "asks PyPI for a program", is_script("tests/kubernetes")),
    (r"deploy/package", "takes minutes; tests/package does it", is_script("deploy/package")),
    (r"deploy/container/build", "takes minutes; tests/container does it", is_script("deploy/container/build")),
    (r"podman run .*", "there may be no podman; tests/container does it", is_the_image),
    (r"kubectl .* create secret (?:tls|generic) .*", "there is no cluster", is_a_secret),
    (r"kubectl create namespace mailmux", "there is no cluster", is_namespace),
    (r"kubectl apply --kustomize deploy/kubernetes", "there is no cluster; tests/kubernetes looks at what it would apply", is_there("deploy/kubernetes/kustomization.yaml")),
    (r"tests/real/run --only screenshots", "takes minutes", is_there("tests/real/screenshots.py")),
    (r"benches/webmail/run(?: --rows off,watched)?", "takes minutes", has_help("benches/webmail/run")),
    (r"benches/peers/run(?: --quick)?", "takes minutes", has_help("benches/peers/run")),
    (r"benches/scale/run", "takes minutes", has_help("benches/scale/run")),
    (r"cargo bench --bench \w+", "takes minutes", is_bench),
    (r"cargo build --release( --locked)?", "takes minutes; the tests run on another build of the same", is_binary),
    (r"target/release/mailmux serve --backend \S+", "its ports are fixed, and may be taken", knows_backend),
    (r"apt install \S+\.deb", "would install it on this machine", is_there("deploy/debian")),
    (r"adduser --system .*", "would make a user on this machine", is_the_units_user),
    (r"mailmux doctor.*", "its certificate is nobody's; doctor.py does it", has_subcommand),
    (r"mailmux top", "needs a terminal; top.py does it", has_subcommand),
    (r"mailmux trace .*", "takes minutes; api.py does it", has_subcommand),
    (r"mailmux (?:kick --network|pardon --network|flush --user) .*", "there is nobody; commands.py does it", has_subcommand),
    (r"systemctl daemon-reload", "there may be no systemd", is_there(UNIT)),
    (r"systemctl enable mailmux", "there may be no systemd", is_there(UNIT)),
)


# Commands that are run as they stand, with places replaced.
RUNS = (
    r"install -m \d+ [\w./ -]+ /[\w./-]+",
    r"install -d -m 750 -g mailmux /etc/mailmux /etc/mailmux/certs",
    r"mailmux check",
    r"mailmux route \S+",
    r"mailmux reload",
    r"mailmux drain blue --for 1m",
    r"mailmux undrain blue",
    r"mailmux (?:status|backends|backends blue|users --sort bytes|pool|lookups|certificates|limits|config)",
    r"mailmux weight blue (?:0|configured)",
    r"mailmux log-level debug --for 10m",
    r"mailmux completions bash > /etc/bash_completion\.d/mailmux",
    r"curl -s --unix-socket /run/mailmux/admin\.sock http://localhost/api/v1/backends",
    r"promtool check rules \S+",
    r"curl --fail http://127\.0\.0\.1:9143/readyz",
    r"curl -s http://127\.0\.0\.1:9143/metrics \| grep .*",
    r"openssl s_client .*",
    r"RENEWED_LINEAGE=\S+ \S+",
    r"acme-hook mail\.example\.org \S+ \S+",
    r"haproxy -c -f \S+",
    r"keepalived --config-test --use-file \S+",
)

# Commands of which more must be seen than that they end well.
SPECIAL = (
    (r"systemctl start mailmux", Machine.start),
    (r"systemctl reload mailmux", Machine.reload_by_signal),
    (r"systemctl stop mailmux", Machine.stop),
    (r"systemctl kill -s USR2 --kill-whom=main mailmux", Machine.upgrade),
    (r"sed -E .* > /etc/mailmux/\S+\.map", Machine.convert),
    (r"journalctl -u mailmux .*", Machine.journal),
    (r"doveadm .*", Machine.copy_mail),
    (r"mailmux hold ann@example\.org", Machine.hold),
    (r"mailmux kick ann@example\.org", Machine.kick),
    (r"sed -i .* /etc/mailmux/users\.map", Machine.edit_map),
    (r"mailmux move ann@example\.org --to green", Machine.move),
)


class Readme(Machine):
    """Everything of the page that can be read and run."""

    def test_every_configuration(self):
        """A whole one is checked as it is, a part of one with what it needs around it, and with the files that it names."""
        blocks = [block for block in self.blocks if block.language == "toml"]
        self.assertGreater(len(blocks), 5)
        for block in blocks:
            with self.subTest(f"README.md:{block.number}"):
                done = self.check(block.text)
                self.assertEqual(done.returncode, 0, done.stderr)

    def test_a_mistake_in_a_configuration_is_seen(self):
        text = next(block.text for block in self.blocks if block.language == "toml" and "[pool]" in block.text)
        done = self.check(text.replace("reuse_ttl", "reuse_tl"))
        self.assertEqual(done.returncode, 1)
        self.assertIn("reuse_tl: unknown key", done.stderr)

    def check(self, text):
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
        said = tomllib.loads(text)
        sections = {kind: said.get(kind, []) for kind in ("backend", "group", "lookup", "route")}
        names = {one["name"] for kind in ("backend", "group", "lookup") for one in sections[kind]}
        wanted = {name for group in sections["group"] for name in group["members"] + group.get("standby", [])}
        wanted |= {route["backend"] for route in sections["route"] if "backend" in route}
        frame = ""
        if "listener" not in said:
            frame += '[[listener]]\nname = "plain"\naddress = "127.0.0.1:1143"\ntls = "none"\n'
        for name in sorted(wanted - names):
            frame += f'[[backend]]\nname = "{name}"\naddress = "192.0.2.1:143"\ntls = "none"\n'
        # What it names, with something in it that will do.
        text = text.replace("/etc/mailmux", str(folder))
        shutil.copy(self.folder / "etc/mailmux/internal-ca.pem", folder)
        for name in re.findall(r'"(?:\S*/)?([\w.-]+\.(?:secret|token|url|map))"', text):
            (folder / name).write_text("postgres://mailmux@127.0.0.1/mail" if name.endswith(".url") else "" if name.endswith(".map") else "secret")
        (folder / "certs").mkdir()
        for kind, name in (("fullchain", "pem"), ("privkey", "key")):
            shutil.copy(self.folder / f"etc/ssl/mail/{kind}.pem", folder / f"certs/{NAME}.{name}")
        config = folder / "mailmux.toml"
        config.write_text(frame + text)
        return subprocess.run([MAILMUX, "check", "--config", config], capture_output=True, text=True, timeout=WAIT)

    def test_what_the_page_shows_of_a_file_is_in_that_file(self):
        """The pieces of config/migrate/ that the page shows are those that migration.py tries."""
        shown = {"From nginx's mail proxy": "nginx-mail", "From Dovecot as a proxy": "dovecot-proxy", "From Perdition": "perdition"}
        for section, name in shown.items():
            (block,) = (block for block in self.blocks if block.section == section and block.language == "toml")
            whole = tomllib.loads((ROOT / f"config/migrate/{name}.toml").read_text())
            for kind, pieces in tomllib.loads(block.text).items():
                for piece in pieces:
                    self.assertTrue([one for one in whole[kind] if piece.items() <= one.items()], f"{name}.toml has no such [[{kind}]]: {piece}")

    def test_every_command(self):
        unused = {pattern for pattern, *_ in (*CANNOT, *SPECIAL)} | set(RUNS)
        self.write_the_first_configuration()
        for command in self.commands:
            with self.subTest(repr(command)):
                self.do(command, unused)
        self.assertEqual(unused, set(), "these entries are for commands that the page does not have")

    def do(self, command, unused):
        """Runs it as the one entry says that fits it."""
        text = command.text
        known = [(pattern, how) for pattern, how in SPECIAL] + [(pattern, Machine.run_it) for pattern in RUNS]
        known += [(pattern, lambda case, command, check=check: check(case, command.text)) for pattern, _, check in CANNOT]
        fitting = [(pattern, how) for pattern, how in known if re.fullmatch(pattern, text, re.S)]
        self.assertEqual(len(fitting), 1, "a command of README.md that this test does not know how to run, or knows twice: see RUNS and CANNOT")
        unused.discard(fitting[0][0])
        fitting[0][1](self, command)


if __name__ == "__main__":
    unittest.main()
