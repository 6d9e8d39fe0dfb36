"""`xenconsole create -c FILE.cfg`: its options, and what they mean."""

from __future__ import annotations

import argparse
import asyncio
import math
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from emulator.errors import UserError
from xenconsole.cli import SCHEDULERS

_SETTING = re.compile(r"([A-Za-z_]\w*)(\+?=)(.*)")
_AS_IT_IS = re.compile(r"""\s*(?:"[^"]*"|'[^']*'|\[.*\]|-?\d+|0[xX][0-9a-fA-F]+)\s*""")
_EPILOG = """\
Ctrl-] leaves, and since no host stays behind, asks before it destroys the guest. From a pipe, input is typed to the guest,
its end does not end the guest, and standard output has the guest's exact bytes.

exit status:
  0  the guest powered off          3  it crashed; its last state is on standard error
  2  a mistake in cfg or arguments  4  --timeout ran out            1  anything else

examples:
  xenconsole create -c hello.cfg
  xenconsole create -c linux.cfg memory=512 'extra="quiet"'
  echo 'uname -a; poweroff -f' | xenconsole create -c linux.cfg --timeout 60 > transcript
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help tells more)\n")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Options of create; `extra` holds the KEY=VALUE arguments as cfg lines. Exits with status 2 on a mistake."""
    parser = _Parser(
        prog="xenconsole create", usage="xenconsole create -c FILE.cfg [KEY=VALUE ...] [options]", allow_abbrev=False,
        description="Boot a guest with its console on this terminal, or on pipes.", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("-c", dest="console", action="store_true", help="stay on the guest's console (needed: no host stays)")
    parser.add_argument("-f", "--file", dest="option_file", default="", metavar="FILE", help="the cfg file, as xl has it")
    parser.add_argument("--name", default="", help="the guest's name, instead of the file's")
    parser.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="destroy it after so long, exit status 4")
    parser.add_argument("--xenstored", default="", metavar="PATH", help="the Unix socket of xenstore; off: none; without it, one of its own")
    parser.add_argument("--scheduler", choices=SCHEDULERS, default="", help="how the CPUs are shared; credit2 without it")
    parser.add_argument("--balloon-policy", choices=("on", "off"), default="", help="whether the guest may grow to maxmem= by what it says is free")
    parser.add_argument("--raw", action="store_true", help="pass control sequences to the terminal unfiltered")
    parser.add_argument("words", nargs="*", metavar="FILE.cfg KEY=VALUE", help="the cfg file; settings that override it")
    options = parser.parse_intermixed_args(argv)
    words = list(options.words)
    options.file = options.option_file or (words.pop(0) if words else "")
    if not options.file:
        parser.error("which FILE.cfg?")
    lines = []
    for word in words:
        match = _SETTING.fullmatch(word)
        if match is None:
            parser.error(f"{ascii(word)[:80]} is no KEY=VALUE")
        lines.append(f"{match[1]} {match[2]} {_value(parser, match[3])}")
    options.extra = "\n".join(lines)
    if not options.console:
        parser.error("without -c the guest would need a host to stay in, and there is none")
    return options


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{ascii(text)[:80]} is no number of seconds")
    return seconds


def _value(parser: argparse.ArgumentParser, text: str) -> str:
    """A value in cfg syntax: numbers, lists and quoted strings as they are, anything else quoted."""
    if _AS_IT_IS.fullmatch(text):
        return text
    quote = "'" if '"' in text else '"'
    if quote in text or "\n" in text or "\r" in text:
        parser.error(f"{ascii(text)[:80]} cannot be a value")
    return f"{quote}{text}{quote}"


def main(argv: Sequence[str]) -> int:
    """Run the verb; the exit status."""
    options = parse(argv)
    from xenconsole.cli.session import Session

    try:
        return asyncio.run(_run(Session, options))
    except UserError as mistake:
        print(f"xenconsole: {mistake.line()}", file=sys.stderr)
        return 2


async def _run(session: type, options: argparse.Namespace) -> int:
    status: int = await session(options).run()
    return status
