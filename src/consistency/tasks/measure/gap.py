"""How consistent a consistency function is, by σ: with itself, with trajectories, and with the data."""

import json
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from math import inf
from typing import Any

from consistency.errors import UserError
from consistency.files.atomic import write_file, write_text
from consistency.lit.callbacks.signals import excerpt
from consistency.metrics.card import Card, Number, in_range
from consistency.metrics.processes import rank
from consistency.metrics.signals import Gaps, Probe, TrajectorySource, by_parts, figure, followed
from consistency.model.maps import Denoiser, FlowMap, as_denoiser, one_time
from consistency.tasks.measure.teacher import config_section, follows_teacher, teacher_of
from consistency.tasks.session import Outcome, Session, Trained
from consistency.tensor import weights_sha256

OWN = Probe(0.002, 80.0)  # with the defaults of `Signals`
KEYS = ("sigma_min", "sigma_max", "count", "levels", "substeps")  # of `Signals`


@dataclass(frozen=True)
class Gap:
    """The gaps that a run logs, at the same points: the same numbers for the same weights.

    Numbers that are measured otherwise have names that say how, such as `gap/self (levels=24)`.

    Args:
        count: trajectories; None for as many as the run's own.
        levels: of noise, evenly spaced in ln σ; None as for `count`.
        substeps: steps of Heun's method from a level to the next, where the exact flow is not known; None as
            for `count`.
        seed: which training samples, and which noise.
        batch: samples a forward.
        diagonal: on the trajectories of a flow map's own denoiser f(x, σ, σ), as if that were its teacher.
    """

    count: int | None = None
    levels: int | None = None
    substeps: int | None = None
    seed: int = 0
    batch: int = 512
    diagonal: bool = False

    def __post_init__(self) -> None:
        self._probe(OWN)

    def __call__(self, session: Session) -> Outcome:
        """Means over σ; the curves as `gap.png` and `gap.json`."""
        t = session.trained
        if t.role == Denoiser.role:
            raise UserError(
                f"ckpt_path={t.provenance.path} is a teacher's, and gaps are those of a consistency "
                "function: give a checkpoint of consistency training or distillation, or use task=fidelity"
            )
        own = own_probe(t)
        probe = self._probe(own)
        gaps, card = measure_gaps(session, probe, self.diagonal)
        how = differences_from_run(probe, own, gaps.source, source_of(t))
        means = {f"{name} ({how})" if how else name: value for name, value in gaps.means().items()}
        picture, numbers = session.directory / "gap.png", session.directory / "gap.json"
        if rank() == 0:
            write_file(picture, partial(figure(gaps).savefig, dpi=150))
            write_text(numbers, json.dumps(asdict(gaps), indent=1) + "\n")
        return Outcome(
            metrics=means,
            paths={"picture": str(picture), "curves": str(numbers)},
            numbers=[Number(means, card).to_plain("gap") | {"source": gaps.source}],
        )

    def _probe(self, own: Probe) -> Probe:
        points = {name: value for name, value in asdict(self).items() if name != "diagonal"}
        given = {name: value for name, value in points.items() if value is not None}
        return replace(own, **given).checked("task")


def own_probe(t: Trained) -> Probe:
    """The points at which the run itself measures; the default ones where its checkpoint names none."""
    kept = config_section(t.provenance.config, "callbacks", "signals")
    given = {key: kept[key] for key in KEYS if type(kept.get(key)) is type(getattr(OWN, key))}
    ends = {"sigma_min": t.sigma.min, "sigma_max": t.sigma.max}
    return replace(OWN, **{**ends, **given}).checked("callbacks.signals")


def source_of(t: Trained) -> str:
    """Whose trajectories the run itself measures on: exact, teacher or data."""
    if t.data.density is not None:
        return "exact"
    return "teacher" if follows_teacher(t) else "data"


def differences_from_run(probe: Probe, own: Probe, source: str, own_source: str) -> str:
    """How a measurement differs from that of the run; empty where it does not."""
    here, there = ({k: v for k, v in asdict(each).items() if k != "batch"} for each in (probe, own))
    differs = [f"{key}={value:g}" for key, value in here.items() if value != there[key]]
    return ", ".join([*differs, *([] if source == own_source else [f"source={source}"])])


def own_flow(t: Trained, probe: Probe) -> TrajectorySource:
    """The trajectories of a flow map's own denoiser.

    Raises:
        UserError: it is no flow map, or has no denoiser.
    """
    if t.role != FlowMap.role:
        raise UserError(f"task.diagonal=true is for flow maps, and this is a {t.role}: leave it out")
    D = as_denoiser(t.f, "task.diagonal=true")
    return followed("diagonal", by_parts(D, probe.batch), probe.substeps)


def measure_gaps(session: Session, probe: Probe, diagonal: bool = False) -> tuple[Gaps, Card]:
    """The gaps of the checkpoint, with their card; known already where the card is.

    Args:
        session: about the checkpoint.
        probe: where it is looked at.
        diagonal: see `Gap`.
    """
    t = session.trained
    some = excerpt(t.data, probe, t.device)
    teacher = teacher_of(t) if source_of(t) == "teacher" and not diagonal else None
    known = partial(probe.source, t.data.density, teacher and teacher.f, some)
    source = own_flow(t, probe) if diagonal else known()
    how = {
        "measured": "gap",
        "source": source.name,
        "teacher_sha256": teacher and teacher.provenance.weights_sha256,
        "samples_sha256": weights_sha256({"x": some.x}),
        **{key: value for key, value in asdict(probe).items() if key != "batch"},
        "weights": t.provenance.weights,
        "precision": session.precision,
    }
    card = session.card_of(how)

    def measure() -> dict[str, Any]:
        with session.fabric.autocast():
            return asdict(probe.measure(one_time(t.f), probe.trajectories(source, some)))

    return Gaps(**session.memo.once(card, measure, is_gaps)), card


def is_gaps(found: Any) -> bool:
    """Whether a value is `Gaps` as plain data."""
    if not isinstance(found, dict) or found.keys() != {field.name for field in fields(Gaps)}:
        return False
    curves, levels = found["curves"], found["sigma"]
    if not (isinstance(curves, dict) and isinstance(levels, list) and isinstance(found["source"], str)):
        return False
    lengths = {"self": len(levels) - 1, "trajectory": len(levels), "reconstruction": len(levels)}
    known = {name: len(curve) for name, curve in curves.items() if isinstance(curve, list)}
    values = [found["boundary"], *levels, *(value for name in known for value in curves[name])]
    return known == lengths and len(levels) > 1 and all(in_range(value, 0.0, inf) for value in values)
