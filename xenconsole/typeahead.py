"""One key at a time: the next is handed out when the one before has been dealt with, whatever it opened.

Textual hands each key to the widget that has the focus when it comes, and a binding acts only after the key has bubbled up from
there. Of ":list" typed in a burst the whole word would go to the view that the colon is about to cover. Here a mark follows
each key through the same queues, widget by widget up to the app; keys that come meanwhile wait for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from textual import events
from textual.message_pump import MessagePump

from xenconsole.widgets.terminal_view import TerminalView

if TYPE_CHECKING:
    from xenconsole.app import ConsoleApp

STUCK_SECONDS = 0.5
"""A mark can be lost with the widget that was to pass it on; keys do not wait longer than this for one."""
BEATS = 10
"""That time is counted in so many pieces, each begun when the one before was over: a machine that stalls for seconds costs one of them,
and the mark has the others to arrive in."""
MOST_WAITING = 4096


class TypeAhead:
    """Keeps one app's keys in order. `hand_out` is Textual's own way with a key."""

    def __init__(self, app: ConsoleApp, hand_out: Callable[[events.Event], Awaitable[None]]) -> None:
        self._app = app
        self._hand_out = hand_out
        self._waiting: deque[events.Event] = deque(maxlen=MOST_WAITING)
        self._number = 0
        self._wait: asyncio.TimerHandle | None = None  # for a mark under way

    async def take(self, event: events.Event) -> None:
        """A key or a paste from the terminal."""
        self._waiting.append(event)
        if self._wait is None:
            await self._next()

    def _beat(self, left: int) -> None:
        if left:
            self._wait = asyncio.get_running_loop().call_later(STUCK_SECONDS / BEATS, self._beat, left - 1)
        else:
            self._wait = None
            self._app.call_later(self._unstick)

    async def _unstick(self) -> None:
        if self._wait is None:
            await self._next()

    async def _next(self) -> None:
        if self._wait is not None:
            self._wait.cancel()
            self._wait = None
        while self._waiting and self._wait is None:
            event = self._waiting.popleft()
            await self._app.navigator.settled()
            if self._app.return_code is not None or not self._app.screen_stack:
                return
            target: MessagePump = self._app.focused or self._app.screen
            typed = isinstance(target, TerminalView) and not (isinstance(event, events.Key) and target.keep_key(event.key))
            if typed:  # the guest's: nothing of ours can come of it
                await self._hand_out(event)
                continue
            self._number += 1
            self._beat(BEATS)
            await self._hand_out(event)
            self._pass_on(target, self._number)

    def _pass_on(self, node: MessagePump | None, number: int) -> None:
        """The mark at a widget: on to its parent behind the key, or from the app to the next key."""
        app: MessagePump = self._app
        if node is None or node is app or not node.call_later(self._pass_on, node._parent, number):
            app.call_later(self._arrived, number)

    async def _arrived(self, number: int) -> None:
        if number == self._number:
            await self._next()
