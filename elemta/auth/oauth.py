"""Bearer tokens, validated by who gave them out.

What is not here: the mechanisms that show tokens (`auth.sasl`). RFC 7662 is the question and its answer, RFC 6749
§2.3.1 how we say who asks. The token's text is kept nowhere: the cache holds digests under a key of this process.
Failures raised: `ValidatorAway`, for whatever is no clear answer; `elemta.auth.base` says what a client hears then.

`httpx` is imported at the first question: a server without tokens does not pay for it.
"""

import hmac
import json
import os
import ssl
from collections import OrderedDict
from math import inf
from typing import TYPE_CHECKING, Final
from urllib.parse import quote_plus

import trio
from attrs import field, frozen

from elemta.auth.records import LAST_SECOND
from elemta.auth.tokens import ValidatorAway
from elemta.runtime.clock import Clock
from elemta.runtime.threads import Threads

if TYPE_CHECKING:
    import httpx

#: Seconds that an answer is good for, at most: so long a token that was withdrawn still works.
MAX_CACHE_SECONDS: Final = 60.0
#: Tokens that are remembered, 150 octets each.
MAX_CACHED: Final = 10_000
#: Connections to the authorization server, and questions that use one at once.
MAX_CONNECTIONS: Final = 8
#: Octets of an answer: claims of one token.
MAX_ANSWER_OCTETS: Final = 64 * 1024
#: Octets of the key of the digests.
KEY_OCTETS: Final = 32


@frozen
class IntrospectionOptions:
    """Whom to ask, and as whom. `scope` is one that a token must have, empty for none; `seconds` are for one answer."""

    url: str
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    user_claim: str = "username"
    scope: str = ""
    seconds: float = 10.0


class Introspection:
    """Asks the authorization server; see `auth.tokens.TokenValidator`."""

    def __init__(self, options: IntrospectionOptions, threads: Threads, clock: Clock) -> None:
        self._options = options
        self._threads = threads
        self._clock = clock
        self._key = os.urandom(KEY_OCTETS)
        #: Digest → the owner, until when on Trio's clock.
        self._known: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        self._turns = trio.CapacityLimiter(MAX_CONNECTIONS)
        self._making = trio.Lock()
        self._client: httpx.AsyncClient | None = None

    async def owner(self, token: str) -> str | None:
        """The name of the user whom a token stands for; None where it is not good. Raises `ValidatorAway`."""
        digest = hmac.digest(self._key, token.encode(), "sha256")
        found = self._known.get(digest)
        if found is not None and trio.current_time() < found[1]:
            return found[0]
        says = await self._asked(token)
        owner, seconds = self.read(says)
        if owner is not None and seconds > 0:
            self._known[digest] = owner, trio.current_time() + seconds
            self._known.move_to_end(digest)
            while len(self._known) > MAX_CACHED:
                self._known.popitem(last=False)
        return owner

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    def read(self, says: dict[str, object]) -> tuple[str | None, float]:
        """The owner, and for how many seconds that is good. RFC 7662 §2.2: only `active` is always there.

        Raises `ValidatorAway`.
        """
        if says.get("active") is not True:
            return None, 0.0
        owner = says.get(self._options.user_claim)
        seconds = min(MAX_CACHE_SECONDS, self._end(says) - self._clock.wall())
        scope = says.get("scope", "")
        scopes = scope.split() if isinstance(scope, str) else ()
        lacks_scope = self._options.scope and self._options.scope not in scopes
        if not isinstance(owner, str) or seconds <= 0 or lacks_scope:
            return None, 0.0
        return owner, seconds

    def _end(self, says: dict[str, object]) -> float:
        """When the token ends, in seconds since 1970. Raises `ValidatorAway` for what is no time."""
        expires = says.get("exp")
        if expires is None:
            return inf
        if isinstance(expires, bool) or not isinstance(expires, int | float) or not expires >= 0:  # as NaN is not
            raise ValidatorAway(f"{self._options.url}: the token's end (exp) is no time")
        return min(expires, LAST_SECOND)  # an int may be too large for a float

    async def _asked(self, token: str) -> dict[str, object]:
        """The server's answer. Raises `ValidatorAway`."""
        import httpx

        client = await self._ready()
        form = {"token": token, "token_type_hint": "access_token"}
        try:
            with trio.fail_after(self._options.seconds):
                async with self._turns, client.stream("POST", self._options.url, data=form) as response:
                    return await self._parsed(response)
        except trio.TooSlowError:
            raise ValidatorAway(f"{self._options.url}: no answer within {self._options.seconds:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ValidatorAway(f"{self._options.url}: {type(error).__name__}") from None

    async def _parsed(self, response: "httpx.Response") -> dict[str, object]:
        place = self._options.url
        if response.status_code != 200:
            raise ValidatorAway(f"{place}: it answers {response.status_code} (are client_id and client_secret right?)")
        octets, size = b"", 0
        # To its end, whatever its size: httpx's generators are not to be left in the middle. Time is what bounds it.
        async for piece in response.aiter_raw():
            size += len(piece)
            if size <= MAX_ANSWER_OCTETS:
                octets += piece
        if size > MAX_ANSWER_OCTETS:
            raise ValidatorAway(f"{place}: an answer of more than {MAX_ANSWER_OCTETS} octets")
        try:
            says = json.loads(octets)
        except (ValueError, RecursionError):
            raise ValidatorAway(f"{place}: the answer is no JSON") from None
        if not isinstance(says, dict):
            raise ValidatorAway(f"{place}: the answer is no object of JSON")
        return says

    async def _ready(self) -> "httpx.AsyncClient":
        import httpx

        async with self._making:
            if self._client is None:
                # The system's authorities are read from files.
                context = await self._threads.run(None, ssl.create_default_context)
                self._client = httpx.AsyncClient(
                    auth=self._credentials(),
                    verify=context,
                    trust_env=False,  # a proxy of the environment would see the tokens
                    follow_redirects=False,
                    timeout=self._options.seconds,
                    limits=httpx.Limits(max_connections=MAX_CONNECTIONS),
                    headers={"accept": "application/json", "accept-encoding": "identity"},
                )
            return self._client

    def _credentials(self) -> tuple[str, str] | None:
        """RFC 6749 §2.3.1: both form-encoded before they become a user and a password."""
        if not self._options.client_id:
            return None
        return quote_plus(self._options.client_id), quote_plus(self._options.client_secret)
