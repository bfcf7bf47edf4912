"""What a server's context lets a client do."""

import ssl
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from attrs import evolve

from elemta.config.tls import ClientCertificates
from elemta.tls.contexts import ContextOptions, TlsUnusable, load_pair, server_context
from elemta.tls.stream import HandshakeFailed, TlsStream, accept_tls, connect_tls
from tests.tls.pairs import NAME, both, client_context, pipe

AUTHORITY = trustme.CA()
ISSUED = AUTHORITY.issue_cert(NAME)


@pytest.fixture
def authority_file(tmp_path: Path) -> str:
    AUTHORITY.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return str(tmp_path / "ca.pem")


async def agree(options: ContextOptions, client: ssl.SSLContext) -> tuple[TlsStream, TlsStream]:
    context = server_context(options)
    ISSUED.configure_cert(context)
    client_end, server_end = pipe()
    return await both(
        lambda: connect_tls(client_end, client, server_name=NAME), lambda: accept_tls(server_end, context)
    )


async def reads(stream: TlsStream) -> bytes:
    return await stream.receive_some()


def only(version: ssl.TLSVersion, ciphers: str = "") -> ssl.SSLContext:
    context = client_context(AUTHORITY)
    # What no server of this decade offers is what the tests ask for.
    context.set_ciphers(f"{ciphers or 'ALL'}:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = version
    return context


@pytest.mark.parametrize(
    ("options", "client", "agreed"),
    [
        (ContextOptions(), ssl.TLSVersion.TLSv1_3, "TLSv1.3"),
        (ContextOptions(), ssl.TLSVersion.TLSv1_2, "TLSv1.2"),
        (ContextOptions(max_version="tls1.2"), ssl.TLSVersion.TLSv1_3, "TLSv1.2"),
        (ContextOptions(min_version="tls1.3"), ssl.TLSVersion.TLSv1_3, "TLSv1.3"),
    ],
)
async def test_versions_are_agreed_on(options: ContextOptions, client: ssl.TLSVersion, agreed: str) -> None:
    _, server = await agree(options, only(client))
    assert server.facts.version == agreed


@pytest.mark.parametrize(
    ("options", "client"),
    [
        (ContextOptions(), "TLSv1.1"),
        (ContextOptions(), "TLSv1"),
        (ContextOptions(min_version="tls1.3"), "TLSv1.2"),
    ],
)
async def test_what_is_older_is_refused(options: ContextOptions, client: str) -> None:
    old = pytest.warns(DeprecationWarning, match="TLSv1")
    with old if client != "TLSv1.2" else nullcontext():
        context = only(ssl.TLSVersion[client.replace(".", "_")])
    await refused(options, context)


async def refused(options: ContextOptions, client: ssl.SSLContext) -> None:
    with pytest.RaisesGroup(HandshakeFailed, flatten_subgroups=True):
        await agree(options, client)


@pytest.mark.parametrize("cipher", ["AES128-SHA", "AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA", "ADH-AES128-SHA256"])
async def test_ciphers_that_are_not_mozillas_are_refused(cipher: str) -> None:
    await refused(ContextOptions(), only(ssl.TLSVersion.TLSv1_2, cipher))


async def test_the_client_chooses_among_the_good_ones() -> None:
    for cipher in ("ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"):
        both_of_them = f"{cipher}:ECDHE-ECDSA-AES128-GCM-SHA256"
        _, server = await agree(ContextOptions(), only(ssl.TLSVersion.TLSv1_2, both_of_them))
        assert server.facts.cipher == cipher


async def test_other_ciphers_may_be_named() -> None:
    options = ContextOptions(ciphers="ECDHE-ECDSA-AES256-GCM-SHA384")
    _, server = await agree(options, only(ssl.TLSVersion.TLSv1_2))
    assert server.facts.cipher == "ECDHE-ECDSA-AES256-GCM-SHA384"
    await refused(options, only(ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-GCM-SHA256"))


def test_ciphers_that_nobody_knows_are_named() -> None:
    with pytest.raises(TlsUnusable, match=r'tls\.ciphers: OpenSSL knows no cipher in "GOOD-ONES"'):
        server_context(ContextOptions(ciphers="GOOD-ONES"))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_session_is_resumed(version: ssl.TLSVersion) -> None:
    context = server_context(ContextOptions())
    ISSUED.configure_cert(context)
    client = client_context(AUTHORITY)
    client.maximum_version = version
    session: ssl.SSLSession | None = None
    for resumed in (False, True):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client_tls = client.wrap_bio(incoming, outgoing, server_hostname=NAME, session=session)
        client_end, server_end = pipe()

        async def shake() -> None:
            while True:
                try:
                    client_tls.do_handshake()  # noqa: B023  # awaited in the same turn
                except ssl.SSLWantReadError:
                    await client_end.send_all(outgoing.read())  # noqa: B023  # as above
                    incoming.write(await client_end.receive_some())  # noqa: B023  # as above
                else:
                    await client_end.send_all(outgoing.read() + b"")  # noqa: B023  # as above
                    return

        server, _ = await both_kinds(server_end, context, shake)
        await server.send_all(b"x")
        while True:
            try:
                assert client_tls.read(1) == b"x"
                break
            except ssl.SSLWantReadError:
                incoming.write(await client_end.receive_some())
        session = client_tls.session
        assert server.facts.resumed is resumed


async def both_kinds(server_end: Any, context: ssl.SSLContext, shake: Any) -> tuple[TlsStream, None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shake)
        server = await accept_tls(server_end, context)
    return server, None


# ---- client certificates -------------------------------------------------------------------------


async def test_a_client_may_show_a_certificate(authority_file: str) -> None:
    options = ContextOptions(client_auth=ClientCertificates.REQUEST, client_ca_file=authority_file)
    _, server = await agree(options, client_context(AUTHORITY))
    assert server.facts.peer_fingerprint == ""
    client = client_context(AUTHORITY)
    AUTHORITY.issue_cert("client.example").configure_cert(client)
    _, server = await agree(options, client)
    assert len(server.facts.peer_fingerprint) == 64


async def test_a_client_must_show_a_certificate(authority_file: str) -> None:
    options = ContextOptions(
        max_version="tls1.2", client_auth=ClientCertificates.REQUIRE, client_ca_file=authority_file
    )
    await refused(options, client_context(AUTHORITY))
    client = client_context(AUTHORITY)
    AUTHORITY.issue_cert("client.example").configure_cert(client)
    _, server = await agree(options, client)
    assert len(server.facts.peer_fingerprint) == 64


async def test_a_certificate_of_an_unknown_authority_is_refused(authority_file: str) -> None:
    options = ContextOptions(
        max_version="tls1.2", client_auth=ClientCertificates.REQUEST, client_ca_file=authority_file
    )
    client = client_context(AUTHORITY)
    trustme.CA().issue_cert("client.example").configure_cert(client)
    await refused(options, client)


async def test_single_certificates_may_be_named_without_their_authority(tmp_path: Path) -> None:
    stranger = trustme.CA().issue_cert("client.example")
    stranger.cert_chain_pems[0].write_to_path(str(tmp_path / "client.pem"))
    options = ContextOptions(client_auth=ClientCertificates.REQUEST, client_ca_file=str(tmp_path / "client.pem"))
    client = client_context(AUTHORITY)
    stranger.configure_cert(client)
    _, server = await agree(options, client)
    assert len(server.facts.peer_fingerprint) == 64


def test_authorities_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    options = ContextOptions(client_auth=ClientCertificates.REQUEST)
    with pytest.raises(TlsUnusable, match=r"tls\.client_ca_file: name the file"):
        server_context(options)
    with pytest.raises(TlsUnusable, match=r"/nowhere cannot be used: No such file or directory"):
        server_context(evolve(options, client_ca_file="/nowhere"))
    (tmp_path / "empty").touch()
    with pytest.raises(TlsUnusable, match=r"empty cannot be used: .*certificate"):
        server_context(evolve(options, client_ca_file=str(tmp_path / "empty")))


# ---- the pair ------------------------------------------------------------------------------------


def test_a_pair_that_openssl_refuses_is_named(tmp_path: Path) -> None:
    ISSUED.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    trustme.CA().issue_cert(NAME).cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    context = server_context(ContextOptions())
    with pytest.raises(TlsUnusable, match="key values mismatch"):
        load_pair(context, str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
    with pytest.raises(TlsUnusable, match="No such file or directory"):
        load_pair(context, "/nowhere", str(tmp_path / "key.pem"))
