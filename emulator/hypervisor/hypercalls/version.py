"""xen_version: who the hypervisor says it is (xen/common/kernel.c). Xen 4.17, as its ABI is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.abi import xen
from emulator.abi.errno import EINVAL, ENOSYS, EPERM
from emulator.hypervisor.refusal import Refusal

if TYPE_CHECKING:
    from emulator.hypervisor.vcpu import Vcpu

MAJOR, MINOR = 4, 17
_FEATURES: Final = (1 << xen.XENFEAT_mmu_pt_update_preserve_ad | 1 << xen.XENFEAT_highmem_assist | 1 << xen.XENFEAT_gnttab_map_avail_bits
                    | 1 << xen.XENFEAT_memory_op_vnode_supported | 1 << xen.XENFEAT_direct_mapped)  # fmt: skip
_DENIED: Final = b"<denied>\0"  # xen_deny(): for what only Domain-0 may know


def _text(value: bytes, size: int) -> bytes:
    return value[: size - 1].ljust(size, b"\0")


EXTRAVERSION: Final = _text(b".xenconsole", 16)
COMPILE_INFO: Final = _text(b"Unicorn TCG", 64) + _text(b"xenconsole", 16) + _text(b"", 32) + _text(b"", 32)
CAPABILITIES: Final = _text(b"xen-3.0-x86_64 \0", 1024)
CHANGESET: Final = _text(b"unavailable", 64)


def xen_version(vcpu: Vcpu, command: int, argument: int, *_: int) -> int:
    guest, command = vcpu.domain.guest, command & xen.MASK32
    if command == xen.XENVER_version:
        return MAJOR << 16 | MINOR
    if command == xen.XENVER_extraversion:
        guest.write(argument, EXTRAVERSION)
    elif command == xen.XENVER_compile_info:
        guest.write(argument, COMPILE_INFO)
    elif command == xen.XENVER_capabilities:
        guest.write(argument, CAPABILITIES)
    elif command == xen.XENVER_changeset:
        guest.write(argument, CHANGESET)
    elif command == xen.XENVER_platform_parameters:
        guest.write_u64(argument, xen.HYPERVISOR_VIRT_START)
    elif command == xen.XENVER_get_features:
        index = guest.read_u32(argument)
        if index:
            raise Refusal(EINVAL, f"feature map {index} does not exist")
        above_4gb = vcpu.domain.vm_assist >> xen.VMASST_TYPE_pae_extended_cr3 & 1
        guest.write_u32(argument + 4, _FEATURES | above_4gb << xen.XENFEAT_pae_pgdir_above_4gb)
    elif command == xen.XENVER_pagesize:
        if argument:
            raise Refusal(EINVAL, "the page size is the result, there is nothing to write to")
        return 4096
    elif command == xen.XENVER_guest_handle:
        guest.write(argument, vcpu.domain.uuid)
    elif command == xen.XENVER_commandline:
        guest.write(argument, _DENIED)
    elif command == xen.XENVER_build_id:
        raise Refusal(EPERM, "the build id is Domain-0's to know")
    else:
        raise Refusal(ENOSYS, f"xen_version {command} does not exist")
    return 0


HYPERCALLS: Final = {"xen_version": xen_version}
