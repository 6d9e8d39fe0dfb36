"""A domain's configuration as an xl.cfg file gives it.

Follows tools/xl/xl_parse.c (parse_config_data) for names, defaults and refusals, xl.cfg(5) for the meaning. What xl would
warn about and ignore (a list where one value belongs, a number that is none) is an error here when the key has a meaning here.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from emulator.abi.start_info import MAX_GUEST_CMDLINE
from emulator.dom0.cfgfile import MAX_TEXT, Setting, Value, error, parse_settings, printable
from emulator.dom0.diskspec import DiskSpec, parse_disks
from emulator.dom0.files import read_file
from emulator.dom0.vifspec import VifSpec, parse_vifs
from emulator.errors import UserError

MAX_VCPUS: Final = 128
MAX_MEMORY_MIB: Final = 1 << 20
DEFAULT_MEMORY_MIB: Final = 32
"""libxl's, when neither memory nor maxmem is set."""
LEAST_MEMORY_MIB: Final = 4
"""What mem-set and minmem= may go down to."""
MAX_NAME: Final = 128
_MAX_US: Final = 1 << 40
MAX_WARNINGS: Final = 20
ACTIONS: Final = ("destroy", "restart", "rename-restart", "preserve", "coredump-destroy", "coredump-restart", "soft-reset")
"""What on_poweroff and its kin may say."""

_KNOWN_NAMES: Final = """
    name type builder kernel ramdisk cmdline root extra memory maxmem vcpus maxvcpus cpus cpus_soft cpu_weight cap period budget
    extratime pool disk vif minmem
    on_poweroff on_reboot on_crash on_watchdog on_soft_reset uuid
"""
_IGNORED_NAMES: Final = """
    acpi acpi_firmware acpi_laptop_slate acpi_s3 acpi_s4 altp2m altp2mhvm apic bios bios_path_override boot bootloader
    bootloader_args channel cpuid device_model device_model_args device_model_args_hvm device_model_args_pv
    device_model_override device_model_stubdomain_override device_model_stubdomain_seclabel device_model_user
    device_model_version device_tree display dm_restrict driver_domain dtdev e820_host firmware firmware_override
    gfx_passthru gic_version hap hdtype hpet init_seclabel iomem ioports irqs keymap latency localtime max_event_channels
    max_grant_frames max_grant_version max_maptrack_frames mca_caps mmio_hole ms_vm_genid msr_relaxed nestedhvm nographic
    nomigrate nx oos opengl p9 pae passthrough pci pci_msitranslate pci_permissive
    pci_power_mgmt pci_seize pvcalls pvh pvshim pvshim_cmdline pvshim_extra pvshim_path rdm rdm_mem_boundary
    rtc_timeoffset sched sdl seclabel serial shadow_memory slice smbios_firmware soundhw spice
    spice_clipboard_sharing spice_image_compression spice_streaming_video spiceagent_mouse spicedisable_ticketing spicehost
    spicepasswd spiceport spicetls_port spiceusbredirection spicevdagent stdvga stubdomain_cmdline stubdomain_kernel
    stubdomain_memory stubdomain_ramdisk tee timer_mode tsc_mode usb usbctrl usbdev usbdevice usbversion vdispl
    vendor_device vfb vga videoram vif2 viridian vkb vkb_device vmtrace_buf_kb vnc vncdisplay vnclisten vncpasswd vncunused
    vncviewer vnuma vpmu vpt_align vsnd vtpm vuart xauthority xen_platform_pci xend_suspend_evtchn_compat
"""
"""Keys of xl that mean nothing to a PV guest of ours."""
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
_CPUS: Final = re.compile(r"all|\^?(?:nodes?:)?\d+(?:-\d+)?(?:,\^?(?:nodes?:)?\d+(?:-\d+)?)*")
_NAMESPACE: Final = uuid.UUID("8f7c1d0e-5b0a-4c39-9a55-3b7b0f9c1e20")


def is_name(name: str) -> bool:
    """Whether a domain may be called so."""
    return 0 < len(name) <= MAX_NAME and name.isprintable() and "/" not in name and name == name.strip()


@dataclass(frozen=True, slots=True)
class DomainConfig:
    """What a new domain is to be. Sizes in MiB; `disk` and `vif` are xl's specification strings, `disks` and `vifs` what they
    mean; `values` has all that was set.

    `minmem` is ours, named after maxmem: what the balloon policy leaves the domain (half of memory= when unset).
    `cpus` and `cpus_soft` are affinities in xl's syntax ("" when unset; a list's items, one a vCPU, are parted by ';'). Without `uuid` in the
    file one is derived from the name, so that the same file gives the same domain.
    """

    name: str
    kernel: Path
    file: str
    uuid: str
    type: str = "pv"
    ramdisk: Path | None = None
    cmdline: str = ""
    memory_mib: int = DEFAULT_MEMORY_MIB
    maxmem_mib: int = DEFAULT_MEMORY_MIB
    minmem_mib: int | None = None
    vcpus: int = 1
    maxvcpus: int = 1
    cpus: str = ""
    cpu_weight: int | None = None
    cap: int | None = None
    cpus_soft: str = ""
    period: int | None = None
    budget: int | None = None
    extratime: int | None = None
    pool: str = ""
    disk: tuple[str, ...] = ()
    disks: tuple[DiskSpec, ...] = ()
    vif: tuple[str, ...] = ()
    vifs: tuple[VifSpec, ...] = ()
    on_poweroff: str = "destroy"
    on_reboot: str = "restart"
    on_crash: str = "destroy"
    on_watchdog: str = "destroy"
    on_soft_reset: str = "soft-reset"
    values: Mapping[str, Value] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def action_on(self, reason: str) -> str:
        """What is to follow a shutdown (handle_domain_death of xl): one for suspending leaves the domain as it is, one for a reason that
        nobody knows destroys it."""
        known = {"poweroff": self.on_poweroff, "reboot": self.on_reboot, "crash": self.on_crash, "watchdog": self.on_watchdog,
                 "soft_reset": self.on_soft_reset, "suspend": "preserve"}  # fmt: skip
        return known.get(reason, "destroy")


def load_config(path: Path) -> DomainConfig:
    """Read and parse a cfg file. UserError when it cannot be read or says something wrong."""
    data = read_file(path, "cfg", MAX_TEXT)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as bad:
        line = data.count(b"\n", 0, bad.start) + 1
        raise error(f"not UTF-8 text: byte {data[bad.start]:#04x}", str(path), line) from bad
    return parse_config(text, file=str(path))


def parse_config(text: str, *, file: str) -> DomainConfig:
    """Parse cfg text; `file` names it in errors and is where relative paths start. UserError `file:line: …` on a mistake."""
    reader = _Reader(parse_settings(text, file), file)
    reader.check_type()
    memory, maxmem = reader.sizes("memory", "maxmem", DEFAULT_MEMORY_MIB, MAX_MEMORY_MIB)
    vcpus, maxvcpus = reader.sizes("vcpus", "maxvcpus", 1, MAX_VCPUS)
    name = reader.name()
    return DomainConfig(
        name=name, kernel=reader.kernel(), file=file, uuid=reader.uuid(name), ramdisk=reader.path("ramdisk"),
        cmdline=reader.cmdline(), memory_mib=memory, maxmem_mib=maxmem, vcpus=vcpus, maxvcpus=maxvcpus, cpus=reader.cpus("cpus"),
        minmem_mib=reader.number("minmem", LEAST_MEMORY_MIB, maxmem),
        cpus_soft=reader.cpus("cpus_soft"), pool=reader.string("pool") or "",
        cpu_weight=reader.number("cpu_weight", 1, 65535), cap=reader.number("cap", 0, 100 * maxvcpus),
        period=reader.number("period", 1, _MAX_US), budget=reader.number("budget", 1, _MAX_US), extratime=reader.number("extratime", 0, 1),
        disk=reader.strings("disk"), disks=reader.disks(), vif=reader.strings("vif"), vifs=reader.vifs(name),
        on_poweroff=reader.action("on_poweroff", "destroy"), on_reboot=reader.action("on_reboot", "restart"),
        on_crash=reader.action("on_crash", "destroy"), on_watchdog=reader.action("on_watchdog", "destroy"),
        on_soft_reset=reader.action("on_soft_reset", "soft-reset"),
        values=MappingProxyType({key: setting.value for key, setting in reader.settings.items()}), warnings=reader.warnings(),
    )  # fmt: skip


class _Reader:
    """Typed access to the settings, every mistake with its line."""

    def __init__(self, settings: dict[str, Setting], file: str) -> None:
        self.settings = settings
        self._file = file

    def _bad(self, key: str, what: str, fix: str = "") -> UserError:
        return error(f"{key}: {what}", self._file, self.settings[key].line, fix)

    def string(self, key: str) -> str | None:
        setting = self.settings.get(key)
        if setting is None:
            return None
        if not isinstance(setting.value, str):
            raise self._bad(key, "is a list but should be a single value")
        return setting.value

    def strings(self, key: str) -> tuple[str, ...]:
        setting = self.settings.get(key)
        if setting is None:
            return ()
        if isinstance(setting.value, str):
            raise self._bad(key, "is a single value but should be a list", f"{key} = [ '…' ]")
        items = tuple(item for item in setting.value if isinstance(item, str))
        if len(items) != len(setting.value):
            raise self._bad(key, "has a list in it where a string belongs")
        return items

    def disks(self) -> tuple[DiskSpec, ...]:
        setting = self.settings.get("disk")
        where = f"{self._file}:{setting.line}" if setting else self._file
        return parse_disks(self.strings("disk"), where=where, folder=Path(self._file).parent)

    def vifs(self, name: str) -> tuple[VifSpec, ...]:
        setting = self.settings.get("vif")
        return parse_vifs(self.strings("vif"), domain=name, where=f"{self._file}:{setting.line}" if setting else self._file)

    def number(self, key: str, low: int, high: int) -> int | None:
        """A number as strtol(…, 0) reads it: decimal, 0x hexadecimal or 0 octal."""
        text = self.string(key)
        if text is None:
            return None
        if self.settings[key].added:
            raise self._bad(key, "can't use += with numbers")
        match = re.fullmatch(r"\s*([+-]?)(?:0[xX]([0-9a-fA-F]{1,16})|(0[0-7]{0,20})|([1-9][0-9]{0,18}))", text, re.ASCII)
        if match is None:
            raise self._bad(key, f"'{printable(text)}' is not a valid number")
        sign, hexa, octal, decimal = match.groups()
        value = int(hexa, 16) if hexa else int(octal, 8) if octal else int(decimal)
        value = -value if sign == "-" else value
        if not low <= value <= high:
            raise self._bad(key, f"{value} is not between {low} and {high}")
        return value

    def sizes(self, key: str, max_key: str, default: int, limit: int) -> tuple[int, int]:
        """A quantity and its maximum. Without the maximum it is the quantity; memory alone also follows its maximum (libxl)."""
        now, most = self.number(key, 1, limit), self.number(max_key, 1, limit)
        if now is None:
            now = most if most is not None and key == "memory" else default
        if most is None:
            most = now
        if most < now:
            raise self._bad(max_key, f"{most} is less than {key} ({now})")
        return now, most

    def check_type(self) -> None:
        kind = self.string("type")
        if kind is not None and not (kind and "pv".startswith(kind)):
            what = "guests do not run here" if kind in ("hvm", "pvh") else "is no type of guest"
            raise self._bad("type", f"'{printable(kind)}' {what}", 'type = "pv"')
        builder = self.string("builder")
        if builder is not None and not (builder and "generic".startswith(builder)):
            raise self._bad("builder", f"'{printable(builder)}' guests do not run here", 'type = "pv"')

    def name(self) -> str:
        name = self.string("name")
        if name is None:
            raise UserError("name: must be specified", where=self._file, fix='name = "…"')
        if not is_name(name):
            raise self._bad("name", f"'{printable(name)}' will not do", f"1 to {MAX_NAME} printable characters, no '/'")
        return name

    def uuid(self, name: str) -> str:
        text = self.string("uuid")
        if text is None:
            return str(uuid.uuid5(_NAMESPACE, name))
        if not _UUID.fullmatch(text):
            raise self._bad("uuid", f"'{printable(text)}' is not a UUID")
        return str(uuid.UUID(text))

    def kernel(self) -> Path:
        path = self.path("kernel")
        if path is None:
            why = "bootloader= is not supported" if "bootloader" in self.settings else ""
            raise UserError("kernel: must be specified", where=self._file, why=why, fix='kernel = "/path/to/kernel"')
        return path

    def path(self, key: str) -> Path | None:
        """A file's path; a relative one is looked for beside the cfg file, then in the current folder."""
        text = self.string(key)
        if text is None or (not text and key == "ramdisk"):
            return None
        if not text.isprintable() or not 0 < len(text) <= 4096:
            raise self._bad(key, "not a path")
        beside = Path(self._file).parent / text
        try:
            return beside if Path(text).is_absolute() or beside.exists() else Path(text)
        except OSError:
            return Path(text)

    def cmdline(self) -> str:
        cmdline, root, extra = self.string("cmdline"), self.string("root"), self.string("extra")
        key = "cmdline" if cmdline is not None else "extra" if extra is not None else "root"
        if cmdline is None:
            cmdline = " ".join(([f"root={root}"] if root is not None else []) + ([extra] if extra is not None else []))
        size = len(cmdline.encode("utf-8", "replace"))
        if size >= MAX_GUEST_CMDLINE:
            raise self._bad(key, f"the kernel's command line is too long, {size} bytes", f"at most {MAX_GUEST_CMDLINE - 1}")
        return cmdline

    def cpus(self, key: str) -> str:
        setting = self.settings.get(key)
        if setting is None:
            return ""
        items = (setting.value,) if isinstance(setting.value, str) else self.strings(key)
        for item in items:
            if not _CPUS.fullmatch(item.replace(" ", "")):
                raise self._bad(key, f"'{printable(item)}' is no list of CPUs", "such as '0-3,^1' or 'all'")
        return ";".join(items)

    def action(self, key: str, default: str) -> str:
        word = self.string(key)
        if word is not None and word not in ACTIONS:
            raise self._bad(key, f"unknown action '{printable(word)}'", ", ".join(ACTIONS))
        return default if word is None else word

    def warnings(self) -> tuple[str, ...]:
        known, ignored = frozenset(_KNOWN_NAMES.split()), frozenset(_IGNORED_NAMES.split())
        told = [
            (setting.line, f"'{printable(key)}' has no effect here" if key in ignored else f"unknown key '{printable(key)}'")
            for key, setting in self.settings.items()
            if key not in known
        ]
        if "cmdline" in self.settings and ("root" in self.settings or "extra" in self.settings):
            told.append((self.settings["cmdline"].line, "ignoring root= and extra= in favour of cmdline="))
        lines = [f"{self._file}:{line}: warning: {text}" for line, text in sorted(told)]
        if len(lines) > MAX_WARNINGS:
            lines[MAX_WARNINGS:] = [f"{self._file}: warning: {len(lines) - MAX_WARNINGS} more of these"]
        return tuple(lines)
