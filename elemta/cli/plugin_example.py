"""The plugin that `elemta plugin new` writes, with its test.

What is not here: the command (`cli.plugin`). Failure raised: `OSError`; where one file cannot be written, neither is.
"""

import importlib.util
import keyword
import os
import re
from pathlib import Path
from typing import Final

#: A name that is a module's, an attribute's and a file's at once.
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,59}")
#: Nobody else may write to a plugin (`plugins.loader` looks); the process's mask may take more away.
_FILE_MODE: Final = 0o644
_FOLDER_MODE: Final = 0o755

_PLUGIN: Final = '''\
"""Refuses mails by words of their subject: an example to change."""

from typing import Annotated

from attrs import frozen

from elemta.config.kinds import About, Whole, Words
from elemta.plugins.api import CONTINUE, Annotate, Continue, Mail, Plugin, Reject, Verdict


@frozen
class Settings:
    """What the configuration may say under "settings"; each value is checked before the server starts."""

    words: Annotated[
        tuple[Words, ...],
        About("Words that no subject may hold, in small letters."),
    ] = ("invoice",)
    suspicion: Annotated[int, Whole("points", 0, 100), About("The score of a client without a name of its own.")] = 1


class CLASS(Plugin):
    """Asked when a mail begins, and when its header has come."""

    settings_class = Settings
    priority = 50
    deadline = 5.0
    about = "Refuses mails by words of their subject."
    settings: Settings

    async def on_mail_from(self, mail: Mail) -> Verdict:
        return CONTINUE if "." in mail.session.helo else Continue(score=self.settings.suspicion)

    async def on_data_headers(self, mail: Mail) -> Verdict:
        subject = mail.headers.text("Subject").lower()
        for word in self.settings.words:
            if word in subject:
                self.host.log.info("NAME.refused", id=mail.id, word=word)
                return Reject(f"no mails about {word} here")
        return Continue([Annotate("NAME", "looked at")])
'''

_TEST: Final = '''\
"""Tests of the plugin NAME. Run them with pytest; they need neither a server nor time."""

from NAME import CLASS

from elemta.plugins.api import CONTINUE, Reject
from elemta.testing.plugins import MakeBench

pytest_plugins = ["elemta.testing.plugin"]


async def test_an_honest_mail_passes(plugin_bench: MakeBench) -> None:
    async with plugin_bench(CLASS) as bench:
        answer = await bench.mail(b"Subject: hello\\n\\nHow are you?\\n")
    assert answer.verdict == CONTINUE
    assert answer.annotations == {"NAME": "looked at"}


async def test_words_are_settings(plugin_bench: MakeBench) -> None:
    async with plugin_bench(CLASS, settings={"words": ["offer"]}) as bench:
        answer = await bench.mail(b"Subject: an Offer\\n\\nBuy!\\n")
    assert answer.verdict == Reject("no mails about offer here")


async def test_what_the_client_hears(plugin_bench: MakeBench) -> None:
    async with plugin_bench(CLASS) as bench:
        replies = await bench.dialogue(
            "EHLO client.example",
            "MAIL FROM:<jo@example.org>",
            "RCPT TO:<max@example.com>",
            "DATA",
            "Subject: your invoice\\n\\nPay!\\n.",
            "QUIT",
        )
    assert replies[-2] == "550 5.7.1 no mails about invoice here"
    assert bench.submitted == []
'''


def unfit_name(name: str) -> str:
    """Why a plugin cannot have this name; empty when it can."""
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        return "a name begins with a small letter, and has small letters, digits and underscores"
    if name.startswith("test_") or name == "conftest":
        return "files of this name are tests"
    if importlib.util.find_spec(name) is not None:
        return "there is a Python module of this name, which the test would find in its place"
    return ""


def class_name(name: str) -> str:
    """`no_invoices` is `NoInvoices`."""
    return "".join(word.capitalize() for word in name.split("_")) or "Example"


def write_example(folder: Path, name: str) -> list[Path]:
    """Write the two files, the folder too where it is missing. Raises `OSError`."""
    folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    paths = [folder / f"{name}.py", folder / f"test_{name}.py"]
    written: list[Path] = []
    try:
        for path, text in zip(paths, (_PLUGIN, _TEST), strict=True):
            _write(path, text.replace("NAME", name).replace("CLASS", class_name(name)))
            written.append(path)
    except OSError:
        for path in written:
            path.unlink()
        raise
    return paths


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
