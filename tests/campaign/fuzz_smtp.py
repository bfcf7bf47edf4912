"""Promise 23, the pure machines: atheris (libFuzzer, guided by coverage) draws what a client or a host says.

`tox -e fuzz -- server` or `tox -e fuzz -- client`, each for 5,000,000 inputs unless `-runs=` or `-max_total_time=`
(seconds) says otherwise: whatever follows the target is libFuzzer's. An input that breaks something is written to a
file `crash-…`; the same command with that file's name repeats it.
What is not here: what must hold (`tests.campaign.machines`). Seeds are the published ones, where the tests find them
(ELEMTA_TEST_VECTORS), and the clients' part of our own dialogues.
"""

import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

RUNS = 5_000_000
#: Octets of one input: enough for a session with several mails, few enough for speed. Longer lines are for the tests of
#: `tests/smtp`; `-max_len=2200` draws some here.
MAX_INPUT_OCTETS = 400
#: Options, cuts and answers of one seed, behind its first octet: the plainest.
HEADER = bytes(15)
#: First octets of a seed: each set of options.
PLANS = range(8)

SERVER_WORDS = (
    *(b"EHLO a\r\n", b"HELO a\r\n", b"MAIL FROM:<", b"RCPT TO:<", b"DATA\r\n", b"BDAT ", b" LAST\r\n", b"RSET\r\n"),
    *(b"NOOP\r\n", b"QUIT\r\n", b"VRFY ", b"XDEBUG ", b"STARTTLS\r\n", b"AUTH PLAIN ", b"AUTH LOGIN\r\n", b" SIZE="),
    *(b" BODY=8BITMIME", b" SMTPUTF8", b" RET=FULL", b" ENVID=", b" NOTIFY=NEVER", b" ORCPT=rfc822;"),
    *(b" MT-PRIORITY=", b" REQUIRETLS", b"@example.net>\r\n", b"[127.0.0.1]", b"[IPv6:::1]", b"xn--", b"\xc3\xa4"),
    *(b"\r\n.\r\n", b"\r\n..", b"\r\n", b"\n.\n", b"\r.\r"),
)
CLIENT_WORDS = (
    *(b"220 a\r\n", b"250 a\r\n", b"250-", b"250-PIPELINING\r\n", b"250-STARTTLS\r\n", b"250-SMTPUTF8\r\n"),
    *(
        b"250-AUTH PLAIN LOGIN\r\n",
        b"250-8BITMIME\r\n",
        b"250-SIZE 1\r\n",
        b"250-DSN\r\n",
        b"334 \r\n",
        b"334 YQ==\r\n",
    ),
    *(b"235 2.7.0 \r\n", b"354 \r\n", b"421 4.3.2 \r\n", b"450 4.2.0 \r\n", b"550 5.1.1 \r\n", b"552 5.5.3 \r\n"),
    *(b"221 \r\n", b"\r\n", b"\n"),
)
CLIENT_SEEDS = (
    b"220 a\r\n250-a\r\n250-PIPELINING\r\n250 DSN\r\n250 ok\r\n250 ok\r\n354 go\r\n250 2.0.0 kept\r\n",
    b"220 a\r\n502 no\r\n250 a\r\n250 ok\r\n250 ok\r\n354 go\r\n250 2.0.0 kept\r\n250 ok\r\n550 5.1.1 no\r\n250 ok\r\n",
    b"220 a\r\n250-a\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n220 go\r\n250-a\r\n250 AUTH PLAIN\r\n334 YQ==\r\n235 in\r\n"
    b"250 ok\r\n250 ok\r\n354 go\r\n451 4.3.0 later\r\n250 reset\r\n",
    b"220-a\r\n220 b\r\n250 a\r\n250 ok\r\n552 5.5.3 many\r\n503 none\r\n421 bye\r\n",
)


def server_seeds() -> list[bytes]:
    """Whole sessions: published ones, and what the clients say in our dialogues."""
    # Imported late, since they import the machines: whoever does so first decides whether those are instrumented.
    from tests.conftest import ROOT, vectors_folder
    from tests.smtp.test_server_vectors import seed_of

    folder = vectors_folder()
    published = sorted(folder.glob("fuzz/**/*")) if folder else []
    scripts = sorted((ROOT / "tests" / "dialogues").glob("*.smtp"))
    return [seed_of(path) for path in published if path.is_file() and path.suffix != ".dict"] + [
        said_by_client(path.read_text(encoding="utf-8")) for path in scripts
    ]


def said_by_client(script: str) -> bytes:
    """All that the client says in a dialogue."""
    from tests.smtp.test_dialogues import parse

    return b"".join(group.sent for group in parse(script).groups)


def written(word: bytes) -> str:
    """A word as libFuzzer's dictionaries have it."""
    return '"' + "".join(f"\\x{octet:02x}" for octet in word) + '"\n'


def main() -> None:
    """Draw inputs until there were enough, or until something breaks."""
    atheris: Any = import_module("atheris")  # by name: it is installed by `tox -e fuzz` alone
    target, options = sys.argv[1], sys.argv[2:]
    with atheris.instrument_imports(include=["elemta.smtp", "elemta.mail"]):
        machines = import_module("tests.campaign.machines")
    check: Callable[[bytes], None] = {"server": machines.check_server, "client": machines.check_client}[target]
    seeds, words = (server_seeds(), SERVER_WORDS) if target == "server" else (CLIENT_SEEDS, CLIENT_WORDS)
    with tempfile.TemporaryDirectory() as folder:
        corpus, dictionary = Path(folder) / "corpus", Path(folder) / "words"
        corpus.mkdir()
        for number, seed in enumerate(seeds):
            for plan in PLANS:
                (corpus / f"{number}-{plan}").write_bytes(bytes([plan]) + HEADER + seed)
        dictionary.write_text("".join(map(written, words)))
        repeated = [option for option in options if not option.startswith("-")]
        drawn = (
            [] if repeated else [f"-runs={RUNS}", f"-max_len={MAX_INPUT_OCTETS}", f"-dict={dictionary}", str(corpus)]
        )
        atheris.Setup([sys.argv[0], "-timeout=20", *drawn, *options], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
