"""An authority asked through the `acme` library.

One exchange a step, in a thread of a limiter of its own: the library's own loops sleep, so none of them is called.
What is not here: the order of steps, any waiting (`tls.acme.order`). The modules imported here are slow: import this
one late. RFC 8555, RFC 9773 §4 for renewal information and `replaces`.
Failures raised: those of `tls.acme.base` alone, whatever the library, the network or the authority does.
"""

import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn, TypeVar

import trio
from acme import client, errors, messages
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import load_der_x509_csr
from josepy.b64 import b64encode
from josepy.errors import Error as JoseError
from josepy.json_util import JSONObjectWithFields, field
from josepy.jwa import ES256, ES384, RS256, JWASignature
from josepy.jwk import JWK, JWKEC, JWKRSA
from josepy.util import ComparableECKey, ComparableRSAKey

from elemta import __version__
from elemta.runtime.threads import Threads
from elemta.tls.acme.base import (
    AccountRequest,
    AuthorityAway,
    AuthorityFailed,
    AuthorityRefused,
    Authorization,
    Challenge,
    Directory,
    Kind,
    Order,
    OrderRequest,
    RateLimited,
    Status,
    Window,
)
from elemta.tls.acme.cabinet import TOKEN
from elemta.tls.acme.keys import PrivateKey

T = TypeVar("T")

#: Seconds for a connection, and for each piece of an answer; the total is bounded by the one below.
CONNECT_SECONDS = 5.0
PIECE_SECONDS = 10.0
#: Seconds for an answer in all; Let's Encrypt answers within five. A shutdown waits so long for a step under way.
ANSWER_SECONDS = 20.0
#: Octets of an answer: a chain has some thousands.
MOST_ANSWER_OCTETS = 1024 * 1024
#: Threads: the steps of an order follow one another.
THREADS = 1
#: Characters of an authority's own words that are kept: some sentences.
MOST_DETAIL_CHARACTERS = 300

#: What comes of an answer that is another JSON than it should be, or nested deeper than anybody reads.
_NOT_JSON = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
_CHUNK_OCTETS = 16_384
_KINDS = {kind.value: kind for kind in Kind}
_REVOKED_LIKE_INVALID = {"deactivated": Status.INVALID, "expired": Status.INVALID, "revoked": Status.INVALID}


class _NewOrder(messages.NewOrder):
    """The library's new order with RFC 9773 §5."""

    replaces: str | None = field("replaces", omitempty=True)


class _Network(client.ClientNetwork):
    """The library's HTTP with bounds on an answer's time and size, and with the last Retry-After remembered."""

    def __init__(self, key: JWK, algorithm: JWASignature, *, ca_file: str | None) -> None:
        # The library says bool; requests takes the name of a file or folder as well.
        trust: Any = ca_file or _system_trust()
        super().__init__(key, alg=algorithm, verify_ssl=trust, user_agent=f"elemta/{__version__}")
        self.retry_after: float | None = None
        #: How far our clock is ahead of the authority's, in seconds.
        self.ahead: float | None = None

    def _send_request(self, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        self.retry_after = None
        kwargs["headers"] = {"User-Agent": self.user_agent, **kwargs.get("headers", {})}
        # A signed request is good for one URL, RFC 8555 §6.4.
        kwargs |= {"verify": self.verify_ssl, "timeout": (CONNECT_SECONDS, PIECE_SECONDS)}
        kwargs |= {"stream": True, "allow_redirects": method != "POST"}
        response = self.session.request(method, url, *args, **kwargs)
        if response.is_redirect:
            raise AuthorityAway(f"it answers what is not ACME: HTTP status {response.status_code}")
        response._content = _whole(response, time.monotonic() + ANSWER_SECONDS)
        response.encoding = "utf-8"
        now = time.time()
        self.retry_after = retry_after_seconds(response.headers.get("Retry-After"), now)
        date = _timestamp(response.headers.get("Date", ""))
        self.ahead = None if date is None else now - date
        return response


def _whole(response: Any, deadline: float) -> bytes:
    """The answer's body within its bounds. Raises `AuthorityAway`."""
    body = b""
    with response:
        for piece in response.iter_content(_CHUNK_OCTETS):
            body += piece
            if len(body) > MOST_ANSWER_OCTETS:
                raise AuthorityAway(f"its answer has more than {MOST_ANSWER_OCTETS} octets")
            if time.monotonic() > deadline:
                raise AuthorityAway(f"its answer took longer than {ANSWER_SECONDS:g} s")
    return body


def _system_trust() -> str | bool:
    """Where this system keeps whom it trusts; True means the library's own list."""
    found = ssl.get_default_verify_paths()
    return found.cafile or found.capath or True


def retry_after_seconds(value: str | None, now: float) -> float | None:
    """The seconds of a Retry-After (RFC 9110 §10.2.3), which are a number or a date; None for anything else."""
    text = (value or "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:10])
    date = _timestamp(text)
    return None if date is None else max(0.0, date - now)


def _timestamp(text: str) -> float | None:
    """A date of HTTP in seconds since 1970."""
    try:
        date = parsedate_to_datetime(text)
        return date.replace(tzinfo=date.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        return None


class LibraryAuthority:
    """An `Authority` at a directory's URL, for one account's key."""

    def __init__(self, directory_url: str, key: PrivateKey, *, threads: Threads, ca_file: str | None = None) -> None:
        self._url = directory_url
        self._threads = threads
        self._limiter = trio.CapacityLimiter(THREADS)
        self._key, algorithm = _account_key(key)
        self._net = _Network(self._key, algorithm, ca_file=ca_file)
        self._found: messages.Directory | None = None

    async def directory(self) -> Directory:
        """What it offers."""
        return await self._step(self._get_directory)

    async def register(self, request: AccountRequest) -> str:
        """Find or make the account; returns its URL."""
        return await self._step(self._register, request)

    async def new_order(self, request: OrderRequest) -> Order:
        """Order a certificate for names."""
        identifiers = [messages.Identifier(typ=messages.IDENTIFIER_FQDN, value=name) for name in request.names]
        body = _NewOrder(identifiers=identifiers, profile=request.profile or None, replaces=request.replaces or None)
        return await self._step(self._ask_order, self._resource("newOrder"), body, "")

    async def authorization(self, url: str) -> Authorization:
        """How control over one name stands."""
        return await self._step(self._ask_authorization, url)

    async def answer(self, challenge: Challenge) -> None:
        """Say that a challenge is met: an empty object, RFC 8555 §7.5.1."""
        await self._step(self._post, challenge.url, _Empty())

    async def order(self, url: str) -> Order:
        """How an order stands."""
        return await self._step(self._ask_order, url, None, url)

    async def finalize(self, order: Order, csr: bytes) -> Order:
        """Hand over the signing request, DER."""
        body = messages.CertificateRequest(csr=load_der_x509_csr(csr))
        return await self._step(self._ask_order, order.finalize, body, order.url)

    async def certificate(self, url: str) -> bytes:
        """The certificate with its chain, PEM."""
        return await self._step(self._ask_certificate, url)

    async def window(self, certificate_id: str) -> Window | None:
        """When to renew a certificate, None when the authority does not say such things."""
        base = "" if self._found is None else _member(self._found, "renewalInfo")
        if not base or not certificate_id:
            return None
        return await self._step(self._ask_window, f"{base.rstrip('/')}/{certificate_id}")

    def key_authorization(self, token: str) -> str:
        """What proves a token to be answered by the account, RFC 8555 §8.1."""
        return f"{token}.{b64encode(self._key.thumbprint(hash_function=hashes.SHA256)).decode()}"

    @property
    def clock_ahead(self) -> float | None:
        """Seconds that our clock is ahead of the authority's, None before it answered."""
        return self._net.ahead

    async def aclose(self) -> None:
        """Let go of connections."""
        self._net.session.close()

    # ---- in the thread ---------------------------------------------------------------------------

    async def _step(self, function: Callable[..., T], *args: Any) -> T:
        return await self._threads.run(self._limiter, self._translated, function, *args)

    def _translated(self, function: Callable[..., T], *args: Any) -> T:
        """The one place where foreign failures become ours."""
        try:
            return function(*args)
        except AuthorityFailed:
            raise
        except messages.Error as error:
            self._raise_problem(error)
        except errors.ConflictError as error:
            raise AuthorityRefused("conflict", "what is asked for is there already") from error
        except errors.ClientError as error:
            raise _not_acme(error) from error
        except OSError as error:
            # The exceptions of requests are among these.
            raise AuthorityAway(f"{self._url} is not reached: {_innermost(error)}") from error
        except (errors.Error, JoseError, *_NOT_JSON) as error:
            raise AuthorityAway(f"{self._url} answers what is not ACME ({type(error).__name__})") from error

    def _raise_problem(self, error: messages.Error) -> NoReturn:
        refused = refused_of(error)
        if refused.problem == "rateLimited":
            raise RateLimited(refused.detail, self._net.retry_after) from error
        if refused.problem == "serverInternal":
            raise AuthorityAway(f"it has trouble of its own: {refused.detail}") from error
        raise refused from error

    def _get_directory(self) -> Directory:
        found = client.ClientV2.get_directory(self._url, self._net)
        for name in ("newNonce", "newAccount", "newOrder"):
            if not _member(found, name):
                raise AuthorityAway(f"{self._url} is no ACME directory: it names no {name}")
        self._found = found
        meta = found.meta
        return Directory(
            terms=meta.terms_of_service or "",
            needs_binding=bool(meta.external_account_required),
            caa_identities=tuple(meta.caa_identities or ()),
            profiles=tuple(meta.profiles or ()),
            suggests_renewal=bool(_member(found, "renewalInfo")),
        )

    def _register(self, request: AccountRequest) -> str:
        assert self._found is not None, "directory() is the first step"
        binding = None
        if request.binding is not None and request.agrees:
            public = self._key.public_key()
            key_id, secret = request.binding.key_id, request.binding.hmac_key.rstrip("=")
            binding = messages.ExternalAccountBinding.from_data(public, key_id, secret, self._found)
        body = messages.NewRegistration.from_data(
            email=request.email or None,
            external_account_binding=binding,
            terms_of_service_agreed=request.agrees or None,
            only_return_existing=None if request.agrees else True,
        )
        self._net.account = None
        response = self._post(self._resource("newAccount"), body)
        url = str(response.headers["Location"])
        self._net.account = messages.RegistrationResource(uri=url, body=messages.Registration())
        return url

    def _ask_order(self, url: str, body: Any, order_url: str) -> Order:
        response = self._post(url, body)
        found = messages.Order.from_json(response.json())
        return Order(
            url=order_url or str(response.headers["Location"]),
            status=_status(found.status),
            authorizations=tuple(found.authorizations or ()),
            finalize=found.finalize,
            certificate=found.certificate or "",
            problem=None if found.error is None else refused_of(found.error),
            retry_after=self._net.retry_after,
        )

    def _ask_authorization(self, url: str) -> Authorization:
        found = self._post(url, None).json()
        rows = [row for row in found["challenges"] if isinstance(row, dict)]
        problem = next((row["error"] for row in rows if row.get("error")), None)
        return Authorization(
            url=url,
            name=str(found["identifier"]["value"]),
            status=_status(messages.Status.from_json(found["status"])),
            challenges=tuple(_challenge(row) for row in rows if row["type"] in _KINDS),
            problem=None if problem is None else refused_of(messages.Error.from_json(problem)),
        )

    def _ask_certificate(self, url: str) -> bytes:
        return bytes(self._post(url, None).content)

    def _ask_window(self, url: str) -> Window:
        found = self._net.get(url).json()["suggestedWindow"]
        start, end = (datetime.fromisoformat(found[name]).timestamp() for name in ("start", "end"))
        return Window(start, end, self._net.retry_after)

    def _post(self, url: str, body: Any) -> Any:
        return self._net.post(url, body, new_nonce_url=self._resource("newNonce"))

    def _resource(self, name: str) -> str:
        assert self._found is not None, "directory() is the first step"
        return str(self._found[name])


def _challenge(row: dict[str, Any]) -> Challenge:
    token = str(row["token"])
    if TOKEN.fullmatch(token.encode()) is None:
        raise ValueError("a token is base64url")
    return Challenge(str(row["url"]), _KINDS[row["type"]], token)


class _Empty(JSONObjectWithFields):
    """An object without members."""

    def __bool__(self) -> bool:
        # The library takes a false one for no object.
        return True


def refused_of(error: messages.Error) -> AuthorityRefused:
    """A problem document in our words."""
    problem = str(error.typ).rpartition(":")[2]
    details = [error.detail or error.title, *(sub.detail for sub in error.subproblems or ())]
    detail = "; ".join(dict.fromkeys(str(text) for text in details if text))
    return AuthorityRefused(problem[:MOST_DETAIL_CHARACTERS], detail[:MOST_DETAIL_CHARACTERS])


def _status(status: messages.Status) -> Status:
    return _REVOKED_LIKE_INVALID.get(status.name) or Status(status.name)


def _account_key(key: PrivateKey) -> tuple[JWK, JWASignature]:
    if isinstance(key, rsa.RSAPrivateKey):
        return JWKRSA(key=ComparableRSAKey(key)), RS256
    algorithm = ES256 if isinstance(key.curve, ec.SECP256R1) else ES384
    return JWKEC(key=ComparableECKey(key)), algorithm


def load_account_key(pem: bytes) -> PrivateKey:
    """The key of an account. Raises `ValueError` for anything else."""
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ValueError("this is no key of an account")
    return key


def _member(directory: messages.Directory, name: str) -> str:
    try:
        return str(directory[name])
    except KeyError:
        return ""


def _not_acme(error: errors.ClientError) -> AuthorityFailed:
    """An answer that is no problem document: 5xx says that it is away, others that we asked the wrong one."""
    response = error.args[0] if error.args else None
    status = getattr(response, "status_code", None)
    said = f"HTTP status {status}" if isinstance(status, int) else str(error)[:MOST_DETAIL_CHARACTERS]
    return AuthorityAway(f"it answers what is not ACME: {said}")


def _innermost(error: BaseException) -> str:
    """What went wrong at the bottom, without the library's wrapping."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        nested = [each for each in error.args if isinstance(each, BaseException)]
        reason = getattr(error.args[0], "reason", None) if error.args else None
        deeper = reason if isinstance(reason, BaseException) else (nested[-1] if nested else error.__cause__)
        if deeper is None:
            break
        error = deeper
    text = getattr(error, "strerror", None) or str(error)
    return (text.rpartition(">: ")[2] or type(error).__name__)[:MOST_DETAIL_CHARACTERS]
