"""Builds the programs that the benchmarks run inside guests, and the same loops as plain bytes for bare Unicorn."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.benchmarks.linux import WORK, Missing

HERE = Path(__file__).parent
FLAGS = ("-nostdlib", "-static", "-ffreestanding", "-fno-stack-protector", "-fno-pic", "-no-pie", "-O2", "-Wl,--build-id=none")
ALIGN = 64  # between two loops of loops.S, in bytes; their order is that of LOOPS
LOOPS = {"tight": 2, "memory": 5, "call": 6}  # instructions a round


def compiled(name: str, *arguments: str) -> Path:
    gcc = shutil.which("gcc")
    if gcc is None:
        raise Missing("no gcc (Debian: apt install gcc)")
    WORK.mkdir(parents=True, exist_ok=True)
    out = WORK / name
    subprocess.run([gcc, *FLAGS, *arguments, "-o", str(out)], cwd=HERE, check=True)
    return out


def user_program() -> bytes:
    """The static program for the Linux guest."""
    return compiled("user", "user.c", "loops.S").read_bytes()


def pv_guest(*, tight: int, hypercalls: int) -> Path:
    """The tiny PV kernel; it runs so many rounds of the tightest loop, then so many empty hypercalls."""
    rounds = (f"-DROUNDS_TIGHT={tight}", f"-DROUNDS_HYPERCALL={hypercalls}")
    layout = ("-Wl,-Ttext-segment=0xffffffff80100000", "-Wl,-z,max-page-size=4096")
    return compiled("guest.elf", *rounds, "guest.S", "loops.S", *layout)


def loop_bytes() -> bytes:
    """The loops alone, position independent; loop number n of LOOPS starts where the n-th block of code does."""
    return compiled("loops.bin", "loops.S", "-Wl,--oformat=binary,-Ttext=0x400000,-e,0x400000").read_bytes()
