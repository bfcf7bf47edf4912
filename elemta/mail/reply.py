"""SMTP replies, the one type used from parser to log to bounce.

What is not here: which reply is given when (`smtp`, `inbound`), or how a received one is parsed (`smtp.client`).
RFC 5321 §4.2 defines codes, RFC 2034 §4 the enhanced status codes, RFC 3463 §2 their form.
Failures raised: `ValueError` for a reply that could not be put on the wire.
"""

from attrs import field, frozen

#: Octets of one reply line with its CRLF: RFC 5321 §4.5.3.1.5.
MAX_REPLY_LINE_OCTETS = 512


def _lines(text: object) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else tuple(text)  # type: ignore[arg-type]  # attrs passes object


@frozen
class Reply:
    """One SMTP reply.

    `code` is three digits, `enhanced` is `class.subject.detail` or empty, `lines` holds the texts without codes,
    at least one. A reply from a remote host keeps what the host said, made printable.
    """

    code: int
    enhanced: str = ""
    lines: tuple[str, ...] = field(default=("",), converter=_lines)
    #: What `render` gave: most replies are constants, sent thousands of times.
    _wire: bytes = field(default=b"", init=False, eq=False, repr=False)

    @property
    def is_positive(self) -> bool:
        """True for 2yz; and for 3yz, which asks for more. RFC 5321 §4.2.1."""
        return 200 <= self.code < 400

    @property
    def is_transient(self) -> bool:
        """True for 4yz: the same request may succeed later. RFC 5321 §4.2.1."""
        return 400 <= self.code < 500

    @property
    def is_permanent(self) -> bool:
        """True for 5yz: repeating the request does not help. RFC 5321 §4.2.1."""
        return 500 <= self.code < 600

    @property
    def text(self) -> str:
        """All lines as one, for logs and tables."""
        return " ".join(self.lines)

    def __str__(self) -> str:
        words = (str(self.code), self.enhanced, self.text)
        return " ".join(word for word in words if word)

    def render(self) -> bytes:
        """The reply as it goes on the wire, CRLF included.

        The texts must be printable and short enough: they are written by us, so anything else is our defect.
        """
        return self._wire or self._render()

    def _render(self) -> bytes:
        prefix = f"{self.enhanced} " if self.enhanced else ""
        lines = self.lines
        text = "".join([f"{self.code}-{prefix}{line}\r\n" for line in lines[:-1]])
        text += f"{self.code} {prefix}{lines[-1]}\r\n"
        wire = text.encode()
        if wire.count(b"\n") != len(lines) or wire.count(b"\r") != len(lines):
            raise ValueError(f"a reply text holds a line break: {self.lines!r}")
        object.__setattr__(self, "_wire", wire)
        return wire
