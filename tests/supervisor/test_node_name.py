"""The name of a node: its own, the same after a restart."""

import threading
from pathlib import Path

import pytest

from elemta.supervisor.node import node_name


def test_a_name_stays_with_its_folder(tmp_path: Path) -> None:
    first = node_name(tmp_path / "a", "mail.example.com")
    assert first.startswith("mail.example.com~")
    assert node_name(tmp_path / "a", "mail.example.com") == first
    assert node_name(tmp_path / "a", "mail.example.com", worker=2) == f"{first}/2"
    assert node_name(tmp_path / "b", "mail.example.com") != first
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["node-id"]
    assert (tmp_path / "a" / "node-id").stat().st_mode & 0o777 == 0o600


def test_workers_that_start_together_agree(tmp_path: Path) -> None:
    names: list[str] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        names.append(node_name(tmp_path, "h"))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == 8
    assert len(set(names)) == 1


@pytest.mark.parametrize("found", ["", "short", "../../etc", "nine chars"])
def test_a_name_that_is_none_is_not_used(tmp_path: Path, found: str) -> None:
    (tmp_path / "node-id").write_text(found)
    with pytest.raises(OSError, match="remove it"):
        node_name(tmp_path, "h")
