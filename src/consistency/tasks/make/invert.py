"""task=invert: images from linear measurements by the model, its teacher and classical methods."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isnan
from typing import Any, NamedTuple

import torch
from torch import Tensor

from consistency.errors import call_configured, positive, within
from consistency.files.atomic import write_file, write_text
from consistency.metrics.card import Card, Number, plausible
from consistency.metrics.distortion import psnr, ssim
from consistency.metrics.judge import Judge
from consistency.metrics.picture import beside
from consistency.metrics.processes import rank
from consistency.model.maps import Denoiser
from consistency.sampling.classical import Baseline
from consistency.sampling.editing import restore
from consistency.sampling.levels import MOST_CALLS, karras_sigmas
from consistency.sampling.operators import LinearOperator, Maker, measure
from consistency.schedule.draws import ImageDraws
from consistency.table import Table, tables_markdown
from consistency.tasks.make.inputs import InputPaths, check_pixel_model, load_inputs, spread_over
from consistency.tasks.requests import check_samples, measure_distance, prepare_judge, progress_bar
from consistency.tasks.session import Outcome, Session, Trained
from consistency.tasks.teacher import teacher_of
from consistency.tensor import weights_sha256

MEASURED = ("PSNR", "SSIM", "residual")  # of every method
LEARNED_FROM = 10_000  # training images, at most, from which baselines are fitted


class Problem(NamedTuple):
    """An operator, images and their measurements, on the model's device."""

    A: LinearOperator
    u: Tensor  # true images, uint8 [M, C, H, W], on the CPU
    y: Tensor  # measurements [M, ...]
    source: str  # of the images: "given images", "held-out images", "training images"
    judge: Judge | None  # has seen the data; None if distances are not measured


Solve = Callable[[Tensor, Sequence[int]], Tensor]  # y [b, ...], b numbers of the images -> x [b, C, H, W]


class Method(NamedTuple):
    """A method of reconstruction: a row of the table."""

    name: str
    calls: int  # network calls per image
    session: Session  # has the weights that the method uses
    settings: dict[str, Any]  # all that changes its results, for the card
    solve: Solve


@dataclass(frozen=True)
class Invert:
    """Reconstructs `count` images from the measurements of one operator, with a table row per method.

    Args:
        operator: makes the operator for images (C, H, W).
        baselines: methods without a network, by name; None leaves one out.
        input: image files and folders; None takes held-out images of the data set, else training images.
        count: number of images, at most.
        batch: images per network call.
        seed: of all noise.
        calls: a row for each of these numbers of network calls of the consistency function, or of f(x, t, 0).
        mean_of: number of restorations of which one more row is the mean; 1 for no such row. The PSNR of a
            single restoration, which is a posterior sample, is up to 3 dB below that of the posterior mean.
        mean_calls: network calls of each of these.
        teacher_calls: network calls of the teacher, or of the checkpoint if it is a teacher.
        begin: σ at which the model starts from A⁺y plus noise; None for the highest σ of its run.
        rows: images in the picture.
        judged: measure the distance of the restored images from the data, by the run's metric. The title has
            that of the true images, for comparison where there are few.
    """

    operator: Maker
    baselines: Mapping[str, Baseline | None]
    input: InputPaths = None
    count: int = 100
    batch: int = 100
    seed: int = 0
    calls: Sequence[int] = (4, 16, 64)
    mean_of: int = 8
    mean_calls: int = 16
    teacher_calls: int = 64
    begin: float | None = 3.0
    rows: int = 8
    judged: bool = False

    def __post_init__(self) -> None:
        check_samples(self.count, self.batch, self.seed)
        within("task", 1, 1000, rows=self.rows, mean_of=self.mean_of)
        within("task", 1, MOST_CALLS, mean_calls=self.mean_calls, teacher_calls=self.teacher_calls)
        within("task", 1, MOST_CALLS, **{f"calls[{i}]": n for i, n in enumerate(self.calls)})
        if self.begin is not None:
            positive("task", begin=self.begin)

    def __call__(self, session: Session) -> Outcome:
        """Write `invert.md` with the table, and `strip.png`: true images, then the methods in table order."""
        problem = self._measure_images(session)
        methods = [*self._baseline_methods(session, problem), *self._model_methods(session, problem.A)]
        numbers = {method.name: self._evaluate_method(method, problem) for method in methods}
        table = methods_table(numbers, methods, problem, self._title(session, problem))
        path, strip = session.directory / "invert.md", session.directory / "strip.png"
        if rank() == 0:
            write_text(path, tables_markdown([table]))
            write_file(strip, self._draw_strip(methods, problem, session.trained).save)
        return Outcome(
            metrics={f"PSNR/{name}": number.values["PSNR"] for name, number in numbers.items()},
            paths={"strip": str(strip), "table": str(path)},
            images=len(problem.u) * len(methods),
            numbers=[number.to_plain(name) for name, number in numbers.items()],
            tables=[table],
        )

    def _measure_images(self, session: Session) -> Problem:
        """The true images and their noisy measurements; the noise of image i depends on `seed` and i only."""
        t = session.trained
        check_pixel_model(t, "task=invert measures")
        inputs = load_inputs(self.input, t, self.count)
        u = inputs.u[: self.count]
        A = call_configured("operator", self.operator, t.shape)
        x = t.codec.encode(u).to(t.device)
        y = measure(A, x, ImageDraws(self.seed, range(len(u))))
        return Problem(A, u, y, inputs.source, prepare_judge(session) if self.judged else None)

    def _baseline_methods(self, session: Session, problem: Problem) -> Iterable[Method]:
        """The classical methods, which are fitted to training images."""
        t = session.trained
        baselines = {name: baseline for name, baseline in self.baselines.items() if baseline is not None}
        if not baselines:
            return  # the data set is not needed
        x = t.codec.encode(spread_over(t.data.real(), LEARNED_FROM)).to(t.device)
        x_sha256 = weights_sha256({"x": x})
        for name, baseline in baselines.items():

            def solve(y: Tensor, index: Sequence[int], baseline: Baseline = baseline) -> Tensor:
                return baseline(problem.A, y, x)

            settings = {"baseline": repr(baseline), "learned_from_sha256": x_sha256}
            yield Method(name, 0, session, settings, solve)

    def _model_methods(self, session: Session, A: LinearOperator) -> Iterable[Method]:
        """The model with every number of calls, and its teacher; a checkpoint that is a teacher, once."""
        student = session.trained.role != Denoiser.role
        teacher = teacher_of(session.trained) if student else session.trained
        for calls in self.calls if student else ():
            yield self._restoration(session, A, f"{calls}step", calls)
        if student and self.mean_of > 1:
            name = f"{self.mean_calls}step, mean of {self.mean_of}"
            yield self._restoration(session, A, name, self.mean_calls, self.mean_of)
        if teacher is not None:
            name = f"teacher {self.teacher_calls}step"
            yield self._restoration(session.with_trained(teacher), A, name, self.teacher_calls)

    def _restoration(
        self, session: Session, A: LinearOperator, name: str, calls: int, means: int = 1
    ) -> Method:
        """Restoration by a network in `calls` steps, as the mean of `means` restorations."""
        t = session.trained
        sigma = t.sigma
        begin = min(self.begin or sigma.max, sigma.max)
        plan = t.plan(2, karras_sigmas(calls + 1, sigma.min, begin, sigma.rho)[:-1])

        def solve(y: Tensor, index: Sequence[int]) -> Tensor:
            c = t.condition(index)
            seeds = range(self.seed + 1, self.seed + 1 + means)  # not the noise of the measurements
            with session.fabric.autocast():
                restored = [restore(t.f, A, y, plan, ImageDraws(seed, index), c) for seed in seeds]
            return torch.stack(restored).mean(0)

        settings = {"sigmas": list(plan.sigmas), "seed": self.seed, "means": means}
        return Method(name, calls * means, session, settings, solve)

    def _evaluate_method(self, method: Method, problem: Problem) -> Number:
        """Means over all images, recalled if their card is known, else measured."""
        card = self._card(method, problem)
        judged = [] if problem.judge is None else [problem.judge.main]
        fits = partial(plausible, needed=[*MEASURED, *judged])
        return Number(method.session.memo.once(card, lambda: self._measure(method, problem), fits), card)

    def _card(self, method: Method, problem: Problem) -> Card:
        session, A = method.session, problem.A
        settings: dict[str, Any] = {
            "measured": "restoration",
            **{"operator": type(A).__name__, "noise": A.noise, "images": problem.source},
            "samples_sha256": weights_sha256({"u": problem.u, "y": problem.y}),
            **method.settings,
            **{"weights": session.trained.provenance.weights, "precision": session.precision},
        }
        if problem.judge is not None:
            settings |= problem.judge.protocol(len(problem.u))
        return session.make_card(settings)

    def _measure(self, method: Method, problem: Problem) -> dict[str, float]:
        """PSNR [dB], SSIM, root mean square residual of the measurements, and the judge's distance."""
        A, u, y, _, judge = problem
        codec = method.session.trained.codec
        values: dict[str, list[Tensor]] = {"PSNR": [], "SSIM": [], "squares": []}
        restored: list[Tensor] = []
        with progress_bar(method.name, len(u)) as advance:
            for first in range(0, len(u), self.batch):
                index = range(first, min(first + self.batch, len(u)))
                rows = slice(index.start, index.stop)
                x = method.solve(y[rows], index)
                images = codec.decode(x).cpu()
                values["PSNR"].append(psnr(images, u[rows]))
                values["SSIM"].append(ssim(images, u[rows]))
                values["squares"].append((A.forward(x) - y[rows]).double().square().flatten(1).mean(1).cpu())
                advance(index.stop)
                restored.append(images)
        means = {name: torch.cat(parts).mean().item() for name, parts in values.items()}
        found = {"PSNR": means["PSNR"], "SSIM": means["SSIM"], "residual": means["squares"] ** 0.5}
        return found if judge is None else {**found, judge.main: measure_distance(judge, torch.cat(restored))}

    def _title(self, session: Session, problem: Problem) -> str:
        A, data, judge = problem.A, type(session.trained.data).__name__, problem.judge
        images = f"{len(problem.u)} {problem.source}" + ("" if self.input else f" of {data}")
        floor = f", {judge.main} of the true ones {measure_distance(judge, problem.u):.2f}" if judge else ""
        return f"{type(A).__name__}, noise {A.noise:g}, {images}{floor}; * is the best of its column"

    def _draw_strip(self, methods: Sequence[Method], problem: Problem, t: Trained) -> Any:
        """The first true images, each before its reconstructions by the methods with finite results."""
        n = min(self.rows, len(problem.u))
        restored = [method.solve(problem.y[:n], range(n)) for method in methods]
        finite = [t.codec.decode(x).cpu() for x in restored if x.isfinite().all()]
        return beside(problem.u[:n], torch.stack(finite, 1), n, least=480)


def methods_table(
    numbers: Mapping[str, Number], methods: Sequence[Method], problem: Problem, title: str
) -> Table:
    """A row per method, the best value of each column marked.

    The best residual is the one nearest to the noise of the measurements: a smaller one has fitted the noise.
    """
    noise = problem.A.noise
    metrics: dict[str, tuple[int, Callable[[float], float]]] = {
        "PSNR": (2, lambda value: -value),
        "SSIM": (3, lambda value: -value),
        "residual": (4, lambda value: abs(value - noise)),
    }
    if problem.judge is not None:
        metrics[problem.judge.main] = 2, lambda value: value
    columns = [
        number_cells([number.values[name] for number in numbers.values()], digits, cost)
        for name, (digits, cost) in metrics.items()
    ]
    rows = [[method.name, str(method.calls), *row] for method, *row in zip(methods, *columns, strict=True)]
    return Table(["", "calls", *metrics], rows, title)


def number_cells(values: Sequence[float], digits: int, cost: Callable[[float], float]) -> list[str]:
    """Numbers as text; all that equal the best after rounding have a star, NaN is a dash."""
    best = min((cost(round(v, digits)) for v in values if not isnan(v)), default=None)
    marks = [" *" if cost(round(v, digits)) == best else "" for v in values]
    return [f"{v:.{digits}f}{mark}" if not isnan(v) else "–" for v, mark in zip(values, marks, strict=True)]
