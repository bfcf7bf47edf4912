"""The manual says what the classes say."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from elemta.config.environment import RESERVED, variables
from elemta.config.keys import all_keys, secret_files
from elemta.config.known import MOVED, known_keys
from elemta.config.load import Loaded
from elemta.config.reference import key_table, known_table, updated

MANUAL = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_tables_of_the_manual_are_those_of_the_classes() -> None:
    text = MANUAL.read_text(encoding="utf-8")
    assert text == updated(text), "run: python -m elemta.config.reference docs/configuration.md"
    assert updated(text.replace("| `max_size` |", "| `max_sise` |")) == text


def test_every_key_has_a_row_with_words_in_it() -> None:
    table = key_table()
    for key in all_keys():
        assert key.about
        assert re.search(rf"^\| `{key.path[-1]}` \| .+ \| .+ \| {re.escape(key.about)} \|$", table, re.MULTILINE)
    known = known_table()
    for path in (*known_keys(), *MOVED):
        assert f"`{path[-1]}`" in known or f"`{'.'.join(map(str, path))}`" in known


def test_the_examples_of_the_manual_are_sound(configure: Callable[..., Loaded]) -> None:
    text = MANUAL.read_text(encoding="utf-8")
    (document,) = re.findall(r"^```json\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert configure(json.loads(document)).warnings == ()
    lines = re.findall(r"^(ELEMTA_\w+)=(.*)$", text, re.MULTILINE)
    assert len(lines) == 4
    assert configure({}, {name: value.strip("'") for name, value in lines}).warnings == ()


def test_every_variable_the_manual_speaks_of_is_one() -> None:
    spoken = set(re.findall(r"\bELEMTA_[A-Z_]+[A-Z]\b", MANUAL.read_text(encoding="utf-8")))
    services = {"ELEMTA_SERVICE_HOST", "ELEMTA_PORT"}
    assert spoken - services - {"ELEMTA_TEST"} <= RESERVED | set(variables())
    assert {
        "ELEMTA_ANTISPAM_RSPAMD_API_KEY_FILE",
        "ELEMTA_AUTH_DATASOURCE_DSN_FILE",
        "ELEMTA_AUTH_DATASOURCE_PASS_FILE",
        "ELEMTA_AUTH_OAUTH_CLIENT_SECRET_FILE",
        "ELEMTA_STORAGE_DSN_FILE",
        "ELEMTA_TLS_LETS_ENCRYPT_DNS_KEY_SECRET_FILE",
        "ELEMTA_TLS_LETS_ENCRYPT_EAB_HMAC_KEY_FILE",
    } == {name for name, path in variables().items() if path in secret_files()}
