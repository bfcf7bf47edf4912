"""One attempt at a certificate, with the cabinet around it.

Alone among processes, on the account's key of the cabinet, within a deadline; what comes of it lies in the cabinet when
the attempt has succeeded, and nothing there changes when it fails. What is not here: the steps with the authority
(`tls.acme.order`), or when to attempt (`tls.acme.service`).
Failures raised: `AuthorityFailed`, `ChallengeFailed`, `CabinetBusy`, `OSError`, `Overdue`.
"""

import contextlib
from collections.abc import Callable

import trio
from attrs import field, frozen

from elemta.runtime.threads import Threads
from elemta.tls.acme.base import Authority, Binding, Window
from elemta.tls.acme.cabinet import Cabinet, certificate_path
from elemta.tls.acme.keys import Pair, PrivateKey, Unsound, key_pem, make_key, read_pair
from elemta.tls.acme.library import load_account_key
from elemta.tls.acme.order import Ordering, Solver, Tell, Wanted

#: The kind of an account's key: what every authority takes, RFC 8555 §6.2.
ACCOUNT_KEY_TYPE = "ecdsa-p256"


class Overdue(Exception):
    """An attempt took longer than it may; the text says what it was waiting for."""


@frozen
class Terms:
    """What is ordered, of whom, within how many seconds."""

    directory_url: str
    names: tuple[str, ...]
    email: str = ""
    agrees: bool = True
    binding: Binding | None = field(default=None, repr=False)
    profile: str = ""
    key_type: str = "ecdsa-p256"
    #: Seconds for one attempt.
    timeout: float = 300.0
    #: Whether what is ordered is kept: not in a rehearsal.
    keeps: bool = True


#: Makes an authority for an account's key: the library's, or a scripted one.
MakeAuthority = Callable[[PrivateKey], Authority]


class Issuer:
    """Makes attempts for one certificate."""

    def __init__(
        self, terms: Terms, cabinet: Cabinet, solver: Solver, *, make_authority: MakeAuthority, threads: Threads
    ) -> None:
        self.terms = terms
        self.cabinet = cabinet
        self.path = certificate_path(str(cabinet.folder), terms.names[0])
        self._solver = solver
        self._make_authority = make_authority
        self._threads = threads
        self._limiter = trio.CapacityLimiter(1)

    async def read(self) -> Pair | None:
        """The pair that lies in the cabinet, None when there is none that serves for these names. Raises `OSError`."""
        return await self._threads.run(self._limiter, self._read)

    def _read(self) -> Pair | None:
        try:
            pair = read_pair(self.cabinet.read(self.path))
        except Unsound:
            return None
        return pair if set(self.terms.names) <= pair.names else None

    async def issue(self, current: Pair | None, *, tell: Tell = lambda _: None) -> Pair:
        """Order a certificate instead of `current`; the one that another process has ordered meanwhile will do.

        Raises every failure of this module.
        """
        said = ["beginning"]

        def heard(step: str) -> None:
            said[0] = step
            tell(step)

        try:
            with trio.fail_after(self.terms.timeout):
                return await self._issue(current, heard)
        except trio.TooSlowError:
            raise Overdue(f"it was not done within {self.terms.timeout:g} s, at the step: {said[0]}") from None

    async def _issue(self, current: Pair | None, tell: Tell) -> Pair:
        with contextlib.ExitStack() as stack:
            await self._threads.run(self._limiter, stack.enter_context, self.cabinet.lock())
            found = await self.read()
            if self.terms.keeps and found is not None and (current is None or found.serial != current.serial):
                return found
            authority = self._make_authority(await self.account_key())
            try:
                wanted = Wanted(
                    names=self.terms.names,
                    email=self.terms.email,
                    agrees=self.terms.agrees,
                    binding=self.terms.binding,
                    profile=self.terms.profile,
                    key_type=self.terms.key_type,
                    replaces="" if current is None else current.id,
                )
                pair = await Ordering(authority, self._solver, threads=self._threads, tell=tell).run(wanted)
                if not self.terms.keeps:
                    return pair
                # It counts at the authority from here on: a shutdown must not lose it.
                with trio.CancelScope(shield=True):
                    await self._threads.run(self._limiter, self.cabinet.write, self.path, pair.pem)
                return pair
            finally:
                await authority.aclose()

    async def window(self, pair: Pair) -> Window | None:
        """When the authority would have it renewed. Raises `AuthorityFailed`, `OSError`."""
        authority = self._make_authority(await self.account_key())
        try:
            directory = await authority.directory()
            return await authority.window(pair.id) if directory.suggests_renewal else None
        finally:
            await authority.aclose()

    async def account_key(self) -> PrivateKey:
        """The account's key for this authority; made when there is none. Raises `OSError`."""
        return await self._threads.run(self._limiter, self._account_key)

    def _account_key(self) -> PrivateKey:
        path = self.cabinet.account_path(self.terms.directory_url)
        pem = self.cabinet.read(path)
        if pem:
            try:
                return load_account_key(pem)
            except (ValueError, TypeError):
                raise OSError(f"{path} holds no key of an account; move it away to have a new account made") from None
        key = make_key(ACCOUNT_KEY_TYPE)
        self.cabinet.write(path, key_pem(key))
        return key
