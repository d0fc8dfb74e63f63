"""Checks names of links (Linux: dev_valid_name in net/core/dev.c)."""

LONGEST_NAME = 15  # bytes: IFNAMSIZ less the NUL
LONGEST_ALTNAME = 127  # bytes: ALTIFNAMSIZ less the NUL


_FORBIDDEN = {
    "": "is empty",
    ".": "is . or ..",
    "..": "is . or ..",
    "all": "is reserved for settings under /proc/sys/net",
    "default": "is reserved for settings under /proc/sys/net",
}


def ifname_fault(name: str, longest: int = LONGEST_NAME) -> str:
    """Return what is wrong with a link name, as the rest of a sentence; empty when nothing is."""
    if name in _FORBIDDEN:
        return _FORBIDDEN[name]
    if len(name.encode(errors="surrogateescape")) > longest:
        return f"is too long, at most {longest} bytes"
    if any(char in "/:" or char.isspace() for char in name):
        return "contains / or : or whitespace characters"
    if "%" in name:
        return "contains %, which the kernel replaces by a number"
    return "" if name.isprintable() else "contains unprintable characters"
