"""Error numbers of the Xen ABI (public/errno.h). Hypercalls return them negated."""

EPERM, ENOENT, EIO, E2BIG, EAGAIN, ENOMEM, EACCES, EFAULT, EBUSY, EEXIST = 1, 2, 5, 7, 11, 12, 13, 14, 16, 17
ENODEV, EINVAL, ENOSPC, ENOSYS, EOVERFLOW, EOPNOTSUPP, ESRCH, ERANGE, EXDEV = 19, 22, 28, 38, 75, 95, 3, 34, 18
ETIME, ENODATA, ENXIO = 62, 61, 6
EBADF, EADDRINUSE, EADDRNOTAVAIL, ETIMEDOUT, EILSEQ = 9, 98, 99, 110, 84

NAMES: dict[int, str] = {value: name for name, value in dict(globals()).items() if name[0] == "E" and isinstance(value, int)}


def describe(result: int) -> str:
    """A hypercall's result for people: -22 is "-EINVAL", 3 is "3"."""
    return f"-{NAMES[-result]}" if -result in NAMES else str(result)
