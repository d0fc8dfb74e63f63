"""The process edge of cnictl: which commands there are, and how a failure looks."""

import sys

from cni_plugins.agent.build import BUILD
from cni_plugins.front.version import VERSION

AGENT_PROCESS = "@agent"
VERSION_LINE = f"cnictl {VERSION} (build {BUILD})"


def main() -> None:
    """Carry out one command line and end the process."""
    words = sys.argv[1:]
    if words == ["--version"]:
        sys.stdout.write(f"{VERSION_LINE}\n")
        return
    if words[:1] == [AGENT_PROCESS]:
        from cni_plugins.cli.resident import run

        code = run(words[1:])
        if code is not None:
            sys.exit(code)
        words[0] = "agent"
    sys.exit(_commands(words))


def _commands(words: list[str]) -> int:
    from cni_plugins.cli.commands import app
    from cni_plugins.cli.failure import Failed

    try:
        app(words, prog_name="cnictl")
    except Failed as failure:
        sys.stderr.write(f"cnictl: {failure}\n")
        return 1
    return 0


if __name__ == "__main__":
    main()
