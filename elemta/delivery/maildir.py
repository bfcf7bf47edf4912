"""The transport that puts mail into Maildirs.

What is not here: which recipients exist (`delivery.local`), the files themselves (`delivery.letter`), or reading them.

A route names a template such as `/var/mail/{domain}/{local}`. What stands before the first placeholder is the
operator's: it must be there, and may lead over symbolic links. What comes after is made from addresses that strangers
choose, so each component is checked, and none may be a symbolic link. A Maildir that is there is used. A missing one is
made, 0700, with the folders above it, for a recipient that the configuration lists; anybody else has none, and gets
`550 5.1.1`. But where the operator's folder is empty, its file system is probably not mounted: then their mail waits.

A second delivery of a mail (after a crash) is a second file. Files that a crash left in `tmp` are the reader's to clean
up after 36 hours, as the Maildir's description has it.
Failures raised: `AttemptStopped`, and what reading the content raises; failures of the file system are outcomes.
"""

import errno
import re
from collections.abc import Callable, Sequence
from typing import Final

import trio
from attrs import frozen
from structlog.typing import FilteringBoundLogger

from elemta.config.routes import MAILDIR_PLACEHOLDER, split_maildir_path
from elemta.delivery.base import AttemptStopped, Content, Job
from elemta.delivery.letter import Letter, MailboxMissing, Target, Unsure, folder_is_there
from elemta.delivery.local import candidates, normal_local
from elemta.mail.address import Address
from elemta.mail.outcome import Deferred, Delivered, Failed, Outcome
from elemta.mail.reply import Reply
from elemta.runtime.clock import Clock
from elemta.runtime.threads import Threads

#: Octets of content in memory for one delivery; up to here a mail costs one thread hop.
PIECE_OCTETS: Final = 1024 * 1024
#: Deliveries that write at once. More only make the disk seek: its own queue is as deep.
MAX_THREADS: Final = 16
#: A component of a path, NAME_MAX of every common file system.
MAX_NAME_OCTETS: Final = 255

#: RFC 5321 §4.1.2: what an atom may hold beside letters and digits, without the solidus, with the dot of Dot-string.
_SPECIAL = frozenset("!#$%&'*+-=?^_`{|}~.")
#: `Address.domain`: A-labels, or an address literal with brackets and colons.
_DOMAIN = re.compile(r"[a-z0-9\[][a-z0-9.:_\[\]-]*\Z")
_CONTROLS = dict.fromkeys((*range(0x20), 0x7F), "?")

_DELIVERED = Delivered(Reply(250, "2.0.0", "delivered to the mailbox"))
_NO_MAILBOX = Failed(Reply(550, "5.1.1", "no such mailbox"))
_NO_SPACE = Deferred(Reply(452, "4.3.1", "no space is left for mail"))
_OVER_QUOTA = Deferred(Reply(452, "4.2.2", "the mailbox is full"))
_UNWRITABLE = Deferred(Reply(451, "4.3.0", "the mailbox cannot be written now"))
_UNSURE = Deferred(Reply(451, "4.3.0", "nobody can say whether the mailbox took the mail"), uncertain=True)


def folder_name(local: str) -> str | None:
    """A local part as a component of a path, in lower case; None for one that is none or is no safe one.

    Letters, digits, and what an atom may hold but for `/`; no dot or hyphen in front. Two local parts that differ in
    more than case and composition never share a name.
    """
    name = normal_local(local)
    if not name or name[0] in ".-" or len(name.encode("utf-8", "replace")) > MAX_NAME_OCTETS:
        return None
    if not all(char.isalnum() or char in _SPECIAL for char in name):
        return None
    return name


@frozen
class Template:
    """The path of a Maildir with placeholders. `base` is the operator's folder, `parts` come below it."""

    base: str
    parts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Template":
        """Split a route's path. One without placeholders is a single Maildir for everybody. Raises `ValueError`."""
        base, parts = split_maildir_path(text)
        if ".." in parts:
            raise ValueError(f"{text!r} leads out of the folders that it names")
        return cls(base, parts)

    @property
    def tells_users_apart(self) -> bool:
        """Whether a Maildir that is there says that its user exists."""
        return any("{local}" in part for part in self.parts)

    def fill(self, address: Address) -> tuple[str, ...] | None:
        """The components below `base` for a mailbox; None when its name is no safe one."""
        local = folder_name(address.local)
        if local is None or not _DOMAIN.match(address.domain):
            return None
        values = {"local": local, "domain": address.domain}
        # One pass: a local part may itself read "{domain}".
        filled = tuple(MAILDIR_PLACEHOLDER.sub(lambda match: values[match[1]], part) for part in self.parts)
        return None if any(len(part.encode()) > MAX_NAME_OCTETS for part in filled) else filled


class Maildirs:
    """The mailboxes of one template: `delivery.local.Mailboxes` for those that exist."""

    def __init__(self, path: str, *, threads: Threads) -> None:
        self.template = Template.parse(path)
        self._threads = threads
        self._limiter = trio.CapacityLimiter(MAX_THREADS)

    async def holds(self, address: Address) -> bool:
        """Whether there is a Maildir of this very name. Raises `OSError` when that cannot be seen."""
        parts = self.template.fill(address)
        if parts is None or not self.template.tells_users_apart:
            return False
        return await self._threads.run(self._limiter, folder_is_there, self.template.base, parts)


class MaildirTransport:
    """Delivers into the Maildirs of one template. `listed` says whose Maildir is made when it is missing."""

    def __init__(
        self,
        path: str,
        listed: Callable[[Address], bool],
        *,
        hostname: str,
        clock: Clock,
        threads: Threads,
        log: FilteringBoundLogger,
    ) -> None:
        self._template = Template.parse(path)
        self._listed = listed
        # The Maildir's description: "/" and ":" of a host name would end the name or begin its flags.
        self._hostname = hostname.replace("/", r"\057").replace(":", r"\072")
        self._clock = clock
        self._threads = threads
        self._log = log
        self._limiter = trio.CapacityLimiter(MAX_THREADS)

    async def deliver(self, job: Job) -> Sequence[Outcome]:
        """One outcome a recipient, one thread hop for a mail of up to `PIECE_OCTETS`.

        Raises `AttemptStopped` when the gate closed before anything was delivered.
        """
        letters = self._letters(job)
        if not any(letters):
            return [_NO_MAILBOX] * len(letters)
        if job.content.size > PIECE_OCTETS:
            return await self._deliver_in_pieces(job, letters)
        octets = await _whole(job.content)
        if not await job.gate():
            raise AttemptStopped
        found = await self._threads.run(self._limiter, _write_all, letters, octets)
        return [self._outcome(job, letter, error) for letter, error in zip(letters, found, strict=True)]

    def _letters(self, job: Job) -> list[Letter | None]:
        now = self._clock.wall()
        seconds, micros = int(now), int(now % 1 * 1_000_000)
        letters: list[Letter | None] = []
        for index, recipient in enumerate(job.envelope.recipients):
            targets = self._targets(recipient.address)
            name = f"{seconds}.M{micros:06d}Q{job.id}R{index}.{self._hostname}"
            head = _trace(job.envelope.sender, str(recipient.address))
            letters.append(Letter(targets, name, head=head) if targets else None)
        return letters

    def _targets(self, address: Address) -> list[Target]:
        """Where a recipient's mail may go, the most exact mailbox first."""
        filled = [(each, self._template.fill(each)) for each in candidates(address)]
        return [
            Target(self._template.base, parts, may_create=self._listed(each))
            for each, parts in filled
            if parts is not None
        ]

    async def _deliver_in_pieces(self, job: Job, letters: Sequence[Letter | None]) -> Sequence[Outcome]:
        """One recipient after another, so that no large mail is in memory as a whole."""
        outcomes: list[Outcome] = []
        opened = False
        for letter in letters:
            if letter is None:
                outcomes.append(_NO_MAILBOX)
                continue
            error: Exception | None
            try:
                error = await self._fill(letter, job.content)
                if error is None and not opened:
                    opened = await job.gate()
                    if not opened:
                        raise AttemptStopped
                if error is None:
                    error = await self._threads.run(self._limiter, _attempt, letter.finish)
            except Exception as failure:
                if not opened:
                    raise
                error = failure  # who was delivered must not be tried again, whatever became of the content
            finally:
                # Nothing is open after `finish`, so this costs a hop only when something went wrong.
                if letter.is_open:
                    with trio.CancelScope(shield=True):  # a thread is never abandoned, so no deadline would help
                        await self._threads.run(self._limiter, letter.abandon)
            outcomes.append(self._outcome(job, letter, error))
        return outcomes

    async def _fill(self, letter: Letter, content: Content) -> Exception | None:
        offset = 0
        while offset < content.size:
            octets = await content.read(offset, PIECE_OCTETS)
            if not octets:
                raise EOFError(f"the content ends after {offset} of {content.size} octets")
            error = await self._threads.run(self._limiter, _attempt, letter.write, octets)
            if error is not None:
                return error
            offset += len(octets)
        return None

    def _outcome(self, job: Job, letter: Letter | None, error: Exception | None) -> Outcome:
        """What a failure means. The path is for the log alone: it is no business of senders."""
        if error is None:
            return _DELIVERED
        if letter is None or isinstance(error, MailboxMissing):
            return _NO_MAILBOX
        self._log.warning("maildir.failed", queue_id=job.id, path=letter.path, error=str(error))
        if isinstance(error, Unsure):
            return _UNSURE
        number = error.errno if isinstance(error, OSError) else None
        if number == errno.ENOSPC:
            return _NO_SPACE
        return _OVER_QUOTA if number == errno.EDQUOT else _UNWRITABLE


def _trace(sender: str, recipient: str) -> bytes:
    """What final delivery puts before the mail, RFC 5321 §4.4 and the custom of `Delivered-To`; LF line ends.

    The grammar of addresses lets no control character through; here nothing depends on that.
    """
    head = f"Return-Path: <{sender.translate(_CONTROLS)}>\nDelivered-To: {recipient.translate(_CONTROLS)}\n"
    return head.encode("utf-8", "replace")


async def _whole(content: Content) -> bytes:
    octets = await content.read(0, PIECE_OCTETS)
    while len(octets) < content.size:
        piece = await content.read(len(octets), PIECE_OCTETS)
        if not piece:
            raise EOFError(f"the content ends after {len(octets)} of {content.size} octets")
        octets += piece
    return octets


# ---- in a thread ----


def _attempt(step: Callable[..., None], *arguments: bytes) -> Exception | None:
    """Run a step of a letter; what the file system says comes back as a value."""
    try:
        step(*arguments)
    except (OSError, MailboxMissing) as error:
        return error
    return None


def _write_all(letters: Sequence[Letter | None], octets: bytes) -> list[Exception | None]:
    """Deliver to each recipient in turn; each fails or succeeds on its own."""
    found: list[Exception | None] = []
    for letter in letters:
        if letter is None:
            found.append(MailboxMissing())
            continue
        try:
            found.append(_attempt(letter.write, octets) or _attempt(letter.finish))
        finally:
            letter.abandon()
    return found
