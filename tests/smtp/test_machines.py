"""Both machines under the checks of the fuzzer, with inputs that are the same in each build.

What is not here: the inputs that a fuzzer draws (`tests.campaign.fuzz_smtp`), by the million.
"""

from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis.strategies import binary, lists, sampled_from

from tests.campaign.fuzz_smtp import CLIENT_SEEDS, CLIENT_WORDS, PLANS, SERVER_WORDS, said_by_client
from tests.campaign.machines import HEADER_OCTETS, check_client, check_server
from tests.conftest import ROOT

HEADERS = binary(min_size=HEADER_OCTETS, max_size=HEADER_OCTETS)
#: Of a dialogue; one of them never ends its line.
MAX_SAID_OCTETS = 10_000
#: Behind the first octet of a header: large pieces, then single octets, with a driver that says yes; then one that
#: refuses a thing now and then, or answers with what does not fit.
WAYS = (
    bytes(15),
    bytes([1, 1, 1, 1]) + bytes(11),
    bytes([1, 2, 3, 1]) + bytes([0, 0, 0, 128, 0, 131, 0, 0, 129, 135, 130]),
)


@pytest.mark.parametrize("script", sorted((ROOT / "tests" / "dialogues").glob("*.smtp")), ids=lambda path: path.stem)
def test_every_dialogue_with_every_set_of_options(script: Path) -> None:
    said = said_by_client(script.read_text(encoding="utf-8"))[:MAX_SAID_OCTETS]
    assert said
    for plan, way in product(PLANS, WAYS):
        check_server(bytes([plan]) + way + said)


@pytest.mark.parametrize("said", CLIENT_SEEDS)
def test_every_host_with_every_plan(said: bytes) -> None:
    for plan, way in product(range(256), WAYS):
        check_client(bytes([plan]) + way + said)


@given(HEADERS, lists(sampled_from(SERVER_WORDS) | binary(max_size=40)))
def test_whatever_a_client_says(header: bytes, said: list[bytes]) -> None:
    check_server(header + b"".join(said))


@given(HEADERS, lists(sampled_from(CLIENT_WORDS) | binary(max_size=40)))
def test_whatever_a_host_says(header: bytes, said: list[bytes]) -> None:
    check_client(header + b"".join(said))
