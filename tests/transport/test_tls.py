"""TLS, long as what may be configured: whose certificate is shown, who is let in, what a changed file does."""

import ipaddress
import os
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
import trio
import trio.testing
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.config import BackendTls, CertificatePair, ListenerTls
from gateway.errors import StartupError, TlsFailure
from gateway.transport.channel import Channel
from gateway.transport.tls import TICKET_KEY_SECONDS, ClientTls, ServerTls, TlsFacts, facts, identity_of
from tests.transport.loopback import connected_channels, shake_hands, trusting_context, write_pair

EXPIRY = datetime(2040, 1, 2, 3, 4, 5, tzinfo=UTC)


def serving(*pairs: CertificatePair, client_ca: Path | None = None, client_crl: Path | None = None) -> ServerTls:
    return ServerTls(ListenerTls(certificates=pairs, client_ca=client_ca, client_crl=client_crl))


def overwrite(pair: CertificatePair, ca: trustme.CA, *names: str, **options: object) -> None:
    """Replaces a pair's files and makes sure that their times differ, however fast the test runs."""
    new = write_pair(ca, pair.certificate.parent, *names, **options)
    for old_path, new_path in ((pair.certificate, new.certificate), (pair.key, new.key)):
        if new_path != old_path:
            new_path.replace(old_path)
        later = old_path.stat().st_mtime_ns + 1_000_000_000
        os.utime(old_path, ns=(later, later))


async def certificate_shown(tls: ServerTls, ca: trustme.CA, name: str | None) -> set[str]:
    """The names in the certificate that a client is shown which asks for `name`, and verifies it but for the name."""
    context = trusting_context(ca)
    context.check_hostname = False
    async with connected_channels() as (server, client):
        _, sock = await shake_hands(server, client, tls.context, context, name=name)
        der = sock.getpeercert(binary_form=True)
    assert der is not None
    extensions = x509.load_der_x509_certificate(der).extensions
    return set(extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName))


async def facts_seen(tls: ServerTls, context: ssl.SSLContext, *, name: str = "gateway.test") -> TlsFacts:
    async with connected_channels() as (server, client):
        sock, _ = await shake_hands(server, client, tls.context, context, name=name)
        return facts(sock)


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("a.test", {"a.test"}),
        ("A.TEST", {"a.test"}),
        ("b.test", {"b.test", "also-b.test"}),
        ("also-b.test", {"b.test", "also-b.test"}),
        ("any.wild.test", {"*.wild.test"}),
        ("exact.wild.test", {"exact.wild.test"}),
        ("two.labels.wild.test", {"a.test"}),
        ("wild.test", {"a.test"}),
        ("unknown.test", {"a.test"}),
        (None, {"a.test"}),
    ],
)
async def test_certificates_are_chosen_by_the_name_asked_for(
    ca: trustme.CA, tmp_path: Path, asked: str | None, shown: set[str]
) -> None:
    tls = serving(
        write_pair(ca, tmp_path, "a.test"),
        write_pair(ca, tmp_path, "b.test", "also-b.test"),
        write_pair(ca, tmp_path, "*.wild.test"),
        write_pair(ca, tmp_path, "exact.wild.test"),
    )
    assert await certificate_shown(tls, ca, asked) == shown


async def test_the_single_pair_is_the_default_beside_others(ca: trustme.CA, tmp_path: Path) -> None:
    default, other = write_pair(ca, tmp_path, "default.test"), write_pair(ca, tmp_path, "other.test")
    tls = ServerTls(ListenerTls(certificate=default.certificate, key=default.key, certificates=(other,)))
    assert await certificate_shown(tls, ca, "unknown.test") == {"default.test"}
    assert await certificate_shown(tls, ca, "other.test") == {"other.test"}


async def test_a_certificate_without_names_is_shown_as_the_default_only(ca: trustme.CA, tmp_path: Path) -> None:
    nameless = CertificatePair(certificate=tmp_path / "ca.crt", key=tmp_path / "ca.key")
    ca.cert_pem.write_to_path(str(nameless.certificate))
    ca.private_key_pem.write_to_path(str(nameless.key))
    tls = serving(write_pair(ca, tmp_path, "gateway.test"), nameless)
    assert await certificate_shown(tls, ca, "gateway.test") == {"gateway.test"}
    assert await certificate_shown(tls, ca, "trustme.test") == {"gateway.test"}


async def test_facts_name_version_cipher_and_the_name_asked_for(ca: trustme.CA, tmp_path: Path) -> None:
    tls = serving(write_pair(ca, tmp_path, "gateway.test"))
    seen = await facts_seen(tls, trusting_context(ca))
    assert seen == TlsFacts(
        version="TLSv1.3",
        cipher="TLS_AES_256_GCM_SHA384",
        server_name="gateway.test",
        client_subject=None,
        client_common_name=None,
    )


async def test_http_1_1_is_the_only_protocol_agreed_on(ca: trustme.CA, tmp_path: Path) -> None:
    tls = serving(write_pair(ca, tmp_path, "gateway.test"))
    context = trusting_context(ca)
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with connected_channels() as (server, client):
        sock, _ = await shake_hands(server, client, tls.context, context)
        assert sock.selected_alpn_protocol() == "http/1.1"


async def test_a_client_below_the_minimum_version_is_refused(ca: trustme.CA, tmp_path: Path) -> None:
    pair = write_pair(ca, tmp_path, "gateway.test")
    old = trusting_context(ca)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert (await facts_seen(serving(pair), old)).version == "TLSv1.2"
    strict = ServerTls(ListenerTls(certificates=(pair,), minimum_version="1.3"))
    await assert_refused(strict, old, match="unsupported protocol")


async def test_tls_1_2_is_spoken_with_forward_secrecy_only(ca: trustme.CA, tmp_path: Path) -> None:
    old = trusting_context(ca)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    old.set_ciphers("AES128-GCM-SHA256:ECDHE-ECDSA-AES128-SHA256:ECDHE-RSA-AES128-SHA256")
    await assert_refused(serving(write_pair(ca, tmp_path, "gateway.test")), old, match="no shared cipher")


async def assert_refused(tls: ServerTls, context: ssl.SSLContext, *, match: str) -> None:
    """The server's side of the handshake fails with a `TlsFailure` that says `match`."""
    async with connected_channels() as (server, client), trio.open_nursery() as nursery:

        async def connect() -> None:
            # Whether the client learns of it in its handshake or later depends on the version; it must learn of it.
            with pytest.raises((TlsFailure, OSError), match=r"alert|reset|hung up|sslv3"):
                await exchange(client, context)

        nursery.start_soon(connect)
        with pytest.raises(TlsFailure, match=match):
            await server.start_tls(tls.context, server_side=True)


async def exchange(client: Channel, context: ssl.SSLContext) -> bytes:
    await client.start_tls(context, server_side=False, server_hostname="gateway.test")
    return await client.receive_some()


async def test_a_client_certificate_is_demanded_and_named(ca: trustme.CA, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority_file = tmp_path / "clients.pem"
    authority.cert_pem.write_to_path(str(authority_file))
    tls = serving(
        write_pair(ca, tmp_path, "default.test"), write_pair(ca, tmp_path, "gateway.test"), client_ca=authority_file
    )
    known = trusting_context(ca)
    authority.issue_cert("alice@example.com", common_name="alice", organization_name="Example").configure_cert(known)
    seen = await facts_seen(tls, known)
    assert seen.client_common_name == "alice"
    assert seen.client_subject is not None
    assert set(seen.client_subject.split(",")) >= {"CN=alice", "O=Example"}

    assert seen.client_identity == 'san:["RFC822Name:alice@example.com"]'

    await assert_refused(tls, trusting_context(ca), match="peer did not return a certificate")
    stranger = trusting_context(ca)
    ca.issue_cert("mallory@example.com").configure_cert(stranger)
    await assert_refused(tls, stranger, match="certificate not accepted")


async def test_a_reload_serves_the_new_certificate_and_keeps_live_connections(ca: trustme.CA, tmp_path: Path) -> None:
    pair = write_pair(ca, tmp_path, "gateway.test")
    tls = serving(pair)
    assert not tls.reload()
    async with connected_channels() as (server, client):
        await shake_hands(server, client, tls.context, trusting_context(ca))
        overwrite(pair, ca, "gateway.test", "new.test")
        assert tls.reload()
        assert not tls.reload()
        assert await certificate_shown(tls, ca, "new.test") == {"gateway.test", "new.test"}
        await client.send_all(b"still here")
        assert await server.receive_some() == b"still here"


async def test_a_bad_new_pair_keeps_the_old_one_while_others_are_renewed(ca: trustme.CA, tmp_path: Path) -> None:
    bad, good = write_pair(ca, tmp_path, "a.test"), write_pair(ca, tmp_path, "b.test")
    tls = serving(bad, good)
    old_key = bad.key.read_bytes()
    overwrite(bad, ca, "a.test", "never.test")
    bad.key.write_bytes(old_key)  # the new certificate with the old key, as between two writes
    overwrite(good, ca, "b.test", "new.test")
    for _ in range(2):  # it is not forgotten that the files in use are older than those on disk
        with pytest.raises(StartupError, match=r"a\.test\.key does not belong to the certificate .*a\.test\.crt"):
            tls.reload()
    assert await certificate_shown(tls, ca, "a.test") == {"a.test"}
    assert await certificate_shown(tls, ca, "new.test") == {"b.test", "new.test"}
    overwrite(bad, ca, "a.test", "mended.test")
    assert tls.reload()
    assert await certificate_shown(tls, ca, "mended.test") == {"a.test", "mended.test"}


async def test_a_vanished_file_keeps_the_certificate_in_use(ca: trustme.CA, tmp_path: Path) -> None:
    pair = write_pair(ca, tmp_path, "gateway.test")
    tls = serving(pair)
    pair.key.unlink()
    with pytest.raises(StartupError, match=r"cannot read .*gateway\.test\.key: No such file"):
        tls.reload()
    assert await certificate_shown(tls, ca, "gateway.test") == {"gateway.test"}


async def test_a_reload_takes_up_a_new_client_authority(ca: trustme.CA, tmp_path: Path) -> None:
    authority_file = tmp_path / "clients.pem"
    trustme.CA().cert_pem.write_to_path(str(authority_file))
    tls = serving(write_pair(ca, tmp_path, "gateway.test"), client_ca=authority_file)
    context = trusting_context(ca)
    ca.issue_cert("alice@example.com", common_name="alice").configure_cert(context)
    await assert_refused(tls, context, match="certificate not accepted")
    ca.cert_pem.write_to_path(str(authority_file), append=True)
    assert tls.reload()
    assert (await facts_seen(tls, context)).client_common_name == "alice"


def write_revocations(ca: trustme.CA, path: Path, *revoked: trustme.LeafCert, days: float = 1) -> None:
    """A list that is good for so many days from now."""
    issuer = x509.load_pem_x509_certificate(ca.cert_pem.bytes())
    key = serialization.load_pem_private_key(ca.private_key_pem.bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.subject)
    builder = builder.last_update(now - timedelta(days=2)).next_update(now + timedelta(days=days))
    for leaf in revoked:
        certificate = x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes())
        entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number).revocation_date(now).build()
        builder = builder.add_revoked_certificate(entry)
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    later = before + 1_000_000_000
    os.utime(path, ns=(later, later))


async def test_who_is_on_a_revocation_list_is_refused_as_soon_as_it_is_taken_up(ca: trustme.CA, tmp_path: Path) -> None:
    authority, revocations = tmp_path / "clients.pem", tmp_path / "revoked.pem"
    clients = trustme.CA(key_type=trustme.KeyType.ECDSA)
    clients.cert_pem.write_to_path(str(authority))
    write_revocations(clients, revocations)
    tls = serving(write_pair(ca, tmp_path, "gateway.test"), client_ca=authority, client_crl=revocations)
    alice, bob = (clients.issue_cert(f"{name}@example.com", common_name=name) for name in ("alice", "bob"))
    contexts = {}
    for name, leaf in (("alice", alice), ("bob", bob)):
        contexts[name] = trusting_context(ca)
        leaf.configure_cert(contexts[name])
        assert (await facts_seen(tls, contexts[name])).client_common_name == name
    write_revocations(clients, revocations, bob)
    assert tls.reload()
    assert (await facts_seen(tls, contexts["alice"])).client_common_name == "alice"
    await assert_refused(tls, contexts["bob"], match="certificate not accepted")
    revocations.write_text("nothing")
    with pytest.raises(StartupError, match="holds no revocation list"):
        tls.reload()
    await assert_refused(tls, contexts["bob"], match="certificate not accepted")
    write_revocations(clients, revocations, days=-1)
    assert tls.reload()
    await assert_refused(tls, contexts["alice"], match="certificate not accepted")


async def resumption(
    tls: ServerTls, context: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[ssl.SSLSession | None, bool | None]:
    """The session after a handshake that shows the ticket of another one, and whether that was taken."""
    async with connected_channels() as (server, client):
        with context.wrap_socket(
            client.sock.dup(), server_hostname="gateway.test", do_handshake_on_connect=False, session=session
        ) as sock:
            sock.setblocking(True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: server.start_tls(tls.context, server_side=True))
                await trio.to_thread.run_sync(sock.do_handshake)
            return sock.session, sock.session_reused


async def test_a_ticket_is_good_until_its_key_is_replaced(ca: trustme.CA, tmp_path: Path) -> None:
    now = [0.0]
    pair = write_pair(ca, tmp_path, "gateway.test")
    tls = ServerTls(ListenerTls(certificates=(pair,)), clock=lambda: now[0])
    context = trusting_context(ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    session, _ = await resumption(tls, context, None)
    assert session is not None
    assert session.has_ticket
    now[0] = TICKET_KEY_SECONDS - 1
    assert not tls.reload()
    assert (await resumption(tls, context, session))[1]
    now[0] = TICKET_KEY_SECONDS
    assert not tls.reload()  # the files are the same: nothing that an operator should read of
    assert not (await resumption(tls, context, session))[1]


async def test_watching_reloads_and_logs_each_fault_once(
    ca: trustme.CA, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    pair = write_pair(ca, tmp_path, "gateway.test")
    tls = serving(pair)
    with structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: tls.watch(interval_seconds=10))
            await trio.sleep(25)
            assert logs == []
            intact = pair.certificate.read_bytes()
            pair.certificate.write_text("nothing")
            await trio.sleep(30)
            pair.certificate.write_bytes(intact)
            await trio.sleep(30)
            pair.certificate.write_text("nothing!")
            await trio.sleep(30)
            nursery.cancel_scope.cancel()
    assert [entry["event"] for entry in logs] == [
        "certificates_not_reloaded",
        "certificates_reloaded",
        "certificates_not_reloaded",
    ]
    assert "holds no certificate" in logs[0]["problem"]


def test_every_certificates_expiry_is_known(ca: trustme.CA, tmp_path: Path) -> None:
    first, second = write_pair(ca, tmp_path, "a.test", not_after=EXPIRY), write_pair(ca, tmp_path, "b.test")
    readings = serving(first, second).certificates
    assert [reading.certificate for reading in readings] == [str(first.certificate), str(second.certificate)]
    assert readings[0].expires_at == EXPIRY.timestamp()


def remove(pair: CertificatePair) -> None:
    pair.certificate.unlink()


def empty(pair: CertificatePair) -> None:
    pair.certificate.write_text("")


def turn_into_a_folder(pair: CertificatePair) -> None:
    pair.key.unlink()
    pair.key.mkdir()


def swap_the_files(pair: CertificatePair) -> None:
    certificate = pair.certificate.read_bytes()
    pair.certificate.write_bytes(pair.key.read_bytes())
    pair.key.write_bytes(certificate)


def lock_the_key(pair: CertificatePair) -> None:
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"secret")
    pair.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (remove, r"cannot read .*\.crt: No such file or directory; name a file that this user may read"),
        (turn_into_a_folder, r"cannot read .*\.key: Is a directory"),
        (empty, r"\.crt holds no certificate in PEM form"),
        (swap_the_files, r"\.crt holds no certificate in PEM form"),
        (lock_the_key, r"\.key and .* cannot be used: .* without a passphrase"),
    ],
)
def test_a_faulty_file_is_named_at_start(
    ca: trustme.CA, tmp_path: Path, damage: Callable[[CertificatePair], None], problem: str
) -> None:
    pair = write_pair(ca, tmp_path, "gateway.test")
    damage(pair)
    with pytest.raises(StartupError, match=problem) as caught:
        serving(pair)
    assert "\n" not in str(caught.value)


def test_a_faulty_authority_file_is_named(ca: trustme.CA, tmp_path: Path) -> None:
    pair = write_pair(ca, tmp_path, "gateway.test")
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("")
    with pytest.raises(StartupError, match=r"nothing\.pem holds no certificate authority"):
        serving(pair, client_ca=nothing)
    with pytest.raises(StartupError, match=r"nothing\.pem holds no certificate authority"):
        ClientTls(BackendTls(ca=nothing))


async def test_backends_are_verified_against_their_own_authority(ca: trustme.CA, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(ca_file))
    tls = serving(write_pair(ca, tmp_path, "gateway.test"))
    seen = await facts_seen(tls, ClientTls(BackendTls(ca=ca_file)).context)
    assert seen.server_name == "gateway.test"
    with pytest.RaisesGroup(pytest.RaisesExc(TlsFailure, match="certificate not accepted: unable to get local issuer")):
        await facts_seen(tls, ClientTls(None).context)


async def test_backends_are_shown_the_gateways_certificate(ca: trustme.CA, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(ca_file))
    tls = serving(write_pair(ca, tmp_path, "gateway.test"), client_ca=ca_file)
    ours = write_pair(ca, tmp_path, "kakitome@example.com", common_name="kakitome")
    context = ClientTls(BackendTls(ca=ca_file, certificate=ours.certificate, key=ours.key)).context
    assert (await facts_seen(tls, context)).client_common_name == "kakitome"


async def test_a_changed_authority_of_backends_is_taken_up_for_later_handshakes(ca: trustme.CA, tmp_path: Path) -> None:
    ca_file, other = tmp_path / "ca.pem", trustme.CA()
    ca.cert_pem.write_to_path(str(ca_file))
    towards = ClientTls(BackendTls(ca=ca_file))
    renewed = serving(write_pair(other, tmp_path, "gateway.test"))
    assert not towards.reload()
    with pytest.RaisesGroup(pytest.RaisesExc(TlsFailure, match="certificate not accepted")):
        await facts_seen(renewed, towards.context)
    other.cert_pem.write_to_path(str(ca_file))
    assert towards.reload()
    assert (await facts_seen(renewed, towards.context)).server_name == "gateway.test"
    assert towards.certificates == ()


async def test_a_renewed_certificate_is_shown_to_backends_once_it_is_whole(ca: trustme.CA, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(ca_file))
    tls = serving(write_pair(ca, tmp_path, "gateway.test"), client_ca=ca_file)
    ours = write_pair(ca, tmp_path, "kakitome@example.com", common_name="first", not_after=EXPIRY)
    towards = ClientTls(BackendTls(ca=ca_file, certificate=ours.certificate, key=ours.key))
    assert [reading.expires_at for reading in towards.certificates] == [EXPIRY.timestamp()]
    key_before = ours.key.read_bytes()
    write_pair(ca, tmp_path, "kakitome@example.com", common_name="second")
    key_after = ours.key.read_bytes()
    ours.key.write_bytes(key_before)
    for _ in range(2):
        with pytest.raises(StartupError, match="does not belong to"):
            towards.reload()
    assert (await facts_seen(tls, towards.context)).client_common_name == "first"
    assert [reading.expires_at for reading in towards.certificates] == [EXPIRY.timestamp()]
    ours.key.write_bytes(key_after)
    assert towards.reload()
    assert (await facts_seen(tls, towards.context)).client_common_name == "second"
    assert towards.certificates[0].expires_at > EXPIRY.timestamp()


async def test_files_of_backends_that_vanish_change_nothing(ca: trustme.CA, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(ca_file))
    towards = ClientTls(BackendTls(ca=ca_file))
    before = towards.context
    ca_file.unlink()
    with pytest.raises(StartupError, match=r"cannot read .*ca\.pem"):
        towards.reload()
    assert towards.context is before
    assert not ClientTls(None).reload(), "the system's own are not watched"


def certificate_of(*names: x509.GeneralName, subject: str = "CN=alice,O=Example") -> x509.Certificate:
    """Self-signed, with these subjectAltNames, without the extension for none."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    name = x509.Name.from_rfc4514_string(subject)
    builder = x509.CertificateBuilder(
        issuer_name=name,
        subject_name=name,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now,
        not_valid_after=now + timedelta(days=1),
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256())


def test_a_renewed_certificate_names_the_same_in_whatever_order() -> None:
    names = (x509.RFC822Name("alice@example.com"), x509.UniformResourceIdentifier("spiffe://example/alice"))
    one, renewed = certificate_of(*names), certificate_of(*reversed(names), subject="CN=somebody")
    assert identity_of(one) == identity_of(renewed)
    assert (
        identity_of(one) == 'san:["RFC822Name:alice@example.com", "UniformResourceIdentifier:spiffe://example/alice"]'
    )


def test_without_names_it_is_the_subject() -> None:
    assert identity_of(certificate_of()) == "subject:CN=alice,O=Example"


def test_names_that_look_alike_are_not_the_same() -> None:
    strange = x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x0c\x05alice")
    identities = [
        identity_of(certificate_of(*names))
        for names in (
            (x509.DNSName("a"), x509.DNSName("b")),
            (x509.DNSName('a", "DNSName:b'),),
            (x509.RFC822Name("a"), x509.DNSName("b")),
            (x509.UniformResourceIdentifier("a"), x509.DNSName("b")),
            (x509.DirectoryName(x509.Name.from_rfc4514_string("CN=alice,O=Example")),),
            (x509.IPAddress(ipaddress.ip_address("192.0.2.1")),),
            (x509.DNSName("192.0.2.1"),),
            (strange,),
            (),
        )
    ]
    assert len(set(identities)) == len(identities)
