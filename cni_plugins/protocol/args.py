"""Parses CNI_ARGS, which runtimes send as `KEY=value;KEY=value`.

All plugins accept the same keys: a key for the IPAM plugin must not make the main plugin that calls it fail,
as it does with the reference.
"""

from cni_plugins.errors import BadEnvironment
from cni_plugins.protocol.fields import shown

KNOWN = ("IP", "GATEWAY", "MAC")
_IGNORE_UNKNOWN = "IgnoreUnknown"


def parse_args(text: str) -> dict[str, str]:
    """Return the arguments that this suite knows.

    :raises BadEnvironment: for a malformed pair, or an unknown key without IgnoreUnknown.
    """
    pairs = {}
    for item in text.split(";") if text else ():
        key, separator, value = item.partition("=")
        if not separator or "=" in value:
            raise BadEnvironment(f'ARGS: invalid pair "{item}"', f"CNI_ARGS is {shown(text)}")
        pairs[key] = value
    ignore = pairs.pop(_IGNORE_UNKNOWN, "").lower() in ("1", "true")
    unknown = [f'"{key}={value}"' for key, value in pairs.items() if key not in KNOWN]
    if unknown and not ignore:
        raise BadEnvironment(f"ARGS: unknown args [{' '.join(unknown)}]", f"CNI_ARGS is {shown(text)}")
    return {key: value for key, value in pairs.items() if key in KNOWN}
