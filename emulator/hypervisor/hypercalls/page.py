"""The page through which a guest calls the hypervisor (hypercall_page_initialise, xen/arch/x86/pv/hypercall.c)."""

from __future__ import annotations

from typing import Final

from emulator.abi.xen import HYPERCALL_NUMBER

_STUB: Final = 32


def hypercall_page() -> bytes:
    """128 stubs of 32 bytes, one a hypercall; that of iret does not return."""
    page = b""
    for number in range(4096 // _STUB):
        # push %rcx; push %r11; mov $number,%eax; syscall; pop %r11; pop %rcx; ret
        code = b"\x51\x41\x53\xb8" + number.to_bytes(4, "little") + b"\x0f\x05\x41\x5b\x59\xc3"
        if number == HYPERCALL_NUMBER["iret"]:
            code = b"\x51\x41\x53\x50\xb8" + number.to_bytes(4, "little") + b"\x0f\x05"  # push %rax too: struct iret_context
        page += code.ljust(_STUB, b"\xcc")
    return page
