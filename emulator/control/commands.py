"""The commands of the control interface, run against a host: names, arguments, and what becomes of them in words.

Functions here block (they are run in a thread of the server) and raise UserError for what the user can mend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emulator.control.command import Arguments, Command
from emulator.control.hostapi import HostApi
from emulator.control.memorycommands import MEMORY
from emulator.control.messages import Argument, CommandResult
from emulator.control.schedulingcommands import SCHEDULING
from emulator.errors import UserError

if TYPE_CHECKING:
    from emulator.dom0.config import DomainConfig


def run_command(host: HostApi, name: str, args: Mapping[str, Argument], progress: Callable[[str], None]) -> CommandResult:
    """Run a command. Raises UserError for a wrong one and for what the host refuses."""
    command = COMMANDS.get(name)
    if command is None:
        raise UserError(f"no command {name[:64]!r}", fix=f"known: {', '.join(COMMANDS)}")
    arguments = Arguments(name, args, progress)
    arguments.check(command.needs, command.takes)
    return command.run(host, arguments)


def _create(host: HostApi, args: Arguments) -> CommandResult:
    config = _config(args)
    domid = host.create(config, paused=args.get("paused", False), progress=args.progress)
    said = f"created {config.name} as domain {domid}"
    if config.warnings:
        said += f" ({'; '.join(config.warnings)})"
    return CommandResult(ok=True, domid=domid, message=said)


def _config(args: Arguments) -> DomainConfig:
    """The configuration from `file`, or from `text` with `file` as its name. `extra` holds further lines, as xl takes them
    from its command line, and `name` is one such; a mistake in them is told as one of the command line."""
    from emulator.dom0.cfgfile import MAX_TEXT
    from emulator.dom0.config import load_config, parse_config
    from emulator.dom0.files import read_file

    file, extra = args.get("file", ""), args.get("extra", "")
    if not file and not args.has("text"):
        raise UserError("create needs file= or text=")
    if name := args.get("name", ""):
        extra += f"{'' if extra.endswith(chr(10)) or not extra else chr(10)}name = {_quoted(name)}\n"
    if not extra:
        return parse_config(args.get("text", ""), file=file or "<text>") if args.has("text") else load_config(Path(file))
    if args.has("text"):
        text = args.get("text", "")
    else:
        try:
            text = read_file(Path(file), "cfg", MAX_TEXT).decode("utf-8")
        except UnicodeDecodeError:
            return load_config(Path(file))  # which tells the line
    text = text if text.endswith("\n") or not text else text + "\n"
    file = file or "<text>"
    try:
        return parse_config(text + extra, file=file)
    except UserError as mistake:
        raise _on_command_line(mistake, file, text.count("\n"), extra) from mistake


def _quoted(text: str) -> str:
    """A string in cfg syntax, which knows no escape for the quote that it is in."""
    quote = "'" if '"' in text else '"'
    if quote in text or not text.isprintable() or "\\" in text:
        raise UserError(f"{ascii(text)[:200]} will not do as a name", fix="printable characters, no backslash, one kind of quote")
    return f"{quote}{text}{quote}"


def _on_command_line(mistake: UserError, file: str, lines: int, extra: str) -> UserError:
    """A mistake whose line lies beyond the file's was made in the extra lines."""
    place, _, number = mistake.where.rpartition(":")
    if place != file or not number.isdigit() or int(number) <= lines:
        return mistake
    added = extra.split("\n")
    line = added[min(int(number) - lines, len(added)) - 1]
    return UserError(mistake.what, where=f"command line: {line.strip()}", why=mistake.why, fix=mistake.fix)


def _act(said: str, act: Callable[[HostApi, int], Any]) -> Callable[[HostApi, Arguments], CommandResult]:
    def run(host: HostApi, args: Arguments) -> CommandResult:
        act(host, args.domid())
        return CommandResult(ok=True, domid=args.domid(), message=f"domain {args.domid()} {said}")

    return run


def _rename(host: HostApi, args: Arguments) -> CommandResult:
    host.rename(args.domid(), args.get("new", ""))
    return CommandResult(ok=True, domid=args.domid(), message=f"domain {args.domid()} renamed to {args.get('new', '')}")


def _dump_core(host: HostApi, args: Arguments) -> CommandResult:
    return CommandResult(ok=True, domid=args.domid(), message=host.dump_core(args.domid(), args.get("file", "")))


def _snapshot(host: HostApi, args: Arguments) -> CommandResult:
    taken = host.snapshot(args.domid(), args.get("name", ""))
    return CommandResult(ok=True, domid=args.domid(), message=f"snapshot {taken.name} of domain {args.domid()}", snapshot=taken)


def _restore(host: HostApi, args: Arguments) -> CommandResult:
    present = host.restore(args.domid(), args.get("name", ""))
    said = f"domain {args.domid()} restored to {args.get('name', '')}; the present is kept as {present.name}"
    return CommandResult(ok=True, domid=args.domid(), message=said, snapshot=present)


def _forget(host: HostApi, args: Arguments) -> CommandResult:
    host.forget(args.domid(), args.get("name", ""))
    said = f"snapshot {args.get('name', '')} of domain {args.domid()} forgotten"
    return CommandResult(ok=True, domid=args.domid(), message=said)


def _vcpus(host: HostApi, args: Arguments) -> CommandResult:
    host.set_vcpus(args.domid(), args.get("count", 0))
    return CommandResult(ok=True, domid=args.domid(), message=f"domain {args.domid()} asked to use {args.get('count', 0)} vCPUs")


def _block_attach(host: HostApi, args: Arguments) -> CommandResult:
    name = host.block_attach(args.domid(), args.get("spec", ""))
    return CommandResult(ok=True, domid=args.domid(), message=f"{name} plugged into domain {args.domid()}")


def _block_detach(host: HostApi, args: Arguments) -> CommandResult:
    name = host.block_detach(args.domid(), args.get("vdev", ""), args.get("force", False))
    return CommandResult(ok=True, domid=args.domid(), message=f"{name} taken from domain {args.domid()}")


def _block_list(host: HostApi, args: Arguments) -> CommandResult:
    """xl's columns (main_blocklist), and what a person wants to know besides."""
    lines = [f"{'Vdev':<8} {'State':<12} {'Mode':<4} {'Size(k)':>10} {'Read(k)':>10} {'Written(k)':>10} {'Requests':>9} Target"]
    for disk in host.block_list(args.domid()):
        mode, trouble = "r" if disk.readonly else "w", f" ({disk.trouble})" if disk.trouble else ""
        lines.append(f"{disk.vdev:<8} {disk.backend_state:<12} {mode:<4} {disk.size >> 10:>10} {disk.read_bytes >> 10:>10} "
                     f"{disk.written_bytes >> 10:>10} {disk.requests:>9} {disk.target}{trouble}")  # fmt: skip
    return CommandResult(ok=True, domid=args.domid(), message="\n".join(lines))


def _network_attach(host: HostApi, args: Arguments) -> CommandResult:
    name = host.network_attach(args.domid(), args.get("spec", ""))
    return CommandResult(ok=True, domid=args.domid(), message=f"{name} plugged into domain {args.domid()}")


def _network_detach(host: HostApi, args: Arguments) -> CommandResult:
    name = host.network_detach(args.domid(), args.get("vif", ""), args.get("force", False))
    return CommandResult(ok=True, domid=args.domid(), message=f"{name} taken from domain {args.domid()}")


def _capture(host: HostApi, args: Arguments) -> CommandResult:
    said = host.capture(args.domid(), args.get("vif", ""), args.get("file", ""), args.get("mib", 0))
    return CommandResult(ok=True, domid=args.domid(), message=said)


def _network_list(host: HostApi, args: Arguments) -> CommandResult:
    """The domain's interfaces, what went through them and what did not."""
    lines = [f"{'Idx':<4} {'MAC':<17} {'Network':<15} {'State':<12} {'Sent(k)':>9} {'Got(k)':>9} {'Dropped':>8} {'Waits':>6}"]
    for vif in host.network_list(args.domid()):
        noted = "".join(f" ({text})" for text in (vif.trouble, vif.capture and f"captured to {vif.capture}") if text)
        lines.append(f"{vif.devid:<4} {vif.mac:<17} {vif.bridge:<15} {vif.backend_state:<12} {vif.tx_bytes >> 10:>9} {vif.rx_bytes >> 10:>9} "
                     f"{vif.rx_dropped:>8} {vif.throttled:>6}{noted}")  # fmt: skip
    return CommandResult(ok=True, domid=args.domid(), message="\n".join(lines))


def _network_uplink(host: HostApi, args: Arguments) -> CommandResult:
    network, subnet, services = args.get("network", ""), args.get("subnet", "on"), args.get("services", "")
    subnet = {"on": "10.0.2.0/24", "off": ""}.get(subnet, subnet)
    host.network_uplink(network, subnet, services)
    through = f", through which goes {services}" if services else ""
    return CommandResult(ok=True, message=f"{network} has an uplink, {subnet}{through}" if subnet else f"{network} has no uplink")


def _overhead(host: HostApi, _args: Arguments) -> CommandResult:
    found = host.overhead()
    causes = (
        (found.memory, f"memory of {found.domains} domains and their snapshots"),
        (found.translated, f"code translated for the {found.awake} awake"),
        (found.empty, "the engine before the first domain"),
        (found.rest, "the rest: instances, tables, back ends, transcripts"),
    )
    lines = [f"the engine takes {found.engine / 1024:.1f} MiB; {found.each:,.0f} KiB a domain beside its memory"]
    lines += [f"{kib / 1024:>10.1f} MiB  {text}" for kib, text in causes]
    return CommandResult(ok=True, message="\n".join(lines))


def _disk_list(host: HostApi, args: Arguments) -> CommandResult:
    """Every disk with who has it; what qemu-img and xl would each tell a half of."""
    pool = host.storage.pool()
    lines = [f"{'Name':<20} {'Format':<8} {'Size':>10} {'Held':>10} {'Used by':<24} Base"]
    for disk in pool.disks:
        users = ", ".join(f"{use.domain}:{use.vdev}" for use in disk.uses) or (f"{len(disk.clones)} over it" if disk.clones else "-")
        lines.append(f"{disk.name:<20} {disk.format:<8} {_bytes(disk.size):>10} {_bytes(disk.held):>10} {users:<24} "
                     f"{disk.trouble or (disk.chain[0] if disk.chain else '-')}")  # fmt: skip
    return CommandResult(ok=True, message="\n".join(lines) if pool.disks else f"no disks in {pool.folder}")


def _disk_info(host: HostApi, args: Arguments) -> CommandResult:
    disk = host.storage.disk(args.get("disk", ""))
    facts = {"file": disk.path, "format": disk.format, "size": f"{_bytes(disk.size)} ({disk.size} bytes)", "held": _bytes(disk.held)}
    if disk.chain:
        facts["lies over"] = " → ".join(disk.chain)
    if disk.clones:
        facts["base of"] = ", ".join(disk.clones)
    facts["used by"] = ", ".join(f"{use.domain} (domain {use.domid}) as {use.vdev}{', read-only' * use.readonly}" for use in disk.uses) or "nobody"
    if disk.trouble:
        facts["trouble"] = disk.trouble
    else:
        totals = host.storage.block_map(disk.name, 1).totals
        facts["made of"] = ", ".join(f"{_bytes(count)} {kind}" for kind, count in totals.items() if count)
    return CommandResult(ok=True, message="\n".join([disk.name, *(f"  {name:<10} {fact}" for name, fact in facts.items())]))


def _disk_create(host: HostApi, args: Arguments) -> CommandResult:
    disk = host.storage.create(args.get("disk", ""), args.get("size", ""))
    return CommandResult(ok=True, message=f"disk {disk.name}, {_bytes(disk.size)}: target=pool:{disk.name}")


def _disk_clone(host: HostApi, args: Arguments) -> CommandResult:
    disk = host.storage.clone(args.get("disk", ""), args.get("new", ""))
    return CommandResult(ok=True, message=f"disk {disk.name} over {disk.chain[0]}: target=pool:{disk.name}")


def _disk_remove(host: HostApi, args: Arguments) -> CommandResult:
    host.storage.remove(args.get("disk", ""))
    return CommandResult(ok=True, message=f"disk {args.get('disk', '')} is gone")


def _bytes(count: int) -> str:
    """1.5 GiB; exact where it is short."""
    size, unit = float(count), "B"
    for bigger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, bigger
    return f"{size:.0f} {unit}" if size == int(size) else f"{size:.1f} {unit}"


_DOMID = {"domid": int}
COMMANDS: Mapping[str, Command] = {
    "create": Command(_create, {}, {"file": str, "text": str, "extra": str, "name": str, "paused": bool}),
    "pause": Command(_act("paused", lambda host, domid: host.pause(domid)), _DOMID, {}),
    "unpause": Command(_act("unpaused", lambda host, domid: host.unpause(domid)), _DOMID, {}),
    "shutdown": Command(_act("asked to power off", lambda host, domid: host.shutdown(domid, "poweroff")), _DOMID, {}),
    "reboot": Command(_act("asked to reboot", lambda host, domid: host.shutdown(domid, "reboot")), _DOMID, {}),
    "destroy": Command(_act("destroyed", lambda host, domid: host.destroy(domid)), _DOMID, {}),
    "dump-core": Command(_dump_core, {**_DOMID, "file": str}, {}),
    "rename": Command(_rename, {**_DOMID, "new": str}, {}),
    "snapshot": Command(_snapshot, _DOMID, {"name": str}),
    "restore": Command(_restore, {**_DOMID, "name": str}, {}),
    "vcpu-set": Command(_vcpus, {**_DOMID, "count": int}, {}),
    "block-attach": Command(_block_attach, {**_DOMID, "spec": str}, {}),
    "block-detach": Command(_block_detach, {**_DOMID, "vdev": str}, {"force": bool}),
    "block-list": Command(_block_list, _DOMID, {}),
    "network-attach": Command(_network_attach, _DOMID, {"spec": str}),
    "network-detach": Command(_network_detach, {**_DOMID, "vif": str}, {"force": bool}),
    "network-list": Command(_network_list, _DOMID, {}),
    "network-uplink": Command(_network_uplink, {"network": str}, {"subnet": str, "services": str}),
    "capture": Command(_capture, _DOMID, {"vif": str, "file": str, "mib": int}),
    "disk-list": Command(_disk_list, {}, {}),
    "overhead": Command(_overhead, {}, {}),
    "disk-info": Command(_disk_info, {"disk": str}, {}),
    "disk-create": Command(_disk_create, {"disk": str, "size": str}, {}),
    "disk-clone": Command(_disk_clone, {"disk": str, "new": str}, {}),
    "disk-remove": Command(_disk_remove, {"disk": str}, {}),
    "forget": Command(_forget, {**_DOMID, "name": str}, {}),
    **MEMORY,
    **SCHEDULING,
}
"""All but `quit`, which is the server's own."""
