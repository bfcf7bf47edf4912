"""What a user's record may hold, whatever keeps it.

What is not here: where records are kept (`auth.users_…`), the forms of a password (`auth.passwords`). This module is
pure: what it is given decides what it answers.

Failure raised: `UnfitUser`, whose text says what is wrong with which value.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime

from attrs import evolve

from elemta.auth.base import MAX_NAME_OCTETS, UnfitUser, User
from elemta.auth.sasl.preparation import Unfit, prepare_name

#: Octets of a stored password or SCRAM verifier: the longest known form, PBKDF2 with SHA-512 and a long salt, has 200.
MAX_PASSWORD_OCTETS = 1024
#: Octets of a person's name, of a group's, of an attribute's key: what an index of MySQL takes, with room to spare.
MAX_WORD_OCTETS = 255
#: Octets of an attribute's value: some 1,600 addresses that a user may send from.
MAX_VALUE_OCTETS = 64 * 1024
#: Groups of one user, attributes of one user: more are a mistake of whoever wrote them.
MAX_GROUPS = 256
MAX_ATTRIBUTES = 256
#: The last second of the year 9999, which dates in text have: a later time, or one before 1970, is no time.
LAST_SECOND = 253_402_300_799

_TRUE = frozenset({"1", "t", "true", "y", "yes", "on"})


def key_of(name: str) -> str | None:
    """A user's name as it is kept and looked up; None for what can be nobody's."""
    try:
        return checked_name(name)
    except UnfitUser:
        return None


def checked_name(name: str) -> str:
    """A name for a user, as the mechanisms prepare it. Raises `UnfitUser`."""
    try:
        prepared = prepare_name(name)
    except Unfit as error:
        raise UnfitUser(f"the name {name!a}: {error}") from None
    if fault := _fault_of_name(prepared):
        raise UnfitUser(f"the name {name!a} {fault}")
    return prepared


def _fault_of_name(name: str) -> str:
    """What keeps a text from being a name: htpasswd ends it at a colon, RFC 4616 §2 at NUL."""
    if not name:
        return "is empty"
    if fault := _fault_of(name, MAX_NAME_OCTETS):
        return fault
    if ":" in name:
        return "holds a colon"
    # MySQL pads text with blanks to compare it: a name that ends in one could be another user's there.
    return "begins or ends with a blank" if name != name.strip() else ""


def _fault_of(text: str, most: int) -> str:
    try:
        octets = text.encode()
    except UnicodeEncodeError:
        return "is not Unicode"
    if len(octets) > most:
        return f"has more than {most} octets"
    return "" if text.isprintable() else "holds a character that does not print"


def checked(user: User) -> User:
    """A user whom every backend can keep, with the name prepared. Raises `UnfitUser`."""
    name = checked_name(user.name)
    texts = {
        "password": (user.password, MAX_PASSWORD_OCTETS),
        "SCRAM verifier": (user.scram, MAX_PASSWORD_OCTETS),
        "mail address": (user.email, MAX_NAME_OCTETS),
        "full name": (user.full_name, MAX_WORD_OCTETS),
    }
    for what, (text, most) in texts.items():
        if fault := _fault_of(text, most):
            raise UnfitUser(f"the {what} of {name} {fault}")
    for at in (user.created_at, user.updated_at, user.last_login_at):
        if at is not None and not 0 <= at <= LAST_SECOND:
            raise UnfitUser(f"a time of {name} is none from 1970 to 9999")
    _check_words(name, user.groups, what="group", most=MAX_GROUPS)
    _check_words(name, tuple(user.attributes), what="attribute", most=MAX_ATTRIBUTES)
    for key, value in user.attributes.items():
        if fault := _fault_of(value, MAX_VALUE_OCTETS):
            raise UnfitUser(f"the attribute {key} of {name} {fault}")
    return evolve(user, name=name, groups=tuple(sorted(set(user.groups))))


def _check_words(name: str, words: tuple[str, ...], *, what: str, most: int) -> None:
    if len(words) > most:
        raise UnfitUser(f"{name} has more than {most} {what}s")
    for word in words:
        fault = (
            _fault_of(word, MAX_WORD_OCTETS) if word.strip() == word and word else "is empty or has blanks around it"
        )
        if fault:
            raise UnfitUser(f"the {what} {word!a} of {name} {fault}")


# ---- values that another program may have written ---------------------------------------------------


def text_of(value: object) -> str:
    """A text column's value, or what stands for it elsewhere; empty for none. Raises `ValueError`."""
    match value:
        case None:
            return ""
        case str():
            return value
        case bytes() | bytearray() | memoryview():
            return bytes(value).decode()
        case _:
            return str(value)


def truth_of(value: object) -> bool:
    """Whether a value means yes, as SQL's engines and people write it. What nobody knows means no."""
    match value:
        case bool() | int() | float():
            return bool(value)
        case str():
            return value.strip().lower() in _TRUE
        case bytes():
            # BIT(1) of MySQL is an octet.
            return value == b"\x01" or truth_of(value.decode("latin-1"))
        case _:
            return False


def moment_of(value: object) -> float | None:
    """UTC in seconds since 1970 of a number, a date, or a text of ISO 8601; None for what is none of it."""
    match value:
        case bool():
            return None
        case int() | float():
            return float(value)
        case datetime():
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        case date():
            return datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp()
        case str():
            return _moment_of_text(value)
        case _:
            return None


def _moment_of_text(text: str) -> float | None:
    try:
        return moment_of(datetime.fromisoformat(text))
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return None


def attributes_of(pairs: Mapping[str, object]) -> dict[str, str]:
    """Attributes by key, without those that hold nothing."""
    return {key: text for key, value in pairs.items() if (text := text_of(value))}
