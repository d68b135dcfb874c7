"""Conditions: a true "none" per sample, and networks that say what they take."""

import pytest
import torch

from consistency.errors import UserError
from consistency.model.condition import NONE, Condition, check_takes, takes

FULL = Condition(
    label=torch.tensor([2, 0, 1]),
    augment=torch.randn(3, 9),
    guidance=torch.tensor([1.0, 2.0, 3.0]),
    image=torch.randn(3, 1, 4, 4),
    tokens=torch.randn(3, 5, 8),
    mask=torch.ones(3, 5, dtype=torch.bool),
)


def test_nothing_is_given_by_default():
    assert NONE.given == ()
    assert FULL.given == Condition._fields


def test_none_keeps_what_guidance_does_not_lead_away_from():
    none = FULL.none()
    assert none.label.tolist() == [-1, -1, -1]
    assert none.guidance is FULL.guidance
    assert none.augment is FULL.augment
    assert not none.image.any()
    assert none.tokens is FULL.tokens
    assert not none.mask.any()


def test_tokens_without_a_mask_are_masked_out():
    assert not FULL._replace(mask=None).none().mask.any()


def test_some_samples_are_dropped():
    c = FULL.drop(torch.tensor([True, False, True]))
    assert c.label.tolist() == [-1, 0, -1]
    assert torch.equal(c.image[1], FULL.image[1])
    assert not c.image[[0, 2]].any()
    assert c.mask.any(1).tolist() == [False, True, False]
    assert torch.equal(c.guidance, FULL.guidance)
    assert NONE.drop(torch.tensor([True])) == NONE


def test_dropping_without_a_mask_keeps_all_tokens_of_the_others():
    c = FULL._replace(mask=None).drop(torch.tensor([True, False, False]))
    assert c.mask.all(1).tolist() == [False, True, True]


def test_rows_and_copies():
    assert FULL.rows(slice(1, 3)).label.tolist() == [0, 1]
    twice = FULL.repeat(2)
    assert twice.label.tolist() == [2, 0, 1, 2, 0, 1]
    assert torch.equal(twice.tokens[3:], FULL.tokens)
    assert NONE.rows(slice(2)) == NONE.repeat(3) == NONE


class Net(torch.nn.Module):
    takes = takes(label=3, augment=0, guidance=1)


@pytest.mark.parametrize("name", ["augment", "image", "tokens", "mask"])
def test_what_a_network_does_not_take_is_refused_by_name(name):
    check_takes(Net(), Condition(label=FULL.label, guidance=FULL.guidance))
    with pytest.raises(UserError, match=rf"^Net takes label, guidance alone, and {name} was given: "):
        check_takes(Net(), Condition(label=FULL.label, **{name: getattr(FULL, name)}))


def test_a_network_that_says_nothing_takes_nothing():
    with pytest.raises(UserError, match=r"^Linear takes no condition, and label was given: set net\.classes"):
        check_takes(torch.nn.Linear(1, 1), Condition(label=FULL.label))
