"""A static Linux program on bare Unicorn: paging on, NX data, no hook but that of SYSCALL, whose own time is left out.

Enough of Linux for busybox's md5sum, awk and sort over files in memory; a system call that is not here answers -ENOSYS. It is the
yardstick of a guest's speed, so nothing is checked: never run a program with it that is not trusted.
"""

from __future__ import annotations

import ctypes
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import unicorn
from unicorn import x86_const as x86

from tests.benchmarks.bare import EFER, NX, PRESENT, USER, WRITABLE, forbid_exit_requests

MIB = 1 << 20
MEMORY, TABLES = 160 * MIB, 160 * MIB
BREAK, MAPPINGS, STACK = 8 * MIB, 32 * MIB, 159 * MIB
ENOENT, EBADF, ENOTTY, ENOSYS = 2, 9, 25, 38
BUSYBOX = Path("/bin/busybox")
LOAD, EXECUTABLE = 1, 1


class BareProcess:
    """One program, run to its end; `output` is what it wrote to its standard output."""

    def __init__(self, files: dict[str, bytes], program: Path = BUSYBOX) -> None:
        self.files = files
        self.output = b""
        self.status: int | None = None
        self._open: dict[int, tuple[bytes, list[int]]] = {}
        self._break = BREAK
        self._next = MAPPINGS
        self._spent = 0.0
        self._uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        forbid_exit_requests(self._uc)
        self._uc.mem_map(0, MEMORY + 4 * MIB)
        self._load(program.read_bytes())
        self._calls: dict[int, Callable[..., int]] = {
            0: self._read, 1: self._write, 2: self._open_file, 3: self._close, 5: self._fstat, 8: self._seek, 9: self._map,
            12: self._brk, 16: self._no_tty, 20: self._writev, 25: self._grow, 39: self._pid, 60: self._exit, 158: self._set_fs,
            218: self._pid, 231: self._exit, 257: lambda _, path, *more: self._open_file(path, *more), 262: self._fstatat,
            318: lambda address, size, *_: size,
        }  # fmt: skip
        # mprotect, munmap, rt_sigaction, rt_sigprocmask, the four getids, set_robust_list, prlimit64: nothing depends on them.
        self._calls |= dict.fromkeys((10, 11, 13, 14, 102, 104, 107, 108, 273, 302), self._fine)

    @staticmethod
    def prepared(copies: int, lines: str) -> dict[str, bytes]:
        """The files that the guests make for themselves: /blob and /lines."""
        made = subprocess.run([str(BUSYBOX), "awk", lines], capture_output=True, check=True).stdout
        return {"/blob": BUSYBOX.read_bytes() * copies, "/lines": made}

    def run(self, arguments: list[str]) -> float:
        """CPU seconds that the program took, without those of its system calls. Raises RuntimeError when it fails."""
        uc = self._uc
        strings, pointers = STACK, []
        for text in arguments:
            uc.mem_write(strings, text.encode() + b"\0")
            pointers.append(strings)
            strings += len(text.encode()) + 1
        auxiliary = (3, self._headers, 4, 56, 5, self._header_count, 6, 4096, 9, self._entry, 25, STACK, 17, 100, 0, 0)
        words = (len(pointers), *pointers, 0, 0, *auxiliary)
        top = (STACK - 4096 - 8 * len(words)) & ~15
        uc.mem_write(top, struct.pack(f"<{len(words)}Q", *words))
        uc.reg_write(x86.UC_X86_REG_RSP, top)
        uc.reg_write(x86.UC_X86_REG_RDX, 0)
        uc.hook_add(unicorn.UC_HOOK_INSN, self._on_syscall, None, 1, 0, x86.UC_X86_INS_SYSCALL)
        began = time.process_time()
        uc.emu_start(self._entry, 0)
        took = time.process_time() - began - self._spent
        if self.status != 0:
            raise RuntimeError(f"{arguments} ended with {self.status} on bare Unicorn: {self.output[-200:]!r}")
        return took

    def _load(self, image: bytes) -> None:
        header = struct.unpack_from("<16sHHIQQQIHHHHHH", image)
        self._entry, offset, self._header_count = header[4], header[5], header[9]
        text: list[range] = []
        for number in range(self._header_count):
            kind, flags, at, address, _, size, *_ = struct.unpack_from("<IIQQQQQQ", image, offset + 56 * number)
            if kind == LOAD:
                self._uc.mem_write(address, image[at : at + size])
                if flags & EXECUTABLE:
                    text.append(range(address >> 12, (address + size + 4095) >> 12))
                if at == 0:
                    self._headers = address + offset
        pages = MEMORY >> 12
        frames = np.arange(pages, dtype=np.uint64)
        entries = frames << np.uint64(12) | np.uint64(PRESENT | USER | WRITABLE | NX)
        for pages_of_text in text:
            some = slice(pages_of_text.start, pages_of_text.stop)
            entries[some] = frames[some] << np.uint64(12) | np.uint64(PRESENT | USER)
        l4, l3, l2, l1 = (TABLES + 4096 * number for number in range(4))
        link = PRESENT | WRITABLE | USER
        self._uc.mem_write(l4, struct.pack("<Q", l3 | link))
        self._uc.mem_write(l3, struct.pack("<Q", l2 | link))
        tables = pages // 512
        self._uc.mem_write(l2, struct.pack(f"<{tables}Q", *(l1 + 4096 * number | link for number in range(tables))))
        self._uc.mem_write(l1, entries.tobytes())
        uc = self._uc
        # PAE, OSFXSR, OSXMMEXCPT; then long mode with NX; then paging, without the coprocessor's task switch.
        uc.reg_write(x86.UC_X86_REG_CR4, uc.reg_read(x86.UC_X86_REG_CR4) | 1 << 5 | 1 << 9 | 1 << 10)
        uc.reg_write(x86.UC_X86_REG_CR3, l4)
        uc.msr_write(EFER, uc.msr_read(EFER) | 1 << 8 | 1 << 11)
        uc.reg_write(x86.UC_X86_REG_CR0, uc.reg_read(x86.UC_X86_REG_CR0) & ~(1 << 2) | 1 << 31 | 1 << 1 | 1)

    def _on_syscall(self, uc: unicorn.Uc, _: object) -> None:
        began = time.process_time()
        number = uc.reg_read(x86.UC_X86_REG_RAX)
        registers = (x86.UC_X86_REG_RDI, x86.UC_X86_REG_RSI, x86.UC_X86_REG_RDX, x86.UC_X86_REG_R10)
        call = self._calls.get(number)
        result = call(*(uc.reg_read(register) for register in registers)) if call else -ENOSYS
        uc.reg_write(x86.UC_X86_REG_RAX, result & (1 << 64) - 1)
        self._spent += time.process_time() - began

    def _string(self, address: int) -> str:
        return bytes(self._uc.mem_read(address, 256)).split(b"\0")[0].decode()

    def _fine(self, *_: int) -> int:
        return 0

    def _pid(self, *_: int) -> int:
        return 100

    def _no_tty(self, *_: int) -> int:
        return -ENOTTY

    def _open_file(self, path: int, *_: int) -> int:
        data = self.files.get(self._string(path))
        if data is None:
            return -ENOENT
        number = 3 + len(self._open)
        self._open[number] = (data, [0])
        return number

    def _close(self, number: int, *_: int) -> int:
        return 0

    def _read(self, number: int, address: int, size: int, _: int) -> int:
        if number not in self._open:
            return -EBADF if number else 0
        data, position = self._open[number]
        piece = data[position[0] : position[0] + size]
        position[0] += len(piece)
        if piece:
            self._uc.mem_write(address, piece)
        return len(piece)

    def _seek(self, number: int, offset: int, whence: int, _: int) -> int:
        if number not in self._open:
            return -EBADF
        data, position = self._open[number]
        signed = ctypes.c_int64(offset).value
        position[0] = signed + (0, position[0], len(data))[whence]
        return position[0]

    def _write(self, number: int, address: int, size: int, _: int) -> int:
        self.output += bytes(self._uc.mem_read(address, size))
        return size

    def _writev(self, number: int, vectors: int, count: int, _: int) -> int:
        pairs = struct.iter_unpack("<QQ", bytes(self._uc.mem_read(vectors, 16 * count)))
        return sum(self._write(number, address, size, 0) for address, size in pairs if size)

    def _fstat(self, number: int, address: int, *_: int) -> int:
        data = self._open[number][0] if number in self._open else b""
        kind = 0o100644 if number in self._open else 0o010600  # a file, or a pipe
        self._uc.mem_write(address, struct.pack("<QQQIIIIQQQQ", 1, number, 1, kind, 0, 0, 0, 0, len(data), 4096, 0) + bytes(48))
        return 0

    def _fstatat(self, number: int, path: int, address: int, flags: int) -> int:
        return -ENOENT if self._string(path) else self._fstat(number, address)

    def _brk(self, wanted: int, *_: int) -> int:
        if BREAK <= wanted < MAPPINGS:
            self._break = wanted
        return self._break

    def _map(self, address: int, size: int, *_: int) -> int:
        at, self._next = self._next, self._next + (size + 4095 & ~4095)
        if self._next > STACK - 8 * MIB:
            raise RuntimeError("the program wants more memory than the benchmark gives it")
        return at

    def _grow(self, old: int, old_size: int, size: int, _: int) -> int:
        at = self._map(0, size)
        self._uc.mem_write(at, bytes(self._uc.mem_read(old, old_size)))
        return at

    def _set_fs(self, what: int, address: int, *_: int) -> int:
        if what != 0x1002:  # ARCH_SET_FS
            return -ENOSYS
        self._uc.reg_write(x86.UC_X86_REG_FS_BASE, address)
        return 0

    def _exit(self, status: int, *_: int) -> int:
        self.status = status
        self._uc.emu_stop()
        return 0
