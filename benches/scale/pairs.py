#!/usr/bin/python3 -B
"""pairs.py FOLDER FIRST COUNT NAME: as many pairs of a P-256 key and a certificate, NUMBER.key and NUMBER.pem, each for a name of
its own (NAME has a place for the number), as public authorities give them out: behind the leaf stands the authority between it
and the root.

A program of its own, so that Debian's Python runs it, which has Debian's python3-cryptography, and so that several can run at once.
"""

import datetime
import pathlib
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

NOW = datetime.datetime.now(datetime.timezone.utc)


def certificate(name, key, issuer, issuer_key, *extensions):
    builder = x509.CertificateBuilder().subject_name(named(name)).issuer_name(named(issuer)).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(NOW - datetime.timedelta(days=1)).not_valid_after(NOW + datetime.timedelta(days=60))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    signed = builder.sign(issuer_key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


def named(name):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def new_key():
    return ec.generate_private_key(ec.SECP256R1())


def main(folder, first, count, host):
    root, between = new_key(), new_key()
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(between.public_key())
    behind = certificate("between", between, "root", root, (x509.BasicConstraints(True, None), True))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for number in range(first, first + count):
        key = new_key()
        names = x509.SubjectAlternativeName([x509.DNSName(host.format(number))])
        leaf = certificate(host.format(number), key, "between", between, (names, False), (authority, False))
        (folder / f"{number:05}.key").write_bytes(key.private_bytes(*form))
        (folder / f"{number:05}.pem").write_bytes(leaf + behind)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
