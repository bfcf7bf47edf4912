"""The GS2 header, with which the messages of SCRAM as well as OAUTHBEARER begin.

What is not here: what a mechanism makes of the flag. RFC 5801 §4, RFC 5802 §7. Failures raised: `Refusal`, `Unfit`.
"""

import enum
import re

from attrs import frozen

from elemta.auth.sasl.base import Refusal
from elemta.auth.sasl.preparation import prepare_name

#: RFC 5801 §4: gs2-header = [gs2-nonstd-flag ","] gs2-cb-flag "," [gs2-authzid] ","; the flag `F` is for mechanisms of
#: GSS-API that have a form of their own, which none of ours is.
_HEADER = re.compile(rb"(?:(n)|(y)|p=([A-Za-z0-9.-]{1,64})),(?:a=([^,]{1,1024}))?,")


class BindingFlag(enum.Enum):
    """What the client knows of channel binding, RFC 5802 §6."""

    UNSUPPORTED = "n"
    #: The client could, but believes that the server cannot.
    NOT_OFFERED = "y"
    USED = "p"


@frozen
class Gs2Header:
    """A header: as it came, the type of binding that the client uses (None for none), the prepared authzid or empty."""

    octets: bytes
    flag: BindingFlag
    binding_type: str | None
    authzid: str


def read_header(message: bytes) -> tuple[Gs2Header, bytes]:
    """The header of a message, then what follows it. Raises `Refusal`, `Unfit`."""
    found = _HEADER.match(message)
    if found is None:
        raise Refusal("a message without a GS2 header")
    binding_type = found[3].decode() if found[3] else None
    flag = BindingFlag.USED if found[3] else BindingFlag(message[:1].decode())
    authzid = read_saslname(found[4]) if found[4] else ""
    return Gs2Header(found[0], flag, binding_type, authzid), message[found.end() :]


def read_saslname(name: bytes) -> str:
    """A prepared name; RFC 5802 §5.1 writes `,` as `=2C` and `=` as `=3D`. Raises `Refusal`, `Unfit`."""
    bare = name.replace(b"=2C", b"").replace(b"=3D", b"")
    if b"=" in bare or b"," in bare:
        raise Refusal("a name with a bare = or a bare comma")
    return prepare_name(name.replace(b"=2C", b",").replace(b"=3D", b"="))
