"""The one error type for people: what went wrong, where, why, and what to do about it.

`UserError` is for mistakes that the user can mend (a kernel that is no kernel, a cfg line that does not parse, a domain
that does not exist). It becomes one line on stderr or one notice on the screen and never a traceback. Our own bugs stay
ordinary exceptions.
"""

from __future__ import annotations


class UserError(Exception):
    """A mistake told in one line: `where: what: why (fix)`; empty parts are left out."""

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "") -> None:
        self.what = what
        self.where = where
        self.why = why
        self.fix = fix
        super().__init__(self.line())

    def line(self) -> str:
        text = ": ".join(part for part in (self.where, self.what, self.why) if part)
        return sendable(f"{text} ({self.fix})" if self.fix else text)


def sendable(text: str) -> str:
    """Text that UTF-8 can carry: what stands for a byte of a file's name that is no text (os.fsdecode) is written out."""
    return text.encode("utf-8", "backslashreplace").decode()
