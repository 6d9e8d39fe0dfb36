"""Line ends of console_io: the guest writes LF alone, as to Xen's serial line, whose driver sends CR LF.

Only what is shown on a terminal is mended; the stream itself keeps the guest's exact bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

from emulator.control.views import ConsoleChunk


class Serial(bytes):
    """Output that came by console_io."""

    __slots__ = ()


def pieces(chunk: ConsoleChunk) -> Iterator[bytes]:
    """The chunk's bytes in order, those of console_io as `Serial`."""
    at = chunk.offset
    for start, end in chunk.serial:
        if start > at:
            yield chunk.data[at - chunk.offset : start - chunk.offset]
        yield Serial(chunk.data[start - chunk.offset : end - chunk.offset])
        at = end
    if rest := chunk.data[at - chunk.offset :]:
        yield rest


def shown(chunk: ConsoleChunk) -> bytes:
    """The chunk as a terminal has to get it."""
    if not chunk.serial:
        return chunk.data
    return b"".join(piece.replace(b"\n", b"\r\n") if isinstance(piece, Serial) else piece for piece in pieces(chunk))
