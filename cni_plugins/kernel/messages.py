"""pyroute2's message classes, imported once its package is registered bare (see wire)."""
# isort: skip_file

import cni_plugins.kernel.wire  # noqa: F401 (registers the package)

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

__all__ = ["ifaddrmsg", "ifinfmsg", "rtmsg"]
