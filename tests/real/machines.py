"""Two machines that share an address, as deploy/haproxy and deploy/keepalived make them: each a network namespace with mailmux,
HAProxy and keepalived in it, and with the addresses and ports that stand in those files. Outside are two Dovecots and the
clients. Nothing of it can be seen from this machine's own network."""

import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import unittest

from world import MAILMUX, ROOT, USERS, WAIT, Dovecot, make_certificates, openssl, until

DEPLOY = ROOT / "deploy"
ENVIRONMENT = os.environ | {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
OUTSIDE = f"mailmux-{os.getpid()}-out"
BOB, PASSWORD = "bob@example.org", USERS["bob@example.org"][1]


def run(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, env=ENVIRONMENT, timeout=WAIT)
    assert done.returncode == 0, f"{words}: {done.stdout.decode()}{done.stderr.decode()}"
    return done.stdout.decode()


def namespace(case, name):
    run("ip", "netns", "add", name)
    case.addClassCleanup(run, "ip", "netns", "delete", name)
    run("ip", "-n", name, "link", "set", "lo", "up")


class Outside(Dovecot):
    """A Dovecot at an address of its own, with TLS."""

    def __init__(self, folder, users, address):
        self.address = address
        self.certificates = folder.parent
        listener = f"  inet_listener outside {{\n    address = {address}\n    port = 143\n  }}\n"
        chain, key = (self.certificates / f"mail.{kind}" for kind in ("pem", "key"))
        extra = f"ssl = yes\nssl_cert = <{chain}\nssl_key = <{key}\nservice imap-login {{\n{listener}}}\n"
        super().__init__(folder, users, extra)

    def start(self):
        command = ["ip", "netns", "exec", OUTSIDE, DEPLOY / "dovecot-backend", "start", self.folder, str(self.port)]
        subprocess.run(command, input=self.extra.encode(), check=True, env=ENVIRONMENT)


class Machine:
    """One of the two. Its processes are its own to lose."""

    def __init__(self, case, name, number):
        self.name, self.number = name, number
        self.other = 3 - number
        self.space = f"mailmux-{os.getpid()}-{name}"
        self.folder = case.folder / name
        self.folder.mkdir()
        self.processes = {}
        namespace(case, self.space)
        case.addClassCleanup(self.end)
        port = f"mm{os.getpid()}{name}"
        run("ip", "link", "add", port, "netns", OUTSIDE, "type", "veth", "peer", "name", "eth0", "netns", self.space)
        run("ip", "-n", OUTSIDE, "link", "set", port, "master", "lan", "up")
        for address in (f"192.0.2.2{number}/24", f"2001:db8::2{number}/64"):
            run("ip", "-n", self.space, "address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
        run("ip", "-n", self.space, "link", "set", "eth0", "up")
        self.write(case)

    def write(self, case):
        """The shipped files, on machine two with what they say is different there."""
        node = (DEPLOY / "haproxy/mailmux.toml").read_text().replace("/etc/mailmux", str(case.folder))
        haproxy = (DEPLOY / "haproxy/haproxy.cfg").read_text().replace("/run/haproxy", str(self.folder))
        # Not everybody who tests may have 200,000 descriptors.
        haproxy = haproxy.replace("maxconn 100000", "maxconn 1000")
        keepalived = (DEPLOY / "keepalived/keepalived.conf").read_text()
        if self.number == 2:
            node = node.replace('address = "192.0.2.21:', 'address = "192.0.2.22:')
            for here, there in (("192.0.2.21", "192.0.2.22"), ("2001:db8::21", "2001:db8::22")):
                keepalived = keepalived.replace(here, "-").replace(there, here).replace("-\n", there + "\n")
            keepalived = keepalived.replace("priority 150", "priority 100").replace("router_id one", "router_id two")
        (self.folder / "mailmux.toml").write_text(node)
        (self.folder / "haproxy.cfg").write_text(haproxy)
        (self.folder / "keepalived.conf").write_text(keepalived)

    def start(self, program):
        folder = self.folder
        pids = [f"--{kind}={folder}/keepalived.{kind}" for kind in ("pid", "vrrp_pid", "checkers_pid")]
        command = {
            "mailmux": [MAILMUX, "serve", "--config", folder / "mailmux.toml"],
            "haproxy": ["haproxy", "-db", "-f", folder / "haproxy.cfg"],
            "keepalived": ["keepalived", "--dont-fork", "--log-console", *pids, "-f", folder / "keepalived.conf"],
        }[program]
        with open(folder / f"{program}.log", "ab") as log:
            command = ["ip", "netns", "exec", self.space, *command]
            self.processes[program] = subprocess.Popen(command, stdout=log, stderr=log, env=ENVIRONMENT)

    def send(self, program, sign):
        """`ip netns exec` becomes what it starts, so this is its process."""
        self.processes[program].send_signal(sign)

    def stop(self, program, sign=signal.SIGKILL):
        self.send(program, sign)
        self.processes[program].wait(WAIT)

    def end(self):
        for program in ("keepalived", "haproxy", "mailmux"):
            process = self.processes.get(program)
            if process and process.poll() is None:
                # keepalived has children, and takes its addresses back.
                self.stop(program, signal.SIGTERM if program == "keepalived" else signal.SIGKILL)

    def log(self, program):
        return (self.folder / f"{program}.log").read_text(errors="replace")

    def has_the_address(self):
        show = ["ip", "-n", self.space, "-o", "address", "show", "dev", "eth0", "to"]
        return all(run(*show, address) for address in ("192.0.2.20", "2001:db8::20"))


class Machines(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="mailmux-real."))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        os.chmod(cls.folder, 0o755)
        make_certificates(cls.folder, "machines")
        (cls.folder / "certs").mkdir()
        for name in ("mail.pem", "mail.key"):
            shutil.copy(cls.folder / name, cls.folder / "certs")
        cls.make_backends_certificate()
        (cls.folder / "users.map").write_text("".join(f"{user}\t{home}\n" for user, (home, _) in USERS.items()))
        (cls.folder / "admin.token").write_text("a-long-and-secret-token")
        (cls.folder / "admin.token").chmod(0o600)

        namespace(cls, OUTSIDE)
        run("ip", "-n", OUTSIDE, "link", "add", "lan", "type", "bridge")
        for address in ("192.0.2.1/24", "192.0.2.31/24", "192.0.2.32/24", "2001:db8::1/64"):
            run("ip", "-n", OUTSIDE, "address", "add", address, "dev", "lan", *(["nodad"] if ":" in address else []))
        run("ip", "-n", OUTSIDE, "link", "set", "lan", "up")
        for name, address in (("blue", "192.0.2.31"), ("green", "192.0.2.32")):
            users = {user: password for user, (home, password) in USERS.items() if home == name}
            backend = Outside(cls.folder / "backends" / name, users, address)
            cls.addClassCleanup(backend.stop)
        cls.one, cls.two = Machine(cls, "one", 1), Machine(cls, "two", 2)
        for program in ("mailmux", "haproxy", "keepalived"):
            for machine in (cls.one, cls.two):
                machine.start(program)

    @classmethod
    def make_backends_certificate(cls):
        """From an authority of its own, for the addresses of the mail servers."""
        inside = cls.folder / "backends"
        inside.mkdir()
        make_certificates(inside, "inside")
        (inside / "names").write_text("subjectAltName = IP:192.0.2.31, IP:192.0.2.32\n")
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "7", "-extfile", "names"]
        openssl("x509", "-req", "-in", "mail.csr", *signed, "-out", "mail.pem", cwd=inside)
        shutil.copy(inside / "ca.pem", cls.folder / "internal-ca.pem")

    def log_in(self, address="192.0.2.20", port=993):
        """From outside, to the address that the machines share. Gives whether it succeeded."""
        scheme = ["imaps"] if port == 993 else ["imap", "--ssl-reqd"]
        command = ["ip", "netns", "exec", OUTSIDE, "curl", "-sS", "--fail", "--max-time", "5", "-u", f"{BOB}:{PASSWORD}"]
        command += ["--cacert", self.folder / "ca.pem", "--resolve", f"localhost:{port}:{address}"]
        command += [f"{scheme[0]}://localhost:{port}/", *scheme[1:]]
        return subprocess.run(command, capture_output=True, env=ENVIRONMENT, timeout=WAIT).returncode == 0

    def test_the_address_is_where_somebody_serves(self):
        one, two = self.one, self.two
        until(one.has_the_address, "machine one to have the address")
        until(self.log_in, "logins")
        for address, port in (("192.0.2.20", 143), ("[2001:db8::20]", 993), ("[2001:db8::20]", 143)):
            self.assertTrue(self.log_in(address, port), f"{address}:{port}")
        for client in ("192.0.2.1", "[2001:db8::1]"):
            until(lambda: f" client={client}:" in one.log("mailmux") + two.log("mailmux"), f"{client} in a log")
        self.assertFalse(two.has_the_address(), "two does not have it too")

        # A mailmux stops: HAProxy has the other one.
        one.send("mailmux", signal.SIGTERM)
        until(lambda: "imaps/one is DOWN" in one.log("haproxy"), "HAProxy to take it out")
        self.assertTrue(all(self.log_in() for _ in range(5)))
        self.assertTrue(one.has_the_address(), "it did not move for that")

        # HAProxy is gone: the address moves.
        one.stop("haproxy")
        until(lambda: two.has_the_address() and not one.has_the_address(), "machine two to have the address")
        until(self.log_in, "logins at machine two")
        # And stays when it is back, since moving it costs sessions.
        one.stop("mailmux")
        one.start("mailmux")
        one.start("haproxy")
        until(lambda: "VRRP_Script(ready) succeeded" in one.log("keepalived").rpartition("failed")[2], "machine one to be well")
        until(lambda: two.log("haproxy").count("imaps/one is UP"), "machine two to know")
        self.assertTrue(two.has_the_address() and not one.has_the_address())

        # The power of machine two fails.
        run("ip", "-n", two.space, "link", "set", "eth0", "down")
        until(one.has_the_address, "machine one to have the address again")
        until(self.log_in, "logins at machine one")
        self.assertTrue(self.log_in("[2001:db8::20]"))
