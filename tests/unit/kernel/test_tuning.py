"""What a backup contains, who is told from it, and when two values are the same."""

import json
from typing import Any

import pytest

from cni_plugins.kernel.tuning.backup_format import Backup, decode, encode
from cni_plugins.kernel.tuning.sysctls import is_same
from cni_plugins.ownership import Attachment, backup_names, tag_of_backup, unfinished_backup
from cni_plugins.steps.tuning import LinkSettings

ME = Attachment("net1", "c1", "eth0")
LINK = LinkSettings(
    "02:00:00:00:00:01", promisc=False, mtu=1500, allmulti=True, tx_queue_len=0, host_mtu=1400
)
WHOLE = Backup(LINK, ((("core", "somaxconn"), "4096"), (("ipv4", "a.b"), "")), ME, "boot:5", 2)


def test_the_references_keys_come_first_in_its_form() -> None:
    """As Go writes it: a space for each level, and nothing for what was not changed."""
    values = (
        '"mac": "02:00:00:00:00:01"',
        '"promisc": false',
        '"mtu": 1500',
        '"allmulti": true',
        '"txQLen": 0',
    )
    reference = "{\n " + ",\n ".join(values)
    assert encode(WHOLE).startswith(reference)
    nothing = json.loads(encode(Backup(attachment=ME)))
    assert nothing == {"network": "net1", "containerID": "c1", "ifname": "eth0", "sandbox": "", "ifindex": 0}


@pytest.mark.parametrize("backup", [WHOLE, Backup(attachment=ME), Backup(LinkSettings(mtu=5), attachment=ME)])
def test_what_was_written_is_read(backup: Backup) -> None:
    assert decode(encode(backup).encode()) == backup


REFERENCE = [
    ('{\n "mac": "02:00:00:00:00:01"\n}', LinkSettings(mac="02:00:00:00:00:01")),
    ('{"promisc": false, "txQLen": 0}', LinkSettings(promisc=False, tx_queue_len=0)),
    ('{"mtu": 1500, "allmulti": true}', LinkSettings(mtu=1500, allmulti=True)),
    ("{}", LinkSettings()),
]


@pytest.mark.parametrize(("text", "expected"), REFERENCE)
def test_a_file_of_the_reference_is_read(text: str, expected: LinkSettings) -> None:
    assert decode(text.encode()) == Backup(expected)


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "null", '"x"', "{} {}", '{"mtu": NaN}', "[" * 100_000])
def test_what_is_no_backup(text: str) -> None:
    assert decode(text.encode()) is None


WRONG = [
    ("mac", [5, "", "zz", "02:00", "02-00-00-00-00-01", "02:00:00:00:00:1", ["02:00:00:00:00:01"], "../x"]),
    ("promisc", [1, "true", []]),
    ("mtu", [-1, "1500", 1.5, True, 1 << 32]),
    ("allmulti", [0, "false"]),
    ("txQLen", [-1, "0", False, 1 << 32]),
    ("hostMtu", [-1, "1500", True]),
    (
        "sysctl",
        [5, [], {"core/x": 5}, {"core/x": "a\0"}, {"../x": "1"}, {"core//x": "1"}, {"/core": "1"}, {"": "1"}],
    ),
    ("sandbox", [5, "a\0"]),
    ("ifindex", [-1, "2", True]),
]


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG for value in values])
def test_a_wrong_value_is_skipped_alone(key: str, value: Any) -> None:
    document = json.loads(encode(WHOLE))
    without = {name: item for name, item in document.items() if name != key}
    assert decode(json.dumps({**document, key: value}).encode()) == decode(json.dumps(without).encode())


@pytest.mark.parametrize("key", ["network", "containerID", "ifname"])
def test_half_an_attachment_is_none(key: str) -> None:
    document = json.loads(encode(WHOLE))
    for value in ("", 5, None):
        found = decode(json.dumps({**document, key: value}).encode())
        assert found == WHOLE._replace(attachment=None)


def test_the_first_of_two_old_values_is_kept() -> None:
    first = Backup(LinkSettings(mtu=1500, promisc=False, tx_queue_len=0), ((("a",), "1"), (("b",), "2")))
    later = Backup(
        LinkSettings(mac="02:00:00:00:00:01", mtu=1400, promisc=True, tx_queue_len=9),
        ((("c",), "3"), (("a",), "9")),
        ME,
        "boot:5",
        2,
    )
    assert first.filled_from(later) == Backup(
        LinkSettings("02:00:00:00:00:01", promisc=False, mtu=1500, tx_queue_len=0),
        ((("a",), "1"), (("b",), "2"), (("c",), "3")),
        ME,
        "boot:5",
        2,
    )


def test_the_link_is_known_from_either() -> None:
    link = Backup(LinkSettings(mtu=1500), (), ME, "boot:5", 2)
    settings = Backup(LinkSettings(), ((("a",), "1"),), ME, "boot:5")
    for whole in (link.filled_from(settings), settings.filled_from(link)):
        assert whole == Backup(LinkSettings(mtu=1500), ((("a",), "1"),), ME, "boot:5", 2)


def test_names() -> None:
    assert backup_names(ME) == ("c1_eth0.json", f"{ME.tag}.json")
    assert [tag_of_backup(name) for name in backup_names(ME)] == ["c1_eth0", ME.tag]
    assert tag_of_backup(unfinished_backup(ME)) == ME.tag
    assert tag_of_backup("notes.txt") == ""
    longest = Attachment("net1", "c" * (255 - len("_eth0.json")), "eth0")
    assert len(backup_names(longest)[0]) == 255
    too_long = longest._replace(container_id=f"{longest.container_id}c")
    assert backup_names(too_long) == (f"{too_long.tag}.json",)


SAME = [
    ("1", "1"),
    ("1024\t65000", "1024 65000"),
    ("1024\t65000", " 1024  65000\n"),
    ("2", "0x2"),
    ("2", "0X2"),
    ("8", "010"),
    ("-1", "-1"),
    ("0", "00"),
    ("8080-8082", "8082,8080,8081"),
    ("80,443-445", "443-444,80,445-445"),
    ("", ""),
    ("2001:0db8:0000:0000:0000:0000:0000:0001", "2001:DB8::1"),
    ("00000001-00000002-00000003-0000000a", "00000001-00000002-00000003-0000000A"),
    ("cubic", "cubic"),
    ("0f", "0F"),
]
DIFFERENT = [
    ("1", "0"),
    ("10", "010"),
    ("1024\t65000", "65000 1024"),
    ("1", "1 1"),
    ("", "0"),
    ("80", "80,443"),
    ("80-82", "80,82"),
    ("2001:db8::1", "2001:db8::2"),
    ("00000001-00000002-00000003-00000004", "00000001-00000002-00000003-00000005"),
    ("cubic", "reno"),
    ("08", "8"),
    ("1", "-1"),
]


@pytest.mark.parametrize(("found", "wanted"), SAME)
def test_a_value_in_the_kernels_form_is_the_same(found: str, wanted: str) -> None:
    assert is_same(found, wanted)


@pytest.mark.parametrize(("found", "wanted"), DIFFERENT)
def test_another_value_is_not(found: str, wanted: str) -> None:
    assert not is_same(found, wanted)
