"""Grow the network's corpus: strings of moves that run a line, or two lines one after the other, that none before did.

    python -m tests.fuzz.grow SECONDS        (a soak; new files go into tests/fuzz/corpus/net)
"""

from __future__ import annotations

import hashlib
import random
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from tests.fuzz.net_machine import MOVE, MOVES, play

FOLDER = Path(__file__).parent / "corpus" / "net"
_WATCHED = "emulator/dom0/backends/net/"


def reached(data: bytes) -> set[tuple[str, int, int]]:
    """Pairs of lines of the backend that ran one after the other."""
    arcs: set[tuple[str, int, int]] = set()
    name, last = "", 0

    def local(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal last
        if event == "line":
            arcs.add((name, last, frame.f_lineno))
            last = frame.f_lineno
        return local

    def entered(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal name, last
        at = frame.f_code.co_filename.find(_WATCHED)
        if at < 0:
            return None
        name, last = frame.f_code.co_filename[at:], frame.f_lineno
        return local

    sys.settrace(entered)
    try:
        play(data)
    finally:
        sys.settrace(None)
    return arcs


def mutated(data: bytes, other: bytes, chance: random.Random) -> bytes:
    moves = [data[at : at + MOVE.size] for at in range(0, len(data), MOVE.size)]
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(moves) + 1)
        what = chance.randrange(5)
        if what == 0 or not moves:
            wide = chance.choice((chance.randrange(300), chance.randrange(1 << 32)))
            number = chance.choice((chance.randrange(64), chance.randrange(1 << 16)))
            moves.insert(at, MOVE.pack(chance.randrange(15), chance.randrange(256), number, wide))
        elif what == 1:
            del moves[at % len(moves)]
        elif what == 2:
            moves[at:at] = [moves[at % len(moves)]] * chance.randrange(1, 24)
        elif what == 3:
            cut = chance.randrange(len(other) // MOVE.size + 1) * MOVE.size
            moves[at:at] = [other[index : index + MOVE.size] for index in range(cut, len(other), MOVE.size)]
        else:
            changed = bytearray(moves[at % len(moves)])
            changed[chance.randrange(MOVE.size)] = chance.randrange(256)
            moves[at % len(moves)] = bytes(changed)
    return b"".join(moves[:MOVES])


def main() -> None:
    seconds, chance = float(sys.argv[1]), random.Random()
    corpus = [path.read_bytes() for path in FOLDER.iterdir()]
    known = {arc for data in corpus for arc in reached(data)}
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        data = mutated(chance.choice(corpus or [b""]), chance.choice(corpus or [b""]), chance)
        try:
            new = reached(data) - known
        except Exception:
            (FOLDER / f"failing-{hashlib.sha256(data).hexdigest()[:12]}").write_bytes(data)
            raise
        if new:
            known |= new
            corpus.append(data)
            (FOLDER / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)
    print(f"{len(corpus)} strings, {len(known)} arcs")


if __name__ == "__main__":
    main()
