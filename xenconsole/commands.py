"""The one table of commands: palette, ':' prompt, key bindings, help and the command line's help all read it.

A command is sent to the engine under its own name when `engine` is set, else the app carries it out. `keys` are Textual's
key names, remapped by the settings under the command's name. The `xl` template gives the line a user of Xen would type; the
command log shows it. Nothing here imports Textual or the engine.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from xenconsole.command import DOMAIN, Argument, Command, Confirm
from xenconsole.memorycommands import MEMORY
from xenconsole.schedulingcommands import SCHEDULING

DISK = Argument("disk", "disk", "a disk's name")
SNAPSHOT = Argument("name", "snapshot", "name of a snapshot")
TABS = ("summary", "vcpus", "memory", "rings", "events", "trace", "snapshots", "config", "devices")

COMMANDS: tuple[Command, ...] = (
    # domains
    Command(
        "create",
        "create a domain from an xl.cfg file",
        "domains",
        xl="xl create{paused: -p} {file}",
        engine=True,
        arguments=(Argument("file", "file", "xl.cfg file"), Argument("paused", "flag", "leave it paused", optional=True)),
    ),
    Command("pause", "stop giving a domain CPU time", "domains", (DOMAIN,), xl="xl pause {domid}", engine=True),
    Command("unpause", "let a paused domain go on", "domains", (DOMAIN,), xl="xl unpause {domid}", engine=True),
    Command("toggle-pause", "pause or unpause", "domains", (DOMAIN,), keys="p", footer="pause", typed=False),
    Command(
        "reboot",
        "ask a domain to reboot",
        "domains",
        (DOMAIN,),
        keys="r",
        confirm=Confirm.ASK,
        xl="xl reboot {domid}",
        engine=True,
        loses="What it has not written to its disks is lost; it starts again under a new ID.",
    ),
    Command(
        "shutdown",
        "ask a domain to power off",
        "domains",
        (DOMAIN,),
        keys="x",
        confirm=Confirm.ASK,
        xl="xl shutdown {domid}",
        engine=True,
        loses="The guest is asked to power off in its own time.",
    ),
    Command(
        "destroy",
        "end a domain at once",
        "domains",
        (DOMAIN,),
        keys="D",
        confirm=Confirm.NAME,
        xl="xl destroy {domid}",
        engine=True,
        loses="Its memory, its vCPUs and its snapshots are gone at once. This cannot be undone.",
    ),
    Command(
        "dump-core",
        "write a domain's memory and vCPUs to a file in Xen's core format",
        "domains",
        (DOMAIN, Argument("file", "text", "a file, replaced when there is one")),
        xl="xl dump-core {domid} {file}",
        engine=True,
        tells=True,
    ),
    Command(
        "rename",
        "give a domain another name",
        "domains",
        (DOMAIN, Argument("new", "text", "the new name")),
        xl="xl rename {domid} {new}",
        engine=True,
    ),
    *MEMORY,
    Command(
        "vcpu-set",
        "ask a domain to use so many vCPUs",
        "domains",
        (DOMAIN, Argument("count", "count", "number of vCPUs")),
        xl="xl vcpu-set {domid} {count}",
        engine=True,
        tells=True,
    ),
    Command("block-list", "a domain's disks", "domains", (DOMAIN,), xl="xl block-list {domid}", engine=True, tells=True),
    Command(
        "block-attach",
        "plug a disk into a domain",
        "domains",
        (DOMAIN, Argument("spec", "text", "as in xl.cfg: vdev=xvdb,target=pool:NAME")),
        xl="xl block-attach {domid} {spec}",
        engine=True,
        tells=True,
    ),
    Command(
        "block-detach",
        "take a disk from a domain",
        "domains",
        (DOMAIN, Argument("vdev", "text", "xvdb, …"), Argument("force", "flag", "without asking the guest", optional=True)),
        confirm=Confirm.ASK,
        xl="xl block-detach {domid} {vdev}{force: --force}",
        engine=True,
        tells=True,
        loses="The guest is asked to let it go; by force, what it has not written is lost.",
    ),
    Command("network-list", "a domain's network interfaces", "domains", (DOMAIN,), xl="xl network-list {domid}", engine=True, tells=True),
    Command(
        "network-attach",
        "plug a network interface into a domain",
        "domains",
        (DOMAIN, Argument("spec", "text", "as in xl.cfg: bridge=net0,mac=…,rate=…", optional=True)),
        xl="xl network-attach {domid}{spec: @}",
        engine=True,
        tells=True,
    ),
    Command(
        "network-detach",
        "take a network interface from a domain",
        "domains",
        (DOMAIN, Argument("vif", "text", "its number or address")),
        confirm=Confirm.ASK,
        xl="xl network-detach {domid} {vif}",
        engine=True,
        tells=True,
        loses="What the guest has open over this interface ends.",
    ),
    Command(
        "network-uplink",
        "give a network a host with addresses, names and services of the loopback",
        "domains",
        (
            Argument("network", "text", "its name: net0"),
            Argument("subnet", "text", "on, off, or as 10.0.2.0/24", optional=True),
            Argument("services", "text", "8000+udp:5353+in:2222=web:22", optional=True),
        ),
        xl="brctl show {network}",
        engine=True,
        tells=True,
    ),
    Command(
        "capture",
        "record an interface's frames to a pcapng file; again: end that",
        "domains",
        (
            DOMAIN,
            Argument("vif", "text", "its number or address; the first", optional=True),
            Argument("file", "text", "a new file, or a folder; ~/.local/state/xenconsole/captures", optional=True),
            Argument("mib", "count", "stop at so many MiB; 1024", optional=True),
        ),
        aliases=("network-capture", "tcpdump"),
        xl="tcpdump -i vif{number}{vif:.@}{file: -w @}",
        engine=True,
        tells=True,
    ),
    # storage
    Command("disk-list", "all virtual disks, and who has them", "storage", xl="qemu-img info *.img *.overlay", engine=True, tells=True),
    Command("disk-info", "one disk: file, base, users, what it is made of", "storage", (DISK,), engine=True, tells=True, xl="qemu-img info {disk}"),
    Command(
        "disk-create",
        "make an empty disk in the storage pool",
        "storage",
        (Argument("disk", "text", "name for it"), Argument("size", "text", "512M, 10G, …")),
        xl="truncate -s {size} {disk}.img",
        engine=True,
        tells=True,
    ),
    Command(
        "disk-clone",
        "make a disk over another, which stays as it is from then on",
        "storage",
        (DISK, Argument("new", "text", "name for it")),
        xl="qemu-img create -b {disk} {new}",
        engine=True,
        tells=True,
    ),
    Command(
        "disk-remove",
        "delete a disk that nobody uses",
        "storage",
        (DISK,),
        confirm=Confirm.ASK,
        xl="rm {disk}",
        engine=True,
        loses="Everything on this disk is gone. This cannot be undone.",
    ),
    *SCHEDULING,
    # snapshots
    Command(
        "snapshot",
        "keep a domain's present state",
        "snapshots",
        (DOMAIN, Argument("name", "text", "name for it", optional=True)),
        keys="S",
        xl="xl save -c {domid} {name}",
        engine=True,
        footer="snapshot",
    ),
    Command(
        "restore",
        "go back to a snapshot (the present is kept first)",
        "snapshots",
        (DOMAIN, SNAPSHOT),
        keys="R",
        engine=True,
        xl="xl restore {name}",
    ),
    Command(
        "forget",
        "drop a snapshot",
        "snapshots",
        (DOMAIN, SNAPSHOT),
        confirm=Confirm.ASK,
        engine=True,
        xl="rm {name}",
        loses="The state it holds cannot be restored any more.",
    ),
    Command("timeline", "snapshots of a domain", "snapshots", (DOMAIN,), aliases=("snapshots",), keys="t,4"),
    # views
    Command("list", "all domains", "views", aliases=("overview", "ls", "top"), keys="1", xl="xl list"),
    Command(
        "inspect",
        "one domain in detail",
        "views",
        (DOMAIN, Argument("tab", "choice", "tab", True, TABS)),
        aliases=("domain",),
        keys="i,2",
        footer="inspect",
    ),
    Command(
        "console",
        "a domain's console",
        "views",
        (DOMAIN,),
        aliases=("attach",),
        keys="c,3",
        xl="xl console {domid}",
        footer="console",
    ),
    Command("vcpu-list", "vCPUs of a domain", "views", (DOMAIN,), xl="xl vcpu-list {domid}"),
    Command("events", "event channels of a domain", "views", (DOMAIN,), keys="e"),
    Command("devices", "how a domain's devices connected, and who waits for whom", "views", (DOMAIN,), aliases=("handshakes", "xenbus")),
    Command("config", "configuration of a domain", "views", (DOMAIN,), keys="y", aliases=("cfg",)),
    Command("logs", "event log and command log", "views", aliases=("dmesg", "log"), keys="l,5", xl="xl dmesg"),
    Command("matrix", "event channels and grants between domains", "views", aliases=("links",), keys="m,6"),
    Command("networks", "virtual networks, what flows and what is lost", "views", aliases=("net", "bridges"), keys="n,7"),
    Command("storage", "virtual disks, what they are made of and what is on them", "views", aliases=("disks", "pool"), keys="b,8"),
    Command("scheduler", "run queues, credits, who ran where", "views", aliases=("sched-list", "runqueue"), keys="v,9"),
    Command("back", "the view below", "views", keys="escape", typed=False),
    Command("last-view", "the view before this one", "views", keys="minus", typed=False),
    Command("previous-domain", "previous domain", "views", keys="less_than_sign", typed=False),
    Command("next-domain", "next domain", "views", keys="greater_than_sign", typed=False),
    # display
    Command("sort", "sort by a column (again: the other way)", "display", (Argument("column", "column"),), keys="F"),
    Command("sort-cpu", "sort by CPU", "display", keys="P", typed=False),
    Command("sort-memory", "sort by memory", "display", keys="M", typed=False),
    Command("sort-time", "sort by CPU time", "display", keys="T", typed=False),
    Command("sort-name", "sort by name", "display", keys="N", typed=False),
    Command("sort-next", "sort by the next column", "display", keys="s", typed=False),
    Command(
        "filter",
        "show matching domains only (regex, ! inverts)",
        "display",
        (Argument("pattern", "text", "regex", True),),
        keys="slash",
        footer="filter",
    ),
    Command("freeze", "freeze the display", "display", keys="f"),
    Command("delay", "seconds between two updates", "display", (Argument("seconds", "number", "0.1 to 60"),), keys="d"),
    Command("read-only", "refuse every command that changes a domain", "display", keys="w"),
    Command("zoom", "one pane or all", "display", keys="z"),
    Command("theme", "change the colours", "display", (Argument("name", "theme"),)),
    # program
    Command("palette", "find a command", "program", keys="ctrl+p", typed=False),
    Command("prompt", "type a command", "program", keys="colon", typed=False, footer="command"),
    Command("help", "keys and commands", "program", keys="question_mark", footer="help"),
    Command("xenstored", "where xenstore's socket is, for xenstore-ls and its like", "program", aliases=("xenstored-path",)),
    Command("overhead", "what domains cost the host beside their memory", "program", xl="xl info", engine=True, tells=True),
    Command("restart-engine", "start a new engine when it was lost", "program"),
    Command("quit", "leave, ending every guest", "program", aliases=("exit", "q"), keys="q,ctrl+c", footer="quit"),
)

GROUPS: tuple[str, ...] = ("domains", "scheduling", "storage", "snapshots", "views", "display", "program")


def find_command(word: str) -> Command | None:
    """The command of that name or alias, None when there is none."""
    for command in COMMANDS:
        if word == command.name or word in command.aliases:
            return command
    return None


def xl_line(command: Command, values: Mapping[str, object]) -> str:
    """The line to type into a shell on a Xen host; empty for a command that xl has no word for.

    `{name}` puts a quoted value (`{domid}` the domain's name, `{number}` its ID);
    `{name: text}` puts the text when the value is given, an @ in it standing for the value."""
    out, rest = "", command.xl
    while rest:
        before, _, rest = rest.partition("{")
        out += before
        field, _, rest = rest.partition("}")
        name, colon, text = field.partition(":")
        if colon:
            out += text.replace("@", shlex.quote(str(values[name]))) if values.get(name, False) is not False else ""
        elif name:
            out += shlex.quote(str(values.get(name, "") or name.upper()))
    return out.strip()
