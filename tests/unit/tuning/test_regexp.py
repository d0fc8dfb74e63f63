"""Go's regular expressions: what matches and what is refused, as Go 1.26 answered for this table."""

import time

import pytest

from cni_plugins.tuning.regexp import BadPattern, compiled

TEXTS = [
    "net.core.somaxconn",
    "net.ipv4.conf.IFNAME.rp_filter",
    "net/ipv4/conf/eth0/arp",
    "NET.CORE",
    "x\n",
    "xnet.core.somaxconny",
    "",
    "a-b",
    "é",
    "1_2",
    "a{,2}",
    "aa",
]
# For each expression, which of the texts it matches.
MATCHES = [
    ("^net\\.core\\.somaxconn$", "x..........."),
    ("somaxconn", "x....x......"),
    ("^net.ipv4.conf.IFNAME.[a-z_]*$", ".x.........."),
    ("net[./]ipv4[./].*", ".xx........."),
    ("(?i)net", "xxxx.x......"),
    ("n(?i)ET", "xxx..x......"),
    ("(?i:NET)\\.core", "x....x......"),
    ("(?i)net(?-i)\\.CORE", "...x........"),
    ("\\Anet\\.", "xx.........."),
    ("arp\\z", "..x........."),
    ("x$", "............"),
    ("(?m)x$", "....x......."),
    ("x.", "x....x......"),
    ("(?s)x.", "x...xx......"),
    ("\\bcore\\b", "x....x......"),
    ("\\Bore", "x....x......"),
    ("\\d_\\d", ".........x.."),
    ("\\D\\D", "xxxxxx.x..xx"),
    ("^\\w+$", ".........x.x"),
    ("^\\W$", "........x..."),
    ("\\s", "....x......."),
    ("\\S{18}", "xxx..x......"),
    ("[[:digit:]]", ".xx......xx."),
    ("[[:^ascii:]]", "........x..."),
    ("[^[:print:]]", "....x...x..."),
    ("[a-]b", ".......x...."),
    ("a[-x]b", ".......x...."),
    ("[]a]", "x.x..x.x..xx"),
    ("[^]a]a", "x.x..x......"),
    ("[\\d_]{3}", ".........x.."),
    ("[\\x30-\\x39]", ".xx......xx."),
    ("\\x{e9}", "........x..."),
    ("\\141", "x.x..x.x..xx"),
    ("\\Qa{,2}\\E", "..........x."),
    ("\\Qa{", "..........x."),
    ("a{,2}", "..........x."),
    ("a{1,2}$", "...........x"),
    ("^a{2}$", "...........x"),
    ("^a{3,}$", "............"),
    ("(a|net)\\.?", "xxx..x.x..xx"),
    ("()", "xxxxxxxxxxxx"),
    ("|", "xxxxxxxxxxxx"),
    ("zzz|", "xxxxxxxxxxxx"),
    ("(?P<n>net)\\.core", "x....x......"),
    ("(?<n>net)\\.core", "x....x......"),
    ("a*?", "xxxxxxxxxxxx"),
    ("(?U)a+", "x.x..x.x..xx"),
    ("^(a?){5}a{2}$", "...........x"),
    ("(a+)+$", "...........x"),
    ("[a\\]]a", "...........x"),
    (".{5,7}core", ".....x......"),
    ("", "xxxxxxxxxxxx"),
    ("^$", "......x....."),
    ("^*net", "xxx..x......"),
    ("core|ipv4", "xxx..x......"),
    ("(?P<n>a)(?P<n>b)", "............"),
]
REFUSED = [
    ("(", "missing closing ): `(`"),
    (")", "unexpected ): `)`"),
    ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
    ("(?!a)", "invalid or unsupported Perl syntax: `(?!`"),
    ("(?<=a)", "invalid named capture: `(?<=a)`"),
    ("(?P=n)", "invalid or unsupported Perl syntax: `(?P`"),
    ("(?P<1-2>a)", "invalid named capture: `(?P<1-2>`"),
    ("(?#c)", "invalid or unsupported Perl syntax: `(?#`"),
    ("(?>a)", "invalid or unsupported Perl syntax: `(?>`"),
    ("(?x)a", "invalid or unsupported Perl syntax: `(?x`"),
    ("(?-)a", "invalid or unsupported Perl syntax: `(?-)`"),
    ("*", "missing argument to repetition operator: `*`"),
    ("+a", "missing argument to repetition operator: `+`"),
    ("?", "missing argument to repetition operator: `?`"),
    ("a|*", "missing argument to repetition operator: `*`"),
    ("{2}", "missing argument to repetition operator: `{2}`"),
    ("a**", "invalid nested repetition operator: `**`"),
    ("a+*", "invalid nested repetition operator: `+*`"),
    ("a{2}{3}", "invalid nested repetition operator: `{2}{3}`"),
    ("a{1001}", "invalid repeat count: `{1001}`"),
    ("a{2,1}", "invalid repeat count: `{2,1}`"),
    ("\\1", "invalid escape sequence: `\\1`"),
    ("(a)\\1", "invalid escape sequence: `\\1`"),
    ("\\Z", "invalid escape sequence: `\\Z`"),
    ("\\8", "invalid escape sequence: `\\8`"),
    ("\\e", "invalid escape sequence: `\\e`"),
    ("\\C", "invalid escape sequence: `\\C`"),
    ("\\", "trailing backslash at end of expression: ``"),
    ("[", "missing closing ]: `[`"),
    ("[a", "missing closing ]: `[a`"),
    ("[z-a]", "invalid character class range: `z-a`"),
    ("[[:foo:]]", "invalid character class range: `[:foo:]`"),
    ("[a-\\d]", "invalid escape sequence: `\\d`"),
    ("[\\b]", "invalid escape sequence: `\\b`"),
    ("a++", "invalid nested repetition operator: `++`"),
]


@pytest.mark.parametrize(("expression", "expected"), MATCHES)
def test_a_text_matches_as_in_go(expression: str, expected: str) -> None:
    pattern = compiled(expression)
    assert "".join("x" if pattern.is_in(text) else "." for text in TEXTS) == expected


@pytest.mark.parametrize(("expression", "message"), REFUSED)
def test_what_go_refuses_is_refused_in_its_words(expression: str, message: str) -> None:
    with pytest.raises(BadPattern) as caught:
        compiled(expression)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (r"\p{Greek}", r"classes of Unicode are not supported: `\p`"),
        (r"[\PL]", r"classes of Unicode are not supported: `\P`"),
        (r"\x{110000}", r"invalid escape sequence: `\x{110000}`"),
        (r"\xg", r"invalid escape sequence: `\x`"),
        ("((a{100}){100}){100}", "expression too large"),
        ("(" * 60 + ")" * 60, f"expression nests too deeply: `{'(' * 60 + ')' * 60}`"),
    ],
)
def test_what_is_beyond_us_is_refused_too(expression: str, message: str) -> None:
    with pytest.raises(BadPattern) as caught:
        compiled(expression)
    assert str(caught.value) == message


def test_an_expression_over_which_others_despair_takes_no_longer_for_a_longer_text() -> None:
    """A backtracking matcher takes twice the time for each character more."""
    pattern = compiled("^(a+)+$")

    def duration(length: int) -> float:
        start = time.thread_time()
        assert not pattern.is_in("a" * length + "b")
        return time.thread_time() - start

    duration(100)
    assert duration(1000) < 100 * duration(100)


def test_case_is_folded_as_in_unicode() -> None:
    assert compiled("(?i)k").is_in("\u212a")
    assert compiled("(?i)\u212a").is_in("K")
    assert not compiled("(?i)[^k]").is_in("\u212a")
