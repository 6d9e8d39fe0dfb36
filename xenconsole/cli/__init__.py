"""The command line: what was asked for, in words that xl's users know. Imports neither Textual nor the engine until it must."""

from __future__ import annotations

import difflib
import os
import sys

from xenconsole import __version__

VERBS = ("create",)
SCHEDULERS = ("credit2", "credit", "rtds", "bvt", "null")
"""Those that the engine knows; it is not loaded just to read their names."""
HELP = """\
usage: xenconsole [--scheduler NAME] [--xenstored PATH] [--balloon-policy on] [FILE.cfg ...]
       xenconsole create -c FILE.cfg [KEY=VALUE ...] [options]

Runs Xen PV guests on emulated x86-64 cores, with a console on them as Domain-0 has it.

  xenconsole                            open the console on the demo guests
  xenconsole FILE.cfg ...               open it on the guests of these xl.cfg files
  xenconsole create -c FILE.cfg         boot one guest with its console on this terminal
  xenconsole create --help              more on that
  xenconsole --scheduler NAME ...       share the CPUs by credit2 (without it), credit, rtds, bvt or null
  xenconsole --xenstored PATH ...       serve xenstore on this Unix socket (off: on none), for xenstore-ls with XENSTORED_PATH=PATH
  xenconsole --balloon-policy on ...    let memory go from idle to hungry guests by itself (off without it)
  xenconsole --version                  the version

examples:
  xenconsole hello.cfg linux.cfg
  xenconsole create -c linux.cfg memory=512
  echo 'uname -a; poweroff -f' | xenconsole create -c linux.cfg --timeout 60 > transcript
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0 done, 2 the user's mistake, others as the verb says."""
    args = sys.argv[1:] if argv is None else argv
    _fill_descriptors()
    try:
        return _dispatch(args)
    except KeyboardInterrupt:
        return 1


def _dispatch(args: list[str]) -> int:
    first = args[0] if args else ""
    if first in ("-h", "--help", "help"):
        return _print(HELP)
    if first in ("-V", "--version"):
        return _print(f"xenconsole {__version__}\n")
    engine: dict[str, str] = {}
    while first.partition("=")[0] in ("--scheduler", "--xenstored", "--balloon-policy"):
        name, _, value = first.partition("=")
        value, args = (value, args[1:]) if "=" in first else ("".join(args[1:2]), args[2:])
        if name == "--scheduler" and value not in SCHEDULERS:
            return _mistake(f"--scheduler: no scheduler {_quoted(value)} (known: {', '.join(SCHEDULERS)})")
        if name == "--balloon-policy" and value not in ("on", "off"):
            return _mistake(f"--balloon-policy: on or off, not {_quoted(value)}")
        if not value:
            return _mistake(f"{name}: a path, or off for no socket")
        engine[name[2:]] = value
        first = args[0] if args else ""
    if first == "create":
        from xenconsole.cli.create import main as create

        return create([*args[1:], *(f"--{name}={value}" for name, value in engine.items())])
    if first.startswith("-"):
        return _mistake(f"no option {_quoted(first)} (xenconsole --help lists what there is)")
    if first and not _is_file(first):
        near = difflib.get_close_matches(first, VERBS, 1, 0.6)
        advice = f"did you mean {near[0]}?" if near else "xenconsole --help lists the verbs"
        return _mistake(f"no verb {_quoted(first)} and no such file ({advice})")
    if bad := next((arg for arg in args if arg.startswith("-") and not _is_file(arg)), ""):
        return _mistake(f"no option {_quoted(bad)} (xenconsole --help lists what there is)")
    from xenconsole.app import main as app

    return app(args, **{name.replace("-", "_"): value for name, value in engine.items()})


def _fill_descriptors() -> None:
    """Open what of 0, 1 and 2 our caller has closed: no socket of ours may be taken for the terminal."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _is_file(word: str) -> bool:
    """Whether a word is meant as a file: it is one, or looks like one and like no verb."""
    return os.path.exists(word) or "/" in word or word.endswith(".cfg")


def _print(text: str) -> int:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains at its end
        return 1
    return 0


def _quoted(word: str) -> str:
    return "'" + "".join(char if char.isprintable() else "?" for char in word[:80]) + "'"


def _mistake(text: str) -> int:
    print(f"xenconsole: {text}", file=sys.stderr)
    return 2
