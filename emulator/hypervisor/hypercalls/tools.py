"""What only Domain-0's tools may ask, as any other domain meets it: domctl, sysctl, platform_op and their kin (xen/common/domctl.c, sysctl.c,
arch/x86/platform_hypercall.c). The request is read and its version looked at before anybody asks who wants it."""

from __future__ import annotations

from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, Final

from emulator.abi.errno import EACCES, EOPNOTSUPP, EPERM, ESRCH
from emulator.abi.xen import XEN_DOMCTL_INTERFACE_VERSION, XEN_SYSCTL_INTERFACE_VERSION, XENPF_INTERFACE_VERSION
from emulator.hypervisor.refusal import Refusal

if TYPE_CHECKING:
    from emulator.hypervisor.vcpu import Vcpu

_REQUEST: Final = Struct("<II128x")  # struct xen_sysctl, xen_platform_op: cmd interface_version, the command's own
_DOMCTL: Final = Struct("<IIHxxxxxx128x")  # struct xen_domctl: cmd interface_version domain, the command's own
_CREATEDOMAIN, _GETDOMAININFO = 1, 5


def _checked(version: int, vcpu: Vcpu, argument: int, *_: int) -> int:
    _command, asked = _REQUEST.unpack(vcpu.domain.guest.read(argument, _REQUEST.size))
    _check_version(asked, version)
    return privileged(vcpu)


def domctl(vcpu: Vcpu, argument: int, *_: int) -> int:
    domain = vcpu.domain
    command, asked, domid = _DOMCTL.unpack(domain.guest.read(argument, _DOMCTL.size))
    _check_version(asked, XEN_DOMCTL_INTERFACE_VERSION)
    if command not in (_CREATEDOMAIN, _GETDOMAININFO) and domid != domain.domid and not domain.domid_exists(domid):
        raise Refusal(ESRCH, f"domain {domid} does not exist")
    return privileged(vcpu)


def _check_version(asked: int, version: int) -> None:
    if asked != version:
        raise Refusal(EACCES, f"interface version {asked:#x}, Xen 4.17 has {version:#x}")


def privileged(_vcpu: Vcpu, *_: int) -> int:
    raise Refusal(EPERM, "only Domain-0 may ask for this")


def switched_off(_vcpu: Vcpu, *_: int) -> int:
    raise Refusal(EOPNOTSUPP, "off by default in Xen, too: it would be an option of the hypervisor (vpmu, argo)")


HYPERCALLS: Final = {"platform_op": partial(_checked, XENPF_INTERFACE_VERSION), "sysctl": partial(_checked, XEN_SYSCTL_INTERFACE_VERSION),
                     "domctl": domctl, "kexec_op": privileged, "hypfs_op": privileged, "mca": privileged, "xenpmu_op": switched_off,
                     "argo_op": switched_off}  # fmt: skip
