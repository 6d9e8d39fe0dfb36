"""The domain builder: from a kernel file's bytes to a domain that is ready for its first instruction.

    image = load_kernel(data, source=…)      unpacked, checked, notes read
    layout = plan_domain(image, …)           every address, nothing written
    state = write_domain(layout, …)          memory filled, first registers

No image is trusted: every offset, size, count and decompressed length is bounded and checked before it is used, and what is
wrong becomes one UserError naming file, field and cause.
"""

from __future__ import annotations

from emulator.dom0.builder.image import KernelImage, load_kernel
from emulator.dom0.builder.layout import Layout, plan_domain
from emulator.dom0.builder.payload import load_ramdisk
from emulator.dom0.builder.write import BootIds, FirstState, write_domain

__all__ = ["BootIds", "FirstState", "KernelImage", "Layout", "load_kernel", "load_ramdisk", "plan_domain", "write_domain"]
