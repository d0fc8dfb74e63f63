"""Who may use a store: certificates, users, tokens; and that none of it gets into messages."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni_plugins.contract.registry_config import RegistrySection
from cni_plugins.registries.network_registry import Member, NetworkRegistry
from cni_plugins.registries.open import open_store
from cni_plugins.registries.store import Change, Denied, Store, StoreFailed, Unreachable, Unusable
from tests.e2e.test_store_faults import kinds, running, works_again
from tests.servers.certificates import Certificates
from tests.servers.clusters import section_of
from tests.servers.consul import Consul
from tests.servers.etcd import Etcd

PASSWORD = "correct horse battery"
# kazoo leaves a socket to the garbage collector when TLS fails.
unclosed = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of another authority."""
    return Certificates(tmp_path_factory.mktemp("others"))


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    return secret(tmp_path / "password", PASSWORD)


def secret(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(f"{text}\n")
    return path


@kinds
@unclosed
def test_both_ends_show_certificates(
    kind: str, tmp_path: Path, certificates: Certificates, others: Certificates
) -> None:
    with running(kind, tmp_path, tls=certificates) as cluster:
        ca, files = {"caFile": str(certificates.ca)}, {}
        files["certFile"], files["keyFile"] = str(certificates.client_cert), str(certificates.client_key)
        store = open_store(section_of(cluster, **ca, **files))
        assert works_again(lambda: store.commit([Change("v1/n/a", b"1")]))
        feed = store.follow("v1/n")
        assert feed.next(10) == {"a": b"1"}
        store.commit([Change("v1/n/b", b"2")])
        assert feed.next(10) == {"a": b"1", "b": b"2"}
        feed.close()
        store.close()

        without = open_store(section_of(cluster, **ca))
        with pytest.raises(StoreFailed):
            without.read("v1/n/a")
        foreign = open_store(section_of(cluster, caFile=str(others.ca), **files))
        with pytest.raises(Unusable, match="certificate is not accepted"):
            foreign.read("v1/n/a")
        strange = {"certFile": str(others.client_cert), "keyFile": str(others.client_key)}
        stranger = open_store(section_of(cluster, **ca, **strange))
        with pytest.raises(StoreFailed):
            stranger.read("v1/n/a")
        for each in (without, foreign, stranger):
            each.close()


@kinds
@unclosed
def test_a_certificate_for_another_host_is_refused(
    kind: str, tmp_path: Path, certificates: Certificates
) -> None:
    wrong = Certificates(tmp_path / "certificates")
    cert, key = wrong.issue("other", "DNS:elsewhere.example")
    wrong.server_cert, wrong.server_key = cert, key
    wrong.server_both.write_text(key.read_text() + cert.read_text())
    context = wrong.context
    wrong.context = lambda: _careless(context())  # type: ignore[method-assign]
    with running(kind, tmp_path / "servers", tls=wrong) as cluster:
        files = {"certFile": str(wrong.client_cert), "keyFile": str(wrong.client_key)}
        store = open_store(section_of(cluster, caFile=str(wrong.ca), **files))
        with pytest.raises(Unusable, match="not valid for|mismatch|is not accepted"):
            store.read("x")
        store.close()


def _careless(context: ssl.SSLContext) -> ssl.SSLContext:
    context.check_hostname = False
    return context


@pytest.mark.parametrize(
    ("kind", "key"),
    [(kind, "key_file") for kind in ("etcd", "consul", "zookeeper")]
    + [("etcd", "password_file"), ("zookeeper", "password_file"), ("consul", "token_file")],
)
def test_files_that_others_may_read_are_refused(kind: str, key: str, tmp_path: Path) -> None:
    path = secret(tmp_path / "secret", PASSWORD)
    cert = secret(tmp_path / "cert", "cert")
    keys = {
        "key_file": {"keyFile": str(path), "certFile": str(cert), "caFile": str(cert)},
        "password_file": {"username": "host", "passwordFile": str(path)},
        "token_file": {"tokenFile": str(path)},
    }[key]
    scheme = "" if kind == "zookeeper" else ("https://" if key == "key_file" else "http://")
    for mode, words in ((0o640, "has mode 0640"), (0o602, "has mode 0602")):
        path.chmod(mode)
        with pytest.raises(Unusable, match=words) as caught:
            open_store(RegistrySection(type=kind, endpoints=[f"{scheme}127.0.0.1:1"], **keys)).read("x")
        assert PASSWORD not in str(caught.value)


@pytest.mark.needs("server:etcd")
def test_users_of_etcd(tmp_path: Path, password_file: Path) -> None:
    with running("etcd", tmp_path / "server") as cluster:
        assert isinstance(cluster, Etcd)
        cluster.enable_users("/cni-plugins/", host=PASSWORD)
        user = {"username": "host", "passwordFile": str(password_file)}
        store = open_store(section_of(cluster, **user))
        assert store.commit([Change("v1/n/a", b"1")])
        feed = store.follow("v1/n")
        assert feed.next(10) == {"a": b"1"}

        foreign = open_store(section_of(cluster, prefix="/elsewhere", **user))
        for call in (lambda: foreign.read("a"), lambda: foreign.commit([Change("a", b"1")])):
            with pytest.raises(Denied, match="permission denied"):
                call()
        forbidden = foreign.follow("a")
        with pytest.raises(Denied):
            forbidden.next(10)
        nobody = open_store(section_of(cluster))
        with pytest.raises(Denied):
            nobody.read("v1/n/a")
        wrong = secret(tmp_path / "wrong", "swordfish")
        stranger = open_store(section_of(cluster, username="host", passwordFile=str(wrong)))
        with pytest.raises(Denied) as caught:
            stranger.read("v1/n/a")
        assert "swordfish" not in str(caught.value)
        assert "swordfish" not in repr(stranger) + repr(vars(stranger))

        # After a restart etcd does not know the tokens that it gave out.
        cluster.members[0].kill()
        cluster.members[0].start()
        assert works_again(lambda: store.commit([Change("v1/n/b", b"2")]))
        store.hold("v1/live/me", b"1", 10)
        feed.close()
        feed = store.follow("v1/n")
        assert works_again(lambda: feed.next(10)) == {"a": b"1", "b": b"2"}
        for each in (feed, store, foreign, nobody, stranger):
            each.close()


@pytest.mark.needs("server:zookeeper", "java")
def test_users_of_zookeeper(tmp_path: Path, password_file: Path) -> None:
    with running("zookeeper", tmp_path / "server") as cluster:
        store = open_store(section_of(cluster, username="host", passwordFile=str(password_file)))
        assert store.commit([Change("v1/n/a", b"1")])
        store.hold("v1/live/me", b"1", 10)
        feed = store.follow("v1/n")
        assert feed.next(10) == {"a": b"1"}
        feed.close()
        wrong = secret(tmp_path / "wrong", "swordfish")
        for keys in ({}, {"username": "host", "passwordFile": str(wrong)}):
            stranger = open_store(section_of(cluster, **keys))
            with pytest.raises(Denied) as caught:
                stranger.children("v1/n")
            assert "swordfish" not in str(caught.value)
            assert "swordfish" not in repr(stranger) + repr(vars(stranger))
            with pytest.raises(Denied):
                stranger.commit([Change("v1/n/b", b"1")])
            forbidden = stranger.follow("v1/n")
            with pytest.raises(Denied):
                forbidden.next(10)
            stranger.close()
        store.close()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Consul]:
    with running("consul", tmp_path / "server", acl=True) as cluster:
        assert isinstance(cluster, Consul)
        yield cluster


def _node_rules(node: str) -> str:
    """What docs/registries.md says that a host needs."""
    base = "cni-plugins/v1/n"
    return "\n".join(
        [
            f'key_prefix "{base}/" {{ policy = "read" }}',
            f'key_prefix "{base}/nodes/{node};" {{ policy = "write" }}',
            f'key "{base}/canary" {{ policy = "write" }}',
            f'key "{base}/owners/{node}" {{ policy = "write" }}',
            f'key "{base}/live/{node}" {{ policy = "write" }}',
            f'key_prefix "{base}/vteps/" {{ policy = "write" }}',
            f'key_prefix "{base}/parts/" {{ policy = "write" }}',
            'session_prefix "" { policy = "write" }',
        ]
    )


@pytest.mark.needs("server:consul")
def test_tokens_of_consul(guarded: Consul, tmp_path: Path) -> None:
    token = guarded.token("h1", _node_rules("h1"))
    path = secret(tmp_path / "token", token)
    store: Store = open_store(section_of(guarded, tokenFile=str(path)))
    network = NetworkRegistry(store, "n")
    network.join(Member("h1", "1"), {"vtep": "192.0.2.1"})
    assert network.claim(Member("h1", "1"), ["10.0.0.0/24"]) == ["10.0.0.0/24"]
    network.show_life(Member("h1", "1"), 30)
    assert network.live() == {"h1"}
    assert network.is_confirmed()
    feed = network.follow()
    assert len(feed.next(10) or ()) == 1
    with pytest.raises(Denied):
        network.join(Member("h2", "2"), {"vtep": "192.0.2.2"})

    blind = NetworkRegistry(open_store(section_of(guarded)), "n")
    assert blind.records() == {}, "Consul 1.8 hides what may not be read"
    with pytest.raises(Denied):
        blind.is_confirmed()
    unknown = "99999999-8888-7777-6666-555555555555"
    wrong = secret(tmp_path / "wrong", unknown)
    stranger = open_store(section_of(guarded, tokenFile=str(wrong)))
    with pytest.raises(Denied) as caught:
        stranger.children("v1/n/nodes")
    assert unknown not in str(caught.value) + repr(stranger) + repr(vars(stranger))
    forbidden = stranger.follow("v1/n/nodes")
    with pytest.raises(Denied):
        forbidden.next(10)

    # A token is used as soon as its file has it.
    wrong.write_text(f"{token}\n")
    assert len(stranger.children("v1/n/nodes")) == 1
    for each in (feed, store, stranger):
        each.close()


@pytest.mark.needs("server:consul")
def test_another_datacenter_is_asked_for_by_name(tmp_path: Path) -> None:
    with running("consul", tmp_path) as cluster:
        store = open_store(section_of(cluster, datacenter="dc1"))
        assert store.commit([Change("v1/n/a", b"1")])
        store.hold("v1/live/me", b"1", 10)
        assert {*store.children("v1/live")} == {"me"}
        other = open_store(section_of(cluster, datacenter="mars"))
        for call in (lambda: other.read("v1/n/a"), lambda: other.commit([Change("v1/n/a", b"2")])):
            with pytest.raises((StoreFailed, Unreachable), match="mars|No path to datacenter"):
                call()
        store.close()
        other.close()
