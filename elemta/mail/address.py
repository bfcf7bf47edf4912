"""Mail addresses with their domains in the one form that comparisons need.

What is not here: the grammar that finds an address inside a command (`smtp.grammar`), or who may use it (`inbound`).
An `Address` is built only from parts that were already checked; `smtp.grammar.parse_address` checks them.
"""

from attrs import frozen

#: Characters that a local part may hold without quotes, RFC 5321 §4.1.2 (Atom and dots); RFC 6531 §3.3 adds non-ASCII.
_DOT_STRING = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-/=?^_`{|}~.")


def _needs_quotes(local: str) -> bool:
    if not local or local[0] == "." or local[-1] == "." or ".." in local:
        return True
    return any(char not in _DOT_STRING and char.isascii() for char in local)


@frozen
class Address:
    """A mailbox: local part (unquoted, case kept) at a domain.

    `domain` is lower-case with A-labels (RFC 5890 §2.3.2.1), or an address literal with its brackets, or empty for the
    bare `postmaster` of RFC 5321 §4.1.1.3.
    """

    local: str
    domain: str

    def __str__(self) -> str:
        """The address as it stands between the angle brackets of a path, RFC 5321 §4.1.2."""
        local = self.local
        if _needs_quotes(local):
            escaped = local.replace("\\", "\\\\").replace('"', '\\"')
            local = f'"{escaped}"'
        return f"{local}@{self.domain}" if self.domain else local

    @property
    def is_ascii(self) -> bool:
        """False when a hop must offer SMTPUTF8 to take this address, RFC 6531 §3.2."""
        return self.local.isascii()
