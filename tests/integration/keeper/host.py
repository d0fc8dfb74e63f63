"""A host: a process with a network namespace, /run and /var/lib of its own, and a keeper as a child.

It is told what to do by lines of JSON on stdin, and answers each with a line on stdout.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cni_plugins.engine.program import Program
from cni_plugins.keeper import once, run
from cni_plugins.keeper.follower import Timing
from tests import cni, namespaces
from tests.store_server import RemoteStore

_NEWNS = 0x00020000
TIMING = Timing(life=0.5, settle=2.0, relist=5.0, pause=1.0, blocks=0.2)


class Log:
    def note(self, pairs: Mapping[str, str], text: str) -> None:
        print(time.monotonic(), dict(pairs), text, file=sys.stderr, flush=True)

    warn = note


class Host:
    def __init__(self, directory: Path, store: str) -> None:
        self.directory = directory
        self.conf_dir = directory / "net.d"
        self.store = store
        self.keeper = 0
        self.lifeline = -1
        programs = directory / "bin"
        programs.mkdir()
        (programs / "vxlan").write_text("")
        os.link(programs / "vxlan", programs / "host-local")
        status = (programs / "vxlan").stat()
        self.program = Program(status.st_dev, status.st_ino)

    def start(self) -> None:
        reading, self.lifeline = os.pipe()
        os.set_inheritable(self.lifeline, False)
        self.keeper = os.fork()
        if self.keeper == 0:
            os.close(self.lifeline)
            try:
                run.run(
                    run.KeeperOptions(
                        reading, Log(), lambda _: RemoteStore(self.store), str(self.conf_dir), timing=TIMING
                    )
                )
            except BaseException:  # noqa: BLE001 (a fork must not go on as the host)
                traceback.print_exc()
            finally:
                os._exit(0)
        os.close(reading)

    def kill(self) -> None:
        os.kill(self.keeper, signal.SIGKILL)
        self.finish()

    def stop(self) -> float:
        begun = time.monotonic()
        os.close(self.lifeline)
        os.waitpid(self.keeper, 0)
        self.keeper = 0
        return time.monotonic() - begun

    def finish(self) -> None:
        os.waitpid(self.keeper, 0)
        os.close(self.lifeline)
        self.keeper = 0

    def call(self, command: str, conf: Any, container: str, netns: str) -> Any:
        variables = cni.environment(
            command, container=container, netns=netns, path=self.directory / "bin", ifname="eth0"
        )
        answer = cni.run_engine(conf, cni.on_path(variables), self.program, "vxlan")
        return [answer.code, answer.document if answer.out else None]

    def read(self, path: str) -> Any:
        try:
            return Path(path).read_text()
        except OSError:
            return None

    def run(self, *words: str) -> str:
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout

    def round(self, network: str) -> str:
        from cni_plugins.keeper import followed

        (one,) = [one for one in followed.in_directory(self.conf_dir).networks if one.network == network]
        return once.round_of(one, lambda _: RemoteStore(self.store))


def main() -> None:
    directory, netns, store = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(netns).open("rb") as there:
        assert libc.setns(there.fileno(), 0) == 0
    assert libc.unshare(_NEWNS) == 0
    namespaces.run("mount", "--make-rprivate", "/")
    for place in ("/run", "/var/lib"):
        namespaces.run("mount", "-t", "tmpfs", "none", place)
    host = Host(directory, store)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            answer = [True, getattr(host, name)(*arguments)]
        except Exception as err:  # noqa: BLE001 (told to the test)
            answer = [False, f"{err!r} {traceback.format_exc()}"]
        print(json.dumps(answer), flush=True)
    if host.keeper:
        host.kill()


if __name__ == "__main__":
    main()
