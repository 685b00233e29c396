"""The judge itself: what counts as a lie."""

import math

import pytest

from tests.honesty.campaign import KNOWN_FAILURES, Campaign


def judged(*numbers):
    campaign = Campaign("judge")
    for label, value, error, truth in numbers:
        campaign.number(label, value, error, truth)
    return campaign


def test_no_failure_is_known():
    assert {area: lies for area, lies in KNOWN_FAILURES.items() if lies} == {}


@pytest.mark.parametrize(
    "value, error, truth",
    [
        (1.0, 1e-10, 1.1),
        (1.0, 0.0, 1.0 + 1e-15),
        (math.inf, 0.0, 1e300),
        (0.0, 0.0, 1e-300),
        (math.inf, math.nan, -math.inf),
    ],
)
def test_a_value_beyond_its_error_is_a_lie(value, error, truth):
    campaign = judged(("case", value, error, truth))
    if math.isnan(error):
        assert campaign.unknown == 1
    else:
        with pytest.raises(AssertionError, match="1 of 1 lie"):
            campaign.check()


def test_values_within_their_error_and_honest_silence_are_none():
    campaign = judged(
        ("within", 1.0, 1e-10, 1.0 + 5e-11),
        ("exact", 2.0, 0.0, 2.0),
        ("rounded", 1 / 3, 0.0, 1 / 3),
        ("infinite", math.inf, math.nan, math.inf),
        ("no value", math.nan, math.nan, 1.0),
        ("no error", 1.0, math.inf, 5.0),
    )
    campaign.check()
    assert (campaign.cases, campaign.unknown) == (6, 2)
    with pytest.raises(AssertionError):
        campaign.check(most_unknown=0.1)


def test_a_wrong_claim_is_a_lie():
    campaign = Campaign("judge")
    campaign.claim("phase", "ordered", "ordered")
    campaign.claim("silent", None, "chaotic", unknown=True)
    campaign.check()
    campaign.claim("wrong", "ordered", "chaotic")
    with pytest.raises(AssertionError, match="wrong: said"):
        campaign.check()
