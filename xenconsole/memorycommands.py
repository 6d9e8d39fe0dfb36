"""Commands of the domains' memory in the table of commands: xl's, and the balloon policy."""

from __future__ import annotations

from xenconsole.command import DOMAIN, Argument, Command

_AMOUNT = Argument("kib", "memory", "how much: 512 or 512m, 1g, 65536k")

MEMORY: tuple[Command, ...] = (
    Command(
        "mem-set",
        "ask a domain to give or take memory",
        "domains",
        (DOMAIN, _AMOUNT),
        xl="xl mem-set {domid} {kib}k",
        engine=True,
        tells=True,
    ),
    Command(
        "mem-max",
        "set the most memory a domain may have",
        "domains",
        (DOMAIN, _AMOUNT),
        xl="xl mem-max {domid} {kib}k",
        engine=True,
        tells=True,
    ),
    Command(
        "mem-min",
        "set what the balloon policy leaves a domain (minmem= in its cfg)",
        "domains",
        (DOMAIN, _AMOUNT),
        xl="# xl has no minimum: XAPI's memory-dynamic-min ({domid} {kib}k)",
        engine=True,
        tells=True,
    ),
    Command(
        "balloon-policy",
        "let memory go from idle to hungry domains by itself, between minmem= and maxmem=; alone: who has what",
        "domains",
        (Argument("state", "choice", "on or off", True, ("on", "off")),),
        xl="# xl mem-set by hand: nothing of xl's does it{state: @}",
        engine=True,
        tells=True,
    ),
)
