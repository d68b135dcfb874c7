"""A trained model for use: its map with the codec, the samplers and the noise levels of its run.

Tasks, exports, the page and `consistency.load` all use this class. It needs neither the data nor the
objective of training.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from consistency.codec.codec import Codec
from consistency.codec.pixels import pixels_of
from consistency.data.loader import RequestLoader
from consistency.errors import UserError, at_least, check_seed, within
from consistency.model.condition import NONE, Condition
from consistency.model.maps import Denoiser, DenoiserLike, one_time
from consistency.process.capacity import check_memory
from consistency.sampling.editing import Change, EditPlan, image_mark
from consistency.sampling.levels import karras_sigmas
from consistency.sampling.samplers import Sampler
from consistency.schedule.draws import ImageDraws
from consistency.schedule.sigma import Sigma
from consistency.tensor import level

MOST = 10**8  # largest number of samples in a call of `sample`
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Provenance:
    """The origin of a model.

    Args:
        path: of its file.
        step: number of optimiser steps; None where the file has none.
        experiment: its name; None where the file has none.
        weights: name of the weights in the file: an average, or `raw`.
        weights_sha256: hash of the weights.
        config: of its run, as plain data; empty where the file has none.
        classes: names of the classes, by label; None where there are none.
    """

    path: Path
    step: int | None = None
    experiment: str | None = None
    weights: str = "raw"
    weights_sha256: str = ""
    config: dict[str, Any] = field(default_factory=dict, repr=False)
    classes: tuple[str, ...] | None = None

    @property
    def run(self) -> Path:
        """The directory of the run that wrote the file."""
        return self.path.resolve().parent.parent


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model, frozen and in evaluation mode.

    Args:
        f: its map, or a closed form.
        shape: of one encoded sample, (C, H, W) or (D,).
        classes: number of classes; 0 for a model without labels.
        samplers: by name, such as `1step` or `heun35`; the first is the default.
        codec: encodes samples for the network, and decodes its output.
        sigma: the noise levels of its training.
        provenance: its origin.
        found: further samplers for these weights, by name, as `task=schedule` finds them.
    """

    f: DenoiserLike
    shape: tuple[int, ...]
    classes: int
    samplers: Mapping[str, Sampler]
    codec: Codec
    sigma: Sigma
    provenance: Provenance
    found: Mapping[str, Sampler] = field(default_factory=dict)

    def __call__(self, x: Tensor, sigma: Tensor | float, c: Condition = NONE) -> Tensor:
        """Clean data [B, ...] from x [B, ...] at noise level σ [B], or one σ for all; both encoded.

        A denoiser returns the posterior mean; a consistency function and a flow map return the end of the
        trajectory through x. Gradients flow to x.

        Raises:
            UserError: the network does not take what c gives.
        """
        sigmas = level(sigma, x) if isinstance(sigma, float | int) else sigma
        return one_time(self.f)(x, sigmas, c)

    def sample(
        self,
        count: int,
        steps: int | None = None,
        *,
        seed: int = 0,
        labels: int | Sequence[int] | None = None,
        sampler: Sampler | None = None,
        batch: int = 64,
    ) -> Tensor:
        """Make samples, on the CPU: uint8 images [count, C, H, W], or float32 points [count, D].

        Sample i does not depend on count and batch, and is the one that `eval.py task=sample` makes.

        Args:
            count: number of samples.
            steps: network calls for each sample; None for those of the model's first sampler.
            seed: of the noise.
            labels: class of each sample, a list that is repeated; None for all classes in turn.
            sampler: replaces that of the model.
            batch: number of samples in a network call.

        Raises:
            UserError: the model has no such sampler or no such classes.
        """
        within("sample()", 1, MOST, count=count)
        at_least("sample()", batch=batch)
        check_seed("seed", seed)
        classes = self.checked_labels(f"labels={labels}", labels)
        chosen = self.sampler(steps) if sampler is None else sampler
        if sampler is not None and steps not in (None, sampler.nfe):
            raise UserError(f"steps={steps} and a sampler of {sampler.nfe} calls: give one of the two")
        check_memory(f"batch={batch}", 4 * min(batch, count) * math.prod(self.shape))
        parts = [range(first, min(first + batch, count)) for first in range(0, count, batch)]
        made = (self.batch(chosen, index, seed, classes) for index in parts)
        return torch.cat([self.codec.decode(x).cpu() for x in made])

    def edit(
        self,
        images: Tensor,
        change: Change,
        *,
        seed: int = 0,
        labels: int | Sequence[int] | None = None,
        levels: int = 40,
        batch: int = 64,
    ) -> Tensor:
        """Edit images: uint8 [B, C, H, W] -> uint8 [B, C, H, W], on the CPU.

        The noise of an image depends on the seed and on its content. `eval.py task=edit` gives the same.

        Args:
            images: uint8 [B, C, H, W], of the size of the model's samples.
            change: an edit of `consistency.edits`.
            seed: of the noise.
            labels: class of each image, a list that is repeated. Models with classes need it.
            levels: number of Karras's noise levels, for edits of several network calls.
            batch: number of images in a network call.

        Raises:
            UserError: the images do not fit the model, or the edit is not defined for it.
        """
        self.check_images(images)
        if change.of_pixels:
            pixels_of(self.codec, f"{type(change).__name__} changes", "use edits.Vary or edits.Stroke")
        at_least("edit()", batch=batch)
        check_seed("seed", seed)
        classes, plan = self.checked_labels(f"labels={labels}", labels), self.plan(levels)
        if self.classes and classes is None:
            raise UserError(f"this model has {self.classes} classes: name those of the images with labels=")
        made = []
        for first in range(0, len(images), batch):
            u = images[first : first + batch].cpu()
            draws = ImageDraws(seed, [image_mark(image) for image in u])
            c = self.condition(range(first, first + len(u)), classes)
            x = self.codec.encode(u).to(self.device)
            with torch.no_grad():
                made.append(self.codec.decode(change(self.f, x, plan, draws, c).after).cpu())
        return torch.cat(made)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one decoded sample, (C, H, W) or (D,)."""
        return self.codec.decoded(self.shape)

    @property
    def role(self) -> str:
        """Role of f: `denoiser`, `consistency function` or `flow map`; a closed form is a denoiser."""
        return getattr(self.f, "role", Denoiser.role)

    @property
    def device(self) -> torch.device:
        """The device of f; the CPU for a closed form, which follows the device of x."""
        weights = self.f.parameters() if isinstance(self.f, nn.Module) else iter(())
        return next((weight.device for weight in weights), CPU)

    def to(self, device: torch.device | str) -> Self:
        """Move the network to a device; returns this model."""
        if isinstance(self.f, nn.Module):
            self.f.to(device)
        return self

    def with_map(self, f: DenoiserLike) -> Self:
        """A copy of this model with another map."""
        return replace(self, f=f)

    def sampler(self, steps: int | None = None) -> Sampler:
        """The sampler of the model with so many network calls; None for the first.

        Raises:
            UserError: it has none; lists those that it has.
        """
        known = {**self.samplers, **{k: each for k, each in self.found.items() if k not in self.samplers}}
        for each in known.values():
            if steps in (None, each.nfe):
                return each
        has = ", ".join(f"{each.nfe} ({name})" for name, each in known.items()) or "no sampler"
        raise UserError(
            f"steps={steps}: this model has samplers of other numbers of network calls, {has}: choose one of "
            "these, or give a sampler"
        )

    def batch(
        self, sampler: Sampler, index: Sequence[int], seed: int, labels: Sequence[int] | None = None
    ) -> Tensor:
        """Encoded samples [b, *shape] of these numbers, on the device of the map.

        Args:
            sampler: makes the samples.
            index: numbers of the samples among all of the seed.
            seed: of the noise.
            labels: see `condition`.
        """
        draws, z, _ = RequestLoader(0, self.shape, 1, seed).request(index)
        return sampler(self.f, z.to(self.device), self.condition(index, labels), draws.fork())

    def condition(self, index: Sequence[int], labels: Sequence[int] | None = None) -> Condition:
        """The classes of samples; `NONE` for a model without classes.

        Args:
            index: numbers of the samples.
            labels: classes that are used in turn; None for all.
        """
        if not self.classes:
            return NONE
        cycle = range(self.classes) if labels is None else labels
        return Condition(torch.tensor([cycle[i % len(cycle)] for i in index], device=self.device))

    def checked_labels(self, key: str, labels: int | Sequence[int] | None) -> list[int] | None:
        """Classes as a list; None for all.

        Args:
            key: with its value, for the message.
            labels: a class, or several.

        Raises:
            UserError: the list is empty, or the model does not have one of them.
        """
        if labels is None:
            return None
        classes = [labels] if isinstance(labels, int) else list(labels)
        if not classes or not all(0 <= label < self.classes for label in classes):
            there = f"0 to {self.classes - 1}" if self.classes else "none: it was trained without labels"
            raise UserError(f"{key}: the classes of this model are {there}")
        return classes

    def check_images(self, images: Tensor) -> None:
        """Refuse images that do not fit this model.

        Raises:
            UserError: the model is of points, or the images have another shape or type.
        """
        if not self.codec.visible:
            raise UserError("this is a model of points: edit() is for images")
        shape = self.sample_shape
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != shape or not len(images):
            raise UserError(
                f"images are {images.dtype} {list(images.shape)}, and this model's are torch.uint8 "
                f"[B, {', '.join(map(str, shape))}]: convert them first"
            )

    def plan(self, levels: int = 40, sigmas: Sequence[float] | None = None) -> EditPlan:
        """The noise levels of an edit: Karras's between those of the run, or a given list.

        The last of Karras's is ε, where f(x, ε) = x needs no network call.

        Args:
            levels: number of Karras's levels, ε included; at least 2.
            sigmas: a descending list, in their place.

        Raises:
            UserError: the levels do not fall, or leave the range of the run.
        """
        within("edit", 2, 10_000, levels=levels)
        sigma = self.sigma
        chosen = karras_sigmas(levels, sigma.min, sigma.max, sigma.rho)[:-1] if sigmas is None else [*sigmas]
        falling = all(a > b for a, b in pairwise([*chosen, sigma.min]))
        if not chosen or not falling or chosen[0] > sigma.max * (1 + 1e-9):
            raise UserError(f"task.sigmas={chosen} must fall, from at most {sigma.max} to above {sigma.min}")
        return EditPlan(chosen, sigma.min, sigma.max, sigma.data, *self.codec.range)
