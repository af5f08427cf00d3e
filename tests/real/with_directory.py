"""Runs a command, and beside it the directory that the ignored tests of `src/routing/lookup/ldap` ask:

    python3 -B tests/real/with_directory.py cargo test --lib -- --ignored routing::lookup::ldap
"""

import os
import pathlib
import subprocess
import sys
import tempfile

# Nobody asks mailmux itself here.
os.environ.setdefault("MAILMUX", "unused")

from directory import SUFFIX, Slapd
from world import make_certificates


def person(uid, *lines):
    kinds = ("person", "organizationalPerson", "inetOrgPerson", "inetLocalMailRecipient")
    start = [f"dn: uid={uid},{SUFFIX}", *(f"objectClass: {kind}" for kind in kinds), f"uid: {uid}", "cn: x", "sn: x"]
    return "\n".join([*start, *lines, "", ""])


PEOPLE = (
    # Two values: the first counts. A photograph is no text.
    person("ann", "mail: ann@example.org", "mail: ann@example.net", "mailHost: blue.example", "userPassword: ann-secret",
           "jpegPhoto:: /9j/4AAQ")
    + person("bob", "mail: bob@example.org", "mailHost: green.example", "userPassword: bob-secret")
    # Nobody may log in as her.
    + person("cid", "mail: cid@example.org")
    # One address, two people.
    + person("dan", "mail: both@example.org")
    + person("eve", "mail: both@example.org")
    # A name that looks like a filter, and one that is not ASCII (base64 of "jörg").
    + person("star", "mail: *@example.org", "mailHost: star.example")
    + f"dn: cn=j,{SUFFIX}\nobjectClass: person\nobjectClass: uidObject\nuid:: asO2cmc=\ncn: j\nsn: x\n"
)


def main():
    with tempfile.TemporaryDirectory(prefix="mailmux-directory.") as name:
        folder = pathlib.Path(name)
        make_certificates(folder, "mailmux test")
        directory = Slapd(folder / "slapd", tls=folder)
        try:
            directory.add(PEOPLE)
            more = {
                "MAILMUX_TEST_LDAP_URL": directory.url,
                "MAILMUX_TEST_LDAPS_URL": directory.ldaps_url,
                "MAILMUX_TEST_LDAPI_URL": directory.ldapi_url,
                "MAILMUX_TEST_LDAP_CA": str(folder / "ca.pem"),
            }
            return subprocess.run(sys.argv[1:], env=os.environ | more).returncode
        finally:
            directory.stop()


if __name__ == "__main__":
    sys.exit(main())
