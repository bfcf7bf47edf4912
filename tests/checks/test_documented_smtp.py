"""What docs/smtp_server.md says that clients hear, compared with the code that says it."""

import re
from pathlib import Path
from types import ModuleType

import pytest

from elemta.auth import verdicts
from elemta.config.keys import all_keys
from elemta.inbound import admission, encryption, login, policy, session, transaction
from elemta.mail.reply import Reply
from elemta.smtp import commands, refusals, server
from elemta.smtp.options import ServerOptions
from elemta.smtp.server import ServerConnection

SOURCES = (refusals, admission, encryption, login, policy, session, transaction, verdicts)
#: Units of the page → of the configuration, which has octets and seconds.
UNITS = {"KiB": 1024, "MiB": 1024**2, "minutes": 60}


@pytest.fixture(scope="session")
def manual(root: Path) -> str:
    """The page."""
    return (root / "docs" / "smtp_server.md").read_text(encoding="utf-8")


def rows(manual: str, heading: str) -> list[list[str]]:
    """The cells of the first table behind a heading, without its own head."""
    table = re.search(rf"^## {heading}\n.*?((?:^\|[^\n]*\n)+)", manual, re.MULTILINE | re.DOTALL)
    assert table is not None, heading
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()[2:]]


# ---- replies -------------------------------------------------------------------------------------


def said_by(module: ModuleType) -> list[str]:
    """The lines of each reply that a module holds by name, or in a table."""
    tables = [value for value in vars(module).values() if isinstance(value, dict)]
    candidates = [*vars(module).values(), *(one for table in tables for one in table.values())]
    return [str(reply) for reply in candidates if isinstance(reply, Reply)]


def test_replies_are_those_of_the_code(manual: str) -> None:
    said = [line for module in SOURCES for line in said_by(module)]
    shown = re.findall(r"`([2-5]\d\d [245]\.\d\.\d+[^`]*)`", manual)
    missing = [one for one in shown if not any(line.startswith(one.removesuffix(" …")) for line in said)]
    assert len(shown) > 10
    assert missing == []


def test_codes_are_those_of_the_code(manual: str) -> None:
    said = {" ".join(line.split()[:2]) for module in SOURCES for line in said_by(module)}
    shown = {code for cells in rows(manual, "Limits") for code in re.findall(r"\d{3} \d\.\d\.\d", cells[-1])}
    assert len(shown) > 8
    assert shown - said == set()


# ---- extensions, commands ------------------------------------------------------------------------


def said_to_ehlo(*, tls: bool) -> set[str]:
    """The keywords that a server with everything offers in the clear, or under TLS."""
    options = ServerOptions(
        "mx.example.com", starttls=True, auth_mechanisms=("PLAIN",), dev_mode=True, require_tls_offered=True
    )
    connection = ServerConnection(options)
    if tls:
        connection.tls_started()
    connection.greet(Reply(220, "", "hello"))
    connection.data_to_send()
    connection.receive_data(b"EHLO client.example\r\n")
    connection.next_event()
    connection.reply(Reply(250))
    return {line[4:].split()[0] for line in connection.data_to_send().decode("ascii").splitlines()[1:]}


def test_extensions_are_those_that_are_offered(manual: str) -> None:
    shown = {cells[0].strip("`") for cells in rows(manual, "Extensions")}
    assert shown == (said_to_ehlo(tls=False) | said_to_ehlo(tls=True)) - {"HELP"}


def test_every_command_is_named(manual: str) -> None:
    shown = {word for cells in rows(manual, "Commands") for word in re.findall(r"`([A-Z]+)", cells[0])}
    assert {verb.encode("ascii") for verb in shown} == set(server._COMMANDS)
    assert all(f"`{verb.decode('ascii')}`" in manual for verb in commands.UNIMPLEMENTED_VERBS)


# ---- limits --------------------------------------------------------------------------------------


def test_limits_are_those_of_the_configuration(manual: str) -> None:
    defaults = {".".join(map(str, key.path)): key.default for key in all_keys()}
    shown = {
        cells[2].strip("`"): figure(cells[1]) for cells in rows(manual, "Limits") if "…" not in cells[2] and cells[2]
    }
    assert len(shown) > 10
    assert shown == {name: defaults[name] for name in shown}


def figure(text: str) -> float:
    """The first number of a cell, in octets or seconds."""
    found = re.match(r"([0-9,]+)(?: (\w+))?", text)
    assert found is not None, text
    return float(found[1].replace(",", "")) * UNITS.get(found[2], 1)


def test_figures_are_read() -> None:
    assert [figure(text) for text in ("10,000", "25 MiB", "5 minutes", "60 seconds")] == [10_000, 26_214_400, 300, 60]
