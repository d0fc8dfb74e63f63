"""What the kernel is told for a rate and a burst: the reference's numbers, where these let packets pass."""

import pytest

from cni_plugins.kernel.netlink.traffic_control import BucketSettings
from cni_plugins.kernel.shaping.token_bucket import as_reference, wanted
from cni_plugins.steps.shaping import Bucket

MTU, FRAME = 1500, 1522
MOST = 2**32 - 1
LARGEST = 34359738359 // 8


@pytest.mark.parametrize(
    ("rate", "burst", "settings"),
    [
        # what tc shows of buckets that the reference v1.9.1 made
        (1_000_000, 100_000, (1_000_000, 125_000, 1_562_500)),
        (1_250_000, 1_000_000, (1_250_000, 1_031_250, 12_500_000)),
        (125_000_000, LARGEST, (125_000_000, MOST, 536_870_906)),
        (5 * 10**9, 10**8, (5 * 10**9, 225_000_000, 312_500)),
    ],
)
def test_an_ordinary_bucket_is_the_references(rate: int, burst: int, settings: tuple[int, ...]) -> None:
    assert wanted(Bucket(rate, burst), MTU) == (settings, 0, False)
    theirs = as_reference(rate, burst)
    assert theirs._replace(limit=min(theirs.limit, MOST)) == settings


@pytest.mark.parametrize("rate", [1000, 125_000, 1_250_000, 15_000_000])
def test_a_burst_of_more_than_the_kernels_field_can_hold_is_as_long_as_that(rate: int) -> None:
    """The field is 274.9 s; the reference loses the upper bits."""
    settings, burst, is_raised = wanted(Bucket(rate, LARGEST), MTU)
    assert settings.buffer <= MOST
    assert settings.buffer * 64 / 1e9 == pytest.approx(274.877, abs=0.001)
    assert settings.limit == pytest.approx(rate * (274.878 + 0.025), rel=1e-3)
    assert (burst, is_raised) == (0, False)
    assert as_reference(rate, LARGEST).buffer > MOST


@pytest.mark.parametrize("burst", [1, 57, 1514, 1521])
@pytest.mark.parametrize("rate", [15_000, 1_250_000, 125_000_000])
def test_a_burst_smaller_than_a_packet_is_raised_to_one(rate: int, burst: int) -> None:
    settings, exact, is_raised = wanted(Bucket(rate, burst), MTU)
    assert is_raised
    size = exact or settings.buffer * 64 * rate // 10**9
    assert FRAME <= size < FRAME + rate / 10**6 + 64
    assert settings.limit == FRAME + int(rate * 0.025)


@pytest.mark.parametrize("mtu", [1280, 9000, 65535])
def test_the_packet_is_one_of_the_links_mtu(mtu: int) -> None:
    assert wanted(Bucket(1_250_000, 1), mtu).settings.limit == mtu + 22 + 31_250
    assert not wanted(Bucket(1_250_000, mtu + 22), mtu).is_raised


@pytest.mark.parametrize("rate", [1, 15, 125, 353])
def test_the_burst_of_a_low_rate_is_given_in_bytes(rate: int) -> None:
    """The kernel takes 4.3 s at the rate as the size of the largest packet, unless it is told the bytes."""
    settings, exact, _ = wanted(Bucket(rate, 10**6), MTU)
    assert exact == max(FRAME, rate * 274877906880 // 10**9)
    assert settings.buffer == pytest.approx(exact * 10**9 / rate / 64 % 2**32, rel=1e-3)


@pytest.mark.parametrize("rate", [2 * 10**11, 2**61 - 1])
def test_the_burst_of_a_rate_at_which_a_packet_takes_no_tick_is_given_in_bytes(rate: int) -> None:
    settings, exact, _ = wanted(Bucket(rate, 1), MTU)
    assert exact == FRAME
    assert (settings.rate, settings.buffer) == (rate, 0)
    assert settings.limit == min(MOST, FRAME + int(rate * 25_000.0 / 1e6))


def test_a_bucket_that_is_restored_is_what_it_was() -> None:
    before = BucketSettings(1_000_000, 125_000, 1_562_500)
    assert wanted(Bucket(1_000_000, 100_000, before.buffer, before.limit), MTU) == (before, 0, False)
