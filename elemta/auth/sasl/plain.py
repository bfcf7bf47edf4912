"""PLAIN, RFC 4616.

What is not here: whether the password is right. Failures raised: none.
"""

from elemta.auth.sasl.base import Challenge, CheckPassword, Exchange, Fault, Outcome, Refusal
from elemta.auth.sasl.preparation import check_password, prepare_name


class Plain(Exchange):
    """message = [authzid] NUL authcid NUL passwd, RFC 4616 §2."""

    def __init__(self) -> None:
        super().__init__(self._read_message, prompt=Challenge(b""))

    def _read_message(self, response: bytes) -> Outcome:
        parts = response.split(b"\0")
        if len(parts) != 3:
            raise Refusal("PLAIN has two NUL")
        authzid, authcid, password = parts
        user = prepare_name(authcid)
        acting_as = prepare_name(authzid) if authzid else ""
        check_password(password)
        if acting_as not in ("", user):
            raise Refusal("acting as another user", Fault.CREDENTIALS)
        return CheckPassword(user, password, acting_as)
