"""What lies between mailmux and a backend: TLS in both forms, PROXY headers, other ways to log in, and dying."""

import imaplib
import re
import signal
import ssl
import subprocess
import unittest

from world import USERS, Case, Dovecot, Mailmux, free_port, make_certificates, openssl, until

USER, PASSWORD = "bob@example.org", USERS["bob@example.org"][1]


def tls_settings(folder):
    return f"""
ssl = required
ssl_cert = <{folder}/mail.pem
ssl_key = <{folder}/mail.key
"""


class Backends(Case):
    """A mailmux with one listener per backend under test."""

    @classmethod
    def config(cls):
        cls.inside = cls.folder / "inside"
        cls.inside.mkdir()
        make_certificates(cls.inside, "inside")
        implicit, cls.proxied = free_port(), free_port()
        users = {USER: PASSWORD}
        listeners = "service imap-login {\n  inet_listener %s {\n    port = %d\n    %s\n  }\n}\n"
        cls.tls_backend = Dovecot(
            cls.folder / "tls", users, tls_settings(cls.inside) + listeners % ("secure", implicit, "ssl = yes")
        )
        cls.addClassCleanup(cls.tls_backend.stop)
        cls.proxy_backend = Dovecot(
            cls.folder / "proxied",
            users,
            "haproxy_trusted_networks = 127.0.0.0/8\n" + listeners % ("proxied", cls.proxied, "haproxy = yes"),
        )
        cls.addClassCleanup(cls.proxy_backend.stop)
        ca = f'ca = "{cls.inside}/ca.pem"\n'
        backends = {
            "starttls": (cls.tls_backend.port, 'tls = "starttls"\n' + ca),
            "implicit": (implicit, 'tls = "implicit"\n' + ca),
            "untrusted": (cls.tls_backend.port, 'tls = "starttls"\n'),
            "misnamed": (implicit, 'tls = "implicit"\ntls_name = "other.example.org"\n' + ca),
            "unverified": (implicit, 'tls = "implicit"\ntls_verify = false\n'),
            "plain": (cls.tls_backend.port, ""),
            "none": (cls.backends["green"].port, 'tls = "starttls"\n' + ca),
            "v1": (cls.proxied, 'proxy_protocol = "v1"\nforward_id = false\n'),
            "v2": (cls.proxied, 'proxy_protocol = "v2"\nforward_id = false\n'),
            "dead": (free_port(), ""),
        }
        cls.ports = {name: free_port() for name in backends}
        config = '[timeouts]\nbackend_connect = "2s"\nbackend_login = "5s"\n[[tls.certificate]]\nchain = "mail.pem"\nkey = "mail.key"\n'
        for name, (port, settings) in backends.items():
            config += f'[[listener]]\nname = "{name}"\naddress = "127.0.0.1:{cls.ports[name]}"\ntls = "implicit"\n'
            config += f'[[backend]]\nname = "{name}"\naddress = "localhost:{port}"\n{settings}'
            config += "" if "tls =" in settings else 'tls = "none"\n'
            config += f'[[route]]\nlistener = "{name}"\nbackend = "{name}"\n'
        return config

    def through(self, name):
        connection = imaplib.IMAP4_SSL("localhost", self.ports[name], ssl_context=self.tls, timeout=30)
        self.addCleanup(self.close, connection)
        return connection

    def lets_in(self, name):
        connection = self.through(name)
        connection.login(USER, PASSWORD)
        self.assertEqual(connection.select("INBOX")[0], "OK")

    def refuses(self, name, words):
        connection = self.through(name)
        for _ in range(2):
            with self.assertRaisesRegex(imaplib.IMAP4.error, words):
                connection.login(USER, PASSWORD)
        self.assertEqual(connection.noop()[0], "OK", "the dialogue goes on")

    def test_tls_to_the_backend(self):
        for name in ("starttls", "implicit", "unverified"):
            with self.subTest(name):
                self.lets_in(name)
        self.assertRegex(self.tls_backend.log(), f"Login: user=<{USER}>.*TLS")

    def test_a_certificate_that_does_not_verify(self):
        for name in ("untrusted", "misnamed"):
            with self.subTest(name):
                self.refuses(name, r"\[SERVERBUG\]")

    def test_no_starttls_means_no_login(self):
        self.refuses("none", r"\[SERVERBUG\]")
        self.assertNotIn(f"Login: user=<{USER}>", self.backends["green"].log())

    def test_a_backend_that_wants_tls_believes_that_the_client_has_it(self):
        # The hop is in clear, the client's connection is not, and Dovecot is told so by ID.
        self.lets_in("plain")

    def test_proxy_headers_name_the_client(self):
        for name in ("v1", "v2"):
            with self.subTest(name):
                connection = self.through(name)
                port = connection.socket().getsockname()[1]
                connection.login(USER, PASSWORD)
                until(lambda: re.search(rf"rip=127\.0\.0\.1,", self.proxy_backend.log()), "the login in Dovecot's log")
                self.assertEqual(connection.noop()[0], "OK")
                self.assertTrue(port)

    def test_a_dead_backend(self):
        self.refuses("dead", r"\[UNAVAILABLE\]")
        self.assertEqual(self.mailmux.metric('mailmux_backend_up{backend="dead"}'), 0)
        self.assertGreater(self.mailmux.metric('mailmux_backend_errors_total{backend="dead",kind="connect"}'), 0)


class Dying(Case):
    def test_a_backend_that_dies_and_comes_back(self):
        backend = self.backends["blue"]
        other = self.log_in("bob@example.org")
        connection = self.connect()
        connection.send(b'a LOGIN {15+}\r\nann@example.org {%d+}\r\n' % len(USERS["ann@example.org"][1].encode()))
        connection.send(USERS["ann@example.org"][1].encode() + b"\r\n")
        while not (line := connection.readline()).startswith(b"a "):
            pass
        self.assertTrue(line.startswith(b"a OK"), line)
        backend.stop()
        # Dovecot says BYE to its clients and closes; that is what our client hears.
        heard = connection.readline()
        self.assertTrue(heard == b"" or heard.startswith(b"* BYE"), heard)
        self.assertEqual(other.noop()[0], "OK", "others do not notice")


class SelfMade(unittest.TestCase):
    """mailmux without any file."""

    def test_serve_one_backend(self):
        import pathlib, shutil, tempfile
        from world import MAILMUX

        folder = pathlib.Path(tempfile.mkdtemp(prefix="mailmux-real."))
        self.addCleanup(shutil.rmtree, folder)
        backend = Dovecot(folder / "one", {USER: PASSWORD})
        self.addCleanup(backend.stop)
        log = open(folder / "log", "wb")
        self.addCleanup(log.close)
        command = [MAILMUX, "serve", "--backend", f"127.0.0.1:{backend.port}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.send_signal, signal.SIGTERM)
        self.addCleanup(process.send_signal, signal.SIGTERM)
        pem = b""
        while b"END CERTIFICATE" not in pem:
            line = process.stdout.readline()
            self.assertTrue(line, (folder / "log").read_text())
            pem += line
        context = ssl.create_default_context(cadata=pem.decode())
        connection = until(lambda: self.reach(context), "mailmux to answer")
        connection.login(USER, PASSWORD)
        self.assertEqual(connection.select("INBOX")[0], "OK")
        connection.shutdown()

    @staticmethod
    def reach(context):
        try:
            return imaplib.IMAP4_SSL("127.0.0.1", 1993, ssl_context=context, timeout=10)
        except ConnectionRefusedError:
            return None


if __name__ == "__main__":
    unittest.main()
