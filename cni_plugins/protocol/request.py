"""Parses environment and stdin of one call, completely, before anything is changed.

Order and texts of the checks follow the reference (`skel`), as runtimes and people expect them; the codes
follow SPEC.md.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, cast, get_args

from cni_plugins.errors import (
    BadEnvironment,
    DecodingFailed,
    IncompatibleVersion,
    InvalidNetworkConfig,
    IoFailed,
)
from cni_plugins.ownership import Attachment, Owner
from cni_plugins.protocol import json_text, versions
from cni_plugins.protocol.decode import parse_result
from cni_plugins.protocol.fields import Conf, get, shown
from cni_plugins.protocol.ifnames import ifname_fault
from cni_plugins.protocol.result import NOTHING, Result

STDIN_LIMIT = 1 << 20  # bytes; a conflist with its prevResult is a few kilobytes

Command = Literal["ADD", "DEL", "CHECK", "GC", "STATUS"]  # VERSION is answered without a request
# CNI_PATH is needed only where another plugin is called, see delegate/run.py.
_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "GC": (),
    "STATUS": (),
}
_ATTACHMENT_KEYS = ("cni.dev/valid-attachments", "cni.dev/attachments")
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*\Z")
# Bounded, as a name becomes a directory, and a container id an nf_tables comment and the content of a file.
_NAME_LIMIT = 255


class Request(NamedTuple):
    """Everything that a plugin may know about the call; nothing has been changed yet.

    :param plugin: the plugin that carries it out, as an owner of rules is named; see ownership.plugin_word.
    """

    command: Command
    network: str
    container_id: str = ""
    netns: str = ""
    ifname: str = ""
    args: str = ""
    path: tuple[str, ...] = ()
    cni_version: str = versions.LATEST
    conf: Conf = NOTHING
    stdin: bytes = b""
    prev_result: Result | None = None
    valid_attachments: tuple[tuple[str, str], ...] = ()
    lists_attachments: bool = False
    plugin: str = ""
    environment: Mapping[str, str] = NOTHING

    @property
    def attachment(self) -> Attachment:
        return Attachment(self.network, self.container_id, self.ifname)

    @property
    def owner(self) -> Owner:
        """The owner of the rules that the plugin makes for the attachment."""
        return Owner(self.attachment, self.plugin)

    @property
    def ipam_type(self) -> str:
        """The type of the `ipam` section, empty if it is invalid: DEL and GC accept invalid configs too."""
        section = get(self.conf, "ipam")
        name = get(section, "type") if isinstance(section, dict) else None
        return name if isinstance(name, str) else ""

    @property
    def valid_tags(self) -> frozenset[str]:
        """Tags of the attachments that GC must keep."""
        return frozenset(Attachment(self.network, *pair).tag for pair in self.valid_attachments)


def parse(environment: Mapping[str, str], read_stdin: Callable[[int], bytes]) -> Request:
    """Parse environment and stdin of any command except VERSION.

    :param read_stdin: called once, with the maximum number of bytes to read.
    :raises CniError: the first fault found, before anything was done.
    """
    command = environment.get("CNI_COMMAND", "")
    _check_environment(command, environment)
    stdin = _read(read_stdin)
    conf = _decode(stdin)
    network = _network_name(conf)
    version = versions.require_supported(_string(conf, "cniVersion"))
    _check_command_allowed(command, version)
    # Other plugins refuse the byte order mark.
    return _request(environment, conf, network, version)._replace(
        stdin=stdin.removeprefix(json_text.BYTE_ORDER_MARK)
    )


def remembered(environment: Mapping[str, str], conf: Conf) -> Request:
    """Return what a runtime keeps of an ADD as a CHECK; unlike parse(), for configs of any version.

    :param environment: without CNI_COMMAND.
    :param conf: the plugin's config with what the runtime adds to it.
    :raises CniError: as `parse`.
    """
    environment = {**environment, "CNI_COMMAND": "CHECK"}
    _check_environment("CHECK", environment)
    network = _network_name(conf)
    return _request(environment, conf, network, versions.require_supported(_string(conf, "cniVersion")))


def _request(environment: Mapping[str, str], conf: Conf, network: str, version: str) -> Request:
    command = environment["CNI_COMMAND"]
    return Request(
        command=cast("Command", command),
        network=network,
        container_id=environment.get("CNI_CONTAINERID", ""),
        netns=environment.get("CNI_NETNS", ""),
        ifname=environment.get("CNI_IFNAME", ""),
        args=environment.get("CNI_ARGS", ""),
        path=tuple(part for part in environment.get("CNI_PATH", "").split(":") if part),
        cni_version=version,
        conf=conf,
        prev_result=_prev_result(command, conf, version),
        valid_attachments=_valid_attachments(conf) if command == "GC" else (),
        lists_attachments=any(_has_key(conf, key) for key in _ATTACHMENT_KEYS),
        environment=environment,
    )


def reported_version(stdin: bytes) -> str:
    """Return the version for an error document: the config's if it can be read, else the newest."""
    try:
        version = _string(_decode(stdin), "cniVersion") or versions.SUPPORTED[0]
    except (DecodingFailed, InvalidNetworkConfig):
        return versions.LATEST
    return version if version in versions.SUPPORTED else versions.LATEST


def _check_environment(command: str, environment: Mapping[str, str]) -> None:
    if not command:
        raise BadEnvironment("required env variables [CNI_COMMAND] missing", "CNI_COMMAND is empty")
    if command not in _REQUIRED:
        raise BadEnvironment(
            f"unknown CNI_COMMAND: {command}",
            f"CNI_COMMAND must be one of {', '.join(get_args(Command))}, VERSION",
        )
    _check_texts(environment)
    required = _REQUIRED[command]
    missing = [name for name in required if not environment.get(name)]
    if missing:
        raise BadEnvironment(
            f"required env variables [{','.join(missing)}] missing", f"CNI_COMMAND is {command}"
        )
    if "CNI_CONTAINERID" in required:
        _check_container_id(environment["CNI_CONTAINERID"])
        _check_ifname(environment["CNI_IFNAME"])


def _check_texts(environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        if name.startswith("CNI_") and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise BadEnvironment(f"{name} is not UTF-8", f"{name} is {shown(value)}") from None


def _check_container_id(text: str) -> None:
    if not NAME.match(text):
        raise BadEnvironment("invalid characters in containerID", f"CNI_CONTAINERID is {shown(text)}")
    if len(text) > _NAME_LIMIT:
        raise BadEnvironment(
            f"containerID is longer than {_NAME_LIMIT} characters", f"CNI_CONTAINERID is {shown(text)}"
        )


def _check_ifname(name: str) -> None:
    fault = ifname_fault(name)
    if fault:
        raise BadEnvironment(f"interface name {fault}", f"CNI_IFNAME is {shown(name)}")


def _read(read_stdin: Callable[[int], bytes]) -> bytes:
    try:
        stdin = read_stdin(STDIN_LIMIT + 1)
    except OSError as err:
        raise IoFailed("error reading from stdin", str(err)) from err
    if len(stdin) > STDIN_LIMIT:
        raise DecodingFailed(
            "the network configuration on stdin is too large", f"more than {STDIN_LIMIT} bytes"
        )
    return stdin


def _decode(stdin: bytes) -> dict[str, Any]:
    try:
        conf = json_text.load(stdin)
    except ValueError as err:
        raise DecodingFailed(
            f"error unmarshall network config: {err}", f"stdin begins {shown(stdin[:40])}"
        ) from err
    if not isinstance(conf, dict):
        raise DecodingFailed(
            "error unmarshall network config: not an object", f"stdin begins {shown(stdin[:40])}"
        )
    return conf


def _network_name(conf: Conf) -> str:
    name = _string(conf, "name")
    if not name:
        raise InvalidNetworkConfig("missing network name", "name is empty")
    if not NAME.match(name):
        raise InvalidNetworkConfig("invalid characters found in network name", f"name is {shown(name)}")
    if len(name) > _NAME_LIMIT:
        raise InvalidNetworkConfig(
            f"network name is longer than {_NAME_LIMIT} characters", f"name is {shown(name)}"
        )
    return name


def _check_command_allowed(command: str, version: str) -> None:
    oldest = {"CHECK": versions.CHECK, "GC": versions.GC_AND_STATUS, "STATUS": versions.GC_AND_STATUS}.get(
        command
    )
    if oldest and not versions.at_least(version, oldest):
        raise IncompatibleVersion(
            f"config version does not allow {command}",
            f'cniVersion is "{version}", {command} requires {oldest}',
        )


def _prev_result(command: str, conf: Conf, version: str) -> Result | None:
    raw = get(conf, "prevResult")
    if raw is None or command in ("GC", "STATUS"):
        return None
    own = raw.get("cniVersion") if isinstance(raw, dict) else None
    try:
        return parse_result(raw, own if own in versions.SUPPORTED else version)
    except DecodingFailed:
        # DEL must succeed even if the cached result is damaged; ADD and CHECK must report that.
        if command == "DEL":
            return None
        raise


def _valid_attachments(conf: Conf) -> tuple[tuple[str, str], ...]:
    """Return the attachments for GC to keep, from the key of SPEC.md or an older one that some runtimes send.

    :raises InvalidNetworkConfig: when the list is malformed; guessing could delete attachments in use.
    """
    listed: object = next((value for key in _ATTACHMENT_KEYS if (value := get(conf, key)) is not None), [])
    if not isinstance(listed, list):
        raise InvalidNetworkConfig(
            "GC needs a list of valid attachments", f"{_ATTACHMENT_KEYS[0]} is {shown(listed)}"
        )
    return tuple(_valid_attachment(entry) for entry in listed)


def _has_key(conf: Conf, key: str) -> bool:
    return any(name.lower() == key for name in conf)


def _valid_attachment(entry: object) -> tuple[str, str]:
    pair = (get(entry, "containerID"), get(entry, "ifname")) if isinstance(entry, dict) else ("", "")
    if not all(isinstance(part, str) and part for part in pair):
        raise InvalidNetworkConfig(
            "GC needs a list of valid attachments", f"cni.dev/valid-attachments has {shown(entry)}"
        )
    return pair


def _string(conf: Conf, key: str) -> str:
    value = get(conf, key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidNetworkConfig(f"{key} is not a string", f"{key} is {shown(value)}")
    return value
