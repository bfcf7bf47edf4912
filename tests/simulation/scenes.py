"""Small scenarios by hand: one client, one remote domain."""

from typing import Any

from elemta.config.sections import Config
from elemta.simulation.clients import ClientScript, MailScript
from elemta.simulation.personality import Personality
from elemta.simulation.resolver import Name
from elemta.simulation.scenario import SENDER_ADDRESS, SENDER_DOMAIN, Scenario, name_with_mx, server_config

HOST = "198.51.100.10"


def mail(tag: str, *recipients: str, octets: int = 200, **settings: Any) -> MailScript:
    """A mail of `tag`; `settings` are fields of `MailScript`."""
    taken = recipients or (f"ok-{tag}@one.test",)
    return MailScript(tag, f"{tag}@{SENDER_DOMAIN}", taken, octets=octets, **settings)


def scene(*mails: MailScript, host: Personality | None = None, **settings: object) -> Scenario:
    """A world with the host of `one.test`, a client that sends `mails` at 1 s; `settings` are fields of `Scenario`."""
    hosts = {SENDER_ADDRESS: Personality()} | ({} if host is None else {HOST: host})
    names = {
        SENDER_DOMAIN: name_with_mx("mx.senders.test"),
        "mx.senders.test": Name(addresses=(SENDER_ADDRESS,)),
        "one.test": name_with_mx("mx.one.test"),
        "mx.one.test": Name(addresses=(HOST,)),
    }
    defaults: dict[str, object] = {"seed": 7, "config": config(), "hosts": hosts, "names": names}
    client = ClientScript("203.0.113.9", 1.0, mails)
    return Scenario(**{"clients": (client,), **defaults, **settings})  # type: ignore[arg-type]  # fields by name


def config(**settings: object) -> Config:
    return server_config(**{"retry_schedule": (60.0, 300.0, 900.0), "max_retries": 5, **settings})
