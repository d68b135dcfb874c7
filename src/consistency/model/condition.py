"""What else is given to a network besides x and σ: one value, with a true "none" for every field."""

from collections.abc import Callable
from typing import NamedTuple, Self

import torch
from torch import Tensor

from consistency.errors import UserError

NO_CLASS = -1  # the label of a sample without one
REMEDIES = {  # for a field that a network does not take
    "label": "set net.classes to the number of classes, or data.conditional=false",
    "augment": "set net.augment to the length of the augmentation labels, or augmentation=none",
    "guidance": "use a network that is trained with a guidance weight, or leave the weight out",
    "image": "use a network with channels for it, or leave it out",
    "tokens": "use a network with cross-attention, or leave the text out",
    "mask": "it goes with tokens",
}


class Condition(NamedTuple):
    """What a batch of B samples is conditioned on; a field that is None is not given to any sample.

    A network lists in `takes` the fields that it reads. Its callers give it no others: `refused` names what
    it does not take.
    """

    label: Tensor | None = None  # class, long [B], from 0; -1 of a sample without one
    augment: Tensor | None = None  # how x was augmented, float [B, n] (2206.00364, appendix F.2)
    guidance: Tensor | None = None  # w of D_none + w (D_c - D_none), float [B]; 1 is no guidance
    image: Tensor | None = None  # to be concatenated with x, [B, C', H, W]
    tokens: Tensor | None = None  # a sequence, such as an encoded text, float [B, L, n]
    mask: Tensor | None = None  # which of the tokens count, bool [B, L]; None for all

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the fields that are given."""
        return tuple(name for name, value in zip(self._fields, self, strict=True) if value is not None)

    def none(self) -> Self:
        """The same samples without their classes, images and texts: what guidance leads away from."""
        label = None if self.label is None else torch.full_like(self.label, NO_CLASS)
        mask = self.mask if self.tokens is None else torch.zeros_like(self.tokens[..., 0], dtype=torch.bool)
        image = None if self.image is None else torch.zeros_like(self.image)
        return self._replace(label=label, image=image, mask=mask)

    def drop(self, dropped: Tensor) -> Self:
        """Without the classes, images and texts of some samples, so that a network learns both (2207.12598).

        Args:
            dropped: which of them, bool [B].
        """
        whole = self
        if self.tokens is not None and self.mask is None:
            whole = self._replace(mask=torch.ones_like(self.tokens[..., 0], dtype=torch.bool))
        fields = zip(whole, whole.none(), strict=True)
        return type(self)(*(_where(dropped, lost, kept) for kept, lost in fields))

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same change of every field that is given: `c.map(lambda v: v[:8])`."""
        return type(self)(*(None if value is None else change(value) for value in self))

    def to(self, device: torch.device | str) -> Self:
        """On a device."""
        return self.map(lambda value: value.to(device))

    def repeat(self, n: int) -> Self:
        """n copies of the batch, one after the other: [n B]."""
        return self.map(lambda value: value.repeat(n, *(1 for _ in value.shape[1:])))

    def rows(self, which: Tensor | slice) -> Self:
        """The conditions of some of the samples, by number or by slice."""
        return self.map(lambda value: value[which])


NONE = Condition()


def given_label(label: Tensor | None) -> Condition:
    """Classes alone, or nothing."""
    return NONE if label is None else Condition(label)


def takes(**sizes: int) -> tuple[str, ...]:
    """The fields that a network reads: those for which it has a size above 0, such as `label=classes`."""
    return tuple(name for name, size in sizes.items() if size)


def check_takes(net: object, c: Condition) -> None:
    """Refuse what a network does not take.

    Raises:
        UserError: names the first field that its `takes` lacks.
    """
    read: tuple[str, ...] = getattr(net, "takes", ())
    for name in c.given if c is not NONE else ():
        if name not in read:
            has = f"takes {', '.join(read)} alone" if read else "takes no condition"
            raise UserError(f"{type(net).__name__} {has}, and {name} was given: {REMEDIES[name]}")


def _where(dropped: Tensor, lost: Tensor | None, kept: Tensor | None) -> Tensor | None:
    if kept is None or lost is None or kept is lost:
        return lost
    return torch.where(dropped.reshape(-1, *(1 for _ in kept.shape[1:])), lost, kept)
