"""Xen's core format, read back by pyelftools: sections, notes, vCPUs and every page; and what a crash leaves behind."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile

from emulator.dom0 import coredump
from emulator.errors import UserError
from emulator.hypervisor.context import CONTEXT_BYTES, get_info, set_info
from tests.benchmarks.paper import Rig, rig
from tests.patience import until

HEADER, XEN_VERSION, FORMAT = 0x2000001, 0x2000002, 0x2000003


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setenv("XENCONSOLE_DUMPS", str(tmp_path / "dump"))
    with rig(1) as made:
        yield made


def notes_of(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at < len(data):
        name_size, size, kind = struct.unpack_from("<III", data, at)
        assert data[at + 12 : at + 12 + name_size] == b"Xen\0"
        found[kind] = data[at + 16 : at + 16 + size]
        at += 16 + size
    return found


def test_a_core_holds_every_page_and_every_vcpu_as_xen_lays_them_out(host: Rig, tmp_path: Path) -> None:
    guest = host.add("shell", "maxvcpus = 2\nvcpus = 1")
    until(lambda: b"xen> " in guest.transcript.tail(100))
    host.tools.pause(guest.domid)
    path = tmp_path / "a.core"
    left = path.with_name(f".a.core.{os.getpid()}.part")  # by an engine of the same number that was killed
    left.touch()
    coredump.write(host.tools, guest, path)
    left.unlink()
    domain = guest.domain
    with path.open("rb") as file:
        elf = ELFFile(file)
        assert (elf["e_type"], elf["e_machine"], elf.elfclass, elf.num_segments()) == ("ET_CORE", "EM_X86_64", 64, 0)
        sections = {section.name: section for section in elf.iter_sections()}
        assert list(sections) == ["", ".shstrtab", ".note.Xen", ".xen_prstatus", ".xen_shared_info", ".xen_pages", ".xen_p2m"]
        notes = notes_of(sections[".note.Xen"].data())
        assert struct.unpack("<4Q", notes[HEADER]) == (0xF00FEBED, 2, 1024, 4096)
        assert struct.unpack_from("<QQ", notes[XEN_VERSION]) == (4, 17)
        assert notes[FORMAT] == struct.pack("<Q", 1)
        assert sections[".xen_pages"]["sh_offset"] % 4096 == 0
        p2m = np.frombuffer(sections[".xen_p2m"].data(), dtype="<u8").reshape(-1, 2)
        assert p2m[:, 0].tolist() == list(range(1024))
        pages = sections[".xen_pages"].data()
        for number, (pfn, mfn) in enumerate(p2m.tolist()):
            assert domain.layout.pfn_of(mfn) == pfn
            assert pages[number * 4096 : number * 4096 + 4096] == bytes(domain.memory.frame(mfn))
        contexts = sections[".xen_prstatus"].data()
        assert len(contexts) == 2 * CONTEXT_BYTES
        assert contexts[:CONTEXT_BYTES] == get_info(domain.vcpus[0])
        assert struct.unpack_from("<Q", contexts, 512 + 8 + 16 * 8)[0] == domain.core.rip
        assert sections[".xen_shared_info"].data() == bytes(domain.memory.frame(domain.layout.shared_info_mfn))
    assert path.stat().st_blocks * 512 < path.stat().st_size // 2, "pages of zeros are holes"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["a.core"]


@pytest.mark.parametrize("action", ["coredump-destroy", "coredump-restart"])
def test_a_crash_leaves_a_core_and_then_does_what_the_cfg_says(host: Rig, action: str, tmp_path: Path) -> None:
    guest = host.add("shell", f'on_crash = "{action}"')
    until(lambda: b"xen> " in guest.transcript.tail(100))
    guest.type(b"crash hard\r")
    until(lambda: guest.domid not in host.tools.guests)
    restarted = action == "coredump-restart"
    until(lambda: bool(host.tools.guests) is restarted)
    with (tmp_path / "dump" / guest.name).open("rb") as file:
        assert {section.name: section.data_size for section in ELFFile(file).iter_sections()}[".xen_pages"] == 4 << 20
    assert any("core of shell0 written" in entry.text for entry in host.tools.log)
    assert {entry.name for entry in host.tools.log if entry.domid == guest.domid} == {guest.name}, "also what was said when it was gone"


def test_a_core_that_cannot_be_written_is_one_line_and_leaves_nothing(host: Rig, tmp_path: Path) -> None:
    guest = host.add("shell")
    folder = tmp_path / "taken"
    folder.mkdir()
    for path in (folder, Path("/dev/null/core"), Path("/proc/self/no-such-place/core")):
        with pytest.raises(UserError, match="core cannot be written"):
            coredump.write(host.tools, guest, path)
    assert sorted(os.listdir(tmp_path)) == ["taken"]


def test_a_name_cannot_lead_out_of_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XENCONSOLE_DUMPS", str(tmp_path))
    for name in ("..", ".", ".hidden", "plain"):
        assert coredump.path_of(name).parent == tmp_path
        assert coredump.path_of(name).name not in (".", "..")


def test_a_context_read_is_one_that_could_be_set(host: Rig) -> None:
    """What get_info says of a vCPU, set_info understands: only that vCPU has one already."""
    guest = host.add("shell", "maxvcpus = 2\nvcpus = 1")
    until(lambda: b"xen> " in guest.transcript.tail(100))
    host.tools.pause(guest.domid)
    first, second = guest.domain.vcpus
    data = get_info(first)
    set_info(second, data)
    again = get_info(second)
    for start, end in ((0, 512), (512 + 8, 512 + 8 + 15 * 8)):
        assert again[start:end] == data[start:end]
    assert again[-8 * 4 :] == data[-8 * 4 :]
