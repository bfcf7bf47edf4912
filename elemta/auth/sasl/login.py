"""LOGIN, draft-murchison-sasl-login-00.

What is not here: whether the password is right. Failures raised: none.

The draft prompts by `User Name` and `Password` with a NUL behind each, and clients should look at neither. Some do
(old Outlooks), and the words that they know are those that servers really send.
"""

from elemta.auth.sasl.base import Challenge, CheckPassword, Exchange, Outcome
from elemta.auth.sasl.preparation import check_password, prepare_name

USER_PROMPT = b"Username:"
PASSWORD_PROMPT = b"Password:"


class Login(Exchange):
    """The name, which may come along with the command, then the password."""

    def __init__(self) -> None:
        super().__init__(self._read_name, prompt=Challenge(USER_PROMPT))
        self._user = ""

    def _read_name(self, response: bytes) -> Outcome:
        self._user = prepare_name(response)
        return self._ask(PASSWORD_PROMPT, self._read_password)

    def _read_password(self, response: bytes) -> Outcome:
        check_password(response)
        return CheckPassword(self._user, response)
