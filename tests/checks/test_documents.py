"""What the documents promise, compared with the files they speak of, and how readers get from one to the other."""

import json
import re
from pathlib import Path

import pytest

from tests.checks.pages import anchors, fenced, links, pages


@pytest.fixture(scope="session")
def readme(root: Path) -> str:
    """The README."""
    return (root / "README.md").read_text(encoding="utf-8")


def test_ci_runs_the_test_command_of_the_readme(root: Path, readme: str) -> None:
    commands = [line for block in fenced(readme, "bash") for line in block.splitlines() if line.endswith("tox")]
    assert len(commands) == 1
    assert commands[0] in [line.strip() for line in (root / ".ci" / "run").read_text(encoding="utf-8").splitlines()]


def test_the_configurations_of_the_readme_are_examples_that_ship(root: Path, readme: str) -> None:
    blocks = fenced(readme, "json")
    assert blocks == [(root / "conf" / f"{name}.json").read_text(encoding="utf-8") for name in ("relay", "submission")]
    assert max(len(block.splitlines()) for block in blocks) <= 10


def test_examples_are_json(root: Path) -> None:
    examples = sorted((root / "conf").glob("*.json"))
    assert [path.name for path in examples if not isinstance(json.loads(path.read_bytes()), dict)] == []
    assert {"dev.json", "original-example.json", "relay.json", "submission.json"} <= {path.name for path in examples}


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def target(root: Path, page: Path, link: str) -> Path:
    """Where a link leads to. A news fragment becomes a part of the changes, which lie at the top."""
    folder = root if page.parent == root / "news" else page.parent
    return (folder / link).resolve() if link else page


def broken_links(root: Path, page: Path) -> list[str]:
    found = []
    for link, anchor in links(text_of(page)):
        path = target(root, page, link)
        if not path.exists():
            found.append(f"{page.relative_to(root)}: there is no {link}")
        elif anchor and (path.suffix != ".md" or anchor not in anchors(text_of(path))):
            found.append(f"{page.relative_to(root)}: {link or 'this page'} has no #{anchor}")
    return found


def test_links_lead_somewhere(root: Path) -> None:
    assert [fault for page in pages(root) for fault in broken_links(root, page)] == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One\n[a](gone.md) [b](#one) [c](#two) [d](page.md#one) [e](page.md#two)", encoding="utf-8")
    says = ["page.md: there is no gone.md", "page.md: this page has no #two", "page.md: page.md has no #two"]
    assert broken_links(tmp_path, page) == says


def reachable(root: Path, start: Path) -> set[Path]:
    """The files that a reader comes to by links; a link to a folder leads to each page in it."""
    seen: set[Path] = set()
    ahead = [start]
    while ahead:
        page = ahead.pop()
        if page in seen or not page.exists():
            continue
        seen.add(page)
        if page.is_dir():
            ahead += page.glob("*.md")
        elif page.suffix == ".md":
            ahead += [target(root, page, link) for link, _ in links(text_of(page))]
    return seen


def test_every_page_is_reached_from_the_readme(root: Path) -> None:
    meant = {page for page in pages(root) if page.parent != root / "news"}
    assert sorted(str(page.relative_to(root)) for page in meant - reachable(root, root / "README.md")) == []


def test_every_page_of_the_manual_is_in_the_list_of_the_readme(root: Path) -> None:
    listed = {target(root, root / "README.md", link) for link, _ in links(text_of(root / "README.md"))}
    assert sorted(page.name for page in (root / "docs").glob("*.*") if page not in listed) == []


def test_orphans_are_found(tmp_path: Path) -> None:
    for name, text in {"README.md": "[a](a.md)", "a.md": "[f](folder)", "orphan.md": "[a](a.md)"}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b.md").touch()
    found = {path.name for path in reachable(tmp_path, tmp_path / "README.md")}
    assert found == {"README.md", "a.md", "folder", "b.md"}


def test_links_are_recognised() -> None:
    text = "[a](docs/tour.md) [b](https://example.com/x) [c](#here) [d](docs/x.md#part) ![e](x.png) `[f](g.md)`"
    assert links(text) == [("docs/tour.md", ""), ("", "here"), ("docs/x.md", "part"), ("x.png", "")]
    assert links("```\n[a](b.md)\n```\n") == []


def test_anchors_are_those_that_github_makes() -> None:
    text = "# A `b_c`: d's [e](f.md)\n## Twice\n```sh\n# not this\n```\n## Twice\n### AUTH PLAIN, LOGIN – é\n"
    assert anchors(text) == {"a-b_c-ds-e", "twice", "twice-1", "auth-plain-login--é"}


def test_constraints_are_names_with_versions(root: Path) -> None:
    lines = (root / "tests" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []
    assert not any(line.lower().startswith("elemta") for line in lines)
