"""Command lines read into the events they stand for, or refused.

What is not here: the order of commands (`smtp.states`), or what they do (`smtp.server`). MAIL and RCPT in their plain
form take one regular expression; whatever is not plain takes the slow road, which knows the whole grammar.
RFC 5321 §4.1.1. Failures raised: `CommandRefused`.
"""

import binascii
import re
from collections.abc import Mapping
from typing import Final

from attrs import frozen

from elemta.mail.address import Address
from elemta.mail.envelope import BodyType, Recipient
from elemta.mail.reply import Reply
from elemta.smtp import grammar, refusals
from elemta.smtp.events import AuthStart, MailFrom, RcptTo
from elemta.smtp.grammar import AddressError, AddressFault
from elemta.smtp.parameters import CommandRefused, parse_mail_parameters, parse_rcpt_parameters

#: First words of HTTP, RFC 9110 §9.3, RFC 5789, and of HTTP/2, RFC 9113 §3.4: a browser that was tricked into posting
#: mail must not be heard, since its headers would be skipped as bad commands.
HTTP_VERBS: Final = frozenset(
    (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH", b"PRI")
)
#: Known to RFC 821 §4.1.1, RFC 1985, RFC 5321 §3.5.3, and not offered.
UNIMPLEMENTED_VERBS: Final = frozenset((b"EXPN", b"TURN", b"ETRN", b"ATRN", b"SEND", b"SOML", b"SAML"))
#: Of a verb in the log.
MAX_VERB_CHARACTERS: Final = 16

# Under Python 3.11 a member looked up through its class costs 100 ns, through its module 15.
_SEVEN_BIT: Final = BodyType.SEVEN_BIT

_LOCAL = rf"{grammar.PLAIN_ATEXT}++(?:\.{grammar.PLAIN_ATEXT}++)*+"
# Reverse-path = Path / "<>"; mail = "MAIL FROM:" Reverse-path [SP Mail-parameters] CRLF. RFC 5321 §4.1.1.2.
# The plain form: no quotes, no source route, no literal, ASCII, SIZE then BODY as nearly every client sends them.
_PLAIN_MAIL = re.compile(
    rf"FROM: ?<(?:({_LOCAL})@({grammar.DOMAIN}))?>(?: SIZE=([0-9]{{1,20}}))?(?: BODY=(?:(8BITMIME)|7BIT))? *".encode(),
    re.IGNORECASE,
)
# rcpt = "RCPT TO:" ( "<Postmaster@" Domain ">" / "<Postmaster>" / Forward-path ) [SP Rcpt-parameters] CRLF, §4.1.1.3.
_PLAIN_RCPT = re.compile(rf"TO: ?<({_LOCAL})@({grammar.DOMAIN})> *".encode(), re.IGNORECASE)
#: The longest plain form that needs no further count of its path, or of its domain.
_PLAIN_PATH_OCTETS: Final = grammar.MAX_PATH_OCTETS - len("<@>")

# Path = "<" [ A-d-l ":" ] Mailbox ">", §4.1.2. A quoted string may hold any bracket. Without brackets, as some clients
# send it and others take it: up to the next space outside of quotes.
_PATH = re.compile(r'<((?:[^"<>]|"(?:[^"\\]|\\.)*+")*+)>(?: (.*))?', re.DOTALL)
_NAKED_PATH = re.compile(r'((?:[^"<> ]|"(?:[^"\\]|\\.)*+")++)(?: (.*))?', re.DOTALL)
_FROM: Final = re.compile(r"FROM: *", re.IGNORECASE)
_TO: Final = re.compile(r"TO: *", re.IGNORECASE)
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_WORDS = re.compile(rb"[ -~]*+")
# bdat-cmd ::= "BDAT" SP chunk-size [ SP end-marker ] CR LF; chunk-size ::= 1*DIGIT, RFC 3030 §2. Twenty digits are
# those of SIZE.
_BDAT = re.compile(rb"([0-9]{1,20})(?: +(LAST))? *", re.IGNORECASE)
# "AUTH" SP sasl-mech [SP initial-response]; sasl-mech = 1*20 of upper-case letters, digits, "-", "_": RFC 4422 §3.1.
_AUTH = re.compile(rb"([A-Za-z0-9_-]{1,20})(?: +([^ ]+))? *")
# base64 = base64-terminal / ( 1*(4base64-CHAR) [base64-terminal] ), RFC 4954 §8; empty where a response may be.
_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/]{4})*+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


@frozen
class Wording:
    """What the same fault of an address is called in MAIL, or in RCPT."""

    faults: Mapping[AddressFault, Reply]
    needs_smtputf8: Reply


_SENDER = Wording(
    faults={
        AddressFault.SYNTAX: refusals.BAD_SENDER,
        AddressFault.TOO_LONG: refusals.SENDER_TOO_LONG,
        AddressFault.DOMAIN: refusals.BAD_SENDER_DOMAIN,
    },
    needs_smtputf8=refusals.SENDER_NEEDS_SMTPUTF8,
)
_RECIPIENT = Wording(
    faults={
        AddressFault.SYNTAX: refusals.BAD_RECIPIENT,
        AddressFault.TOO_LONG: refusals.RECIPIENT_TOO_LONG,
        AddressFault.DOMAIN: refusals.BAD_RECIPIENT_DOMAIN,
    },
    needs_smtputf8=refusals.RECIPIENT_NEEDS_SMTPUTF8,
)


def printable_verb(line: bytes) -> str:
    """The first word of a line, short and printable, for the log."""
    word = line[:MAX_VERB_CHARACTERS].partition(b" ")[0].decode("ascii", "replace")
    return "".join(char if "!" <= char <= "~" else "?" for char in word).upper()


# ---- MAIL ----------------------------------------------------------------------------------------


def parse_mail(argument: bytes, *, require_tls_offered: bool = False) -> MailFrom:
    """What follows `MAIL `. Raises `CommandRefused`."""
    plain = _PLAIN_MAIL.fullmatch(argument)
    if plain is not None:
        local, domain, size, eight_bit = plain.groups()
        path = None if local is None else _plain_address(local, domain)
        if local is None or path is not None:
            return MailFrom(
                path,
                None if size is None else int(size),
                _SEVEN_BIT if eight_bit is None else BodyType.EIGHT_BIT_MIME,
            )
    path_text, rest = _split_path(argument, _FROM)
    said = parse_mail_parameters(rest, require_tls_offered=require_tls_offered)
    return MailFrom(
        reverse_path=_parse_path(path_text, _SENDER, smtputf8=said.smtputf8) if path_text else None,
        size=said.size,
        body=said.body,
        smtputf8=said.smtputf8,
        ret=said.ret,
        envid=said.envid,
        require_tls=said.require_tls,
        mt_priority=said.mt_priority,
    )


# ---- RCPT ----------------------------------------------------------------------------------------


def parse_rcpt(argument: bytes, *, smtputf8: bool = False) -> RcptTo:
    """What follows `RCPT `. `smtputf8` is what MAIL said. Raises `CommandRefused`."""
    plain = _PLAIN_RCPT.fullmatch(argument)
    if plain is not None:
        local, domain = plain.groups()
        address = _plain_address(local, domain) if len(local) <= grammar.MAX_LOCAL_OCTETS else None
        if address is not None:
            return RcptTo(Recipient(address))
    path_text, rest = _split_path(argument, _TO)
    address = _parse_forward_path(path_text, smtputf8=smtputf8)
    notify, original = parse_rcpt_parameters(rest, smtputf8=smtputf8)
    return RcptTo(Recipient(address, notify, original))


def _parse_forward_path(text: str, *, smtputf8: bool) -> Address:
    # RFC 5321 §4.1.1.3: <Postmaster>, in any case, is the only one without a domain.
    if text.lower() == "postmaster":
        return Address(text, "")
    address = _parse_path(text, _RECIPIENT, smtputf8=smtputf8)
    if len(address.local.encode()) > grammar.MAX_LOCAL_OCTETS:
        raise CommandRefused(refusals.RECIPIENT_TOO_LONG)
    # A next hop may take these for a route to somewhere else, quoted or not: the classic open relay.
    if any(char in address.local for char in "%!@"):
        raise CommandRefused(refusals.ROUTED_RECIPIENT)
    return address


# ---- paths ---------------------------------------------------------------------------------------


def _plain_address(local: bytes, domain: bytes) -> Address | None:
    """None where a closer look is needed."""
    lowered = domain.lower()
    if len(local) + len(domain) > _PLAIN_PATH_OCTETS or b"xn--" in lowered:
        return None
    return Address(local.decode("ascii"), lowered.decode("ascii"))


def _split_path(argument: bytes, keyword: re.Pattern[str]) -> tuple[str, str]:
    """What is within the brackets, and what follows them. Raises `CommandRefused`."""
    try:
        text = argument.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CommandRefused(refusals.UNREADABLE_COMMAND) from error
    start = keyword.match(text)
    if start is None or _CONTROLS.search(text):
        raise CommandRefused(refusals.UNREADABLE_COMMAND)
    if start.end() == len(text):
        raise CommandRefused(refusals.PATH_NEEDED)
    path = _PATH.fullmatch(text, start.end()) or _NAKED_PATH.fullmatch(text, start.end())
    if path is None:
        raise CommandRefused(refusals.UNREADABLE_COMMAND)
    return path[1], path[2] or ""


def _parse_path(text: str, wording: Wording, *, smtputf8: bool) -> Address:
    if len(text.encode()) > grammar.MAX_PATH_OCTETS - len("<>"):
        raise CommandRefused(wording.faults[AddressFault.TOO_LONG])
    if not smtputf8 and not text.isascii():
        raise CommandRefused(wording.needs_smtputf8)
    try:
        return grammar.parse_address(grammar.strip_source_route(text))
    except AddressError as error:
        raise CommandRefused(wording.faults[error.fault]) from error


# ---- the others ----------------------------------------------------------------------------------


def parse_hello(argument: bytes) -> str:
    """What follows `EHLO ` or `HELO `. Raises `CommandRefused`."""
    domain = grammar.parse_hello(argument.strip(b" "))
    if domain is None:
        raise CommandRefused(refusals.BAD_HELLO if argument else refusals.ARGUMENT_NEEDED)
    return domain


def refuse_argument(argument: bytes) -> None:
    """Trailing spaces are borne, RFC 5321 §4.1.1. Raises `CommandRefused` for anything else."""
    if argument and argument.strip(b" "):
        raise CommandRefused(refusals.NO_ARGUMENT_ALLOWED)


def parse_words(argument: bytes) -> tuple[str, ...]:
    """Words of printable ASCII. Raises `CommandRefused`."""
    if _WORDS.fullmatch(argument) is None:
        raise CommandRefused(refusals.UNREADABLE_COMMAND)
    return tuple(argument.decode("ascii").split())


def parse_bdat(argument: bytes) -> tuple[int, bool]:
    """The octets of a chunk, and whether it is the last one. Raises `CommandRefused`."""
    match = _BDAT.fullmatch(argument)
    if match is None:
        raise CommandRefused(refusals.BAD_CHUNK_SIZE)
    return int(match[1]), match[2] is not None


def parse_auth(argument: bytes, offered: tuple[str, ...]) -> AuthStart:
    """What follows `AUTH `. The case of base64 is kept. Raises `CommandRefused`."""
    match = _AUTH.fullmatch(argument)
    if match is None:
        raise CommandRefused(refusals.UNREADABLE_COMMAND if argument else refusals.ARGUMENT_NEEDED)
    mechanism = match[1].decode("ascii").upper()
    if mechanism not in offered:
        raise CommandRefused(refusals.UNKNOWN_MECHANISM)
    if match[2] is None:
        return AuthStart(mechanism, None)
    # RFC 4954 §4: "=" is an initial response of no octets.
    return AuthStart(mechanism, b"" if match[2] == b"=" else decode_base64(match[2]))


def decode_base64(text: bytes) -> bytes:
    """Strict base64, RFC 4648 §4. Raises `CommandRefused`."""
    # The standard library's own strict mode lets padding behind a whole group pass.
    if _BASE64.fullmatch(text) is None:
        raise CommandRefused(refusals.BAD_BASE64)
    return binascii.a2b_base64(text)
