"""Certificates that an ACME client has renewed: `deploy/acme-hook`, called as the clients call it, puts them where a running mailmux
finds them and shows them to its clients."""

import os
import pathlib
import shutil
import socket
import ssl
import stat
import subprocess
import tempfile
import unittest

from world import ROOT, WAIT, Mailmux, free_port, openssl, until

HOOK = ROOT / "deploy/acme-hook"
NAME = "mail.example.org"


class Lineage:
    """A folder as certbot keeps it: live/NAME/*.pem are links to the newest files of archive/NAME/, which have numbers."""

    def __init__(self, folder, name):
        self.live, self.archive, self.number = folder / "live" / name, folder / "archive" / name, 0
        self.name = name
        for path in (self.live, self.archive):
            path.mkdir(parents=True)
        for path in (folder / "live", folder / "archive"):
            os.chmod(path, 0o700)

    def renew(self):
        """The new certificate."""
        self.number += 1
        key, chain = (self.archive / f"{kind}{self.number}.pem" for kind in ("privkey", "fullchain"))
        words = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "90", "-subj", f"/CN={self.name}"]
        openssl("req", *words, "-addext", f"subjectAltName = DNS:{self.name}", "-keyout", key, "-out", chain, cwd=self.archive)
        os.chmod(key, 0o600)
        for kind in ("privkey", "fullchain"):
            link = self.live / f"{kind}.pem"
            link.unlink(missing_ok=True)
            link.symlink_to(f"../../archive/{self.name}/{kind}{self.number}.pem")
        return chain.read_text()


class Acme(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="mailmux-acme."))
        self.addCleanup(shutil.rmtree, self.folder)
        self.certs = self.folder / "certs"
        self.certs.mkdir()
        self.lineage = Lineage(self.folder / "letsencrypt", NAME)

    def hook(self, *words, **said):
        """Calls the hook with an environment in which an ACME client has said this."""
        usual = {"PATH": os.environ["PATH"], "MAILMUX_CERTIFICATES": str(self.certs), "MAILMUX_GROUP": str(os.getgid())}
        return subprocess.run([HOOK, *words], env=usual | {name: str(value) for name, value in said.items()}, capture_output=True, text=True)

    def certbot(self):
        done = self.hook(RENEWED_LINEAGE=self.lineage.live, RENEWED_DOMAINS=f"{NAME} imap.example.org")
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def files(self):
        return sorted(path.name for path in self.certs.iterdir())

    def holds(self, name, chain, key):
        self.assertEqual(self.files(), [f"{name}.key", f"{name}.pem"])
        self.assertEqual((self.certs / f"{name}.pem").read_text(), chain)
        self.assertEqual((self.certs / f"{name}.key").read_text(), key)

    def mode(self, name):
        return stat.S_IMODE((self.certs / name).stat().st_mode)

    def test_certbots_pair_is_copied_with_its_modes(self):
        for _ in range(2):
            chain = self.lineage.renew()
            self.certbot()
            self.holds(NAME, chain, (self.lineage.live / "privkey.pem").read_text())
            self.assertEqual((self.mode(f"{NAME}.pem"), self.mode(f"{NAME}.key")), (0o644, 0o640))
            self.assertEqual((self.certs / f"{NAME}.key").stat().st_gid, os.getgid())
            self.assertFalse((self.certs / f"{NAME}.pem").is_symlink(), "mailmux may not follow it into the lineage")

    def test_lego_acme_sh_and_by_hand(self):
        chain = self.lineage.renew()
        crt, key = self.folder / "_.example.org.crt", self.folder / "_.example.org.key"
        shutil.copy(self.lineage.live / "fullchain.pem", crt)
        shutil.copy(self.lineage.live / "privkey.pem", key)
        for words, said in (
            ([], {"LEGO_CERT_DOMAIN": "*.example.org", "LEGO_CERT_PATH": crt, "LEGO_CERT_KEY_PATH": key}),
            ([], {"LEGO_HOOK_CERT_NAME": "*.example.org", "LEGO_HOOK_CERT_PATH": crt, "LEGO_HOOK_CERT_KEY_PATH": key}),
            ([], {"Le_Domain": "*.example.org", "CERT_FULLCHAIN_PATH": crt, "CERT_KEY_PATH": key}),
            (["_.example.org", crt, key], {}),
        ):
            with self.subTest(said):
                done = self.hook(*words, **said)
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                self.holds("_.example.org", chain, key.read_text())
                for path in self.certs.iterdir():
                    path.unlink()

    def test_what_does_not_fit_changes_nothing(self):
        chain = self.lineage.renew()
        self.certbot()
        key = (self.certs / f"{NAME}.key").read_text()
        other = Lineage(self.folder / "other", NAME)
        other.renew()
        empty = self.folder / "empty"
        empty.write_text("")
        live = self.lineage.live
        for words, why in (
            ([NAME, live / "fullchain.pem", other.live / "privkey.pem"], "is not the key of"),
            ([NAME, empty, live / "privkey.pem"], "holds no certificate"),
            ([NAME, live / "fullchain.pem", empty], "holds no key"),
            ([NAME, live / "cert.pem", live / "privkey.pem"], "cannot be read"),
            (["../" + NAME, live / "fullchain.pem", live / "privkey.pem"], "is no name"),
            (["", live / "fullchain.pem", live / "privkey.pem"], "is no name"),
            ([], "neither certbot nor lego nor acme.sh"),
        ):
            with self.subTest(why):
                done = self.hook(*words)
                self.assertIn(why, done.stderr)
                self.assertEqual(done.returncode, 1)
                self.holds(NAME, chain, key)
        done = self.hook(NAME, live / "fullchain.pem", live / "privkey.pem", MAILMUX_GROUP="no-such-group")
        self.assertNotEqual(done.returncode, 0)
        self.holds(NAME, chain, key)
        self.assertEqual(self.hook("--help").returncode, 2)

    def test_a_running_mailmux_shows_the_new_one(self):
        first = self.lineage.renew()
        self.certbot()
        port = free_port()
        mailmux = Mailmux(self.folder, f"""
[[listener]]
name = "imaps"
address = "127.0.0.1:{port}"
[tls]
directory = "certs"
watch = "1s"
[[route]]
reject = "Nobody."
""")
        self.addCleanup(mailmux.stop)
        self.assertIn(self.shown(port), first)
        second = self.lineage.renew()
        self.certbot()
        until(lambda: self.shown(port) in second, "the renewed certificate")

    def shown(self, port):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as raw, context.wrap_socket(raw, server_hostname=NAME) as connection:
            return ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True))


if __name__ == "__main__":
    unittest.main()
