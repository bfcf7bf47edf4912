"""What is read out of the documents: their links, anchors, code, commands.

What is not here: what must be true of it (`test_documents.py`, `test_documented_examples.py`).
"""

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from itertools import dropwhile
from pathlib import Path

#: Where a link of this repository leads to, with the anchor in it; code is taken out before.
LINK = re.compile(r"\[[^\]]*\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?[^)]*\)")
_FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`[^`\n]+`")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
#: What ends a command of the shell and begins another.
_SEPARATORS = frozenset({"|", "||", "&&", ";", "&", "(", ")"})
#: `<>` is none of them: it is the null reverse-path.
_REDIRECTIONS = frozenset({">", ">>", "<", "<<", ">&"})
_RUNNERS = frozenset({"sudo", "runuser"})
_ASSIGNMENT = re.compile(r"[A-Z_]+=")
_SUBSTITUTION = re.compile(r"\$\(([^()]+)\)")


def pages(root: Path) -> list[Path]:
    """Every page that somebody reads: the manual, the README, the notes beside the examples, the changes."""
    folders = [path for name in ("docs", "conf") for path in sorted((root / name).rglob("*.md"))]
    return [root / "README.md", root / "CHANGELOG.md", *folders, *sorted((root / "news").glob("*.md"))]


def fenced(text: str, *languages: str) -> list[str]:
    """The code blocks of these languages in a Markdown text."""
    return re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def links(text: str) -> list[tuple[str, str]]:
    """The links within the repository: the path, empty for the page itself, then the anchor or nothing."""
    return LINK.findall(_SPAN.sub("``", _FENCED.sub("", text)))


def anchors(text: str) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in _HEADING.findall(_FENCED.sub("", text)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.add(anchor if not seen[anchor] else f"{anchor}-{seen[anchor]}")
        seen[anchor] += 1
    return found


def typed(text: str) -> Iterator[str]:
    """What people are told to type: shell blocks, the lines after `$` in consoles, `elemta …` within a sentence."""
    for block in fenced(text, "bash", "sh"):
        yield from _joined(block).splitlines()
    for block in fenced(text, "console"):
        yield from (line[2:] for line in _joined(block).splitlines() if line.startswith("$ "))
    yield from re.findall(r"(?<!`)`(elemta [^`\n]+)`(?!`)", _FENCED.sub("", text))


def _joined(block: str) -> str:
    return block.replace("\\\n", " ")


def calls(line: str, program: str = "elemta") -> list[list[str]]:
    """The arguments of each call of the program in a line of the shell. Raises `ValueError` for a quote left open."""
    found = [call for inner in _SUBSTITUTION.findall(line) for call in calls(inner, program)]
    lexer = shlex.shlex(_SUBSTITUTION.sub("SUBSTITUTED", line), posix=True, punctuation_chars="|&;()<>")
    lexer.whitespace_split = True
    command: list[str] = []
    for word in [*lexer, ";"]:
        if word not in _SEPARATORS:
            command.append(word)
            continue
        found += _of_program(command, program)
        command = []
    return found


def _of_program(command: list[str], program: str) -> list[list[str]]:
    """Its own arguments, wherever it stands: alone, by its path, behind what runs it as somebody or somewhere else."""
    words = list(dropwhile(_ASSIGNMENT.match, command))
    at = [index for index, word in enumerate(words) if word == program or word.endswith(f"bin/{program}")]
    if not at or not (at[0] == 0 or "/" in words[at[-1]] or words[0] in _RUNNERS or "exec" in words):
        return []
    # A user or a container may be called like the program: the last one is it.
    return [_without_redirections(words[at[-1] + 1 :])]


def _without_redirections(words: list[str]) -> list[str]:
    targets = {index + 1 for index, word in enumerate(words) if word in _REDIRECTIONS}
    return [word for index, word in enumerate(words) if index not in targets and word not in _REDIRECTIONS]
