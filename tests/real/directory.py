"""A real directory: OpenLDAP's slapd with a database of its own, on loopback, in a folder that goes away."""

import subprocess
import urllib.parse

from world import free_port, until

SUFFIX = "dc=example,dc=org"
ADMIN = f"cn=admin,{SUFFIX}"
ADMIN_PASSWORD = "admin-secret"
# Who may search. Everybody else may only bind.
SEARCHER = f"cn=mailmux,{SUFFIX}"
SEARCHER_PASSWORD = "searcher-secret"

CONFIG = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include /etc/ldap/schema/misc.schema
# As careless as some are: a bind without a password succeeds.
allow bind_anon_dn
modulepath /usr/lib/ldap
moduleload back_mdb
{tls}
database mdb
directory {folder}/data
maxsize 16777216
suffix "{SUFFIX}"
rootdn "{ADMIN}"
rootpw {ADMIN_PASSWORD}
index objectClass,uid,mail eq
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="{SEARCHER}" read by anonymous auth by * none
"""

TLS = """
TLSCACertificateFile {tls}/ca.pem
TLSCertificateFile {tls}/mail.pem
TLSCertificateKeyFile {tls}/mail.key
"""

BASE = f"""
dn: {SUFFIX}
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: {SEARCHER}
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: mailmux
userPassword: {SEARCHER_PASSWORD}
"""


class Slapd:
    """A directory with nobody in it but its searching user. `tls` is a folder with ca.pem, mail.pem and mail.key; with it
    there is StartTLS at `url`, and `ldaps_url`."""

    def __init__(self, folder, tls=None):
        self.folder = folder
        self.port, self.ldaps_port = free_port(), free_port() if tls else None
        self.url = f"ldap://127.0.0.1:{self.port}"
        self.ldaps_url = f"ldaps://127.0.0.1:{self.ldaps_port}" if tls else None
        self.ldapi_url = f"ldapi://{urllib.parse.quote(str(folder / 'socket'), safe='')}"
        (folder / "data").mkdir(parents=True)
        config = CONFIG.format(folder=folder, tls=TLS.format(tls=tls) if tls else "", **globals())
        (folder / "slapd.conf").write_text(config)
        self.start()
        self.add(BASE)

    def start(self):
        urls = " ".join(url for url in (self.url, self.ldaps_url, self.ldapi_url) if url)
        # With -d, even for nothing, it stays in the foreground.
        command = ["/usr/sbin/slapd", "-f", self.folder / "slapd.conf", "-h", urls, "-d", "0"]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        until(self.is_ready, "slapd to be ready")

    def is_ready(self):
        if self.process.poll() is not None:
            raise AssertionError("slapd has ended:\n" + (self.folder / "log").read_text(errors="replace"))
        return self.run("ldapwhoami", check=False).returncode == 0

    def run(self, program, text="", check=True):
        command = [program, "-x", "-H", self.url, "-D", ADMIN, "-w", ADMIN_PASSWORD]
        return subprocess.run(command, input=text.encode(), capture_output=True, check=check)

    def add(self, ldif):
        """Adds entries, or says why not."""
        done = self.run("ldapadd", ldif, check=False)
        assert done.returncode == 0, done.stderr.decode()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)

    def kill(self):
        """As a machine that goes away."""
        self.process.kill()
        self.process.wait(20)
