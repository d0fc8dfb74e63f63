"""Says whether a store answers: `cnictl store-check [KEY]`, which no help lists.

Reads the keys of a config that name the store from standard input, as JSON, and lists the children of KEY.
"""

import json
import sys


def check(section: str, key: str = "v1") -> int:
    from pydantic import ValidationError

    from cni_plugins.contract.registry_config import RegistrySection
    from cni_plugins.registries.open import open_store
    from cni_plugins.registries.store import StoreFailed

    try:
        store = open_store(RegistrySection.model_validate(json.loads(section)))
        feed = store.follow(key)
        found = feed.next(10)
        feed.close()
        store.close()
    except (StoreFailed, ValidationError, ValueError) as error:
        sys.stderr.write(f"cnictl: {error}\n")
        return 1
    sys.stdout.write("".join(f"{name}\n" for name in sorted(found or ())))
    return 0
