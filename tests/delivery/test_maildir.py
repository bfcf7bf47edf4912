"""Maildirs: what lands in them byte for byte, which names never become paths, what each failure of the disk means."""

import errno
import io
import mailbox
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from elemta.delivery import letter
from elemta.delivery.base import AttemptStopped
from elemta.delivery.letter import Letter, Target
from elemta.delivery.local import normal_local
from elemta.delivery.maildir import MAX_NAME_OCTETS, PIECE_OCTETS, Maildirs, MaildirTransport, Template, folder_name
from elemta.mail.address import Address
from elemta.mail.outcome import Deferred, Outcome
from elemta.observe.log import make_logger
from elemta.runtime.threads import T, Ts, WorkerThreads
from tests.delivery.jobs import Attempt, address, attempt

CONTENT = b"Subject: hello\r\n\r\nline\r\n.dot\r\n\r\nend\r\n"
NOW = 1_700_000_000.25
LISTED = "listed@example.com"


class StoppedClock:
    """Always the same time."""

    def wall(self) -> float:
        return NOW


class CountingThreads(WorkerThreads):
    """Counts the hops."""

    def __init__(self) -> None:
        self.hops = 0

    async def run(self, limiter: trio.CapacityLimiter | None, function: Callable[[*Ts], T], *args: *Ts) -> T:
        self.hops += 1
        return await super().run(limiter, function, *args)


class Post:
    """A transport into `base`, with its log and its hops."""

    def __init__(self, base: Path, template: str = "{domain}/{local}") -> None:
        self.base = base
        self.threads = CountingThreads()
        self.log = io.StringIO()
        self.transport = MaildirTransport(
            f"{base}/{template}",
            lambda each: str(each) == LISTED,
            hostname="mx/1:example",
            clock=StoppedClock(),
            threads=self.threads,
            log=make_logger("info", "console", self.log),
        )

    def make(self, *users: str) -> None:
        for user in users:
            (self.base / "example.com" / user).mkdir(parents=True)

    async def deliver(self, tried: Attempt) -> list[tuple[str, int, str]]:
        outcomes = await self.transport.deliver(tried.job)
        return [described(outcome) for outcome in outcomes]

    def new(self, user: str) -> list[Path]:
        return sorted((self.base / "example.com" / user / "new").iterdir())

    def left_over(self) -> list[Path]:
        return [path for path in self.base.rglob("tmp/*") if path.is_file()]


def described(outcome: Outcome) -> tuple[str, int, str]:
    return type(outcome).__name__, outcome.reply.code, outcome.reply.enhanced


DELIVERED = ("Delivered", 250, "2.0.0")
NO_MAILBOX = ("Failed", 550, "5.1.1")
UNWRITABLE = ("Deferred", 451, "4.3.0")


@pytest.fixture
def post(tmp_path: Path) -> Post:
    """A transport whose only user is alice."""
    found = Post(tmp_path)
    found.make("alice")
    return found


# ---- what is written ----


async def test_a_mail_lands_whole_with_its_trace_and_line_feeds(post: Post) -> None:
    tried = attempt("Alice@example.com", content=CONTENT)
    assert await post.deliver(tried) == [DELIVERED]
    (file,) = post.new("alice")
    expected = b"Return-Path: <sender@example.org>\nDelivered-To: Alice@example.com\n" + CONTENT.replace(b"\r\n", b"\n")
    assert file.read_bytes() == expected
    assert file.name == f"1700000000.M250000Q{tried.job.id}R0.mx\\0571\\072example"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert post.left_over() == []
    assert post.threads.hops == 1
    assert tried.gate.asked == 1


async def test_the_null_reverse_path(post: Post) -> None:
    await post.deliver(attempt("alice@example.com", content=CONTENT, sender=""))
    assert post.new("alice")[0].read_bytes().startswith(b"Return-Path: <>\n")


async def test_no_control_character_gets_into_the_trace(post: Post) -> None:
    await post.deliver(attempt("alice@example.com", content=CONTENT, sender="a\nX-Evil: yes\r\0@example.org"))
    assert post.new("alice")[0].read_bytes().startswith(b"Return-Path: <")
    assert b"\nX-Evil" not in post.new("alice")[0].read_bytes()


async def test_the_folders_of_a_maildir_are_made_for_us_alone(post: Post) -> None:
    await post.deliver(attempt("alice@example.com", content=CONTENT))
    for part in ("tmp", "new", "cur"):
        assert stat.S_IMODE((post.base / "example.com" / "alice" / part).stat().st_mode) == 0o700


async def test_a_listed_recipient_gets_a_maildir(tmp_path: Path) -> None:
    post = Post(tmp_path)
    assert await post.deliver(attempt(LISTED, content=CONTENT)) == [DELIVERED]
    assert len(post.new("listed")) == 1
    assert stat.S_IMODE((tmp_path / "example.com").stat().st_mode) == 0o700


async def test_recipients_succeed_and_fail_on_their_own(post: Post) -> None:
    tried = attempt("alice@example.com", "nobody@example.com", LISTED, "../x@example.com", content=CONTENT)
    assert await post.deliver(tried) == [DELIVERED, NO_MAILBOX, DELIVERED, NO_MAILBOX]
    assert post.threads.hops == 1
    assert tried.gate.asked == 1


async def test_two_recipients_with_one_mailbox_get_a_copy_each(post: Post) -> None:
    assert await post.deliver(attempt("alice+a@example.com", "alice+b@example.com", content=CONTENT)) == [DELIVERED] * 2
    assert [file.read_bytes().splitlines()[1] for file in post.new("alice")] == [
        b"Delivered-To: alice+a@example.com",
        b"Delivered-To: alice+b@example.com",
    ]


async def test_a_mailbox_of_the_detail_goes_before_its_users(post: Post) -> None:
    post.make("alice+work")
    await post.deliver(attempt("alice+work@example.com", "alice+home@example.com", content=CONTENT))
    assert len(post.new("alice+work")) == 1
    assert len(post.new("alice")) == 1


async def test_one_maildir_for_everybody(tmp_path: Path) -> None:
    post = Post(tmp_path, "all")
    (tmp_path / "all").mkdir()
    assert await post.deliver(attempt("anybody@example.com", "x@example.com", content=CONTENT)) == [DELIVERED] * 2
    assert len(list((tmp_path / "all" / "new").iterdir())) == 2


@pytest.mark.parametrize("extra", [1, PIECE_OCTETS, 2 * PIECE_OCTETS + 1])
async def test_a_large_mail_goes_in_pieces_with_every_line_end_right(post: Post, extra: int) -> None:
    chance = random.Random(extra)
    body = b"".join(b"x" * chance.randrange(70) + b"\r\n" for _ in range((PIECE_OCTETS + extra) // 30))
    # A line end across each piece's border, whatever the lines before it are.
    content = bytearray(body)
    for border in range(PIECE_OCTETS, len(content), PIECE_OCTETS):
        content[border - 2 : border + 2] = b"x\r\nx"
    assert len(content) > PIECE_OCTETS
    tried = attempt("alice@example.com", "nobody@example.com", LISTED, content=bytes(content))
    assert await post.deliver(tried) == [DELIVERED, NO_MAILBOX, DELIVERED]
    for user in ("alice", "listed"):
        (file,) = post.new(user)
        assert file.read_bytes().split(b"\n", 2)[2] == bytes(content).replace(b"\r\n", b"\n")
    assert tried.gate.asked == 1
    assert post.left_over() == []


async def test_a_reader_of_maildirs_finds_the_mail(post: Post) -> None:
    await post.deliver(attempt("alice@example.com", content=CONTENT))
    box = mailbox.Maildir(post.base / "example.com" / "alice", factory=None, create=False)
    (mail,) = box
    assert (mail["Return-Path"], mail["Delivered-To"], mail["Subject"]) == (
        "<sender@example.org>",
        "alice@example.com",
        "hello",
    )
    assert mail.get_payload() == "line\n.dot\n\nend\n"
    assert mail.get_subdir() == "new"


# ---- the gate, cancellation ----


@pytest.mark.parametrize("size", [10, PIECE_OCTETS + 10])
async def test_a_closed_gate_leaves_nothing_behind(post: Post, size: int) -> None:
    with pytest.raises(AttemptStopped):
        await post.deliver(attempt("alice@example.com", LISTED, content=b"x" * size, opens=False))
    assert not [path for path in post.base.rglob("*") if path.is_file()]


async def test_a_mail_for_nobody_needs_no_gate(post: Post) -> None:
    tried = attempt("../../etc@example.com", content=CONTENT)
    assert await post.deliver(tried) == [NO_MAILBOX]
    assert tried.gate.asked == 0


class Breaking:
    """Large content whose reading goes wrong after so many pieces."""

    eight_bit = False
    size = 3 * PIECE_OCTETS

    def __init__(self, good: int, scope: trio.CancelScope | None = None) -> None:
        self.left = good
        self.scope = scope

    async def read(self, offset: int, limit: int) -> bytes:
        if self.left == 0:
            if self.scope is None:
                raise RuntimeError("the store is away")
            self.scope.cancel()
        self.left -= 1
        await trio.lowlevel.checkpoint()
        return b"x" * limit


def with_content(tried: Attempt, content: Breaking) -> Attempt:
    return Attempt(evolve(tried.job, content=content), tried.gate)


async def test_a_cancelled_delivery_leaves_nothing_behind(post: Post) -> None:
    with trio.CancelScope() as scope:
        await post.deliver(with_content(attempt("alice@example.com"), Breaking(2, scope)))
    assert scope.cancelled_caught
    assert not [path for path in post.base.rglob("*") if path.is_file()]


async def test_content_that_breaks_off_before_anybody_has_it(post: Post) -> None:
    with pytest.raises(RuntimeError):
        await post.deliver(with_content(attempt("alice@example.com"), Breaking(2)))
    assert not [path for path in post.base.rglob("*") if path.is_file()]


async def test_content_that_breaks_off_after_somebody_has_it(post: Post) -> None:
    tried = with_content(attempt("alice@example.com", LISTED), Breaking(5))
    assert await post.deliver(tried) == [DELIVERED, UNWRITABLE]
    assert len(post.new("alice")) == 1
    assert post.left_over() == []


# ---- hostile names ----


@pytest.mark.parametrize(
    "local",
    [
        *("", ".", "..", "../x", "a/b", "/etc", "a\0b", ".hidden", "-rf", "a b", "a\nb", 'a"b', "a\\b", "a@b", "(c)"),
        *("x" * (MAX_NAME_OCTETS + 1), "ü" * 128, "\u202ea", "a\u2044b", "\ud800"),
    ],
)
def test_local_parts_that_never_become_a_folder(local: str) -> None:
    assert folder_name(local) is None


@pytest.mark.parametrize(
    ("local", "name"),
    [
        ("alice", "alice"),
        ("Alice.B", "alice.b"),
        ("a+b", "a+b"),
        ("a..b", "a..b"),
        ("o'brien", "o'brien"),
        ("{domain}", "{domain}"),
        ("$HOME", "$home"),
        ("~root", "~root"),
        ("%2e%2e", "%2e%2e"),
        ("JÜRGEN", "jürgen"),
        ("ju\u0308rgen", "jürgen"),
        ("伊昭傑", "伊昭傑"),
    ],
)
def test_local_parts_that_do(local: str, name: str) -> None:
    assert folder_name(local) == name


@given(st.text(max_size=80))
def test_a_folder_is_always_one_component_below(local: str) -> None:
    name = folder_name(local)
    if name is not None:
        assert name == folder_name(name) == normal_local(local)  # nobody else's but for case and composition
        assert os.path.normpath(f"/base/{name}") == f"/base/{name}"
        assert os.path.basename(name) == name
        assert name.isprintable()


@given(st.text(max_size=80), st.text(max_size=80))
def test_a_filled_template_never_leaves_its_base(local: str, domain: str) -> None:
    filled = Template.parse("/base/{domain}/x{local}y/Maildir").fill(Address(local, domain))
    if filled is not None:
        path = "/base/" + "/".join(filled)
        assert os.path.normpath(path) == path
        assert len(filled) == 3


def test_a_template_is_filled_in_one_pass() -> None:
    assert Template.parse("/m/{domain}/{local}").fill(Address("{domain}", "a.example")) == ("a.example", "{domain}")


@pytest.mark.parametrize(
    ("text", "base", "parts"),
    [
        ("/var/mail/{domain}/{local}", "/var/mail", ("{domain}", "{local}")),
        ("/home/{local}/Maildir/", "/home", ("{local}", "Maildir")),
        ("/{local}", "/", ("{local}",)),
        ("{local}", ".", ("{local}",)),
        ("mail/./{local}@{domain}", "mail", ("{local}@{domain}",)),
        ("../mail/{local}", "../mail", ("{local}",)),
        ("/var/mail/all", "/var/mail", ("all",)),
    ],
)
def test_templates(text: str, base: str, parts: tuple[str, ...]) -> None:
    assert Template.parse(text) == Template(base, parts)


def test_a_template_must_not_lead_out_again() -> None:
    with pytest.raises(ValueError, match="leads out"):
        Template.parse("/var/mail/{local}/../x")


async def test_symbolic_links_below_the_base_are_refused(post: Post, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (post.base / "example.com" / "mallory").symlink_to(outside)
    assert await post.deliver(attempt("mallory@example.com", content=CONTENT)) == [UNWRITABLE]
    (post.base / "example.com" / "alice" / "tmp").symlink_to(outside)
    assert await post.deliver(attempt("alice@example.com", content=CONTENT)) == [UNWRITABLE]
    assert list(outside.iterdir()) == []
    assert "mallory" in post.log.getvalue()


async def test_a_file_of_the_same_name_is_never_written_over(post: Post) -> None:
    tried = attempt("alice@example.com", content=CONTENT)
    await post.deliver(tried)
    (file,) = post.new("alice")
    os.rename(file, post.base / "example.com" / "alice" / "tmp" / file.name)
    assert await post.deliver(tried) == [UNWRITABLE]


# ---- what the disk may do ----


async def test_an_unmounted_file_system_bounces_nothing(tmp_path: Path) -> None:
    post = Post(tmp_path / "mail")
    assert await post.deliver(attempt("alice@example.com", content=CONTENT)) == [UNWRITABLE]  # no base at all
    (tmp_path / "mail").mkdir()
    assert await post.deliver(attempt("alice@example.com", content=CONTENT)) == [UNWRITABLE]  # an empty one
    assert "is its file system mounted?" in post.log.getvalue()
    (tmp_path / "mail" / "example.org").mkdir()
    assert await post.deliver(attempt("alice@example.com", content=CONTENT)) == [NO_MAILBOX]


FAULTS = [
    (errno.ENOSPC, ("Deferred", 452, "4.3.1")),
    (errno.EDQUOT, ("Deferred", 452, "4.2.2")),
    (errno.EACCES, UNWRITABLE),
    (errno.EIO, UNWRITABLE),
    (errno.EROFS, UNWRITABLE),
]


@pytest.mark.parametrize(("number", "expected"), FAULTS)
@pytest.mark.parametrize("call", ["open", "write", "fsync", "rename"])
@pytest.mark.parametrize("size", [10, PIECE_OCTETS + 10])
async def test_failures_of_the_disk_defer(
    post: Post, number: int, expected: tuple[str, int, str], call: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await post.deliver(attempt("alice@example.com", content=CONTENT))  # the folders are there
    real = getattr(os, call)

    def fails(*args: object, **kwargs: object) -> object:
        if call == "open" and args[1] != letter._FILE:
            return real(*args, **kwargs)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        outcomes = await post.deliver(attempt("alice@example.com", content=b"x" * size))
    assert outcomes == [expected]
    assert len(post.new("alice")) == 1
    assert post.left_over() == []
    assert str(post.base) in post.log.getvalue()


async def test_a_mail_that_may_have_arrived_is_uncertain(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    await post.deliver(attempt("alice@example.com", content=CONTENT))
    real = os.fsync
    synced = []

    def fails_on_folders(file: int) -> None:
        synced.append(file)
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails_on_folders)
        (outcome,) = await post.transport.deliver(attempt("alice@example.com", content=CONTENT).job)
    assert isinstance(outcome, Deferred)
    assert outcome.uncertain
    assert len(synced) == 2  # a sync that failed is never repeated in hope


async def test_the_disk_is_named_in_the_log_alone(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "rename", _raise_eacces)
    (outcome,) = await post.transport.deliver(attempt("alice@example.com", content=CONTENT).job)
    assert str(post.base) not in outcome.reply.text
    assert f"{post.base}/example.com/alice" in post.log.getvalue()


def _raise_eacces(*_args: object, **_kwargs: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


async def test_the_file_is_synced_before_it_shows_and_the_folder_after(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    await post.deliver(attempt("alice@example.com", content=CONTENT))
    real_fsync, real_rename = os.fsync, os.rename
    calls: list[str] = []

    def fsync(file: int) -> None:
        calls.append("sync folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "sync file")
        real_fsync(file)

    def rename(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        calls.append("rename")
        real_rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    post.transport._clock = LaterClock()
    assert await post.deliver(attempt("alice@example.com", content=CONTENT)) == [DELIVERED]
    assert calls == ["sync file", "rename", "sync folder"]


class LaterClock:
    """A while after `StoppedClock`."""

    def wall(self) -> float:
        return NOW + 60


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    targets = [Target(str(tmp_path), ("missing",), may_create=False), Target(str(tmp_path), ("a",), may_create=False)]
    whole = Letter(targets, "1", head=b"")
    whole.write(b"x\r\n")
    whole.finish()
    broken = Letter(targets, "2", head=b"")
    broken.write(b"x\r\n")
    broken.abandon()
    broken.abandon()
    with pytest.raises(letter.MailboxMissing):
        Letter(targets[:1], "3", head=b"").write(b"x")
    assert descriptors() == before
    assert not broken.is_open
    assert [path.name for path in (tmp_path / "a").rglob("*") if path.is_file()] == ["1"]


def test_line_ends_that_are_none_stay(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    whole = Letter([Target(str(tmp_path), ("a",), may_create=False)], "1", head=b"")
    for piece in (b"a\r", b"b\r", b"\nc\n", b"", b"\r\r", b"\nd\r"):
        whole.write(piece)
    whole.finish()
    assert (tmp_path / "a" / "new" / "1").read_bytes() == b"a\rb\nc\n\r\nd\r"


# ---- who exists ----


async def test_maildirs_that_are_there(post: Post) -> None:
    maildirs = Maildirs(f"{post.base}/{{domain}}/{{local}}", threads=WorkerThreads())
    (post.base / "example.com" / "a-file").touch()
    (post.base / "example.com" / "link").symlink_to(post.base)
    assert await maildirs.holds(address("alice@example.com"))
    assert await maildirs.holds(address("ALICE@example.com"))
    for text in ("bob@example.com", "alice@example.org", "..@example.com", "a-file@example.com"):
        assert not await maildirs.holds(address(text))
    with pytest.raises(OSError, match="link"):
        await maildirs.holds(address("link@example.com"))


async def test_nobody_can_say_who_exists_on_an_unmounted_file_system(tmp_path: Path) -> None:
    for base in (tmp_path / "missing", tmp_path):
        with pytest.raises(OSError, match=str(base)):
            await Maildirs(f"{base}/{{local}}", threads=WorkerThreads()).holds(address("alice@example.com"))


async def test_one_maildir_for_everybody_says_nothing_about_who_exists(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    assert not await Maildirs(f"{tmp_path}/all", threads=WorkerThreads()).holds(address("alice@example.com"))
