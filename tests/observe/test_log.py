"""One line an event, whatever it holds."""

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.observe.log import MAX_VALUE_CHARACTERS, make_logger, printable


def logged(form: str, **values: Any) -> str:
    sink = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    make_logger("info", form, sink).info("event.name", **values)
    sink.flush()
    assert isinstance(sink.buffer, io.BytesIO)
    return sink.buffer.getvalue().decode("utf-8")


@pytest.mark.parametrize("form", ["json", "console"])
@given(value=st.text(max_size=600))
def test_no_value_forges_a_line_or_moves_the_cursor(form: str, value: str) -> None:
    line = logged(form, helo=value)
    assert line.count("\n") == 1
    assert line.endswith("\n")
    assert not any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 or ord(char) in (0x2028, 0x202E) for char in line[:-1])


def test_json_is_one_object_with_level_and_time() -> None:
    event = json.loads(logged("json", queue_id="x", size=5))
    assert (event["event"], event["level"], event["queue_id"], event["size"]) == ("event.name", "info", "x", 5)
    assert event["timestamp"].endswith("Z")


def test_long_values_are_cut_with_their_length() -> None:
    assert printable("x" * 5000) == "x" * MAX_VALUE_CHARACTERS + "… (5000 characters)"


def test_a_traceback_keeps_its_end_and_hides_no_control_character() -> None:
    sink = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    log = make_logger("info", "json", sink)
    try:
        raise RuntimeError("the cause\x1b[2J" + "x" * 1000)
    except RuntimeError:
        log.exception("it.failed")
    sink.flush()
    assert isinstance(sink.buffer, io.BytesIO)
    event = json.loads(sink.buffer.getvalue())
    assert event["exception"].rstrip().endswith("x" * 1000)
    assert "RuntimeError: the cause\\u001b[2J" in event["exception"]


def test_levels_below_the_chosen_one_are_silent() -> None:
    sink = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    make_logger("warning", "json", sink).info("quiet")
    sink.flush()
    assert isinstance(sink.buffer, io.BytesIO)
    assert sink.buffer.getvalue() == b""
