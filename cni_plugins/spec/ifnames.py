"""Which names a link may have (Linux: dev_valid_name in net/core/dev.c)."""

_LIMIT = 15  # IFNAMSIZ less the NUL


def ifname_fault(name: str) -> str:
    """Return what is wrong with a link name, as the rest of a sentence; empty when nothing is."""
    if not name:
        return "is empty"
    if len(name.encode(errors="surrogateescape")) > _LIMIT:
        return f"is too long, at most {_LIMIT} bytes"
    if name in (".", ".."):
        return "is . or .."
    if any(char in "/:" or char.isspace() for char in name):
        return "contains / or : or whitespace characters"
    return "" if name.isprintable() else "contains unprintable characters"
