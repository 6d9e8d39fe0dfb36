"""What follows the end of a domain, also where the host ends or somebody destroys it at that moment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from emulator.dom0.guest import Guest, build_guest
from emulator.dom0.toolstack import Toolstack
from emulator.errors import UserError
from tests.patience import PATIENCE_SECONDS, until
from tests.unit.test_creation import named


def add(tools: Toolstack, name: str, action: str) -> Guest:
    config = named(name)
    return tools.guest(tools.create(replace(config, on_poweroff=action, on_crash=action), False, lambda said: None))


def end(tools: Toolstack, guest: Guest, reason: str = "poweroff") -> None:
    """As its own turn and the thread that follows ends up would."""
    guest.domain.shutdown(reason)
    tools._ends._follow_up(guest)


def said(tools: Toolstack, text: str) -> bool:
    return any(text in entry.text for entry in list(tools.log))


def clear(tools: Toolstack) -> None:
    for domid in list(tools.guests):
        tools.destroy(domid)
    assert tools.pool.free == tools.pool.total and not tools._leaving and not tools.autopsies


def served(guest: Guest, then: Callable[[], object] = lambda: None) -> Callable[[Callable[[], Any]], object]:
    """For Domain.ask of a guest whom nobody runs: what is asked is answered at once, and then something happens."""
    ask = guest.domain.ask

    def answered(question: Callable[[], Any]) -> object:
        future = ask(question)
        guest.domain.serve()
        then()
        return future

    return answered


def test_one_that_ends_again_and_again_is_left_alone_however_it_is_restarted() -> None:
    for action, left in (("restart", 0), ("rename-restart", 5)):
        tools = Toolstack(pool_kib=64 << 10, cpus=1)
        for _ in range(5):
            end(tools, add(tools, "a", action) if not tools.guests else tools.guest(tools.find("a")))
        assert said(tools, "not restarted again") and len(tools.guests) == left
        clear(tools)


def test_a_name_given_at_the_last_moment_is_the_successors(monkeypatch: pytest.MonkeyPatch) -> None:
    tools = Toolstack(pool_kib=64 << 10, cpus=1)
    guest, take_away = add(tools, "a", "restart"), tools.take_away

    def renamed(guest: Guest, reason: str, tell: bool = True) -> object:
        tools.rename(guest.domid, "b")
        return take_away(guest, reason, tell)

    monkeypatch.setattr(tools, "take_away", renamed)
    end(tools, guest)
    assert [guest.name for guest in tools.guests.values()] == ["b"] and tools.find("b") == 2
    monkeypatch.undo()
    clear(tools)


def test_nothing_is_kept_of_one_that_is_destroyed_while_it_is_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    tools = Toolstack(pool_kib=64 << 10, cpus=1)
    guest = add(tools, "a", "preserve")
    monkeypatch.setattr(guest.domain, "ask", served(guest, lambda: tools.destroy(guest.domid)))
    end(tools, guest, "crash")
    clear(tools)


def test_one_that_gives_no_answer_is_taken_away_as_it_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emulator.dom0.turns.in_turn.__defaults__", (0.01,))
    tools = Toolstack(pool_kib=64 << 10, cpus=1)
    guest = add(tools, "a", "destroy")
    end(tools, guest, "crash")  # nobody takes it up: the host was not started
    assert said(tools, "a is not examined") and not tools.guests
    clear(tools)


def test_a_host_that_ends_waits_for_who_is_leaving_and_takes_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    tools = Toolstack(pool_kib=64 << 10, cpus=1)
    tools.start()
    first, second = add(tools, "a", "destroy"), add(tools, "b", "destroy")
    flushing, flushed = threading.Event(), threading.Event()
    leaving, stopping = threading.Thread(target=tools.destroy, args=(first.domid,)), threading.Thread(target=tools.stop)
    close = first.close

    def slow() -> None:
        flushing.set()
        flushed.wait(PATIENCE_SECONDS)
        close()

    def built(*given: Any) -> Guest:
        stopping.start()
        until(lambda: not tools.guests)
        stopping.join(0.3)  # without a reason to wait it would be over
        return build_guest(*given)

    monkeypatch.setattr(first, "close", slow)
    leaving.start()
    flushing.wait(PATIENCE_SECONDS)
    monkeypatch.setattr("emulator.dom0.toolstack.build_guest", built)
    with pytest.raises(UserError, match="the host is ending"):
        tools.create(named("c"), False, lambda said: None)
    assert stopping.is_alive() and second.domid in tools.obituaries, "the disks of the first are not flushed yet"
    flushed.set()
    stopping.join()
    leaving.join()
    clear(tools)


def test_of_a_crash_that_is_undone_while_it_is_examined_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    tools = Toolstack(pool_kib=64 << 10, cpus=1)
    guest = add(tools, "a", "preserve")
    answered = served(guest)

    def undo() -> None:
        monkeypatch.setattr(guest.domain, "ask", answered)
        tools.restore(guest.domid, "up")

    undone = served(guest, undo)
    monkeypatch.setattr(guest.domain, "ask", answered)
    tools.snapshot(guest.domid, "up")
    monkeypatch.setattr(guest.domain, "ask", undone)
    end(tools, guest, "crash")
    assert not guest.domain.ended and not tools.autopsies
    clear(tools)
