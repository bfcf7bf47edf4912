"""The mail itself: DATA with its final dot, BDAT with its chunks.

What is not here: line ends, dots, sizes (`smtp.content`). RFC 5321 §4.1.1.4, RFC 3030 §2. Failures raised:
`CommandRefused`, which becomes a reply; `LocalProtocolError` for a reply of the driver that does not fit.
"""

from collections.abc import Mapping
from typing import Final

from elemta.mail.reply import Reply
from elemta.smtp import commands, refusals
from elemta.smtp.content import ChunkDecoder, ContentCheck, DataDecoder, Fault
from elemta.smtp.errors import LocalProtocolError
from elemta.smtp.events import Content, ContentEnd, ContentRefused, DataStart, Event, Need
from elemta.smtp.parameters import CommandRefused
from elemta.smtp.session import MAX_EXCUSED_COMMANDS, Reader, Session, Skipping, Verb, accepts
from elemta.smtp.states import DATA, OUT_OF_ORDER, State

_CHUNK_TAKEN: Final = Reply(250, "2.0.0", "Chunk received")
_DATA_START: Final = DataStart(chunked=False)
_CHUNKS_START: Final = DataStart(chunked=True)


# ---- DATA ----------------------------------------------------------------------------------------


def data(session: Session, argument: bytes) -> Event:
    """RFC 5321 §4.1.1.4."""
    commands.refuse_argument(argument)
    if session.talks_too_early:
        return session.close_with(refusals.TALKED_TOO_EARLY, "talked too early")
    return session.ask(_DATA_START, _answer_data)


def _answer_data(session: Session, reply: Reply) -> None:
    if reply.code == 354:
        session.send(reply)
        session.data = DataDecoder(session.check())
        session.state = DATA
    elif accepts(reply):
        raise LocalProtocolError(f"354 begins the content, not {reply}")
    else:
        session.send(reply)
        session.end_transaction()


def read_data(session: Session) -> Event | Need | None:
    """The next piece of content, or its end."""
    decoder = session.data
    assert decoder is not None
    if decoder.rest is None:
        received = session.lines.take_all()
        if not received:
            return session.starved()
        content = decoder.feed(received)
        if decoder.rest is not None:
            session.lines.push(decoder.rest)
        if content:
            return Content(content)
        if decoder.rest is None:
            return _refuse_endless(session, decoder.check)
    return _end_content(session, decoder.check)


def _end_content(session: Session, check: ContentCheck) -> Event:
    if check.fault:  # NONE is 0
        return _refuse_content(session, check)
    return session.ask(ContentEnd(check.size, check.eight_bit), _answer_content)


def _refuse_endless(session: Session, check: ContentCheck) -> Event | None:
    """Nothing while the end of the mail is still waited for."""
    return _refuse_content(session, check) if check.is_endless else None


def _refuse_content(session: Session, check: ContentCheck) -> Event:
    reply = refusals.CONTENT_REFUSALS[check.fault]
    if check.fault is Fault.BARE_NEWLINE:
        # Whoever sends this may hope that what follows is taken for commands: we listen no longer.
        session.close_with(reply, "bare newline")
    elif check.is_endless:
        session.close_with(reply, "endless mail")
    else:
        session.send(reply)
        session.end_transaction()
        session.excused = MAX_EXCUSED_COMMANDS
    return ContentRefused(reply)


def _answer_content(session: Session, reply: Reply) -> None:
    accepted = accepts(reply)
    session.send(reply)
    session.end_transaction()
    if accepted:
        # A session that moves mail may live on for ever.
        session.errors = session.idle = 0


# ---- BDAT ----------------------------------------------------------------------------------------


def bdat(session: Session, argument: bytes) -> Event | None:
    """RFC 3030 §2. The octets of a refused chunk are consumed before the refusal is sent."""
    try:
        octets, last = commands.parse_bdat(argument)
    except CommandRefused as refused:
        # Nobody knows how many octets follow: reading them as commands would let them smuggle some.
        return session.close_with(refused.reply, "bad chunk size")
    refusal = OUT_OF_ORDER[b"BDAT"].get(session.state)
    if refusal is not None:
        _skip(session, Skipping(octets, refusal, state=session.state, told=False))
        return None
    if octets == 0 and not last:
        closing = session.count_idle()
        if closing is not None:
            return closing
    session.last_chunk = last
    if session.chunks is None:
        session.chunks = ChunkDecoder(session.check())
        session.chunks.left = octets
        return session.ask(_CHUNKS_START, _answer_chunks)
    session.chunks.left = octets
    session.state = State.CHUNK
    return None


def _skip(session: Session, skipping: Skipping) -> None:
    session.skipping = skipping
    session.state = State.SKIP


def _answer_chunks(session: Session, reply: Reply) -> None:
    chunks = session.chunks
    assert chunks is not None
    if accepts(reply):
        session.state = State.CHUNK
        return
    session.end_transaction()
    session.excused = MAX_EXCUSED_COMMANDS
    _skip(session, Skipping(chunks.left, reply, state=State.READY, told=True))


def read_skipped(session: Session) -> Event | Need | None:
    """Drop what is there of a chunk; at its end, the reply."""
    skipping = session.skipping
    assert skipping is not None
    if skipping.left:
        received = session.lines.take(skipping.left)
        if not received:
            return session.starved()
        skipping.left -= len(received)
        return None
    session.skipping = None
    session.state = skipping.state
    if not skipping.told:
        return session.refuse(b"BDAT", skipping.reply)
    session.send(skipping.reply)
    return None


def read_chunk(session: Session) -> Event | Need | None:
    """The next piece of a chunk, or its end."""
    chunks = session.chunks
    assert chunks is not None
    if chunks.left:
        received = session.lines.take(chunks.left)
        if not received:
            return session.starved()
        content = chunks.feed(received)
    else:
        content = chunks.finish() if session.last_chunk else b""
        if not content:
            return _end_chunk(session, chunks)
    return Content(content) if content else _refuse_endless(session, chunks.check)


def _end_chunk(session: Session, chunks: ChunkDecoder) -> Event | None:
    if session.last_chunk or chunks.check.fault:
        return _end_content(session, chunks.check)
    session.state = State.CHUNKS
    session.send(_CHUNK_TAKEN)
    return None


VERBS: Final[Mapping[bytes, Verb]] = {b"DATA": data, b"BDAT": bdat}
READERS: Final[Mapping[State, Reader]] = {
    State.DATA: read_data,
    State.CHUNK: read_chunk,
    State.SKIP: read_skipped,
}
