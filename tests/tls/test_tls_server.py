"""The server's side of TLS: which certificate, when it is read again, which handshakes are begun."""

import ssl
from pathlib import Path

import pytest
import trio
import trio.testing

from elemta.tls import server as server_module
from elemta.tls.contexts import TlsUnusable
from elemta.tls.server import WATCH_SECONDS, HandshakeRefused, ServerTls
from elemta.tls.stream import CertificateRefused, HandshakeFailed, TlsStream, connect_tls
from tests.tls.pairs import both, pipe
from tests.tls.served_files import Desk, Office

HOST = "192.0.2.99"


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


def names_in(certificate: bytes) -> set[str]:
    """The names of a certificate, DER."""
    from cryptography import x509

    from elemta.tls.certificates import dns_names

    return set(dns_names(x509.load_der_x509_certificate(certificate)))


async def shown(tls: ServerTls, asked: str | None) -> set[str]:
    """The names of the certificate that a client is shown when it asks for `asked`."""
    anything = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anything.check_hostname = False
    anything.verify_mode = ssl.CERT_NONE
    client_end, server_end = pipe()
    client, server = await both(
        lambda: connect_tls(client_end, anything, server_name=asked), lambda: tls.upgrade(server_end)
    )
    assert server.facts.server_name == (asked or "").lower()
    return names_in(client.facts.peer_certificate)


async def connected(tls: ServerTls, office: Office, name: str) -> tuple[TlsStream, TlsStream]:
    client_end, server_end = pipe()
    return await both(
        lambda: connect_tls(client_end, office.trusting(), server_name=name), lambda: tls.upgrade(server_end)
    )


# ---- which certificate ---------------------------------------------------------------------------


async def test_a_certificate_is_chosen_by_name(office: Office) -> None:
    first = office.write("first", "mx.example.com")
    wild = office.write("wild", "*.example.net", "example.net")
    exact = office.write("exact", "a.example.net", "mx.example.com")
    desk = Desk(first, wild, exact)
    await desk.tls.load()
    for asked, found in {
        "mx.example.com": {"mx.example.com"},
        "MX.example.COM": {"mx.example.com"},
        "b.example.net": {"*.example.net", "example.net"},
        "example.net": {"*.example.net", "example.net"},
        "a.example.net": {"a.example.net", "mx.example.com"},
        "b.a.example.net": {"mx.example.com"},  # RFC 9525 §6.3: a wildcard stands for one label
        "other.example": {"mx.example.com"},
        None: {"mx.example.com"},
    }.items():
        assert await shown(desk.tls, asked) == found, asked


async def test_the_binding_is_the_certificates_own(office: Office) -> None:
    desk = Desk(office.write("one", "one.example"), office.write("two", "two.example"))
    await desk.tls.load()
    bindings = [(await connected(desk.tls, office, name))[1].facts.binding for name in ("one.example", "two.example")]
    assert [len(binding) for binding in bindings] == [32, 32]
    assert bindings == [bytes.fromhex(one.fingerprint) for one in desk.tls.certificates]


async def test_what_is_served_is_told(office: Office) -> None:
    files = office.write("one", "one.example", "*.one.example", days=10)
    office.open_key("one")
    desk = Desk(files)
    await desk.tls.load()
    (event,) = desk.events("tls.loaded")
    assert event["names"] == ["one.example", "*.one.example"]
    assert event["until"] == "2026-06-11T00:00:00+00:00"
    assert "BEGIN" not in str(event)
    assert any("mode 0644" in one["text"] for one in desk.events("tls.warning"))


async def test_a_broken_certificate_keeps_the_server_from_starting(office: Office) -> None:
    desk = Desk(office.files("missing"))
    with pytest.raises(TlsUnusable, match="there is no file"):
        await desk.tls.load()


async def test_a_certificate_that_is_being_ordered_may_be_missing(office: Office) -> None:
    desk = Desk(office.files("ordered", awaited=True))
    await desk.tls.load()
    assert not desk.tls.ready
    with pytest.raises(HandshakeRefused, match="no certificate yet"):
        desk.tls.admit(HOST)
    office.write("ordered", "mx.example.com")
    assert await desk.tls.reload("renewed")
    assert desk.tls.ready
    desk.tls.admit(HOST)
    assert await shown(desk.tls, "mx.example.com") == {"mx.example.com"}


# ---- reading it again ----------------------------------------------------------------------------


async def test_sessions_live_through_a_reload(office: Office) -> None:
    desk = Desk(office.write("one", "old.example", "mx.example"))
    await desk.tls.load()
    client, server = await connected(desk.tls, office, "mx.example")
    office.write("one", "new.example", "mx.example")
    assert await desk.tls.reload("SIGHUP")
    await client.send_all(b"still here")
    assert await server.receive_some() == b"still here"
    assert await shown(desk.tls, "mx.example") == {"new.example", "mx.example"}
    assert [event["cause"] for event in desk.events("tls.loaded")] == ["start", "SIGHUP"]


async def test_a_broken_file_keeps_the_old_certificate(office: Office) -> None:
    desk = Desk(office.write("one", "mx.example"))
    await desk.tls.load()
    office.spoil("one")
    assert not await desk.tls.reload("SIGHUP")
    (event,) = desk.events("tls.reload_failed")
    assert event["log_level"] == "error"
    assert "one.pem holds no certificate in PEM" in event["error"]
    assert event["kept"] == ["mx.example"]
    assert await shown(desk.tls, "mx.example") == {"mx.example"}


async def test_a_defect_at_a_reload_keeps_the_old_certificate(
    office: Office, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a defect")

    desk = Desk(office.write("one", "mx.example"))
    await desk.tls.load()
    monkeypatch.setattr(server_module, "load_choice", broken)
    async with trio.open_nursery() as nursery:
        await nursery.start(desk.tls.run)
        office.write("one", "new.example")
        await trio.sleep(3 * WATCH_SECONDS)
        nursery.cancel_scope.cancel()
    (event,) = desk.events("tls.reload_failed")
    assert event["error"] == "a defect"
    assert await shown(desk.tls, "mx.example") == {"mx.example"}


async def test_an_expired_certificate_does_not_replace_a_good_one(
    office: Office, autojump_clock: trio.testing.MockClock
) -> None:
    desk = Desk(office.write("one", "mx.example"))
    await desk.tls.load()
    office.write("one", "stale.example", days=1)
    await trio.sleep(2 * 86_400)
    assert not await desk.tls.reload("file changed")
    assert "stale.example has expired" in desk.events("tls.reload_failed")[0]["error"]
    assert [one.name for one in desk.tls.certificates] == ["mx.example"]


async def test_an_expired_certificate_is_better_than_none(
    office: Office, autojump_clock: trio.testing.MockClock
) -> None:
    await trio.sleep(2 * 86_400)
    desk = Desk(office.write("one", "stale.example", days=1))
    await desk.tls.load()
    assert desk.tls.ready
    assert any("expired" in event["text"] for event in desk.events("tls.warning"))
    assert desk.metric("elemta_tls_certificate_valid", name="stale.example") == 0.0
    assert await desk.tls.reload("SIGHUP")


async def test_a_change_of_the_files_is_seen(office: Office, autojump_clock: trio.testing.MockClock) -> None:
    desk = Desk(office.write("one", "old.example"))
    await desk.tls.load()
    async with trio.open_nursery() as nursery:
        await nursery.start(desk.tls.run)
        await trio.sleep(10 * WATCH_SECONDS)
        assert len(desk.events("tls.loaded")) == 1
        office.write("one", "new.example")
        await trio.sleep(1.5 * WATCH_SECONDS)
        assert [one.name for one in desk.tls.certificates] == ["new.example"]
        office.lose_key("one")
        await trio.sleep(10 * WATCH_SECONDS)
        assert len(desk.events("tls.reload_failed")) == 1  # said once, not at each look
        office.write("one", "newer.example")
        await trio.sleep(1.5 * WATCH_SECONDS)
        assert [one.name for one in desk.tls.certificates] == ["newer.example"]
        nursery.cancel_scope.cancel()


async def test_other_files_may_replace_them(office: Office, autojump_clock: trio.testing.MockClock) -> None:
    desk = Desk(office.write("one", "one.example"))
    await desk.tls.load()
    assert not await desk.tls.replace([office.files("nowhere")], "renewed")
    assert [one.name for one in desk.tls.certificates] == ["one.example"]
    async with trio.open_nursery() as nursery:
        await nursery.start(desk.tls.run)
        await trio.sleep(3 * WATCH_SECONDS)
        assert len(desk.events("tls.loaded")) == 1  # the old files are watched again
        nursery.cancel_scope.cancel()
    assert await desk.tls.replace([office.write("two", "two.example")], "renewed")
    assert [one.name for one in desk.tls.certificates] == ["two.example"]


# ---- metrics -------------------------------------------------------------------------------------


async def test_metrics_tell_how_old_certificates_are(office: Office, autojump_clock: trio.testing.MockClock) -> None:
    desk = Desk(office.write("one", "mx.example", days=2))
    await desk.tls.load()
    assert desk.metric("elemta_tls_certificate_valid", name="mx.example") == 1.0
    assert desk.metric("elemta_tls_certificate_expiry_seconds", name="mx.example") == 2 * 86_400
    await trio.sleep(3 * 86_400)
    assert desk.metric("elemta_tls_certificate_valid", name="mx.example") == 0.0
    assert desk.metric("elemta_tls_certificate_expiry_seconds", name="mx.example") == -86_400
    office.write("one", "other.example")
    await desk.tls.reload("SIGHUP")
    assert desk.metric("elemta_tls_certificate_valid", name="mx.example") is None
    assert desk.metric("elemta_tls_certificate_valid", name="other.example") == 1.0


async def test_metrics_count_handshakes(office: Office) -> None:
    desk = Desk(office.write("one", "mx.example"))
    await desk.tls.load()
    await connected(desk.tls, office, "mx.example")
    assert desk.metric("elemta_tls_connections_total", version="TLSv1.3") == 1.0
    client_end, server_end = pipe()
    await client_end.send_all(b"EHLO in the clear\r\n")
    with pytest.raises(HandshakeFailed):
        await desk.tls.upgrade(server_end)
    assert desk.metric("elemta_tls_handshake_failures_total", cause="failed") == 1.0


# ---- handshakes ----------------------------------------------------------------------------------


async def test_a_stalled_handshake_ends_at_its_deadline(office: Office, autojump_clock: trio.testing.MockClock) -> None:
    desk = Desk(office.write("one", "mx.example"), handshake_timeout=7.0)
    await desk.tls.load()
    client_end, server_end = pipe()
    await client_end.send_all(b"\x16\x03\x01")
    with pytest.raises(HandshakeFailed, match="took more than 7 s"):
        await desk.tls.upgrade(server_end)
    assert trio.current_time() == 7.0
    assert server_end.aborted
    assert desk.metric("elemta_tls_handshake_failures_total", cause="timeout") == 1.0


async def test_one_address_begins_no_more_than_its_rate(office: Office, autojump_clock: trio.testing.MockClock) -> None:
    desk = Desk(office.write("one", "mx.example"), handshakes_per_address=2)
    await desk.tls.load()
    for _ in range(10):
        desk.tls.admit(HOST)
    with pytest.raises(HandshakeRefused, match="from this address"):
        desk.tls.admit(HOST)
    desk.tls.admit("192.0.2.1")
    await trio.sleep(0.5)
    desk.tls.admit(HOST)
    assert desk.metric("elemta_tls_handshake_failures_total", cause="rate") == 1.0


async def test_refusals_are_said_now_and_then(office: Office, autojump_clock: trio.testing.MockClock) -> None:
    desk = Desk(office.files("ordered", awaited=True))
    await desk.tls.load()
    for _ in range(3):
        for _ in range(100):
            with pytest.raises(HandshakeRefused):
                desk.tls.admit(HOST)
        await trio.sleep(server_module.REFUSAL_LOG_SECONDS)
    assert [event["refused"] for event in desk.events("tls.refused")] == [1, 100, 100]


async def test_handshakes_at_once_are_bounded(
    office: Office, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MAX_HANDSHAKES", 3)
    desk = Desk(office.write("one", "mx.example"))
    await desk.tls.load()
    ends = [pipe() for _ in range(3)]

    async def stall(number: int) -> None:
        with pytest.raises(HandshakeFailed):
            await desk.tls.upgrade(ends[number][1])

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(stall, number)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(HandshakeRefused, match="too many handshakes at once"):
            desk.tls.admit(HOST)
        await ends[0][0].aclose()
        await trio.testing.wait_all_tasks_blocked()
        desk.tls.admit(HOST)


async def test_a_client_that_does_not_believe_us_is_a_failure(office: Office, tmp_path: Path) -> None:
    desk = Desk(office.write("one", "mx.example"))
    await desk.tls.load()
    client_end, server_end = pipe()
    failures: list[Exception] = []

    async def accept() -> None:
        try:
            await desk.tls.upgrade(server_end)
        except HandshakeFailed as error:
            failures.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        with pytest.raises(CertificateRefused):
            await connect_tls(client_end, Office(tmp_path).trusting(), server_name="mx.example")
    assert len(failures) == 1
