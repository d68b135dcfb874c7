"""How consistent a consistency function is, by σ: with itself, with trajectories, and with the data."""

import json
from dataclasses import asdict, dataclass, fields
from functools import partial
from math import inf
from typing import Any

from consistency.errors import UserError
from consistency.files.atomic import write, write_text
from consistency.lit.callbacks.signals import excerpt
from consistency.lit.consistency import Consistency
from consistency.metrics.card import Card, Number, inside
from consistency.metrics.processes import rank
from consistency.metrics.signals import Gaps, Probe, figure
from consistency.tasks.session import Outcome, Session
from consistency.tasks.teacher import teacher_of
from consistency.tensor import weights_sha256

PLACES = {"sigma_min": 0.002, "sigma_max": 80.0}  # in place of the run's, which are not known yet


@dataclass(frozen=True)
class Gap:
    """The gaps that a run logs, on more trajectories; a student's against its teacher, where it is at hand.

    Args:
        count: trajectories.
        levels: of noise, evenly spaced in ln σ.
        substeps: steps of Heun's method from a level to the next, where the exact flow is not known.
        seed: which training samples, and which noise.
        batch: samples a forward.
    """

    count: int = 512
    levels: int = 24
    substeps: int = 2
    seed: int = 0
    batch: int = 512

    def __post_init__(self) -> None:
        Probe(**PLACES, **asdict(self)).checked("task")

    def __call__(self, session: Session) -> Outcome:
        """Means over σ; the curves as `gap.png` and `gap.json`."""
        t = session.trained
        if not isinstance(t.module, Consistency):
            raise UserError(
                f"ckpt_path={t.path} is a teacher's, and gaps are those of a consistency function: give a "
                "checkpoint of consistency training or distillation, or ask for task=fidelity"
            )
        probe = Probe(t.config.sigma.min, t.config.sigma.max, **asdict(self)).checked("task")
        gaps, card = measured(session, probe)
        picture, numbers = session.directory / "gap.png", session.directory / "gap.json"
        if rank() == 0:
            write(picture, partial(figure(gaps).savefig, dpi=150))
            write_text(numbers, json.dumps(asdict(gaps), indent=1) + "\n")
        return Outcome(
            metrics=gaps.means(),
            paths={"picture": str(picture), "curves": str(numbers)},
            numbers=[Number(gaps.means(), card).plain("gap") | {"source": gaps.source}],
        )


def measured(session: Session, probe: Probe) -> tuple[Gaps, Card]:
    """The gaps of the checkpoint, with their card; known already where the card is."""
    t = session.trained
    some = excerpt(t.data, probe, t.module.device)
    teacher = teacher_of(t) if t.data.density is None else None
    source = probe.source(t.data.density, teacher and teacher.f, some)
    how = {
        "measured": "gap",
        "source": source.name,
        "teacher_sha256": teacher and teacher.weights_sha256,
        "samples_sha256": weights_sha256({"x": some.x}),
        **{key: value for key, value in asdict(probe).items() if key != "batch"},
        "weights": t.weights,
        "precision": session.precision,
    }
    card = session.card_of(how)

    def measure() -> dict[str, Any]:
        with session.fabric.autocast():
            return asdict(probe.measure(t.f, probe.trajectories(source, some)))

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
    return known == lengths and len(levels) > 1 and all(inside(value, 0.0, inf) for value in values)
