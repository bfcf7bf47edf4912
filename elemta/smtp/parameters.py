"""The parameters behind the path of MAIL or RCPT, RFC 5321 §4.1.2.

What is not here: the paths before them (`smtp.commands`), or what follows from them (`inbound`, `delivery`).
Failures raised: `CommandRefused`.
"""

import re
from collections.abc import Collection
from typing import Final, TypeVar

from attrs import frozen

from elemta.mail.envelope import BodyType, Notify, Ret
from elemta.mail.reply import Reply
from elemta.smtp import grammar, refusals

#: RFC 3461 §4.4.
MAX_ENVID_CHARACTERS: Final = 100
#: RFC 3461 §4.2.
MAX_ORCPT_CHARACTERS: Final = 500

# esmtp-param = esmtp-keyword ["=" esmtp-value]; esmtp-keyword = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-")
# esmtp-value = 1*(%d33-60 / %d62-126), RFC 6531 §3.3: / UTF8-non-ascii. RFC 5321 §4.1.2.
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~\x80-\U0010ffff]+))?")
# size-value ::= 1*20DIGIT, RFC 1870 §3
_SIZE = re.compile(r"[0-9]{1,20}")
# priority-value = (["-"] NZDIGIT) / "0", RFC 6710 §3
_PRIORITY = re.compile(r"-?[1-9]|0")
# addr-type = atom, RFC 3461 §4.2
_ORCPT = re.compile(r"([A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+);(.*)", re.DOTALL)
# What RFC 6533 §3 lets stand in the address of type utf-8, as far as it is fit for a report.
_UNFIT = re.compile("[\x00-\x20\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

_T = TypeVar("_T")
_MAIL_KEYWORDS: Final = frozenset({"SIZE", "BODY", "SMTPUTF8", "RET", "ENVID", "AUTH", "REQUIRETLS", "MT-PRIORITY"})
_RCPT_KEYWORDS: Final = frozenset({"NOTIFY", "ORCPT"})
_BODIES: Final = {body.value: body for body in BodyType}
_RETS: Final = {ret.value: ret for ret in Ret}
_NOTIFIES: Final = {"SUCCESS": Notify.SUCCESS, "FAILURE": Notify.FAILURE, "DELAY": Notify.DELAY}


class CommandRefused(Exception):
    """The command is answered with `reply`."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


@frozen
class MailParameters:
    """What MAIL said beside its path. AUTH is checked for its form, then forgotten (RFC 4954 §5 allows it)."""

    size: int | None = None
    body: BodyType = BodyType.SEVEN_BIT
    smtputf8: bool = False
    ret: Ret | None = None
    envid: str | None = None
    require_tls: bool = False
    mt_priority: int | None = None


def parse_mail_parameters(text: str, *, require_tls_offered: bool) -> MailParameters:
    """The parameters after the reverse-path. Raises `CommandRefused`."""
    values = _split(text, _MAIL_KEYWORDS)
    if "REQUIRETLS" in values and not require_tls_offered:
        raise CommandRefused(refusals.UNKNOWN_PARAMETER)
    auth = values.get("AUTH", "<>")
    if auth is None or (auth != "<>" and grammar.decode_xtext(auth) is None):
        raise CommandRefused(refusals.BAD_PARAMETER)
    return MailParameters(
        size=_number(values, "SIZE", _SIZE),
        body=_body(values),
        smtputf8=_flag(values, "SMTPUTF8"),
        ret=_choice(values, "RET", _RETS),
        envid=_envid(values),
        require_tls=_flag(values, "REQUIRETLS"),
        mt_priority=_number(values, "MT-PRIORITY", _PRIORITY),
    )


def parse_rcpt_parameters(text: str, *, smtputf8: bool) -> tuple[Notify | None, str | None]:
    """NOTIFY, decoded ORCPT. `smtputf8` is what MAIL said. Raises `CommandRefused`."""
    values = _split(text, _RCPT_KEYWORDS)
    return _notify(values), _orcpt(values, smtputf8=smtputf8)


def _split(text: str, known: Collection[str]) -> dict[str, str | None]:
    """Keyword in upper case → value, or None where there was none."""
    values: dict[str, str | None] = {}
    for word in text.split(" "):
        if not word:
            continue
        parameter = _PARAMETER.fullmatch(word)
        if parameter is None:
            raise CommandRefused(refusals.BAD_PARAMETER)
        keyword = parameter[1].upper()
        if keyword not in known:
            raise CommandRefused(refusals.UNKNOWN_PARAMETER)
        if keyword in values:
            raise CommandRefused(refusals.TWICE)
        values[keyword] = parameter[2]
    return values


def _flag(values: dict[str, str | None], keyword: str) -> bool:
    if values.get(keyword) is not None:
        raise CommandRefused(refusals.BAD_PARAMETER)
    return keyword in values


def _number(values: dict[str, str | None], keyword: str, pattern: re.Pattern[str]) -> int | None:
    if keyword not in values:
        return None
    value = values[keyword]
    if value is None or pattern.fullmatch(value) is None:
        raise CommandRefused(refusals.BAD_PARAMETER)
    return int(value)


def _choice(values: dict[str, str | None], keyword: str, choices: dict[str, _T]) -> _T | None:
    if keyword not in values:
        return None
    choice = choices.get((values[keyword] or "").upper())
    if choice is None:
        raise CommandRefused(refusals.BAD_PARAMETER)
    return choice


def _body(values: dict[str, str | None]) -> BodyType:
    # RFC 3030 §3 defines BINARYMIME: known to us, but not offered.
    if (values.get("BODY") or "").upper() == "BINARYMIME":
        raise CommandRefused(refusals.UNKNOWN_PARAMETER)
    return _choice(values, "BODY", _BODIES) or BodyType.SEVEN_BIT


def _envid(values: dict[str, str | None]) -> str | None:
    if "ENVID" not in values:
        return None
    value = values["ENVID"] or ""
    envid = grammar.decode_xtext(value)
    if not envid or len(value) > MAX_ENVID_CHARACTERS:
        raise CommandRefused(refusals.BAD_PARAMETER)
    return envid


def _notify(values: dict[str, str | None]) -> Notify | None:
    if "NOTIFY" not in values:
        return None
    words = (values["NOTIFY"] or "").upper().split(",")
    if words == ["NEVER"]:
        return Notify.NEVER
    # RFC 3461 §4.1: NEVER stands alone.
    if any(word not in _NOTIFIES for word in words):
        raise CommandRefused(refusals.BAD_PARAMETER)
    notify = Notify.NEVER
    for word in words:
        notify |= _NOTIFIES[word]
    return notify


def _orcpt(values: dict[str, str | None], *, smtputf8: bool) -> str | None:
    if "ORCPT" not in values:
        return None
    value = values["ORCPT"] or ""
    parts = _ORCPT.fullmatch(value)
    if parts is None or len(value) > MAX_ORCPT_CHARACTERS:
        raise CommandRefused(refusals.BAD_PARAMETER)
    kind, encoded = parts.groups()
    if kind.lower() == "utf-8" and not encoded.isascii():
        # RFC 6533 §3, utf-8-addr-unitext: plain UTF-8, where the extension was asked for.
        decoded = encoded if smtputf8 and not _UNFIT.search(encoded) else None
    else:
        decoded = grammar.decode_xtext(encoded)
    if not decoded:
        raise CommandRefused(refusals.BAD_PARAMETER)
    return f"{kind};{decoded}"
