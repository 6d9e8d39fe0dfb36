"""The command that says where xenstore's socket is."""

from __future__ import annotations

import msgspec

from tests.ui.desk import Desk, desk


async def told(at: Desk, path: str) -> str:
    overview = at.app.overview
    at.app.overview = msgspec.structs.replace(overview, host=msgspec.structs.replace(overview.host, xenstored=path))
    at.app.clear_notifications()
    await at.press("colon")
    await at.type("xenstored")
    await at.press("enter")
    return " ".join(notification.message for notification in at.app._notifications)


async def test_it_says_what_to_set_ready_for_a_shell() -> None:
    async with desk() as at:
        assert await told(at, "/run/user/7/it's here") == """export XENSTORED_PATH='/run/user/7/it'"'"'s here'"""
        assert await told(at, "") == "xenstore has no socket: the log says why"
