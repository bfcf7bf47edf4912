"""The one form in which names or passwords are compared, whether they are set or logged in with.

What is not here: hashing (`auth.passwords`), looking up (`auth.users_…`). Failures raised: `Unfit`, with a text that
says what is wrong and repeats nothing.

Both are prepared by SASLprep (RFC 4013), because the mechanisms ask for it (RFC 4616 §2, RFC 5802 §5.1): the client of
SCRAM prepares the password itself, and the same password must be right under PLAIN. SASLprep is frozen at Unicode 3.2,
so that no version of Python changes what somebody's password is; OpaqueString (RFC 8265 §4.2) would. Two decisions:

- Code points that Unicode 3.2 did not know (emoji, newer scripts) pass as they are, at setting and at login alike.
  RFC 4013 §2.5 lets them pass in queries only; but then nobody could set what everybody may type.
- A password that SASLprep forbids for another reason than control characters is used as it is, as PostgreSQL does: many
  were set elsewhere, where nobody prepared anything. A name that it forbids is refused.
"""

import stringprep
import unicodedata

from elemta.auth.base import MAX_NAME_OCTETS

#: Longer than any passphrase, short enough to hash: NIST SP 800-63B §3.1.1.2 asks for at least 64 characters.
MAX_PASSWORD_OCTETS = 1024
#: RFC 4013 §2.3. C.2.1 is not among them: control characters are refused before. B.1 and C.1.2 should have been mapped
#: away; what is left of them after normalization is refused, so that preparing twice changes nothing.
_PROHIBITED = (
    stringprep.in_table_b1,
    stringprep.in_table_c12,
    stringprep.in_table_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)
_LOWER_CASE = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


class Unfit(ValueError):
    """No name or password can be like this."""


def prepare_name(name: str | bytes) -> str:
    """The name of a user as it is looked up, counted, compared; octets are UTF-8. Raises `Unfit`.

    ASCII letters become small, others keep their case: `auth.base` compares names so.
    """
    text = _text(name, "name", MAX_NAME_OCTETS)
    prepared = fold_name(saslprep(text))
    _bounded(prepared, "name", MAX_NAME_OCTETS)
    return prepared


def fold_name(name: str) -> str:
    """A name with its ASCII letters small."""
    return name.translate(_LOWER_CASE)


def check_password(password: str | bytes) -> None:
    """Raise `Unfit` for what can be nobody's password."""
    prepare_password(password)


def prepare_password(password: str | bytes) -> bytes:
    """A password as it is hashed, in UTF-8. Raises `Unfit`."""
    text = _text(password, "password", MAX_PASSWORD_OCTETS)
    try:
        prepared = saslprep(text)
    except Unfit:
        prepared = text
    return _bounded(prepared, "password", MAX_PASSWORD_OCTETS)


def saslprep(text: str) -> str:
    """A text by RFC 4013. Raises `Unfit` for what it forbids."""
    if text.isascii():
        return text
    mapped = "".join(
        " " if stringprep.in_table_c12(each) else each for each in text if not stringprep.in_table_b1(each)
    )
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if any(prohibits(each) for each in prepared for prohibits in _PROHIBITED):
        raise Unfit("a character that SASLprep forbids")
    if any(map(stringprep.in_table_d1, prepared)):
        _check_direction(prepared)
    return prepared


def _check_direction(text: str) -> None:
    """RFC 3454 §6: what is written from the right begins and ends so, and mixes with nothing from the left."""
    ends = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    if not ends or any(map(stringprep.in_table_d2, text)):
        raise Unfit("left-to-right mixed with right-to-left")


def _text(octets: str | bytes, what: str, most: int) -> str:
    if len(octets) > most:
        raise Unfit(f"a {what} of more than {most} octets")
    try:
        text = octets.decode() if isinstance(octets, bytes) else octets
        _bounded(text, what, most)
    except UnicodeError:
        raise Unfit(f"a {what} that is not UTF-8") from None
    if any(unicodedata.category(each) == "Cc" for each in text):
        raise Unfit(f"a control character in a {what}")
    return text


def _bounded(text: str, what: str, most: int) -> bytes:
    octets = text.encode()
    if not octets:
        raise Unfit(f"an empty {what}")
    if len(octets) > most:
        raise Unfit(f"a {what} of more than {most} octets")
    return octets
