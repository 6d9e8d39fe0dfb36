"""Getting at the ELF image inside what people call a kernel: a bzImage's compressed payload, or a gzipped ELF file.

Follows tools/libs/guest/xg_dom_bzimageloader.c and Linux' Documentation/x86/boot.rst. Every decompressor is run with a limit
on what it may give, so that a small hostile file cannot fill the host's memory.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable
from typing import Final

import lz4.block
import zstandard

from emulator.dom0.files import MAX_FILE
from emulator.errors import UserError

MAX_KERNEL: Final = 512 << 20
"""Bytes a kernel may have once decompressed (libxenguest allows 1 GiB; no kernel is near either)."""
MAX_RAMDISK: Final = 1 << 30
"""libxenguest's XC_DOM_DECOMPRESS_MAX: a gzipped ramdisk larger than that is handed over as it is."""

_SETUP_SECTS: Final = 0x1F1
_HEADER: Final = 0x202
_PAYLOAD: Final = 0x248
_HEADER_END: Final = 0x250
_LZ4_LEGACY: Final = 0x184C2102
_LZ4_BLOCK: Final = 8 << 20
_LZ4_MAX_BLOCKS: Final = 4096
_XZ_MEMORY: Final = 256 << 20

_Decoder = Callable[[bytes, int], bytes]


class _Corrupt(Exception):
    """A payload that does not decompress; the text says why."""


_DAMAGE: Final = (
    _Corrupt, zlib.error, OSError, ValueError, EOFError, lzma.LZMAError, lz4.block.LZ4BlockError, zstandard.ZstdError
)  # fmt: skip
"""What the decompressors raise on bad data."""


def unwrap_kernel(data: bytes, source: str) -> bytes:
    """The ELF image in `data`: itself, gunzipped, or a bzImage's payload. UserError names what is wrong."""
    if not data:
        raise UserError("kernel: an empty file", where=source)
    if len(data) > MAX_FILE:
        raise UserError("kernel: too large", where=source, why=f"{len(data)} bytes, at most {MAX_FILE} are read")
    if data[:2] == b"\x1f\x8b":
        data = _decompress("gzip", _gunzip, data, source, "kernel")
    if data[:4] == b"\x7fELF":
        return data
    if len(data) < _HEADER_END or data[_HEADER : _HEADER + 4] != b"HdrS":
        raise UserError("kernel: neither an ELF image nor a Linux bzImage", where=source, why=f"begins with {data[:8].hex(' ')}")
    return _unwrap_bzimage(data, source)


def _unwrap_bzimage(data: bytes, source: str) -> bytes:
    version: int = struct.unpack_from("<H", data, _HEADER + 4)[0]
    if version < 0x208:
        why = f"{version >> 8}.{version & 255:02d}, a payload needs 2.08"
        raise UserError("bzImage version: boot protocol too old", where=source, why=why)
    offset, length = struct.unpack_from("<II", data, _PAYLOAD)
    start = (data[_SETUP_SECTS] + 1) * 512 + offset
    if start >= len(data):
        why = f"{start:#x} >= {len(data):#x}, truncated?"
        raise UserError("bzImage payload_offset: past the end of the file", where=source, why=why)
    if start + length > len(data):
        why = f"{start:#x} + {length:#x} > {len(data):#x}, truncated?"
        raise UserError("bzImage payload_length: runs past the end of the file", where=source, why=why)
    payload = data[start : start + length]
    if payload[:4] == b"\x7fELF":
        return payload
    for magic, name, decoder in _FORMATS:
        if payload.startswith(magic):
            return _decompress(name, decoder, payload, source, "bzImage payload")
    raise UserError("bzImage payload: unknown compression", where=source, why=f"begins with {payload[:8].hex(' ') or 'nothing'}")


def _decompress(name: str, decoder: _Decoder, payload: bytes, source: str, what: str) -> bytes:
    try:
        image = decoder(payload, MAX_KERNEL)
    except _DAMAGE as error:
        raise UserError(f"{what}: {name} data is damaged", where=source, why=str(error)) from error
    except MemoryError as error:
        raise UserError(f"{what}: {name} data needs more memory than there is", where=source) from error
    if len(image) > MAX_KERNEL:
        raise UserError(f"{what}: {name} data is too large", where=source, why=f"more than {MAX_KERNEL >> 20} MiB decompressed")
    return image


def _gunzip(data: bytes, limit: int) -> bytes:
    stream = zlib.decompressobj(wbits=31)
    image = stream.decompress(data, limit + 1)
    return _finished(image, stream.eof, limit)


def _bunzip2(data: bytes, limit: int) -> bytes:
    stream = bz2.BZ2Decompressor()
    image = stream.decompress(data, limit + 1)
    return _finished(image, stream.eof, limit)


def _unxz(data: bytes, limit: int) -> bytes:
    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
    image = stream.decompress(data, limit + 1)
    return _finished(image, stream.eof, limit)


def _unlzma(data: bytes, limit: int) -> bytes:
    stream = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_XZ_MEMORY)
    image = stream.decompress(data, limit + 1)
    return _finished(image, stream.eof, limit)


def _unzstd(data: bytes, limit: int) -> bytes:
    stream = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(data[:-4])
    parts: list[bytes] = []
    total = 0
    while total <= limit and (part := stream.read(min(16 << 20, limit + 1 - total))):
        parts.append(part)
        total += len(part)
    _check_trailer(data, total, limit)  # the reader takes a frame cut short for a whole one
    return b"".join(parts)


def _unlzo(data: bytes, limit: int) -> bytes:
    raise _Corrupt("LZO is not supported here; use a kernel built with gzip, xz, lz4 or zstd")


def _unlz4(data: bytes, limit: int) -> bytes:
    """lz4's legacy framing: a magic number, then blocks of at most 8 MiB; Linux appends the image's size in 4 bytes."""
    if len(data) < 12:
        raise _Corrupt("too short")
    end = len(data) - 4
    parts: list[bytes] = []
    total = rounds = 0
    at = 4
    while at < end:
        rounds += 1
        if rounds > _LZ4_MAX_BLOCKS:
            raise _Corrupt("too many blocks")
        if end - at < 4:
            raise _Corrupt("a block's length is cut off")
        (size,) = struct.unpack_from("<I", data, at)
        at += 4
        if size == _LZ4_LEGACY:
            continue
        if size > end - at:
            raise _Corrupt(f"a block of {size:#x} bytes runs past the end")
        part = lz4.block.decompress(data[at : at + size], uncompressed_size=_LZ4_BLOCK)
        at += size
        parts.append(part)
        total += len(part)
        if total > limit:
            break
    _check_trailer(data, total, limit)
    return b"".join(parts)


def _check_trailer(data: bytes, total: int, limit: int) -> None:
    (expected,) = struct.unpack_from("<I", data, len(data) - 4)
    if total <= limit and total != expected:
        raise _Corrupt(f"{total:#x} bytes, but its trailer says {expected:#x}")


def _finished(image: bytes, eof: bool, limit: int) -> bytes:
    if not eof and len(image) <= limit:
        raise _Corrupt("it ends too early")
    return image


_FORMATS: Final[tuple[tuple[bytes, str, _Decoder], ...]] = (
    (b"\x1f\x8b", "gzip", _gunzip),
    (b"BZh", "bzip2", _bunzip2),
    (b"\xfd7zXZ", "xz", _unxz),
    (b"\x28\xb5\x2f\xfd", "zstd", _unzstd),
    (b"\x5d\x00", "lzma", _unlzma),
    (b"\x89LZO", "lzo", _unlzo),
    (b"\x02\x21", "lz4", _unlz4),
)


def load_ramdisk(data: bytes, *, source: str) -> bytes:
    """The ramdisk as the guest gets it: libxenguest unpacks a gzipped one (and leaves it 16 bytes longer), others stay.

    One difference: a file of several gzip members stays packed too. libxenguest would hand over the first and lose the rest.
    """
    if not data:
        raise UserError("ramdisk: an empty file", where=source)
    if len(data) > MAX_FILE:
        raise UserError("ramdisk: too large", where=source, why=f"{len(data)} bytes, at most {MAX_FILE} are read")
    if data[:2] != b"\x1f\x8b" or len(data) < 6:
        return data
    (size,) = struct.unpack_from("<I", data, len(data) - 4)
    if size + 16 > MAX_RAMDISK:
        return data
    stream = zlib.decompressobj(wbits=31)
    try:
        image = stream.decompress(data, size + 16)
    except zlib.error:
        return data
    if not stream.eof or stream.unused_data or len(image) != size:
        return data
    return image + bytes(16)
