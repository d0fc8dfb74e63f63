"""Reads the directory of backups from the config, the only key of it that DEL and GC need."""

from cni_plugins.protocol.fields import Conf, get, shown

DEFAULT = "/run/cni/tuning"


def validated(value: object) -> str:
    """Return the directory, empty for the default.

    :raises ValueError: when it is not an absolute path.
    """
    if value == "":
        return ""
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError(f"{shown(value)} is not an absolute path")
    return value


def possible(conf: Conf) -> tuple[str, ...]:
    """Return where ADD keeps backups now, and where else it may have kept one with an earlier config."""
    try:
        configured = validated(get(conf, "dataDir") or "")
    except ValueError:
        configured = ""
    return tuple(dict.fromkeys((configured or DEFAULT, DEFAULT)))
