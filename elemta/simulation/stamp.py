"""A plugin that marks each mail with its generation.

What is not here: when one generation follows another (`simulation.reloads`). Each word stands on what passed under one
generation; a plugin that is asked before its start or behind its stop fails, which the server logs as an error.
Failure raised: `RuntimeError`, for the server's log.
"""

from collections.abc import Sequence
from typing import Annotated, Final

from attrs import frozen

from elemta.config.kinds import About, Words
from elemta.config.plugins import PluginEntry, PluginsSection
from elemta.mail.outcome import Outcome
from elemta.plugins.api import CONTINUE, AddHeader, Continue, Delivery, Host, Mail, Plugin, Session, Verdict

#: The field with the word; before what the client sent, as trace fields are.
STAMP_FIELD: Final = "X-Simulated-Stamp"
#: The plugin's name in configurations.
NAME: Final = "stamp"


@frozen
class StampSettings:
    """What a stamp says."""

    word: Annotated[Words, About("What it puts on each mail.")]


class Stamp(Plugin):
    """Puts its word on every mail that comes in while it runs."""

    settings_class = StampSettings

    def __init__(self, host: Host, settings: StampSettings) -> None:
        super().__init__(host, settings)
        self._runs = False

    async def start(self) -> None:
        """From here on it may be asked."""
        self._runs = True

    async def stop(self) -> None:
        """From here on nobody may ask."""
        self._runs = False

    async def on_data_headers(self, mail: Mail) -> Verdict:
        """Put the word on it."""
        self._must_run()
        return Continue((AddHeader(STAMP_FIELD, self.settings.word),))

    async def on_pre_delivery(self, delivery: Delivery) -> Verdict:
        """Nothing is in its way."""
        self._must_run()
        return CONTINUE

    async def on_post_delivery(self, delivery: Delivery, outcomes: Sequence[Outcome]) -> None:
        """Nothing is to be done."""
        self._must_run()

    async def on_disconnect(self, session: Session) -> None:
        """Nothing is to be done."""
        self._must_run()

    def _must_run(self) -> None:
        if not self._runs:
            raise RuntimeError(f"the stamp {self.settings.word} was asked, and does not run")


def stamping(word: str) -> PluginsSection:
    """What a configuration says to have mail stamped with a word."""
    return PluginsSection(plugins=(PluginEntry(NAME, settings={"word": word}),))


def word_of(plugins: PluginsSection) -> str:
    """The word that a configuration asks for; empty for none."""
    return next((str(entry.settings["word"]) for entry in plugins.plugins if entry.name == NAME), "")
