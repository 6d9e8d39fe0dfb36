"""The engine's process on a host of scripted guests: `python -m tests.unit.engine_with_fake` with the engine's options."""

from __future__ import annotations

import os
import sys
import threading

from emulator.control import engine
from emulator.control.views import Overview
from emulator.errors import UserError
from tests.unit.fake_host import FakeHost


class Troubled(FakeHost):
    """Does what the name of the host says to be its trouble."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.trouble = name

    def overview(self, since_log: int = 0) -> Overview:
        if self.trouble == "dies":
            os.write(2, b"the core is on fire\n")
            os.abort()
        if self.trouble == "babbles":
            for number in range(40_000):
                os.write(2, b"line %06d of a log that grows and grows\n" % number)
        return super().overview(since_log)

    def stop(self) -> None:
        super().stop()
        if self.trouble == "hangs":
            threading.Event().wait()


def make_host(options: object) -> FakeHost:
    name = str(getattr(options, "name", ""))
    if name == "broken":
        raise UserError("unicorn is not what it should be", fix="install 2.1.4")
    host = Troubled(name)
    host.add("spin")
    return host


if __name__ == "__main__":
    engine._make_host = make_host
    engine.LOG_CHECK_SECONDS = 0.05  # type: ignore[misc]
    sys.stdout.flush()
    os._exit(engine.main())
