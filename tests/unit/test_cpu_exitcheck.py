"""Unicorn's exit check is gone from translated code, and only where its row in the code generator's table is the measured one."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest

from emulator.cpu import exitcheck, native
from emulator.cpu.layout import Prober
from emulator.cpu.libunicorn import load
from emulator.cpu.mappings import rights_at
from emulator.errors import UserError
from tests.patience import meanwhile
from tests.unit.cores import CODE, Bare


@pytest.fixture
def row() -> Iterator[int]:
    exitcheck.leave_out()
    prober = Prober()
    lib = load()
    yield exitcheck._find_row(prober, lib.path.resolve(), lib.address_of("helper_check_exit_request_x86_64"))
    prober.close()


def test_the_flag_is_set_and_the_table_read_only_again(row: int) -> None:
    assert ctypes.c_uint32.from_address(row + 16).value == 4
    assert rights_at(row).startswith("r--")


@pytest.mark.parametrize(("name", "value"), [("_NAME", b"another_function\0"), ("_SIZEMASK", 5)])
def test_a_row_that_is_not_the_measured_one_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    exitcheck.leave_out.cache_clear()
    monkeypatch.setattr(exitcheck, name, value)
    with pytest.raises(UserError) as caught:
        exitcheck.leave_out()
    assert "exit check was not found" in caught.value.line()


def test_another_function_has_no_such_row() -> None:
    prober, lib = Prober(), load()
    try:
        with pytest.raises(UserError):
            exitcheck._find_row(prober, lib.path.resolve(), lib.address_of("helper_read_eflags_x86_64"))
    finally:
        prober.close()


def test_a_loop_that_never_leaves_its_block_ends_when_another_thread_lowers_the_limit() -> None:
    bare = Bare()
    try:
        bare.load("48ffc0 ebfb")  # spin: inc rax; jmp spin
        with meanwhile(bare.core.stop):
            assert bare.run(1 << 60) == 0
        assert bare.core.rip == CODE
        assert bare.core.control[native.COUNT] == bare.core.regs[0] * 5  # one block of five bytes a round, each charged once
        assert not bare.traps
    finally:
        bare.close()
