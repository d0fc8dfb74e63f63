"""VERSION imports nothing, so its list stands by itself; it must be the one that requests are parsed by."""

from cni_plugins.front import main
from cni_plugins.protocol import versions


def test_version_says_what_is_spoken() -> None:
    assert main._VERSIONS == versions.SUPPORTED
    assert main._VERSIONS[-1] == versions.LATEST
