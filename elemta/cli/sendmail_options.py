"""The options of sendmail, as the programs that call it give them.

Sendmail's options cluster (`-ti`), carry their values with or without a space (`-f x`, `-fx`), and end at the first
word that is none; click knows neither. Options that steer a daemon or name what we do not have are taken, then ignored:
a caller that gives them wants its mail sent. What is not here: what is done about them (`cli.sendmail_program`).
RFC 3461 is what -N, -R, -V ask for, RFC 6152 what -B says. Failure raised: `Trouble` with `SysExit.USAGE`.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from attrs import define, field

from elemta.cli.sendmail_trouble import SysExit, Trouble
from elemta.mail.envelope import BodyType, Notify, Ret


class Mode(enum.Enum):
    """What the program is asked to do."""

    #: Send the mail on standard input (-bm).
    DELIVER = "m"
    #: Speak SMTP on standard input and output (-bs).
    SMTP = "s"
    #: List the queue (-bp).
    LIST = "p"
    #: Nothing: rebuild an alias file (-bi), which does not exist; run the queue (-q), which runs by itself.
    NOTHING = "i"


@define
class Order:
    """A command line, understood.

    `sender` is as it was written: None where none was given, empty for the null reverse-path.
    """

    mode: Mode = Mode.DELIVER
    sender: str | None = None
    full_name: str = ""
    #: Whether recipients are taken from the header as well (-t).
    from_header: bool = False
    #: Whether a line that is a dot ends the mail (without -i).
    dot_ends: bool = True
    body: BodyType | None = None
    notify: Notify | None = None
    ret: Ret | None = None
    envelope_id: str | None = None
    config_path: str | None = None
    #: Whether the dialogue is shown (-v).
    verbose: bool = False
    recipients: list[str] = field(factory=list)


def read_options(words: Sequence[str]) -> Order:
    """What the command line asks for. Raises `Trouble`."""
    order = Order()
    left = list(words)
    while left and left[0].startswith("-") and left[0] != "-":
        word = left.pop(0)
        if word == "--":
            break
        _read_cluster(order, word[1:], left)
    order.recipients = left
    return order


def _read_cluster(order: Order, letters: str, left: list[str]) -> None:
    """One word of options: flags, then at most one with a value, which is the rest of the word or the next one."""
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter in _FLAGS:
            _FLAGS[letter](order)
            continue
        if letter in _MAY_HAVE_VALUE:
            _MAY_HAVE_VALUE[letter](order, letters)
            return
        read = _WITH_VALUE.get(letter)
        if read is None:
            raise Trouble(SysExit.USAGE, f"there is no option -{letter}; elemta help sendmail lists those there are")
        if not letters and not left:
            raise Trouble(SysExit.USAGE, f"the option -{letter} needs a value")
        read(order, letters or left.pop(0))
        return


# ---- what each option does


def _set_sender(order: Order, value: str) -> None:
    order.sender = value.strip().removeprefix("<>")


def _set_full_name(order: Order, value: str) -> None:
    order.full_name = value


def _set_config(order: Order, value: str) -> None:
    order.config_path = value


def _set_mode(order: Order, value: str) -> None:
    try:
        order.mode = Mode(value)
    except ValueError:
        known = ", ".join(f"-b{mode.value}" for mode in Mode)
        raise Trouble(SysExit.USAGE, f"-b{value} is not for this program, which does {known}") from None


def _set_body(order: Order, value: str) -> None:
    try:
        order.body = BodyType(value.upper())
    except ValueError:
        raise Trouble(SysExit.USAGE, f"-B {value}: a body is 7BIT or 8BITMIME") from None


def _set_notify(order: Order, value: str) -> None:
    names = value.upper().split(",")
    known = {str(flag.name): flag for flag in Notify}
    if names == ["NEVER"]:
        order.notify = Notify.NEVER
    elif all(name in known for name in names):
        order.notify = Notify.NEVER
        for name in names:
            order.notify |= known[name]
    else:
        raise Trouble(SysExit.USAGE, f"-N {value}: reports are never, or some of success,failure,delay")


def _set_ret(order: Order, value: str) -> None:
    known = {"full": Ret.FULL, "hdrs": Ret.HEADERS}
    if value.lower() not in known:
        raise Trouble(SysExit.USAGE, f"-R {value}: a report returns full or hdrs")
    order.ret = known[value.lower()]


#: RFC 3461 §4.4: at most this many characters of ENVID.
_MAX_ENVID_CHARACTERS: Final = 100


def _set_envelope_id(order: Order, value: str) -> None:
    if not value.isascii() or not value.isprintable() or len(value) > _MAX_ENVID_CHARACTERS:
        raise Trouble(SysExit.USAGE, f"-V: an envelope id is at most {_MAX_ENVID_CHARACTERS} printable characters")
    order.envelope_id = value


def _set_option(order: Order, value: str) -> None:
    """`-oi` is `-i`; every other setting is a daemon's own, or says how to report errors: that is the exit code."""
    if value == "i" or value.lower().replace(" ", "") in ("ignoredots", "ignoredots=true"):
        order.dot_ends = False


def _ignore(_order: Order, _value: str) -> None:
    """What it sets does not exist here."""


def _run_queue(order: Order, _value: str) -> None:
    order.mode = Mode.NOTHING


def _from_header(order: Order) -> None:
    order.from_header = True


def _keep_dots(order: Order) -> None:
    order.dot_ends = False


def _be_verbose(order: Order) -> None:
    order.verbose = True


def _nothing(_order: Order) -> None:
    """A flag that means nothing here."""


_FLAGS: Final[Mapping[str, Callable[[Order], None]]] = {
    "t": _from_header,
    "i": _keep_dots,
    "v": _be_verbose,
    "G": _nothing,  # the mail is relayed, not submitted
    "U": _nothing,  # the opposite
    "n": _nothing,  # no aliases
    "m": _nothing,  # send to me, too
    "c": _nothing,  # hold for slow connections
    "s": _nothing,  # strip "From " lines: always done
}
#: The value of these is in the same word, or there is none.
_MAY_HAVE_VALUE: Final[Mapping[str, Callable[[Order, str], None]]] = {
    "q": _run_queue,
    "e": _ignore,  # how errors are reported
    "d": _ignore,  # what is debugged
    "A": _ignore,  # -Ac, -Am: which of two configuration files
}
_WITH_VALUE: Final[Mapping[str, Callable[[Order, str], None]]] = {
    "f": _set_sender,
    "r": _set_sender,  # its name long ago
    "F": _set_full_name,
    "C": _set_config,
    "b": _set_mode,
    "B": _set_body,
    "N": _set_notify,
    "R": _set_ret,
    "V": _set_envelope_id,
    "o": _set_option,
    "O": _set_option,
    "h": _ignore,  # how many hops the mail had
    "L": _ignore,  # a tag for the log
    "p": _ignore,  # the protocol it came by
    "X": _ignore,  # a file to log the dialogue to
    "D": _ignore,  # a file for debugging
}
