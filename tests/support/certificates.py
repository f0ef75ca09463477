"""Certificates for TLS tests, from a throw-away authority."""

import ssl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

import trustme


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """A server's certificate and key as files, and the authority that signed them."""

    authority: trustme.CA
    authority_file: Path
    certificate: Path
    key: Path

    @classmethod
    def issue(cls, folder: Path, *names: str, not_after: datetime | None = None) -> Self:
        """Issues a certificate for `names` (localhost and 127.0.0.1 by default) and writes it to `folder`."""
        authority = trustme.CA()
        issued = authority.issue_cert(*(names or ("localhost", "127.0.0.1", "::1")), not_after=not_after)
        files = {name: folder / name for name in ("ca.pem", "tls.crt", "tls.key")}
        authority.cert_pem.write_to_path(str(files["ca.pem"]))
        files["tls.crt"].write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(files["tls.key"]))
        return cls(
            authority=authority, authority_file=files["ca.pem"], certificate=files["tls.crt"], key=files["tls.key"]
        )

    def client_context(self) -> ssl.SSLContext:
        """A context for clients that trust nothing but this authority."""
        return ssl.create_default_context(cafile=str(self.authority_file))
