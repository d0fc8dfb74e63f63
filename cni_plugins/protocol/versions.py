"""Lists the supported protocol versions, and the changes between them."""

from cni_plugins.errors import IncompatibleVersion

SUPPORTED = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
LATEST = SUPPORTED[-1]

# The first version with each feature (SPEC.md of that release).
LISTS = "0.3.0"  # results with lists of interfaces, ips and routes
CHECK = "0.4.0"
SORTED_KEYS = "1.0.0"  # results without `version` in ips
GC_AND_STATUS = "1.1.0"


def at_least(version: str, wanted: str) -> bool:
    """Say whether `version` is `wanted` or newer; both are members of SUPPORTED."""
    return SUPPORTED.index(version) >= SUPPORTED.index(wanted)


def require_supported(version: str) -> str:
    """Return the version to use; a missing one means 0.1.0, as in every release of the reference.

    :raises IncompatibleVersion: when the text is not exactly one of SUPPORTED.
    """
    version = version or "0.1.0"
    if version not in SUPPORTED:
        listed = " ".join(f'"{known}"' for known in SUPPORTED)
        raise IncompatibleVersion(
            "incompatible CNI versions", f'config is "{version}", plugin supports [{listed}]'
        )
    return version
