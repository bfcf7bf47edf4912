"""TLS towards the servers: which certificates are taken, and what is said about those that are not."""

import ssl
from pathlib import Path

import attrs
import pytest
import trustme

from elemta.datasource.base import Connection, DatabaseUnusable
from elemta.datasource.encryption import client_context
from elemta.datasource.options import DatabaseOptions, Dialect, Encryption
from tests.datasource.servers import SERVERS, running
from tests.datasource.tls_proxy import encrypted

both = pytest.mark.parametrize("server", SERVERS, indirect=True)


async def one(connection: Connection) -> int:
    return int((await connection.fetch("SELECT 1"))[0][0])


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def roots(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authority's certificate in a file."""
    path = tmp_path_factory.mktemp("roots") / "roots.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def server_context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@both
@pytest.mark.parametrize(
    ("encryption", "name", "is_trusted"),
    [
        (Encryption.VERIFY_FULL, "127.0.0.1", True),
        (Encryption.VERIFY_CA, "other.example", True),
        (Encryption.REQUIRE, "other.example", False),
    ],
)
async def test_certificates_that_are_taken(
    server: DatabaseOptions, authority: trustme.CA, roots: Path, encryption: Encryption, name: str, *, is_trusted: bool
) -> None:
    async with encrypted(server, server_context(authority, name)) as proxy:
        options = attrs.evolve(proxy.options, encryption=encryption, roots=roots if is_trusted else None)
        async with running(options) as database:
            assert await database.transact(one) == 1
            assert await database.look(one) == 1
        assert proxy.versions == ["TLSv1.3"]


@both
@pytest.mark.parametrize(
    ("encryption", "name", "is_trusted", "complaint"),
    [
        (Encryption.VERIFY_FULL, "other.example", True, "not valid for '127.0.0.1'"),
        (Encryption.VERIFY_FULL, "127.0.0.1", False, "sslrootcert=PATH"),
        (Encryption.VERIFY_CA, "127.0.0.1", False, "sslrootcert=PATH"),
    ],
)
async def test_certificates_that_are_not_taken(
    server: DatabaseOptions,
    authority: trustme.CA,
    roots: Path,
    encryption: Encryption,
    name: str,
    *,
    is_trusted: bool,
    complaint: str,
) -> None:
    async with encrypted(server, server_context(authority, name)) as proxy:
        options = attrs.evolve(proxy.options, encryption=encryption, roots=roots if is_trusted else None)
        async with running(options) as database:
            with pytest.raises(DatabaseUnusable, match=complaint):
                await database.look(one)
        assert proxy.versions == []


@both
async def test_a_server_without_tls(server: DatabaseOptions) -> None:
    """Both servers for tests have none: nothing is said in the clear instead."""

    async def tells(connection: Connection) -> str:
        return str((await connection.fetch(QUESTIONS[server.dialect]))[0][-1]).lower()

    async with running(server) as database:
        has_tls = await database.look(tells) in {"on", "yes"}
    async with running(attrs.evolve(server, encryption=Encryption.REQUIRE)) as database:
        if has_tls:
            assert await database.look(one) == 1
        else:
            with pytest.raises(DatabaseUnusable, match="the server offers no TLS"):
                await database.look(one)


QUESTIONS = {Dialect.POSTGRESQL: "SHOW ssl", Dialect.MYSQL: "SHOW VARIABLES LIKE 'have_ssl'"}


@pytest.mark.parametrize(
    ("encryption", "mode", "checks_name"),
    [
        (Encryption.REQUIRE, ssl.CERT_NONE, False),
        (Encryption.VERIFY_CA, ssl.CERT_REQUIRED, False),
        (Encryption.VERIFY_FULL, ssl.CERT_REQUIRED, True),
    ],
)
def test_contexts(encryption: Encryption, mode: ssl.VerifyMode, *, checks_name: bool) -> None:
    context = client_context(DatabaseOptions(Dialect.MYSQL, encryption=encryption))
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (mode, checks_name)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert client_context(DatabaseOptions(Dialect.MYSQL)) is None
