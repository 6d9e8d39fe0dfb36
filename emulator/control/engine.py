"""The engine's process: one host, its control server, and nothing that outlives them.

    python -m emulator.control.engine --fd N          serve the connection inherited as descriptor N
    python -m emulator.control.engine --listen PATH   serve a Unix socket, mode 0600, same user only

It ends, and its domains with it, when the inherited connection ends (unless --stay), on SIGTERM, on `quit`, and when its
parent dies. SIGINT is ignored: the terminal's Ctrl-C belongs to the app. Standard error is its log, kept small by itself.
Clients are greeted at once; the host is loaded meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import faulthandler
import gc
import logging
import os
import signal
import socket
import stat
import sys
import threading
from pathlib import Path
from typing import Final

from emulator.control.hostapi import HostApi
from emulator.control.server import Server
from emulator.errors import UserError
from emulator.unixsocket import bind_private, is_own_user

PR_SET_PDEATHSIG: Final = 1  # <sys/prctl.h>
STOP_SECONDS: Final = 4.0
"""After this long the process ends whatever its threads do."""
LOG_BYTES: Final = 1 << 20
LOG_KEPT: Final = 1 << 16
LOG_CHECK_SECONDS: Final = 2.0
SWITCH_SECONDS: Final = 1e-4
"""The interpreter's switch interval: a guest's hypercall must not wait 5 ms for another guest's worker."""
MIN_POOL_MIB: Final = 512

log = logging.getLogger("engine")


class Engine:
    """Host and server of one process."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._stop = asyncio.Event()
        self._reason = ""
        self._status = 0
        self._host: HostApi | None = None

    async def run(self) -> int:
        """Serve until told to stop; the exit status."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._end, "the engine was told to end (SIGTERM)")
        host = asyncio.create_task(self._start_host())
        server = Server(host, version=self._options.version, on_quit=self._end)
        tasks = [asyncio.create_task(_keep_log_small())]
        listener = None
        try:
            if self._options.fd >= 0:
                tasks.append(asyncio.create_task(self._serve_inherited(server)))
            if self._options.listen:
                listener = await _listen(bind_private(Path(self._options.listen)), server)
            await self._stop.wait()
        finally:
            if listener is not None:
                listener.close()
                _remove(Path(self._options.listen))
            await server.close(self._reason)
            for task in tasks:
                task.cancel()
            if self._host is not None:
                await asyncio.to_thread(self._host.stop)
        return self._status

    def _end(self, reason: str = "", status: int = 0) -> None:
        if not self._stop.is_set():
            self._reason, self._status = reason, status
            threading.Thread(target=_insist, daemon=True, name="insist").start()
            self._stop.set()

    async def _start_host(self) -> HostApi:
        """Load and start the host in a thread: it takes a while, and clients wait for their first answers only."""
        try:
            self._host = await asyncio.to_thread(_make_host, self._options)
        except UserError as error:
            log.error("%s", error.line())
            self._end(f"the engine cannot start: {error.line()}", 2)
            raise
        except Exception as error:
            log.exception("the host cannot start")
            self._end(f"the engine cannot start: {type(error).__name__}: {error}", 1)
            raise
        return self._host

    async def _serve_inherited(self, server: Server) -> None:
        end = socket.socket(fileno=self._options.fd)
        end.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=end)
        try:
            await server.serve(reader, writer)
        finally:
            if not self._options.stay:
                self._end()


def _make_host(options: argparse.Namespace) -> HostApi:
    from emulator.control.host import Host  # numpy, unicorn and all: not before the client was greeted
    from emulator.hypervisor.scheduler import DEFAULT_SCHEDULER

    pool_mib = options.pool_mib or max(MIN_POOL_MIB, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // (2 << 20))
    cpus = options.cpus or len(os.sched_getaffinity(0))
    kind = options.scheduler or DEFAULT_SCHEDULER
    host = Host(pool_kib=pool_mib * 1024, cpus=cpus, name=options.name, trace=not options.no_trace, scheduler=kind)
    host.start()
    host.set_balloon_policy(options.balloon_policy == "on")
    try:
        host.serve_store(options.xenstored)
    except UserError:
        host.stop()
        raise
    gc.collect()
    gc.freeze()  # a search for garbage stops all guests: it need not look at modules each time
    return host


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _listen(end: socket.socket, server: Server) -> asyncio.AbstractServer:
    """Serve each process of our own user that connects."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not is_own_user(writer.get_extra_info("socket")):
            writer.close()
            return
        await server.serve(reader, writer)

    return await asyncio.start_unix_server(serve, sock=end)


async def _keep_log_small() -> None:
    """Cut the log file to its last part whenever it has grown beyond its bound (it is opened for appending)."""
    while stat.S_ISREG(os.fstat(2).st_mode):
        await asyncio.sleep(LOG_CHECK_SECONDS)
        size = os.fstat(2).st_size
        if size > LOG_BYTES:
            kept = os.pread(2, LOG_KEPT, size - LOG_KEPT)
            os.ftruncate(2, 0)
            os.write(2, b"(cut)\n" + kept)


def _insist() -> None:
    """End the process when an orderly end takes too long."""
    threading.Event().wait(STOP_SECONDS)
    os.write(2, b"the engine did not end in time\n")
    os._exit(1)


def _die_with(parent: int) -> None:
    """Have the kernel end us when our parent ends, however it does."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        log.warning("prctl(PR_SET_PDEATHSIG): %s", os.strerror(ctypes.get_errno()))
    if os.getppid() != parent:
        sys.exit("the engine's parent is gone")


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m emulator.control.engine", description="The engine of xenconsole.")
    parser.add_argument("--fd", type=int, default=-1, help="inherited descriptor of a connected Unix socket")
    parser.add_argument("--listen", default="", metavar="PATH", help="Unix socket to listen on")
    parser.add_argument("--stay", action="store_true", help="stay when the inherited connection ends")
    parser.add_argument("--parent", type=int, default=0, metavar="PID", help="end with this process, our parent")
    parser.add_argument("--pool-mib", type=int, default=0, metavar="MIB", help="memory pool; default: half of the machine's")
    parser.add_argument("--cpus", type=int, default=0, help="physical CPUs; default: all that we may use")
    parser.add_argument("--name", default="", help="the host's name")
    parser.add_argument("--scheduler", default="", metavar="NAME", help="credit2, credit, rtds, bvt or null; default: credit2")
    parser.add_argument("--xenstored", default="", metavar="PATH", help="Unix socket of xenstore; off: none; default: one of our own")
    parser.add_argument("--balloon-policy", choices=("on", "off"), default="off", help="whether memory goes from idle to hungry domains")
    parser.add_argument("--no-trace", action="store_true", help="keep no trace of hypercalls")
    parser.add_argument("--version", default="", help="what to call ourselves in the hello")
    options = parser.parse_args(argv)
    if options.fd < 0 and not options.listen:
        parser.error("nothing to serve: --fd or --listen")
    if options.pool_mib < 0 or options.cpus < 0:
        parser.error("--pool-mib and --cpus are positive")
    return options


def main(argv: list[str] | None = None) -> int:
    """Run an engine; the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    options = _options(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    faulthandler.enable()
    if options.parent:
        _die_with(options.parent)
    sys.setswitchinterval(SWITCH_SECONDS)

    async def serve() -> int:
        return await Engine(options).run()

    try:
        return asyncio.run(serve())
    except UserError as error:
        print(error.line(), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.stdout.flush()
    status = main()
    sys.stderr.flush()
    os._exit(status)  # threads of the host that did not end in time must not keep us
