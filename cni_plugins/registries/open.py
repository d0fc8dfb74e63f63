"""Opens the store that a config names. Only the client of its type is imported."""

from cni_plugins.contract.registry_config import RegistrySection
from cni_plugins.registries.store import Store


def open_store(section: RegistrySection) -> Store:
    """Return a connection to the store. Nothing is sent yet.

    :raises StoreFailed: for files of the config that cannot be used.
    """
    if section.type == "etcd":
        from cni_plugins.registries.etcd import EtcdStore

        return EtcdStore(section)
    if section.type == "consul":
        from cni_plugins.registries.consul import ConsulStore

        return ConsulStore(section)
    from cni_plugins.registries.zookeeper import ZooKeeperStore

    return ZooKeeperStore(section)
