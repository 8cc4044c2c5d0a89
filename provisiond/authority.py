"""Keys of the node server: its certificate authority, its certificate, the site secret, node keys.

The authority signs one certificate, the server's. Bootstraps are pinned to the authority by
site.cpio, so that the server's key can be made anew without touching any node.
"""

from __future__ import annotations

import datetime
import secrets
import ssl
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.files import read_bounded, write_atomic

CA_DAYS = 7305
SERVER_DAYS = 825
RENEW_DAYS = 90
SECRET_BYTES = 32
MAX_KEY_BYTES = 64 * 1024


class Authority:
    """The files of the authority in the directory *path*."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ca_certificate = path / "ca.pem"
        self.server_certificate = path / "server.pem"
        self.server_key = path / "server.key"
        self.site_secret = path / "site.secret"
        self._ca_key = path / "ca.key"

    def create(self, *, now: datetime.datetime) -> None:
        """Make the authority and the site secret; only the owner can read the secrets."""
        self.path.mkdir(mode=0o755, parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "provisiond authority")])
        # What it was made for is signing the server's certificate, and nothing else.
        builder = (
            _builder(name, name, key.public_key(), key.public_key(), now=now, days=CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
        )
        _save_key(self._ca_key, key)
        write_atomic(self.ca_certificate, _pem(builder.sign(key, hashes.SHA256())))
        secret = secrets.token_bytes(SECRET_BYTES).hex().encode("ascii") + b"\n"
        write_atomic(self.site_secret, secret, mode=0o600)

    def ensure_server_certificate(self, address: IPv4Address, *, now: datetime.datetime) -> None:
        """Make key and certificate of the server, unless there are good ones for *address*.

        Raises:
            InputError: there is no authority.
        """
        ca = x509.load_pem_x509_certificate(self._read(self.ca_certificate))
        if self._is_good(address, ca, now=now):
            return
        ca_key = serialization.load_pem_private_key(self._read(self._ca_key), password=None)
        if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
            raise InputError(f"{self._ca_key}: found another kind of key, expected EC P-256")
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(address))])
        alternative = x509.SubjectAlternativeName([x509.IPAddress(address)])
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        builder = (
            _builder(
                name, ca.subject, key.public_key(), ca_key.public_key(), now=now, days=SERVER_DAYS
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(usage, critical=False)
            .add_extension(alternative, critical=False)
        )
        _save_key(self.server_key, key)
        write_atomic(self.server_certificate, _pem(builder.sign(ca_key, hashes.SHA256())))

    def tls_context(self) -> ssl.SSLContext:
        """Return what the server listens with: TLS 1.2 or later, its certificate, no client's."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # Agents never resume a session: tickets would be made, sent and kept for nothing.
        context.num_tickets = 0
        try:
            context.load_cert_chain(self.server_certificate, self.server_key)
        except OSError as error:
            raise VnfsbuildError(f"{self.server_key}: {error}") from error
        return context

    def load_site_secret(self) -> bytes:
        """Return what is known on this machine only, and stays the same.

        Raises:
            InputError: there is none.
        """
        try:
            secret = bytes.fromhex(self._read(self.site_secret).decode("ascii").strip())
        except ValueError as error:
            raise InputError(f"{self.site_secret}: found no hexadecimal text") from error
        if len(secret) != SECRET_BYTES:
            raise InputError(f"{self.site_secret}: found {len(secret)} bytes, expected 32")
        return secret

    def load_ca_certificate(self) -> bytes:
        """Return the certificate that bootstraps are pinned to, as PEM."""
        return self._read(self.ca_certificate)

    def _read(self, path: Path) -> bytes:
        try:
            return read_bounded(path, limit_bytes=MAX_KEY_BYTES)
        except InputError as error:
            raise InputError(error.message, hint="provisiond init makes it") from error

    def _is_good(
        self, address: IPv4Address, ca: x509.Certificate, *, now: datetime.datetime
    ) -> bool:
        try:
            certificate = x509.load_pem_x509_certificate(self.server_certificate.read_bytes())
            key = serialization.load_pem_private_key(self.server_key.read_bytes(), password=None)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            certificate.verify_directly_issued_by(ca)
        except (OSError, ValueError, TypeError, x509.ExtensionNotFound):
            return False
        soon = now + datetime.timedelta(days=RENEW_DAYS)
        return (
            names.value.get_values_for_type(x509.IPAddress) == [address]
            and _expiry(certificate) > soon
            and key.public_key() == certificate.public_key()
        )


def make_node_key() -> str:
    """Return a node key: 64 random hexadecimal digits."""
    return secrets.token_hex(32)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    *,
    now: datetime.datetime,
    days: int,
) -> x509.CertificateBuilder:
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(identifier, critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _expiry(certificate: x509.Certificate) -> datetime.datetime:
    """Return the end of validity; cryptography before 42 knows it only without a time zone."""
    if hasattr(certificate, "not_valid_after_utc"):
        return certificate.not_valid_after_utc
    return certificate.not_valid_after.replace(tzinfo=datetime.UTC)


def _save_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    data = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_atomic(path, data, mode=0o600)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
