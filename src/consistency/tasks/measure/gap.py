"""task=gap: root mean square gaps of a consistency function, by σ, as training logs them."""

import json
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from math import inf
from typing import Any

from consistency.errors import UserError
from consistency.files.atomic import write_file, write_text
from consistency.lit.callbacks.signals import excerpt
from consistency.metrics.card import Card, Number, in_range
from consistency.metrics.gaps import Gaps, Probe, TrajectorySource, gap_figure, in_portions, solver_source
from consistency.metrics.processes import rank
from consistency.model.maps import Denoiser, FlowMap, as_denoiser, one_time
from consistency.tasks.session import Outcome, Session, Trained
from consistency.tasks.teacher import config_section, teacher_of, uses_teacher_flow
from consistency.tensor import weights_sha256

DEFAULTS = Probe(0.002, 80.0)  # has the defaults of `Signals`
KEYS = ("sigma_min", "sigma_max", "count", "levels", "substeps")  # of `Signals`


@dataclass(frozen=True)
class Gap:
    """Measures the gaps that a run logs at the same points: the same weights give the same numbers.

    A number measured at other points has a name with the difference, such as `gap/self (levels=24)`.

    Args:
        count: number of trajectories; None for that of the run.
        levels: number of noise levels, evenly spaced in ln σ; None for that of the run.
        substeps: steps of Heun's method between neighbouring levels if the exact flow is not known; None for
            those of the run.
        seed: of the training samples and the noise.
        batch: samples per network call.
        diagonal: measure on trajectories of a flow map's own denoiser f(x, σ, σ), as if it were a teacher.
    """

    count: int | None = None
    levels: int | None = None
    substeps: int | None = None
    seed: int = 0
    batch: int = 512
    diagonal: bool = False

    def __post_init__(self) -> None:
        self._probe(DEFAULTS)

    def __call__(self, session: Session) -> Outcome:
        """Means over σ as metrics; writes the curves as `gap.png` and `gap.json`.

        Raises:
            UserError: the checkpoint is a teacher.
        """
        t = session.trained
        if t.role == Denoiser.role:
            raise UserError(
                f"ckpt_path={t.provenance.path} is a teacher's, and gaps are those of a consistency "
                "function: give a checkpoint of consistency training or distillation, or use task=fidelity"
            )
        own = run_probe(t)
        probe = self._probe(own)
        gaps, card = measure_gaps(session, probe, self.diagonal)
        suffix = differences_from_run(probe, own, gaps.source, run_source(t))
        means = {f"{name} ({suffix})" if suffix else name: value for name, value in gaps.means().items()}
        picture, numbers = session.directory / "gap.png", session.directory / "gap.json"
        if rank() == 0:
            write_file(picture, partial(gap_figure(gaps).savefig, dpi=150))
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


def run_probe(t: Trained) -> Probe:
    """The points at which the run measures, from its config; the default ones if the config has none."""
    section = config_section(t.provenance.config, "callbacks", "signals")
    known = {key: section[key] for key in KEYS if type(section.get(key)) is type(getattr(DEFAULTS, key))}
    ends = {"sigma_min": t.sigma.min, "sigma_max": t.sigma.max}
    return replace(DEFAULTS, **{**ends, **known}).checked("callbacks.signals")


def run_source(t: Trained) -> str:
    """The trajectories on which the run measures: "exact", "teacher" or "data"."""
    if t.data.density is not None:
        return "exact"
    return "teacher" if uses_teacher_flow(t) else "data"


def differences_from_run(probe: Probe, own: Probe, source: str, own_source: str) -> str:
    """The differences from the run's measurement, as "levels=24, source=data"; empty if there are none."""
    here, there = ({k: v for k, v in asdict(each).items() if k != "batch"} for each in (probe, own))
    differing = [f"{key}={value:g}" for key, value in here.items() if value != there[key]]
    return ", ".join([*differing, *([] if source == own_source else [f"source={source}"])])


def own_flow(t: Trained, probe: Probe) -> TrajectorySource:
    """The trajectories of a flow map's own denoiser.

    Raises:
        UserError: it is no flow map, or has no denoiser.
    """
    if t.role != FlowMap.role:
        raise UserError(f"task.diagonal=true is for flow maps, and this is a {t.role}: leave it out")
    D = as_denoiser(t.f, "task.diagonal=true")
    return solver_source("diagonal", in_portions(D, probe.batch), probe.substeps)


def measure_gaps(session: Session, probe: Probe, diagonal: bool = False) -> tuple[Gaps, Card]:
    """The gaps of the checkpoint and their card; recalled if the card is known, else measured.

    Args:
        session: with the checkpoint.
        probe: the points of the measurement.
        diagonal: see `Gap`.
    """
    t = session.trained
    data = excerpt(t.data, probe, t.device)
    teacher = teacher_of(t) if run_source(t) == "teacher" and not diagonal else None
    known = partial(probe.source, t.data.density, teacher and teacher.f, data)
    source = own_flow(t, probe) if diagonal else known()
    settings = {
        "measured": "gap",
        "source": source.name,
        "teacher_sha256": teacher and teacher.provenance.weights_sha256,
        "samples_sha256": weights_sha256({"x": data.x}),
        **{key: value for key, value in asdict(probe).items() if key != "batch"},
        "weights": t.provenance.weights,
        "precision": session.precision,
    }
    card = session.make_card(settings)

    def measure() -> dict[str, Any]:
        with session.fabric.autocast():
            return asdict(probe.measure(one_time(t.f), probe.trajectories(source, data)))

    return Gaps(**session.memo.once(card, measure, are_gaps)), card


def are_gaps(found: Any) -> bool:
    """Whether a value read from disk is `Gaps` as plain data."""
    if not isinstance(found, dict) or found.keys() != {field.name for field in fields(Gaps)}:
        return False
    curves, levels = found["curves"], found["sigma"]
    if not (isinstance(curves, dict) and isinstance(levels, list) and isinstance(found["source"], str)):
        return False
    lengths = {"self": len(levels) - 1, "trajectory": len(levels), "reconstruction": len(levels)}
    known = {name: len(curve) for name, curve in curves.items() if isinstance(curve, list)}
    values = [found["boundary"], *levels, *(value for name in known for value in curves[name])]
    return known == lengths and len(levels) > 1 and all(in_range(value, 0.0, inf) for value in values)
