"""Runs cnictl: starts a command or the agent's process, prints a failure, and sets the exit code."""

import sys

from cni_plugins.cli.version import AGENT_PROCESS, VERSION_LINE

STORE_CHECK = "store-check"  # not listed


def main() -> None:
    """Run one command line and exit."""
    words = sys.argv[1:]
    if words == ["--version"]:
        sys.stdout.write(f"{VERSION_LINE}\n")
        return
    if words[:1] == [AGENT_PROCESS]:
        from cni_plugins.cli.agent.process import run

        code = run(words[1:])
        if code is not None:
            sys.exit(code)
        words[0] = "agent"
    if words[:1] == [STORE_CHECK]:
        from cni_plugins.cli.store_check import check

        sys.exit(check(sys.stdin.read(), *words[1:]))
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
