"""From a filter's decision to a plugin's verdict; pure.

What is not here: changes to the mail (`milter.changes`). Codes and texts of plain refusals are Sendmail's.
"""

from typing import Final

from elemta.plugins.milter.events import Decision, ReplyCode
from elemta.plugins.verdicts import CONTINUE, Defer, Discard, Reject, Verdict

REJECTED: Final = Reject("command rejected", code=550, enhanced="5.7.1")
DEFERRED: Final = Defer("service unavailable, try again later", code=451, enhanced="4.7.1")
#: A greeting can only be 220, 554 or 421: RFC 5321 §4.3.2.
UNWELCOME: Final = Reject("command rejected", code=554, enhanced="5.7.1")
UNWELCOME_NOW: Final = Defer("service unavailable, try again later", code=421, enhanced="4.7.1")
SHUT_DOWN: Final = Defer("server closing connection", code=421, enhanced="4.7.0")


def verdict_of(decision: Decision | ReplyCode, *, greeting: bool = False) -> Verdict:
    """What a decision means for the step that it answers; `greeting` says that it is a client's connection."""
    if isinstance(decision, ReplyCode):
        return _with_reply(decision)
    match decision:
        case Decision.REJECT:
            return UNWELCOME if greeting else REJECTED
        case Decision.TEMPFAIL:
            return UNWELCOME_NOW if greeting else DEFERRED
        case Decision.SHUTDOWN:
            return SHUT_DOWN
        case Decision.DISCARD:
            return Discard("discarded by a milter")
        case _:
            return CONTINUE


def _with_reply(reply: ReplyCode) -> Verdict:
    if reply.code >= 500:
        return Reject(reply.text or REJECTED.text, code=reply.code, enhanced=reply.enhanced or REJECTED.enhanced)
    return Defer(reply.text or DEFERRED.text, code=reply.code, enhanced=reply.enhanced or DEFERRED.enhanced)
