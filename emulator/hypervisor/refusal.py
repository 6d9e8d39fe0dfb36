"""A refusal: why the hypervisor said no. Raised where the check stands, turned into -errno at the hypercall's end."""

from __future__ import annotations


class Refusal(Exception):
    """`errno` is positive, of abi.errno; `reason` names the check and the offending value."""

    def __init__(self, errno: int, reason: str) -> None:
        super().__init__(reason)
        self.errno = errno
        self.reason = reason


class DomainCrash(Exception):
    """The guest did what Xen answers by crashing the domain (domain_crash). The text is shown to people."""


class Preempted(Exception):
    """A hypercall has done enough for once: it is to be issued again with these arguments (hypercall_create_continuation)."""

    def __init__(self, *arguments: int) -> None:
        super().__init__("preempted")
        self.arguments = arguments


class Restart(Preempted):
    """-ERESTART: what could be done within one call's allowance is done and remembered; the same call again goes on from there."""
