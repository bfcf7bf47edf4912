"""A server that ends while plugins are asked: mails in hand are answered, attempts are made once or made again.

What is not here: plugins that wait for ever on the way in (`test_plugged_server`), kills.
"""

import time
from pathlib import Path

import pytest

from elemta.testing.process import ServerProcess
from elemta.testing.sink import RecordingSink
from tests.peers.test_disk import marks, try_one
from tests.peers.test_held_by_plugins import holding
from tests.peers.test_plugged_server import SHUTDOWN_SECONDS
from tests.peers.test_plugins_store_trouble import growing, is_whole, reached
from tests.peers.wire import Wire, codes, queued, wait_until

#: Waits for ever around the first attempt, and says that it does.
AROUND_ATTEMPTS = """\
    async def on_{stage}_delivery(self, delivery, *outcomes):
        self.host.log.info("reached")
        if not await trio.Path("go").exists():
            await trio.sleep_forever()
        return CONTINUE
"""


def test_a_mail_in_a_plugins_hand_is_answered_before_the_end(tmp_path: Path, sink: RecordingSink) -> None:
    config = growing(tmp_path, sink.port, pausing=True)
    with ServerProcess(tmp_path, config) as server:
        with Wire(server.port) as wire, Wire(server.port) as idle:
            idle.reply()
            for line in (b"", b"EHLO c\r\n", b"MAIL FROM:<s@example.org>\r\n", b"RCPT TO:<r@example.net>\r\n"):
                assert codes(wire.ask(line)) == [220 if line == b"" else 250]
            assert codes(wire.ask(b"DATA\r\n")) == [354]
            wire.send(b"Subject: during\r\n\r\nhello\r\n.\r\n")
            reached(server)
            server.terminate()
            assert codes(idle.reply()) == [421], "the server drains"
            (tmp_path / "go").touch()
            assert codes(wire.reply() + wire.reply()) == [250, 421]
        assert server.wait() == 0
        server.start()
        sink.wait_for(1)
        wait_until(lambda: queued(server) == 0, "it has left")
        assert server.stop() == 0
        assert "Traceback" not in server.log
    assert marks(sink) == ["during"]
    assert is_whole(sink.mails[0].content)


@pytest.mark.parametrize("stage", ["pre", "post"])
def test_the_end_of_a_server_around_an_attempt(stage: str, tmp_path: Path, sink: RecordingSink) -> None:
    timeouts = {"shutdown_timeout": SHUTDOWN_SECONDS}
    with holding(tmp_path, sink.port, AROUND_ATTEMPTS.format(stage=stage), timeouts=timeouts) as server:
        assert try_one(server, "one") == 250
        reached(server)
        assert marks(sink) == ([] if stage == "pre" else ["one"])
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began <= SHUTDOWN_SECONDS + 6
        (tmp_path / "go").touch()
        server.start()
        joined = [event for event in server.events if event["event"] == "queue.joined"][-1]
        assert joined["uncertain"] == 0, "it is known what was tried"
        sink.wait_for(1)
        wait_until(lambda: queued(server) == 0, "it has left")
        assert server.stop() == 0
        assert "Traceback" not in server.log
    assert marks(sink) == ["one"], "once, whenever the server ended"
