#!/usr/bin/env python3
"""Make an initramfs with a shell on the console, from the host's static busybox.

    python guests/mkinitramfs.py -o guests/linux-initramfs.cpio.gz [--busybox PATH] [--modules xen-blkfront,… --kernel RELEASE]

The archive is a cpio in the "newc" form (Documentation/driver-api/early-userspace/buffer-format.rst of Linux), gzipped when the
file's name ends in .gz. The same busybox gives the same bytes: no times, no owners, entries in order. Needs no root and nothing
but the standard library. `--modules` takes drivers and what they need from /lib/modules/RELEASE; init loads them in that order.
A mistake of the caller's gives one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAX_BUSYBOX: Final = 64 << 20
LIST_SECONDS: Final = 10

DIRECTORIES: Final = ("bin", "dev", "etc", "etc/udhcpc", "mnt", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "usr/bin", "usr/sbin")

INIT: Final = """\
#!/bin/sh
# Process 1: mounts what a shell needs, runs one on the console, and powers off when it ends.
export PATH=/sbin:/bin:/usr/sbin:/usr/bin HOME=/root TERM=${TERM:-linux}
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts 2>/dev/null
mount -t tmpfs tmpfs /tmp
# MODULE.OPTION=VALUE on the kernel's command line is for the module, as with modprobe.
options() { name=$(basename "$1" .ko | tr - _); tr ' ' '\\n' < /proc/cmdline | sed -n "s/^$name\\.//p"; }
if [ -r /etc/modules ]; then while read -r module; do insmod "$module" $(options "$module"); done < /etc/modules; fi
setting() { sed -n "s/.*\\b$1=\\([^ ]*\\).*/\\1/p" /proc/cmdline; }
hostname -F /etc/hostname
hostname=$(setting hostname)
[ -z "$hostname" ] || hostname "$hostname"
ip link set lo up 2>/dev/null
# ip=ADDRESS/BITS or ip=dhcp on the kernel's command line is the first network card's, which comes up a moment after its driver.
address=$(setting ip)
[ -z "$address" ] || (
    for attempt in 1 2 3 4 5 6 7 8 9 10; do [ -e /sys/class/net/eth0 ] && break; sleep 0.5; done
    ip link set eth0 up || exit
    if [ "$address" = dhcp ]; then udhcpc -b -S -i eth0 -x "hostname:$(hostname)"; else ip addr add "$address" dev eth0; fi
) >/dev/null 2>&1 &
cd /root
echo "$(uname -sr) is up after $(cut -d ' ' -f 1 /proc/uptime) s; 'poweroff -f' or leaving the shell ends it."
# A session of its own with the console as its terminal, so that ^C and ^Z reach what runs in it.
setsid cttyhack sh -l
sync
poweroff -f
sleep 60
"""

PROFILE: Final = r"""export PS1='root@\h:\w\$ '
"""

LEASED: Final = r"""#!/bin/sh
# What udhcpc was told becomes the interface's.
case "$1" in
deconfig)
    ip link set "$interface" up
    ip addr flush dev "$interface"
    ;;
bound | renew)
    ip addr flush dev "$interface"
    ip addr add "$ip/${mask:-24}" dev "$interface"
    [ -z "$router" ] || ip route add default via "${router%% *}" dev "$interface"
    { [ -z "$domain" ] || echo "search $domain"; for server in $dns; do echo "nameserver $server"; done; } >/etc/resolv.conf
    ;;
esac
"""

RESIZE: Final = r"""#!/bin/sh
# Xen's console ring has no word for a window's size: ask the terminal at the other end where its last corner is (as xterm's resize).
[ -t 0 ] || { echo "resize: standard input is no terminal" >&2; exit 1; }
before=$(stty -g)
stty raw -echo min 0 time 10
printf '\0337\033[9999;9999H\033[6n\0338'
answer=
while key=$(dd bs=1 count=1 2>/dev/null) && [ -n "$key" ] && [ "$key" != R ]; do answer=$answer$key; done
stty "$before"
size=${answer##*\[}
rows=${size%;*} columns=${size#*;}
case "$rows$columns" in "" | *[!0-9]*) echo "resize: the terminal did not answer" >&2; exit 1 ;; esac
stty rows "$rows" cols "$columns"
echo "$rows rows, $columns columns"
"""

FILES: Final = (
    ("etc/group", "root:x:0:\n"),
    ("etc/hostname", "guest\n"),
    ("etc/passwd", "root::0:0:root:/root:/bin/sh\n"),
    ("etc/profile", PROFILE),
)


class Mistake(Exception):
    """Something the caller can mend; the text is one line."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the archive. `data` is a link's target for symbolic links; `device` is (major, minor) of a special file."""

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def pack_cpio(entries: Iterable[Entry]) -> bytes:
    """The archive of these entries, in their order, all of them root's and of the year 1970."""
    out = bytearray()
    for number, entry in enumerate((*entries, Entry("TRAILER!!!", 0)), start=1):
        name = entry.path.encode() + b"\0"
        links = 2 if stat.S_ISDIR(entry.mode) else 1
        inode = number if entry.mode else 0
        fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
        out += b"070701" + b"".join(b"%08x" % field for field in fields) + name
        out += bytes(-len(out) % 4) + entry.data
        out += bytes(-len(out) % 4)
    return bytes(out + bytes(-len(out) % 512))


def read_busybox(path: Path) -> bytes:
    """The program's bytes, or Mistake when it is no static x86-64 ELF program."""
    try:
        if not path.is_file():
            raise Mistake(f"{path}: {'is no file' if path.exists() else 'no such file'}; on Debian: apt install busybox-static")
        if path.stat().st_size > MAX_BUSYBOX:
            raise Mistake(f"{path}: larger than {MAX_BUSYBOX >> 20} MiB, that is no busybox")
        data = path.read_bytes()
    except OSError as bad:
        raise Mistake(f"{path}: {bad.strerror}") from bad
    check_static(data, str(path))
    return data


def check_static(data: bytes, source: str) -> None:
    """Mistake unless this is a statically linked x86-64 ELF program."""
    if len(data) < 64 or data[:4] != b"\x7fELF":
        raise Mistake(f"{source}: no ELF program")
    if data[4:6] != b"\x02\x01" or struct.unpack_from("<H", data, 18)[0] != 62:
        raise Mistake(f"{source}: not for x86-64")
    kind = struct.unpack_from("<H", data, 16)[0]
    if kind not in (2, 3):
        raise Mistake(f"{source}: no program (ELF type {kind})")
    table, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    if size < 56 or not count or table + size * count > len(data):
        raise Mistake(f"{source}: truncated, its program headers lie beyond its end")
    kinds = [struct.unpack_from("<I", data, table + size * index)[0] for index in range(count)]
    if 3 in kinds:  # PT_INTERP
        raise Mistake(f"{source}: needs shared libraries; on Debian: apt install busybox-static")
    if 1 not in kinds:  # PT_LOAD
        raise Mistake(f"{source}: has nothing to load")


def list_applets(data: bytes, source: str) -> list[str]:
    """Where busybox wants its links (`bin/sh`, ...), sorted; it is asked itself, as the bytes that were checked."""
    with tempfile.TemporaryDirectory(prefix="busybox-") as folder:
        program = Path(folder, "busybox")
        program.write_bytes(data)
        program.chmod(0o700)
        try:
            done = subprocess.run([str(program), "--list-full"], capture_output=True, timeout=LIST_SECONDS, check=True,
                                  stdin=subprocess.DEVNULL, env={})  # fmt: skip
        except (OSError, subprocess.SubprocessError) as bad:
            raise Mistake(f"{source}: 'busybox --list-full' does not work: {str(bad).splitlines()[0]}") from bad
    paths = {line for line in done.stdout.decode("utf-8", "replace").splitlines() if line}
    wrong = [path for path in paths if not re.fullmatch(r"(?:usr/)?s?bin/[A-Za-z0-9._\[+-]+|linuxrc", path)]
    if wrong or "bin/sh" not in paths:
        raise Mistake(f"{source}: 'busybox --list-full' names " + (f"{min(wrong)!r}" if wrong else "no bin/sh"))
    for needed in ("cttyhack", "mount", "poweroff", "setsid"):
        if not any(path.endswith("/" + needed) for path in paths):
            raise Mistake(f"{source}: this busybox has no {needed}")
    return sorted(paths - {"bin/busybox", "linuxrc"})


def read_modules(names: Sequence[str], folder: Path) -> list[tuple[str, bytes]]:
    """(path in the archive, bytes) of kernel modules, each after those that it needs. `folder`: /lib/modules/RELEASE."""
    try:
        table = dict(line.split(":", 1) for line in (folder / "modules.dep").read_text().splitlines() if ":" in line)
    except OSError as bad:
        raise Mistake(f"{folder}/modules.dep: {bad.strerror}; on Debian: apt install linux-image-cloud-amd64") from bad
    known = {Path(path).name.split(".ko")[0].replace("_", "-"): path for path in table}
    order: dict[str, None] = {}
    for name in names:
        path = known.get(name.replace("_", "-"))
        if path is None:
            raise Mistake(f"{folder}: has no module {name!r}")
        for needed in (*reversed(table[path].split()), path):  # modules.dep lists what is needed last first
            order[needed] = None
    found = []
    for path in order:
        if not path.endswith(".ko"):
            raise Mistake(f"{folder / path}: compressed, which is not supported")
        try:
            found.append((f"lib/modules/{Path(path).name}", (folder / path).read_bytes()))
        except OSError as bad:
            raise Mistake(f"{folder / path}: {bad.strerror}") from bad
    return found


def module_entries(modules: Sequence[tuple[str, bytes]]) -> list[Entry]:
    """The modules and the list that init reads."""
    if not modules:
        return []
    entries = [Entry(path, stat.S_IFDIR | 0o755) for path in ("lib", "lib/modules")]
    entries.extend(Entry(path, stat.S_IFREG | 0o644, data) for path, data in modules)
    return [*entries, Entry("etc/modules", stat.S_IFREG | 0o644, "".join(f"/{path}\n" for path, _ in modules).encode())]


def build_entries(busybox: bytes, applets: Sequence[str]) -> list[Entry]:
    """What is in the archive. The console must be there before anything is mounted, or process 1 has no output."""
    entries = [Entry(path, stat.S_IFDIR | (0o1777 if path == "tmp" else 0o755)) for path in DIRECTORIES]
    entries.append(Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)))
    entries.append(Entry("dev/null", stat.S_IFCHR | 0o666, device=(1, 3)))
    entries.append(Entry("init", stat.S_IFREG | 0o755, INIT.encode()))
    entries.append(Entry("etc/udhcpc/default.script", stat.S_IFREG | 0o755, LEASED.encode()))
    entries.append(Entry("usr/bin/resize", stat.S_IFREG | 0o755, RESIZE.encode()))
    entries.extend(Entry(path, stat.S_IFREG | 0o644, text.encode()) for path, text in FILES)
    entries.append(Entry("bin/busybox", stat.S_IFREG | 0o755, busybox))
    entries.extend(Entry(path, stat.S_IFLNK | 0o777, b"/bin/busybox") for path in applets)
    return entries


def make_initramfs(busybox: Path, output_name: str, modules: Sequence[tuple[str, bytes]] = ()) -> bytes:
    """The whole archive's bytes, compressed when `output_name` says so."""
    data = read_busybox(busybox)
    archive = pack_cpio([*build_entries(data, list_applets(data, str(busybox))), *module_entries(modules)])
    return gzip.compress(archive, compresslevel=6, mtime=0) if output_name.endswith(".gz") else archive


def write_output(path: Path, data: bytes) -> None:
    """Written aside and renamed, so that no half of an archive is ever found under the name."""
    try:
        handle, aside = tempfile.mkstemp(prefix=path.name + ".", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.chmod(aside, 0o644)
            os.replace(aside, path)
        except BaseException:
            os.unlink(aside)
            raise
    except OSError as bad:
        raise Mistake(f"{path}: cannot be written: {bad.strerror}") from bad


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]  # one line, without the usage before it
        raise Mistake(f"{message}; see --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 with one line on stderr."""
    parser = _Parser(prog="mkinitramfs.py", description="Make an initramfs with a shell on the console from a static busybox.")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="where to; gzipped if it ends in .gz")
    parser.add_argument("--busybox", default=Path("/bin/busybox"), type=Path, metavar="PATH", help="a static busybox")
    parser.add_argument("--modules", default="", metavar="NAME,NAME", help="kernel modules that init loads")
    parser.add_argument("--kernel", default=os.uname().release, metavar="RELEASE", help="whose modules, a folder of /lib/modules")
    try:
        options = parser.parse_args(arguments)
        names = [name for name in options.modules.split(",") if name]
        modules = read_modules(names, Path("/lib/modules", options.kernel)) if names else []
        write_output(options.output, make_initramfs(options.busybox, options.output.name, modules))
    except Mistake as mistake:
        print(f"mkinitramfs.py: {mistake}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
