"""The state of a mail as a file that a person can read.

What is not here: where it lies (`file_folders`), or when it is written (`file_queue`).

A state is JSON: the columns of `codec.MAIL_COLUMNS` by their names, its generation (the number of the batch that wrote
it: the greater is the newer), the token of its owner, and a checksum over all before it, which tells a file that is
whole from one that is not.

Raises `Damaged` for what is not whole.
"""

import zlib
from typing import Any

import attrs
import orjson
from attrs import frozen

from elemta.mail.ids import ID_CHARACTERS, is_queue_id
from elemta.storage.codec import MAIL_COLUMNS, MailRow, decode_mail
from elemta.storage.records import QueuedMail, QueueState

#: Columns whose text is JSON: they stand in the file as JSON, not as text of it.
_JSON_COLUMNS = frozenset({"recipients", "progress", "details"})
_SUFFIX = ".json"
#: What stands before the checksum, and behind it.
_CHECK = b',\n  "check": "'
_END = b'"\n}\n'
_END_OCTETS = len(_CHECK) + 8 + len(_END)


class Damaged(Exception):
    """A file that is no whole state. The text says why."""


@frozen
class State:
    """A mail as it was read from its file."""

    mail: QueuedMail
    generation: int
    token: int


def state_name(queue_id: str) -> str:
    """The name of a mail's file."""
    return queue_id + _SUFFIX


def id_of(name: str) -> str | None:
    """The id of the mail whose file has this name; None for other names."""
    queue_id = name[:ID_CHARACTERS]
    return queue_id if name == queue_id + _SUFFIX and is_queue_id(queue_id) else None


def encode_state(row: MailRow, *, generation: int, token: int) -> bytes:
    """The file of a mail, of which `codec.encode_mail` made a row."""
    plain: dict[str, Any] = dict(zip(MAIL_COLUMNS, row, strict=True))
    for column in _JSON_COLUMNS:
        plain[column] = orjson.Fragment(plain[column])
    plain["generation"] = generation
    plain["token"] = token
    body = orjson.dumps(plain, option=orjson.OPT_INDENT_2)[:-2]
    return b"%b%b%08x%b" % (body, _CHECK, zlib.crc32(body), _END)


def decode_state(octets: bytes, queue_id: str, found_in: QueueState) -> State:
    """The mail of a file. Raises `Damaged` when it is not whole, or another mail's.

    Where it was found is its state: whoever moves it by hand while no server runs means that.
    """
    body, end = octets[:-_END_OCTETS], octets[-_END_OCTETS:]
    if end != b"%b%08x%b" % (_CHECK, zlib.crc32(body), _END):
        raise Damaged("it is not whole")
    try:
        plain = orjson.loads(octets)
        for column in _JSON_COLUMNS:
            plain[column] = orjson.dumps(plain[column]).decode()
        mail = decode_mail(tuple([plain[column] for column in MAIL_COLUMNS]))
        state = State(mail, int(plain["generation"]), int(plain["token"]))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise Damaged(f"it cannot be read: {error}") from error
    if mail.id != queue_id:
        raise Damaged("it is the state of another mail")
    if mail.state is not found_in:
        moved = attrs.evolve(mail, state=found_in, owner="", attempting_since=None)
        return State(moved, state.generation, state.token)
    return state
