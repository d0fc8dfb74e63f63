"""Opens a network in a store, in the layout of keys that its config names."""

from cni_plugins.contract.registry_config import RegistrySection
from cni_plugins.protocol.fields import Conf
from cni_plugins.registries.network_registry import NetworkRegistry
from cni_plugins.registries.store import Store


def registry_of(
    store: Store, section: RegistrySection, network: str, conf: Conf | None = None
) -> NetworkRegistry:
    """Return the network.

    :param store: opened with the section's prefix.
    :param conf: the plugin's config, which is compared with flannel's; see FlannelRegistry.
    :raises InvalidNetworkConfig: when `conf` is needed, and is not valid.
    """
    if section.layout == "flannel":
        from cni_plugins.registries.flannel_registry import FlannelRegistry

        return FlannelRegistry(store, network, conf)
    return NetworkRegistry(store, network)
