"""Mail that is read and written through mailmux is the backend's, byte for byte."""

import hashlib
import os
import subprocess
import threading
import time
import unittest

from world import USERS, Case, mail

LARGE = 200 * 1024 * 1024


class Messages(Case):
    def test_append_and_fetch_200_megabytes(self):
        block = os.urandom(57 * 1024).hex().encode()
        lines = b"".join(block[i : i + 70] + b"\r\n" for i in range(0, len(block), 70))
        message = b"Subject: large\r\n\r\n" + lines * (LARGE // len(lines) + 1)
        message = message[:LARGE]
        connection = self.log_in("bob@example.org")
        connection.create("Large")
        began = time.monotonic()
        self.assertEqual(connection.append("Large", None, None, message)[0], "OK")
        appended = time.monotonic()
        connection.select("Large")
        self.assertEqual(int(connection.search(None, "ALL")[1][0]), 1)
        status, answer = connection.fetch("1", "(BODY.PEEK[])")
        fetched = time.monotonic()
        self.assertEqual(status, "OK")
        self.assertEqual(hashlib.sha256(answer[0][1]).hexdigest(), hashlib.sha256(message).hexdigest())
        print(f"\n    {LARGE >> 20} MiB: APPEND {appended - began:.1f} s, FETCH {fetched - appended:.1f} s, sha256 equal", end=" ")

    def test_mbsync_copies_a_mailbox_byte_for_byte(self):
        connection = self.log_in("cid@example.org")
        connection.create("Copied")
        for number in range(200):
            body = "".join(f"Line {line} of {number}: {'x' * (line % 90)}\r\n" for line in range(number * 3))
            self.assertEqual(connection.append("Copied", None, None, mail(f"Mail {number}", body))[0], "OK")
        connection.logout()
        copy = self.folder / "copy"
        copy.mkdir()
        (self.folder / "mbsyncrc").write_text(f"""
IMAPAccount mailmux
Host localhost
Port {self.imaps}
User cid@example.org
Pass {USERS["cid@example.org"][1]}
SSLType IMAPS
CertificateFile {self.folder}/ca.pem

IMAPStore remote
Account mailmux

MaildirStore local
Path {copy}/
Inbox {copy}/INBOX

Channel all
Far :remote:
Near :local:
Patterns Copied
Create Near
SyncState *
""")
        done = subprocess.run(["mbsync", "-c", self.folder / "mbsyncrc", "all"], capture_output=True)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        there = self.hashes(self.backends["green"].maildir("cid@example.org") / ".Copied", b"")
        # mbsync marks each copy with a header of its own and stores line ends as Unix does.
        here = self.hashes(copy / "Copied", b"X-TUID")
        self.assertEqual(len(there), 200)
        self.assertEqual(here, there)

    @staticmethod
    def hashes(maildir, without):
        def content(path):
            lines = path.read_bytes().replace(b"\r\n", b"\n").split(b"\n")
            return b"\n".join(line for line in lines if not without or not line.startswith(without))

        files = [path for part in ("cur", "new") for path in (maildir / part).iterdir()]
        return sorted(hashlib.sha256(content(path)).hexdigest() for path in files)

    def test_idle_hears_of_new_mail(self):
        waiting = self.log_in("bob@example.org")
        waiting.select("INBOX")
        before = int(waiting.untagged_responses["EXISTS"][-1]) if "EXISTS" in waiting.untagged_responses else 0
        waiting.send(b"i IDLE\r\n")
        self.assertTrue(waiting.readline().startswith(b"+ "))
        self.log_in("bob@example.org").append("INBOX", None, None, mail("news"))
        heard = b""
        while b"EXISTS" not in heard:
            heard = waiting.readline()
        self.assertEqual(heard.split()[1], str(before + 1).encode())
        waiting.send(b"DONE\r\n")
        lines = []
        while not lines or not lines[-1].startswith(b"i "):
            lines.append(waiting.readline())
        self.assertTrue(lines[-1].startswith(b"i OK"))

    def test_users_do_not_see_each_others_mail(self):
        def live(user):
            for number in range(20):
                connection = self.log_in(user)
                connection.create(user.split("@")[0])
                connection.append(user.split("@")[0], None, None, mail(f"{user} {number}"))
                connection.select(user.split("@")[0])
                _, answer = connection.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
                subjects = [part[1] for part in answer if isinstance(part, tuple)]
                if not all(user.encode() in subject for subject in subjects) or len(subjects) != number + 1:
                    wrong.append((user, subjects))
                connection.logout()

        wrong = []
        threads = [threading.Thread(target=live, args=(user,)) for user in ("bob@example.org", "cid@example.org")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])
        for name, backend in self.backends.items():
            for user, (home, _) in USERS.items():
                if home != name:
                    self.assertNotIn(user, backend.log(), "a user was sent to the wrong backend")


if __name__ == "__main__":
    unittest.main()
