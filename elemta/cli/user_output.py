"""What `elemta user` prints of users.

What is not here: tables and JSON themselves (`cli.output`). No hash and no verifier is ever printed, only of which form
it is.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from elemta.cli.output import Column

if TYPE_CHECKING:
    from elemta.auth.base import User

COLUMNS = (
    Column("name", "NAME"),
    Column("email", "EMAIL"),
    Column("status", "STATUS"),
    Column("password", "PASSWORD"),
    Column("groups", "GROUPS"),
    Column("last_login", "LAST LOGIN"),
)

#: What stands for a password that no login can be checked against: plain text, or a form that is not known.
UNUSABLE = "unusable password"
NONE = "none"

_BEGINNINGS = {
    "$argon2": "argon2",
    "$2": "bcrypt",
    "$5$": "sha256-crypt",
    "$6$": "sha512-crypt",
    "$apr1$": "apr1",
    "$pbkdf2": "pbkdf2",
    "pbkdf2": "pbkdf2",
}


def password_form(stored: str) -> str:
    """Of which form a stored password is."""
    from elemta.auth.passwords import read_form
    from elemta.auth.passwords_form import UnknownForm

    if not stored:
        return NONE
    try:
        read_form(stored)
    except UnknownForm:
        return UNUSABLE
    if stored.startswith("{"):
        return stored[1:].partition("}")[0].lower()
    return next((form for beginning, form in _BEGINNINGS.items() if stored.startswith(beginning)), "known")


def cells_of(user: "User") -> Mapping[str, object]:
    """A row of the table."""
    return {
        "name": user.name,
        "email": user.email or None,
        "status": ("admin" if user.is_admin else "active") if user.is_active else "disabled",
        "password": password_form(user.password) + (", scram" if user.scram else ""),
        "groups": " ".join(user.groups) or None,
        "last_login": _moment(user.last_login_at),
    }


def document_of(user: "User") -> dict[str, object]:
    """A user as JSON."""
    return {
        "name": user.name,
        "email": user.email,
        "full_name": user.full_name,
        "is_active": user.is_active,
        "is_admin": user.is_admin,
        "groups": list(user.groups),
        "attributes": dict(user.attributes),
        "password": password_form(user.password),
        "scram": bool(user.scram),
        "created_at": _moment(user.created_at),
        "updated_at": _moment(user.updated_at),
        "last_login_at": _moment(user.last_login_at),
    }


def facts_of(user: "User") -> dict[str, object]:
    """What says something of one user, for a person."""
    facts = document_of(user)
    attributes = {f"attribute {key}": value for key, value in user.attributes.items()}
    shown = {key: value for key, value in facts.items() if key not in ("groups", "attributes")}
    shown |= {"groups": " ".join(user.groups), **attributes}
    return {key: value for key, value in shown.items() if value not in (None, "")}


def _moment(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
