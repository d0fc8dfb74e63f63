"""The words given to iptables-restore and read from `iptables -S`."""

import shlex
from ipaddress import ip_interface, ip_network

import pytest

from cni_plugins.kernel.firewall import iptables
from cni_plugins.kernel.firewall import iptables_masquerade as masquerade
from cni_plugins.ownership import Attachment
from cni_plugins.steps.firewall import EnsureIptablesMasquerade

OWNER = Attachment("net1", "c1", "eth0")
CHAIN = masquerade.chain_of(OWNER)


def test_the_chain_is_the_references() -> None:
    assert masquerade.chain_of(OWNER._replace(ifname="eth1")) == CHAIN
    assert len(CHAIN) == 28


def test_rules_exclude_subnet_and_config_before_they_masquerade() -> None:
    step = EnsureIptablesMasquerade(
        OWNER, (ip_interface("10.1.0.2/24"),), (ip_network("192.0.2.0/24"),), True
    )
    text = [shlex.join(words) for words in masquerade._wanted(step, 4)]
    assert [line.split()[0] for line in text] == ["-I", "-I", "-A", "-A"]
    assert "-d 10.1.0.0/24" in text[0] + text[1]
    assert "-d 192.0.2.0/24" in text[0] + text[1]
    assert "! " in text[2].replace("'", "")
    assert text[2].endswith("MASQUERADE --random-fully")
    assert text[3].startswith(
        f'-A POSTROUTING -s 10.1.0.2/32 -m comment --comment \'name: "net1" id: "c1"\' -j {CHAIN}'
    )


def test_quoting_is_what_iptables_restore_reads() -> None:
    line = iptables.quoted(("-m", "comment", "--comment", 'name: "a\\b"'))
    assert line == '-m comment --comment "name: \\"a\\\\b\\""'
    assert tuple(shlex.split(line))[3] == 'name: "a\\b"'


@pytest.mark.parametrize(
    "line",
    [
        "-N CNI-HOSTPORT-DNAT",
        "-A POSTROUTING ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
        r'-A C -m comment --comment "name: \"net\" id: \"c1\"" -j ACCEPT',
        r'-A C -m comment --comment "a \\ b\\" -m comment --comment ""',
    ],
)
def test_lines_are_split_as_a_shell_would(line: str) -> None:
    assert iptables._words(line) == tuple(shlex.split(line))


def test_a_line_of_others_has_the_words_that_iptables_was_given() -> None:
    line = r'-A C -m comment --comment "it\'s" -j LOG --log-prefix "a \"b\" "'
    assert iptables._words(line)[5:] == ("it's", "-j", "LOG", "--log-prefix", 'a "b" ')
    assert iptables._words('-A C --comment "open')[-1] == '"open'


def rule(text: str) -> iptables.Rule:
    return iptables.rule_of(tuple(shlex.split(text)))


def test_owners_are_read_from_comments() -> None:
    assert masquerade._owner(masquerade._inner_comment(OWNER)) == tuple(OWNER)
    assert masquerade._owner(masquerade._outer_comment(OWNER)) is None
    assert masquerade._owner('unbalanced "') is None
    assert masquerade._owner("") is None


def test_the_last_interface_takes_the_chain_along() -> None:
    jump = rule(f"-A POSTROUTING -s 10.1.0.2/32 -j {CHAIN}")
    rules = [rule(f"-N {CHAIN}"), jump]
    assert masquerade._removal(rules, CHAIN, {"10.1.0.2/32"}, "", keep=False) == [
        f"-D POSTROUTING -s 10.1.0.2/32 -j {CHAIN}",
        f"-F {CHAIN}",
        f"-X {CHAIN}",
    ]
    assert masquerade._removal([], CHAIN, set(), "", keep=False) == []
