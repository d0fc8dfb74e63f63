"""A process that follows a key, and prints a line for each view: the number of names, and a digest of all.

`python -m tests.e2e.lab.follower SECTION KEY`; tests stop it for a while. It begins again when its feed
ends, and prints why.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Mapping

from cni_plugins.contract.registry_config import RegistrySection
from cni_plugins.registries.open import open_store
from cni_plugins.registries.store import StoreFailed


def digest(view: Mapping[str, bytes]) -> str:
    return hashlib.sha256(repr(sorted(view.items())).encode()).hexdigest()[:16]


def main() -> None:
    store = open_store(RegistrySection(**json.loads(sys.argv[1])))
    while True:
        feed = store.follow(sys.argv[2])
        try:
            while True:
                view = feed.next(1.0)
                if view is not None:
                    print(len(view), digest(view), flush=True)
        except StoreFailed as failure:
            print("failed", failure, flush=True)
            time.sleep(0.2)
        finally:
            feed.close()


if __name__ == "__main__":
    main()
