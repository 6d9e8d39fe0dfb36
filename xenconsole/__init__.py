"""The Domain-0 console of a Xen PV hypervisor on emulated x86-64 cores: what a person touches."""

from emulator import __version__

__all__ = ["__version__"]
