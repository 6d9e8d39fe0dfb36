"""The engine: an emulated machine, the hypervisor on it, and what Domain-0 runs. Knows no terminal."""

__version__ = "0.1.0"
