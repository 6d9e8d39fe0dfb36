"""The self-test of Unicorn's private layout: it passes on the measured build and refuses anything else in one clear line."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from emulator.cpu import layout, libunicorn
from emulator.errors import UserError
from tests.unit.cores import Bare


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Both are found once a process: each test here looks anew, and leaves no changed result behind."""
    layout.find_layout.cache_clear()
    libunicorn.load.cache_clear()
    yield
    layout.find_layout.cache_clear()
    libunicorn.load.cache_clear()


def refusal() -> str:
    with pytest.raises(UserError) as caught:
        layout.find_layout()
    text = caught.value.line()
    assert "\n" not in text
    return text


def test_the_pinned_build_passes() -> None:
    found = layout.find_layout()
    assert found.error_code == found.dr - 16
    assert found.old_exception == found.dr + 96
    assert found.context_bytes > found.old_exception


def test_planted_registers_are_read_where_the_layout_says() -> None:
    bare = Bare()
    try:
        bare.trap("48b8 8877665544332211 49bf 0102030405060708 0f0b")  # mov rax, ..; mov r15, ..; ud2
        assert bare.core.regs[0] == 0x1122334455667788
        assert bare.core.regs[15] == 0x0807060504030201
    finally:
        bare.close()


@pytest.mark.parametrize("found", ["2.1.3", "2.1.5", "2.2.0", "1.0"])
def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch, found: str) -> None:
    monkeypatch.setattr(libunicorn, "version", lambda name: found)
    text = refusal()
    assert found in text
    assert "install unicorn==2.1.4" in text


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(libunicorn, "version", missing)
    assert "not installed" in refusal()


def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda self: False)
    assert "libunicorn.so.2 is not in the package" in refusal()


def test_debug_registers_elsewhere_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_DEBUG_PATTERN", b"\xa5" * 16)
    assert "debug registers were not found" in refusal()


def test_a_context_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lib = libunicorn.load()
    monkeypatch.setattr(lib, "context_size", lambda engine: 99_999)
    assert "no_exit_request was not found" in refusal()


def test_another_order_of_registers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    swapped = (layout._REGISTER_IDS[1], layout._REGISTER_IDS[0], *layout._REGISTER_IDS[2:])
    monkeypatch.setattr(layout, "_REGISTER_IDS", swapped)
    assert "state was not found" in refusal()


def test_cr3_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "ENV_CR", layout.ENV_CR + 1)
    assert "CR3 is not where it should be" in refusal()


def test_strange_neighbours_of_the_byte_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    size = libunicorn.load().context_size
    real = layout.Prober.read
    pair: list[bytes] = []

    def read(self: layout.Prober, address: int, count: int) -> bytes:
        image = bytearray(real(self, address, count))
        if count == 4096:
            at = image.find(pair[0])
            image[(at + 15 & ~7) + 10] = 1  # the byte itself: set by somebody else already
        return bytes(image)

    def context_size(engine: int) -> int:
        found = int(size(engine))
        pair.append((1).to_bytes(4, "little") + (found - 40).to_bytes(4, "little"))
        return found

    monkeypatch.setattr(libunicorn.load(), "context_size", context_size)
    monkeypatch.setattr(layout.Prober, "read", read)
    assert "strange neighbours" in refusal()


def test_wild_pointers_are_no_crash() -> None:
    prober = layout.Prober()
    try:
        for address in (0, 1, 0xFFF, 0x1000, 0xDEAD_0000_0000, 1 << 47, (1 << 64) - 8):
            assert prober.read(address, 8) == b""
    finally:
        prober.close()


def test_the_search_leaks_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    fds = Path("/proc/self/fd")
    layout.find_layout()
    before = len(list(fds.iterdir()))
    monkeypatch.setattr(layout, "_DEBUG_PATTERN", b"\xa5" * 16)
    for _ in range(5):
        layout.find_layout.cache_clear()
        refusal()
    assert len(list(fds.iterdir())) == before
