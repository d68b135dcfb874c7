"""What a checkpoint is to whoever uses it: a map with the codec, the samplers and the σ of its run.

Tasks, exports, the page and `consistency.load` know a model as this and nothing else. It needs neither the
data nor the objective that it was trained with.
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
from consistency.library.choice import sampler_of_calls
from consistency.model.condition import NONE, Condition
from consistency.model.maps import Denoiser, DenoiserLike, one_time
from consistency.process.capacity import check_memory
from consistency.sampling.editing import Change, EditPlan, image_mark
from consistency.sampling.levels import karras_sigmas
from consistency.sampling.samplers import Sampler
from consistency.schedule.draws import ImageDraws
from consistency.schedule.sigma import Sigma
from consistency.tensor import level

MOST = 10**8  # samples of a call
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Provenance:
    """Where a model is from.

    Args:
        path: of its file.
        step: optimiser steps that it took; None where the file does not say.
        experiment: that was trained; None where the file does not say.
        weights: which of the file's they are: an average by name, or `raw`.
        weights_sha256: their hash.
        config: of its run, as plain data; empty where the file has none.
        classes: their names, by label; None where they have none.
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
        f: its map, with the weights that were asked for; or a closed form.
        shape: of one sample as networks see it, (C, H, W) or (D,).
        classes: how many it knows, 0 of one without labels.
        samplers: how it is sampled, by name, such as `1step` or `heun35`; the first is the usual one.
        codec: between samples as people see them, and as networks do.
        sigma: the noise levels of its training.
        provenance: where it is from.
        found: other samplers that are known for these weights, by name.
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
        """Clean data [B, ...] from x [B, ...] at noise level σ [B], or one σ for all, as networks see them.

        The posterior mean of a denoiser; the end of the trajectory of a consistency function and of a flow
        map. Gradients flow to x.

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
        """Samples on the CPU: uint8 images [count, C, H, W], or float32 points [count, D].

        Sample i is the same for every count and batch, and the one that `eval.py task=sample` makes.

        Args:
            count: how many.
            steps: calls of the network for each; None for those of the model's first sampler. Of a flow map
                any number: so many jumps, without fresh noise.
            seed: of their noise.
            labels: classes, one after the other and again; None takes all in turn. Of models with classes.
            sampler: in place of the model's own.
            batch: samples a call.

        Raises:
            UserError: the model has no such sampler or no such classes.
        """
        within("sample()", 1, MOST, count=count)
        at_least("sample()", batch=batch)
        check_seed("seed", seed)
        wanted = self.checked_labels(f"labels={labels}", labels)
        chosen = self.sampler(steps) if sampler is None else sampler
        if sampler is not None and steps not in (None, sampler.nfe):
            raise UserError(f"steps={steps} and a sampler of {sampler.nfe} calls: give one of the two")
        check_memory(f"batch={batch}", 4 * min(batch, count) * math.prod(self.shape))
        parts = [range(first, min(first + batch, count)) for first in range(0, count, batch)]
        made = (self.batch(chosen, index, seed, wanted) for index in parts)
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
        """Images changed by the model, on the CPU, like the images.

        Each has noise that follows from the seed and from itself; it is what `eval.py task=edit` makes.

        Args:
            images: uint8 [B, C, H, W], of the size of the model's samples.
            change: what is done, one of `consistency.edits`.
            seed: of the noise.
            labels: class of each image, a list one after the other and again. Of models with classes, which
                need it.
            levels: of Karras's σ list, which changes of several calls go through.
            batch: images a call.

        Raises:
            UserError: the images are not of this model, or the change is none for it.
        """
        self.check_images(images)
        if change.of_pixels:
            pixels_of(self.codec, f"{type(change).__name__} changes", "use edits.Vary or edits.Stroke")
        at_least("edit()", batch=batch)
        check_seed("seed", seed)
        wanted, plan = self.checked_labels(f"labels={labels}", labels), self.plan(levels)
        if self.classes and wanted is None:
            raise UserError(f"this model has {self.classes} classes: name those of the images with labels=")
        made = []
        for first in range(0, len(images), batch):
            u = images[first : first + batch].cpu()
            draws = ImageDraws(seed, [image_mark(image) for image in u])
            c = self.condition(range(first, first + len(u)), wanted)
            x = self.codec.encode(u).to(self.device)
            with torch.no_grad():
                made.append(self.codec.decode(change(self.f, x, plan, draws, c).after).cpu())
        return torch.cat(made)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Of one sample as people see it, (C, H, W) or (D,)."""
        return self.codec.decoded(self.shape)

    @property
    def role(self) -> str:
        """Of f: `denoiser`, `consistency function` or `flow map`; a closed form is a denoiser."""
        return getattr(self.f, "role", Denoiser.role)

    @property
    def device(self) -> torch.device:
        """Where f is; a closed form goes wherever x is."""
        weights = self.f.parameters() if isinstance(self.f, nn.Module) else iter(())
        return next((weight.device for weight in weights), CPU)

    def to(self, device: torch.device | str) -> Self:
        """This model, its network moved to a device."""
        if isinstance(self.f, nn.Module):
            self.f.to(device)
        return self

    def with_map(self, f: DenoiserLike) -> Self:
        """The same model with another map."""
        return replace(self, f=f)

    def sampler(self, steps: int | None = None) -> Sampler:
        """The model's own sampler with so many network calls; None for the first. See `sampler_of_calls`.

        Raises:
            UserError: it has none, and names those that it has.
        """
        known = {**self.samplers, **{k: each for k, each in self.found.items() if k not in self.samplers}}
        return sampler_of_calls(steps, known, self.role, self.sigma)

    def batch(
        self, sampler: Sampler, index: Sequence[int], seed: int, labels: Sequence[int] | None = None
    ) -> Tensor:
        """Samples of these numbers [b, *shape] as networks see them, where the map is.

        Args:
            sampler: makes them.
            index: their numbers among all of the seed.
            seed: of their noise.
            labels: see `condition`.
        """
        draws, z, _ = RequestLoader(0, self.shape, 1, seed).request(index)
        return sampler(self.f, z.to(self.device), self.condition(index, labels), draws.fork())

    def condition(self, index: Sequence[int], labels: Sequence[int] | None = None) -> Condition:
        """Classes of samples by their numbers; nothing of a model without.

        Args:
            index: numbers of the samples.
            labels: that are taken in turn; None for all.
        """
        if not self.classes:
            return NONE
        asked = range(self.classes) if labels is None else labels
        return Condition(torch.tensor([asked[i % len(asked)] for i in index], device=self.device))

    def checked_labels(self, key: str, labels: int | Sequence[int] | None) -> list[int] | None:
        """The classes that were asked for as a list; None for all.

        Args:
            key: with its value, for the message.
            labels: a class, or several.

        Raises:
            UserError: the model does not know one of them, or there is none.
        """
        if labels is None:
            return None
        asked = [labels] if isinstance(labels, int) else list(labels)
        if not asked or not all(0 <= label < self.classes for label in asked):
            there = f"0 to {self.classes - 1}" if self.classes else "none: it was trained without labels"
            raise UserError(f"{key}: the classes of this model are {there}")
        return asked

    def check_images(self, images: Tensor) -> None:
        """Refuse what are no images of this model.

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
        """The levels of an edit: Karras's of the run, or those given.

        The last of Karras's is ε, where f(x, ε) = x needs no call.

        Args:
            levels: of Karras's, ε included; at least 2.
            sigmas: in their place, falling.

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
