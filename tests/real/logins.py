"""Logging in: every way that real clients have, and what goes wrong."""

import base64
import concurrent.futures
import hashlib
import hmac
import imaplib
import os
import re
import socket
import subprocess
import threading
import unittest

from world import USERS, WAIT, Case, until


class Logins(Case):
    def test_curl_lists_a_mailbox_over_imaps(self):
        self.assertIn("INBOX", self.curl("bob@example.org", f"imaps://localhost:{self.imaps}/"))

    def test_curl_lists_a_mailbox_over_starttls(self):
        self.assertIn("INBOX", self.curl("bob@example.org", f"imap://localhost:{self.imap}/", "--ssl-reqd"))

    def test_openssl_talks_to_both_listeners(self):
        for port, words in ((self.imaps, []), (self.imap, ["-starttls", "imap"])):
            command = ["openssl", "s_client", "-quiet", "-crlf", "-verify_return_error", "-CAfile", self.folder / "ca.pem"]
            command += ["-connect", f"localhost:{port}", *words]
            said = subprocess.run(command, input=b"a LOGIN bob@example.org bob-secret\nb LOGOUT\n", capture_output=True, timeout=WAIT)
            self.assertIn(b"a OK ", said.stdout)
            self.assertIn(b"b OK ", said.stdout)

    def test_imaplib_login_with_a_difficult_password(self):
        connection = self.connect()
        # imaplib sends what is not ASCII as a literal only if it is bytes in quotes: say it ourselves.
        user, password = b"ann@example.org", USERS["ann@example.org"][1].encode()
        tag = b"x1"
        connection.send(tag + b" LOGIN {%d}\r\n" % len(user))
        self.assertTrue(connection.readline().startswith(b"+ "))
        connection.send(user + b" {%d+}\r\n" % len(password) + password + b"\r\n")
        lines = []
        while not lines or not lines[-1].startswith(tag):
            lines.append(connection.readline())
        self.assertTrue(lines[-1].startswith(b"x1 OK "), lines)

    def test_authenticate_plain_and_login(self):
        user, password = "bob@example.org", USERS["bob@example.org"][1]
        plain = self.connect()
        plain.authenticate("PLAIN", lambda _: f"\0{user}\0{password}".encode())
        self.assertEqual(plain.select("INBOX")[0], "OK")
        login = self.connect()
        answers = iter([user.encode(), password.encode()])
        login.authenticate("LOGIN", lambda _: next(answers))
        self.assertEqual(login.noop()[0], "OK")

    def test_scram_is_relayed(self):
        for mechanism, digest in (("SCRAM-SHA-1", "sha1"), ("SCRAM-SHA-256", "sha256")):
            connection = self.connect()
            connection.authenticate(mechanism, Scram("bob@example.org", USERS["bob@example.org"][1], digest))
            self.assertEqual(connection.noop()[0], "OK")
            with self.assertRaises(imaplib.IMAP4.error):
                self.connect().authenticate(mechanism, Scram("bob@example.org", "wrong", digest))

    def test_a_wrong_password_then_the_right_one(self):
        connection = self.connect()
        with self.assertRaisesRegex(imaplib.IMAP4.error, r"\[AUTHENTICATIONFAILED\] Authentication failed"):
            connection.login("bob@example.org", "wrong")
        connection.login("bob@example.org", USERS["bob@example.org"][1])
        self.assertEqual(connection.select("INBOX")[0], "OK")

    def test_an_unknown_user_looks_like_a_wrong_password(self):
        answers = set()
        for user in ("nobody@example.org", "bob@example.org"):
            with self.assertRaises(imaplib.IMAP4.error) as raised:
                self.connect().login(user, "wrong")
            answers.add(str(raised.exception))
        self.assertEqual(len(answers), 1, answers)

    def test_capabilities_after_login_are_the_backends(self):
        connection = self.connect()
        self.assertIn("AUTH=PLAIN", connection.capabilities)
        self.assertNotIn("IDLE", connection.capabilities)
        _, answer = connection.login("bob@example.org", USERS["bob@example.org"][1])
        self.assertIn(b"IDLE", answer[0])
        self.assertIn(b"IDLE", connection.capability()[1][0])

    def test_before_tls_there_is_no_login(self):
        connection = imaplib.IMAP4("localhost", self.imap, timeout=WAIT)
        self.addCleanup(self.close, connection)
        self.assertIn("LOGINDISABLED", connection.capabilities)
        with self.assertRaisesRegex(imaplib.IMAP4.error, "PRIVACYREQUIRED"):
            connection.login("bob@example.org", USERS["bob@example.org"][1])
        connection.starttls(self.tls)
        connection.login("bob@example.org", USERS["bob@example.org"][1])

    def test_what_is_pipelined_behind_starttls_in_clear_ends_the_session(self):
        with socket.create_connection(("localhost", self.imap), WAIT) as raw:
            raw.recv(1000)
            raw.sendall(b"a STARTTLS\r\nb LOGIN bob@example.org bob-secret\r\n")
            said = b""
            while piece := raw.recv(1000):
                said += piece
            self.assertEqual(said, b"")
        until(lambda: self.mailmux.metric('mailmux_sessions_closed_total{reason="starttls_injection",side="client"}'), "it to be counted")

    def test_one_session_is_found_in_both_logs_by_its_id_and_the_clients_address(self):
        raw = socket.create_connection(("127.0.0.1", self.imaps), WAIT, source_address=("127.0.0.9", 0))
        with self.tls.wrap_socket(raw, server_hostname="localhost") as client:
            port = client.getsockname()[1]
            client.recv(1000)
            client.sendall(b"a LOGIN cid@example.org cid-secret\r\n")
            said = b""
            while b"a OK" not in said:
                said += client.recv(10000)
        login = r"Login: user=<cid@example\.org>.* rip=127\.0\.0\.9,.* session=<(\w+)>"
        found = until(lambda: re.search(login, self.backends["green"].log()), "the login in Dovecot's log")
        ours = rf"session closed session={found[1]} listener=imaps peer=127\.0\.0\.9:{port} client=127\.0\.0\.9:{port} "
        until(lambda: re.search(ours, self.mailmux.log()), "the session in our log")

    def test_500_sessions_at_once(self):
        def session(_):
            connection = imaplib.IMAP4_SSL("localhost", self.imaps, ssl_context=self.tls, timeout=120)
            connection.login("bob@example.org", USERS["bob@example.org"][1])
            selected, _ = connection.select("INBOX", readonly=True)
            together.wait(timeout=120)
            noop, _ = connection.noop()
            connection.logout()
            return selected, noop

        together = threading.Barrier(500)
        ok = 'mailmux_logins_total{mechanism="LOGIN-COMMAND",outcome="ok"}'
        before = self.mailmux.metric(ok)
        with concurrent.futures.ThreadPoolExecutor(500) as pool:
            answers = list(pool.map(session, range(500)))
        self.assertEqual(answers, [("OK", "OK")] * 500)
        self.assertEqual(self.mailmux.metric(ok) - before, 500)
        self.quiet()

    def test_no_password_is_in_the_log(self):
        for user in USERS:
            if user != "ann@example.org":
                self.log_in(user).logout()
        for _, password in USERS.values():
            self.assertNotIn(password, self.mailmux.log())
            self.assertNotIn(base64.b64encode(password.encode()).decode()[:-4], self.mailmux.log())


class Scram:
    """A SCRAM client (RFC 5802): each call takes the server's message and gives the next one of ours."""

    def __init__(self, user, password, digest):
        self.user, self.password, self.digest = user, password.encode(), digest
        self.nonce = base64.b64encode(os.urandom(12)).decode()
        self.step = self.first

    def __call__(self, challenge):
        return self.step(challenge.decode())

    def first(self, _):
        self.bare = f"n={self.user},r={self.nonce}"
        self.step = self.final
        return f"n,,{self.bare}".encode()

    def final(self, challenge):
        fields = dict(field.split("=", 1) for field in challenge.split(","))
        assert fields["r"].startswith(self.nonce)
        salted = hashlib.pbkdf2_hmac(self.digest, self.password, base64.b64decode(fields["s"]), int(fields["i"]))
        without_proof = f"c=biws,r={fields['r']}"
        message = f"{self.bare},{challenge},{without_proof}".encode()
        client_key = hmac.digest(salted, b"Client Key", self.digest)
        signature = hmac.digest(hashlib.new(self.digest, client_key).digest(), message, self.digest)
        proof = base64.b64encode(bytes(a ^ b for a, b in zip(client_key, signature))).decode()
        server_key = hmac.digest(salted, b"Server Key", self.digest)
        self.expected = "v=" + base64.b64encode(hmac.digest(server_key, message, self.digest)).decode()
        self.step = self.verify
        return f"{without_proof},p={proof}".encode()

    def verify(self, challenge):
        assert challenge == self.expected, "the server does not know the password"
        return b""


if __name__ == "__main__":
    unittest.main()
