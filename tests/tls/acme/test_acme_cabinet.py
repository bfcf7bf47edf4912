"""The folder of keys and certificates: who can read it, what a crash leaves, who may order."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from elemta.tls.acme.cabinet import Cabinet, CabinetBusy, certificate_path


@pytest.fixture
def cabinet(tmp_path: Path) -> Cabinet:
    made = Cabinet(str(tmp_path / "certs"))
    made.open()
    return made


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_link_among_the_answers_leads_nobody_to_a_key(cabinet: Cabinet) -> None:
    path = certificate_path(str(cabinet.folder), "mail.example.com")
    cabinet.write(path, b"key")
    challenges = cabinet.folder / "challenges"
    (challenges / "link").symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        cabinet.answer("link")
    os.mkfifo(challenges / "pipe")
    assert cabinet.answer("pipe") == b"", "nor does it wait"
    (challenges / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        cabinet.answer("folder")


def test_nobody_else_can_look_into_it(cabinet: Cabinet) -> None:
    before = os.umask(0)
    try:
        path = certificate_path(str(cabinet.folder), "mail.example.com")
        cabinet.write(path, b"key")
        cabinet.post_answer("token", "answer")
        with cabinet.lock():
            pass
    finally:
        os.umask(before)
    modes = {each.name: mode(each) for each in cabinet.folder.rglob("*")}
    assert modes == {"challenges": 0o700, "token": 0o600, "mail.example.com.pem": 0o600, "order.lock": 0o600}
    assert mode(cabinet.folder) == 0o700


def test_a_folder_that_others_could_read_is_closed(tmp_path: Path) -> None:
    (tmp_path / "certs").mkdir(mode=0o755)
    Cabinet(str(tmp_path / "certs")).open()
    assert mode(tmp_path / "certs") == 0o700


def test_a_file_is_replaced_in_one_step(cabinet: Cabinet) -> None:
    path = cabinet.folder / "x.pem"
    assert cabinet.read(path) == b""
    cabinet.write(path, b"old")
    with path.open("rb") as reader:
        cabinet.write(path, b"new")
        assert reader.read() == b"old"
    assert cabinet.read(path) == b"new"


def test_a_write_that_fails_leaves_the_old_file(cabinet: Cabinet, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = cabinet.folder / "x.pem"
    cabinet.write(path, b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        cabinet.write(path, b"new")
    assert cabinet.read(path) == b"old"
    assert sorted(each.name for each in cabinet.folder.iterdir()) == ["challenges", "x.pem"]


@pytest.mark.parametrize("token", ["", "..", "../x", "a/b", "a.b", "a\0", "a\n", "é", "a" * 129, "%2e"])
def test_no_token_names_another_file(cabinet: Cabinet, token: str) -> None:
    for act in (cabinet.answer, cabinet.remove_answer, lambda each: cabinet.post_answer(each, "x")):
        with pytest.raises(ValueError, match="token"):
            act(token)


def test_one_orders_at_a_time_also_among_processes(cabinet: Cabinet) -> None:
    program = (
        "import sys; from elemta.tls.acme.cabinet import Cabinet\n"
        "with Cabinet(sys.argv[1]).lock(): print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(cabinet.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(CabinetBusy, match=f"process {other.pid} "):
            with cabinet.lock():
                pass
        other.kill()
    # The kernel let go of it.
    with cabinet.lock():
        with pytest.raises(CabinetBusy, match=f"process {os.getpid()} "):
            with cabinet.lock():
                pass


def test_each_authority_has_an_account_of_its_own(cabinet: Cabinet) -> None:
    urls = ["https://acme-v02.api.letsencrypt.org/directory", "https://a/dir", "https://a/dir2", "https://[::1]:1/../x"]
    paths = [cabinet.account_path(url) for url in urls]
    assert len(set(paths)) == len(urls)
    assert all(path.parent == cabinet.folder for path in paths)
    assert paths[0].name.startswith("account-acme-v02.api.letsencrypt.org-")


def test_what_a_crash_left_is_removed(cabinet: Cabinet) -> None:
    cabinet.post_answer("token", "answer")
    cabinet.remove_answers()
    assert cabinet.answer("token") == b""
