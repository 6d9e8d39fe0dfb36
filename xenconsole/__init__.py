"""The Domain-0 console of a Xen PV hypervisor on emulated x86-64 cores: what a person touches."""

__version__ = "0.1.0"
