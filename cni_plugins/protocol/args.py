"""CNI_ARGS: `KEY=value;KEY=value`, as the runtimes send them.

One list of keys serves the whole suite: a key meant for the IPAM plugin must not make the plugin that
delegates to it fail, as it does with the reference.
"""

from cni_plugins.errors import BadEnvironment
from cni_plugins.protocol.fields import shown

KNOWN = ("IP", "GATEWAY", "MAC")
_IGNORE_UNKNOWN = "IgnoreUnknown"


def parse_args(text: str) -> dict[str, str]:
    """Return the arguments this suite knows.

    :raises BadEnvironment: for a malformed pair, or a key that is neither known nor to be ignored.
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
