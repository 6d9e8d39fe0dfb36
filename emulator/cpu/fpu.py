"""The x87 and SSE state of a core as FXSAVE lays it out (512 bytes, Intel SDM volume 1, 10.5.1): what struct vcpu_guest_context carries."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from emulator.cpu.core import Core

FXSAVE_BYTES: Final = 512
_HEAD: Final = Struct("<HHBxHQQII")  # FCW FSW FTW FOP FIP FDP MXCSR MXCSR_MASK
_ST_AT, _XMM_AT, _SLOT, _XMM_COUNT = 32, 160, 16, 16
_MXCSR_MASK: Final = 0xFFFF
_EMPTY: Final = 3
_FP0, _FPCW, _FPSW, _FPTAG, _MXCSR, _XMM0 = 82, 246, 31, 247, 249, 122  # uc_x86_reg
_FCW_DEFAULT, _MXCSR_DEFAULT = 0x37F, 0x1F80  # as Xen starts a vCPU that brings no state of its own


def reset(core: Core) -> None:
    """vcpu_setup_fpu without a context: Unicorn's own start has an x87 that raises on everything."""
    image = bytearray(FXSAVE_BYTES)
    _HEAD.pack_into(image, 0, _FCW_DEFAULT, 0, 0, 0, 0, 0, _MXCSR_DEFAULT, _MXCSR_MASK)
    load(core, bytes(image))


def save(core: Core) -> bytes:
    """FXSAVE64; the addresses of the last x87 instruction read as zero, since the core does not keep them."""
    image = bytearray(FXSAVE_BYTES)
    control, status, tags = (int.from_bytes(core.read_register(number, 2), "little")
                             for number in (_FPCW, _FPSW, _FPTAG))  # fmt: skip
    used = sum(1 << number for number in range(8) if tags >> 2 * number & 3 != _EMPTY)
    mxcsr = int.from_bytes(core.read_register(_MXCSR, 4), "little")
    _HEAD.pack_into(image, 0, control, status, used, 0, 0, 0, mxcsr, _MXCSR_MASK)
    top = status >> 11 & 7
    for number in range(8):
        at = _ST_AT + number * _SLOT
        image[at : at + 10] = core.read_register(_FP0 + (top + number & 7), 10)
    for number in range(_XMM_COUNT):
        at = _XMM_AT + number * _SLOT
        image[at : at + _SLOT] = core.read_register(_XMM0 + number, _SLOT)
    return bytes(image)


def load(core: Core, image: bytes) -> None:
    """FXRSTOR64, but that reserved bits of MXCSR are dropped, as Xen drops them from a context that a guest hands over."""
    control, status, used, _opcode, _fip, _fdp, mxcsr, _mask = _HEAD.unpack_from(image)
    tags = sum((0 if used >> number & 1 else _EMPTY) << 2 * number for number in range(8))
    top = status >> 11 & 7
    for number in range(8):
        at = _ST_AT + number * _SLOT
        core.write_register(_FP0 + (top + number & 7), image[at : at + 10])
    for number in range(_XMM_COUNT):
        at = _XMM_AT + number * _SLOT
        core.write_register(_XMM0 + number, image[at : at + _SLOT])
    for register, value in ((_FPCW, control), (_FPSW, status), (_FPTAG, tags)):
        core.write_register(register, value.to_bytes(2, "little"))
    core.write_register(_MXCSR, (mxcsr & _MXCSR_MASK).to_bytes(4, "little"))
