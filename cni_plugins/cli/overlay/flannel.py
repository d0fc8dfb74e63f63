"""Defines `cnictl overlay import flannel` and `export flannel`: from flannel's keys in etcd, and to them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from cni_plugins.cli.failure import Failed

if TYPE_CHECKING:
    from cni_plugins.contract.registry_config import RegistrySection
    from cni_plugins.registries.store import Store

# Help is explicit: freezing strips docstrings.
importing = typer.Typer(no_args_is_help=True, help="Print configs for a network of other software.")
exporting = typer.Typer(no_args_is_help=True, help="Tell hosts of other software about ours.")

Etcd = Annotated[list[str], typer.Option("--etcd", metavar="URL", help="Endpoint of etcd; may be repeated.")]
Prefix = Annotated[str, typer.Option(help="flanneld's -etcd-prefix.")]
CaFile = Annotated[str, typer.Option(metavar="FILE", help="Certificates of authorities for etcd.")]
CertFile = Annotated[str, typer.Option(metavar="FILE", help="Client certificate for etcd.")]
KeyFile = Annotated[str, typer.Option(metavar="FILE", help="Its private key.")]
Username = Annotated[str, typer.Option(metavar="NAME", help="User of etcd.")]
PasswordFile = Annotated[str, typer.Option(metavar="FILE", help="File with the user's password.")]

_PREFIX = "/coreos.com/network"
_SUBNET_ENV = Path("/run/flannel/subnet.env")
_CONF_DIR = Path("/etc/cni/net.d")


class Access(NamedTuple):
    """How etcd is reached, as options say it."""

    etcd: list[str]
    prefix: str
    ca_file: str
    cert_file: str
    key_file: str
    username: str
    password_file: str

    def section(self) -> dict[str, Any]:
        """Return the `backend` section of a config with the same meaning."""
        keys = ("caFile", "certFile", "keyFile", "username", "passwordFile")
        given = {key: value for key, value in zip(keys, self[2:], strict=True) if value}
        prefix = {} if self.prefix == _PREFIX else {"prefix": self.prefix}
        return {"type": "etcd", "layout": "flannel", "endpoints": self.etcd, **prefix, **given}


@importing.command("flannel", help="Print conflist and peers for flannel's network, or write them to files.")
def import_flannel(  # noqa: PLR0913 (an option each)
    etcd: Etcd,
    *,
    name: Annotated[str, typer.Option(help="Name that the network gets.")] = "flannel",
    live: Annotated[
        bool,
        typer.Option("--live", help="A config by which hosts follow etcd, in place of a list of peers."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write NAME.conflist and NAME.peers.json there, which must not exist."
        ),
    ] = None,
    peers_file: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="Where hosts will have the list. Default: /etc/cni/NAME.peers.json."
        ),
    ] = "",
    subnet_env: Annotated[
        Path,
        typer.Option(metavar="FILE", help="What flanneld says of its network, to compare; may be missing."),
    ] = _SUBNET_ENV,
    prefix: Prefix = _PREFIX,
    ca_file: CaFile = "",
    cert_file: CertFile = "",
    key_file: KeyFile = "",
    username: Username = "",
    password_file: PasswordFile = "",
) -> None:
    from cni_plugins.cli.output import warn
    from cni_plugins.cli.overlay import flannel_import
    from cni_plugins.cli.overlay.flannel_import import Target

    access = Access(etcd, prefix, ca_file, cert_file, key_file, username, password_file)
    target = Target(name, peers_file or f"/etc/cni/{name}.peers.json", access.section() if live else None)
    flannel_import.require_name(name)
    environment = flannel_import.read_environment(subnet_env)
    with _Opened(access) as store:
        found = flannel_import.read(store)
    made = flannel_import.make(found, environment, target, is_file=output is not None)
    warn(made.left_out)
    for line in flannel_import.written(made, name, output) if output else flannel_import.printed(made):
        typer.echo(line)


@exporting.command(
    "flannel",
    help="Write the subnets of a static list of peers into flannel's etcd, without lease, for hosts that no"
    " longer run flanneld. Subnets of others are left alone.",
)
def export_flannel(  # noqa: PLR0913 (an option each)
    network: Annotated[str, typer.Argument(help="Network with backend static.")],
    nodes: Annotated[list[str] | None, typer.Argument(metavar="[NODE]...", help="Default: all.")] = None,
    *,
    etcd: Etcd,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be written.")] = False,
    conf_dir: Annotated[Path, typer.Option(help="Directory of the runtime's network configs.")] = _CONF_DIR,
    conf: Annotated[
        Path | None, typer.Option(help="File with a network config or list, not a directory.")
    ] = None,
    prefix: Prefix = _PREFIX,
    ca_file: CaFile = "",
    cert_file: CertFile = "",
    key_file: KeyFile = "",
    username: Username = "",
    password_file: PasswordFile = "",
) -> None:
    from cni_plugins.cli.overlay import flannel_export
    from cni_plugins.cli.overlay.select import in_directory, select
    from cni_plugins.cli.text import plain
    from cni_plugins.upkeep import overlay_configs

    access = Access(etcd, prefix, ca_file, cert_file, key_file, username, password_file)
    found = overlay_configs.in_file(conf) if conf else in_directory(conf_dir)
    [configured] = select(found, [network], str(conf or conf_dir)).networks
    records = flannel_export.records(configured, nodes or ())
    faults = []
    with _Opened(access) as store:
        for outcome in flannel_export.export(store, configured, records, dry_run=dry_run):
            typer.echo(plain(outcome.text), err=outcome.is_fault)
            faults += [outcome] if outcome.is_fault else []
    if faults:
        raise Failed(f"{len(faults)} of {len(records)} were not written")


class _Opened:
    """The store as a context manager, whose failures become those of the command."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._store: Store | None = None

    def __enter__(self) -> "Store":
        from cni_plugins.registries.open import open_store
        from cni_plugins.registries.store import StoreFailed

        try:
            self._store = open_store(self._section())
        except StoreFailed as err:
            raise Failed(f"etcd: {err}") from err
        return self._store

    def _section(self) -> "RegistrySection":
        from cni_plugins.contract.model import load
        from cni_plugins.contract.registry_config import RegistrySection
        from cni_plugins.errors import CniError

        try:
            return load(RegistrySection, self._access.section(), "options for etcd")
        except CniError as err:
            raise Failed(err.msg) from err

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        from cni_plugins.registries.network_registry import Refused
        from cni_plugins.registries.store import StoreFailed

        if self._store is not None:
            self._store.close()
        if isinstance(error, StoreFailed | Refused):
            raise Failed(f"etcd: {error}") from error
