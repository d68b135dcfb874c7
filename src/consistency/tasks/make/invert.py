"""Images from linear measurements: the model, its teacher and what was done before networks, side by side."""

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
from consistency.tasks.make.inputs import Given, check_pixel_model, inputs, spread_over
from consistency.tasks.measure.teacher import teacher_of
from consistency.tasks.requests import bar, check_samples, judge_distance, judging
from consistency.tasks.session import Outcome, Session, Trained
from consistency.tensor import weights_sha256

MEASURED = ("PSNR", "SSIM", "residual")  # of every method
LEARNED_FROM = 10_000  # images of the data, at most, that a baseline sees


class Problem(NamedTuple):
    """What was measured, of what, where the module is."""

    A: LinearOperator
    u: Tensor  # true images, uint8 [M, C, H, W]
    y: Tensor  # measurements [M, ...]
    source: str  # of the images, in words
    judge: Judge | None  # has seen the data; None where nobody asks


Solve = Callable[[Tensor, Sequence[int]], Tensor]  # y [b, ...], and the images' numbers -> [b, C, H, W]


class Method(NamedTuple):
    """A way from measurements to images."""

    name: str
    calls: int  # of the network, for each image
    session: Session  # about the weights that it uses
    how: dict[str, Any]  # all that moves its numbers, for the card
    solve: Solve


@dataclass(frozen=True)
class Invert:
    """One operator, `count` images, and a row for each method.

    Args:
        operator: (C, H, W) -> what is measured.
        baselines: without a network, by name; None leaves one out.
        input: image files and folders; None takes held-out ones of the data, or else training images.
        count: images, at most.
        batch: images a forward.
        seed: of all noise.
        calls: numbers of network calls of the consistency function, or of a flow map's f(x, t, 0).
        mean_of: so many restorations are averaged in a row of their own, for a sample of what may have been
            costs up to 3 dB against the mean of all that may; 1 for no such row.
        mean_calls: of each of them.
        teacher_calls: of the teacher, where it is at hand, or of a checkpoint that is one.
        begin: σ at which the model begins, as A⁺y is more than noise; None for the highest of its run.
        rows: images in the picture.
        judged: measure by the run's own metric how far restored images are from the data; where they are few,
            compare with what it says of the true ones.
    """

    operator: Maker
    baselines: Mapping[str, Baseline | None]
    input: Given = None
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
        """`invert.md` with the table, and `strip.png`: the truth, and every method in the table's order."""
        problem = self._problem(session)
        methods = [*self._classical(session, problem), *self._learned(session, problem.A)]
        numbers = {method.name: self._number(method, problem) for method in methods}
        shown = methods_table(numbers, methods, problem, self._title(session, problem))
        path, strip = session.directory / "invert.md", session.directory / "strip.png"
        if rank() == 0:
            write_text(path, tables_markdown([shown]))
            write_file(strip, self._strip(methods, problem, session.trained).save)
        return Outcome(
            metrics={f"PSNR/{name}": number.values["PSNR"] for name, number in numbers.items()},
            paths={"strip": str(strip), "table": str(path)},
            images=len(problem.u) * len(methods),
            numbers=[number.to_plain(name) for name, number in numbers.items()],
            tables=[shown],
        )

    def _problem(self, session: Session) -> Problem:
        """True images and what was measured of them; image i has noise of its own."""
        t = session.trained
        check_pixel_model(t, "task=invert measures")
        given = inputs(self.input, t, self.count)
        u = given.u[: self.count]
        A = call_configured("operator", self.operator, t.shape)
        x = t.codec.encode(u).to(t.device)
        y = measure(A, x, ImageDraws(self.seed, range(len(u))))
        return Problem(A, u, y, given.source, judging(session) if self.judged else None)

    def _classical(self, session: Session, problem: Problem) -> Iterable[Method]:
        """Baselines; they learn from training images, as the model did."""
        t = session.trained
        baselines = {name: baseline for name, baseline in self.baselines.items() if baseline is not None}
        if not baselines:
            return  # nobody has to learn, and data need not be there
        some = t.codec.encode(spread_over(t.data.real(), LEARNED_FROM)).to(t.device)
        seen = weights_sha256({"x": some})
        for name, baseline in baselines.items():

            def solve(y: Tensor, index: Sequence[int], baseline: Baseline = baseline) -> Tensor:
                return baseline(problem.A, y, some)

            how = {"baseline": repr(baseline), "learned_from_sha256": seen}
            yield Method(name, 0, session, how, solve)

    def _learned(self, session: Session, A: LinearOperator) -> Iterable[Method]:
        """The model with every number of calls, and its teacher; a checkpoint that is a teacher, once."""
        student = session.trained.role != Denoiser.role
        teacher = teacher_of(session.trained) if student else session.trained
        for calls in self.calls if student else ():
            yield self._walk(session, A, f"{calls}step", calls)
        if student and self.mean_of > 1:
            name = f"{self.mean_calls}step, mean of {self.mean_of}"
            yield self._walk(session, A, name, self.mean_calls, self.mean_of)
        if teacher is not None:
            name = f"teacher {self.teacher_calls}step"
            yield self._walk(session.about(teacher), A, name, self.teacher_calls)

    def _walk(self, session: Session, A: LinearOperator, name: str, calls: int, means: int = 1) -> Method:
        t = session.trained
        sigma = t.sigma
        begin = min(self.begin or sigma.max, sigma.max)
        plan = t.plan(2, karras_sigmas(calls + 1, sigma.min, begin, sigma.rho)[:-1])

        def solve(y: Tensor, index: Sequence[int]) -> Tensor:
            c = t.condition(index)
            seeds = range(self.seed + 1, self.seed + 1 + means)  # other noise than was measured
            with session.fabric.autocast():
                made = [restore(t.f, A, y, plan, ImageDraws(seed, index), c) for seed in seeds]
            return torch.stack(made).mean(0)

        how = {"sigmas": list(plan.sigmas), "seed": self.seed, "means": means}
        return Method(name, calls * means, session, how, solve)

    def _number(self, method: Method, problem: Problem) -> Number:
        """Means over all images; known already where the card is."""
        card = self._card(method, problem)
        judged = [] if problem.judge is None else [problem.judge.main]
        fits = partial(plausible, needed=[*MEASURED, *judged])
        return Number(method.session.memo.once(card, lambda: self._judged(method, problem), fits), card)

    def _card(self, method: Method, problem: Problem) -> Card:
        session, A = method.session, problem.A
        what = {"operator": type(A).__name__, "noise": A.noise, "images": problem.source}
        seen = {"samples_sha256": weights_sha256({"u": problem.u, "y": problem.y})}
        how = {"weights": session.trained.provenance.weights, "precision": session.precision}
        if problem.judge is not None:
            how |= problem.judge.protocol(len(problem.u))
        return session.card_of({"measured": "restoration", **what, **seen, **method.how, **how})

    def _judged(self, method: Method, problem: Problem) -> dict[str, float]:
        A, u, y, _, judge = problem
        codec = method.session.trained.codec
        values: dict[str, list[Tensor]] = {"PSNR": [], "SSIM": [], "squares": []}
        made: list[Tensor] = []
        with bar(method.name, len(u)) as advance:
            for first in range(0, len(u), self.batch):
                index = range(first, min(first + self.batch, len(u)))
                some = slice(index.start, index.stop)
                x = method.solve(y[some], index)
                images = codec.decode(x).cpu()
                values["PSNR"].append(psnr(images, u[some]))
                values["SSIM"].append(ssim(images, u[some]))
                values["squares"].append((A.forward(x) - y[some]).double().square().flatten(1).mean(1).cpu())
                advance(index.stop)
                made.append(images)
        means = {name: torch.cat(parts).mean().item() for name, parts in values.items()}
        found = {"PSNR": means["PSNR"], "SSIM": means["SSIM"], "residual": means["squares"] ** 0.5}
        return found if judge is None else {**found, judge.main: judge_distance(judge, torch.cat(made))}

    def _title(self, session: Session, problem: Problem) -> str:
        A, data, judge = problem.A, type(session.trained.data).__name__, problem.judge
        where = f"{len(problem.u)} {problem.source}" + ("" if self.input else f" of {data}")
        true = f", {judge.main} of the true ones {judge_distance(judge, problem.u):.2f}" if judge else ""
        return f"{type(A).__name__}, noise {A.noise:g}, {where}{true}; * is the best of its column"

    def _strip(self, methods: Sequence[Method], problem: Problem, t: Trained) -> Any:
        n = min(self.rows, len(problem.u))
        y = problem.y[:n]
        made = [method.solve(y, range(n)) for method in methods]
        shown = [t.codec.decode(x).cpu() for x in made if x.isfinite().all()]
        return beside(problem.u[:n], torch.stack(shown, 1), n, least=480)


def methods_table(
    numbers: Mapping[str, Number], methods: Sequence[Method], problem: Problem, title: str
) -> Table:
    """A row per method. A residual is best where it is nearest to the noise: below it, noise was fitted."""
    noise = problem.A.noise
    shown: dict[str, tuple[int, Callable[[float], float]]] = {
        "PSNR": (2, lambda value: -value),
        "SSIM": (3, lambda value: -value),
        "residual": (4, lambda value: abs(value - noise)),
    }
    if problem.judge is not None:
        shown[problem.judge.main] = 2, lambda value: value
    columns = [
        number_cells([number.values[name] for number in numbers.values()], digits, cost)
        for name, (digits, cost) in shown.items()
    ]
    rows = [[method.name, str(method.calls), *row] for method, *row in zip(methods, *columns, strict=True)]
    return Table(["", "calls", *shown], rows, title)


def number_cells(values: Sequence[float], digits: int, cost: Callable[[float], float]) -> list[str]:
    """Numbers as text, the best as shown marked; a dash for what a method does not answer."""
    best = min((cost(round(v, digits)) for v in values if not isnan(v)), default=None)
    marks = [" *" if cost(round(v, digits)) == best else "" for v in values]
    return [f"{v:.{digits}f}{mark}" if not isnan(v) else "–" for v, mark in zip(values, marks, strict=True)]
