"""What both spam filters share.

They compare a score with the thresholds of the configuration, and take forged fields away. What is not here: what a
score leads to (`scanners.policy`), asking a filter (`scanners.rspamd`, `scanners.spamassassin`). Failures raised: none.
"""

from collections.abc import Sequence

from elemta.config.scanners import AntispamSection, RspamdSection, SpamassassinSection
from elemta.plugins.api import CONTINUE, Continue, Host, Mail, Verdict
from elemta.plugins.scanners.base import Scanner
from elemta.plugins.scanners.policy import Finding, Step, Thresholds, removals


class SpamFilter(Scanner):
    """A scanner whose answer is a score."""

    settings_class = AntispamSection

    def __init__(self, host: Host, settings: AntispamSection, own: SpamassassinSection | RspamdSection) -> None:
        super().__init__(host, settings, own)
        self._thresholds = Thresholds(
            own.threshold, own.quarantine_threshold, own.reject_threshold, settings.reject_on_spam
        )

    async def on_data_headers(self, mail: Mail) -> Verdict:
        # Here and not with the scan, so that forged fields go even where the scan fails or the mail is too large.
        gone = removals(mail.headers)
        return Continue(gone) if gone else CONTINUE

    def weigh(
        self, score: float, *, said: bool, symbols: Sequence[str], required: float | None = None
    ) -> tuple[Finding, Step]:
        """What the score means; `said` and `required` are the filter's own opinion, for where we have none."""
        limits = self._thresholds
        finding = Finding(
            scanner=self.name,
            is_spam=limits.is_spam(score, said=said),
            score=score,
            required=required if limits.tag is None else limits.tag,
            symbols=tuple(symbols),
        )
        return finding, limits.step(score, said=said)
