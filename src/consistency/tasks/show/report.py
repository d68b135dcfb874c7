"""task=report: samples, metrics, curves and config of a run on one page, or the runs of a sweep."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consistency.files.atomic import write_text
from consistency.metrics.processes import rank
from consistency.model.maps import Denoiser
from consistency.result import read_result, versions_and_commit
from consistency.sweep.runs import is_sweep
from consistency.table import Table
from consistency.tasks.session import Outcome, Session, Task
from consistency.tasks.show.curves import draw_charts, read_curves
from consistency.tasks.show.page import Picture, Section, html_page
from consistency.tasks.show.sweep_report import sweep_report
from consistency.tasks.show.variation import config_changes
from consistency.teachers.debugged import debug_of

NO_LOG = "The run has no log in its directory, neither for TensorBoard nor as CSV."


@dataclass(frozen=True)
class Report:
    """Runs other tasks and puts their results on a page. Numbers with a known card are not computed again.

    Args:
        sample: task for the samples; None to leave them out.
        fidelity: task for the metrics with their cards; None to leave them out.
        ladder: task for quality against calls; None to leave it out.
        gap: task for the gaps by σ; None to leave it out. It is left out for teachers.
    """

    sample: Task | None = None
    fidelity: Task | None = None
    ladder: Task | None = None
    gap: Task | None = None

    def __call__(self, session: Session) -> Outcome:
        """Write `report.html` with the results of the tasks; for a sweep, one with all its runs."""
        if session.ckpt_path is not None and is_sweep(session.ckpt_path):
            return sweep_report(session.ckpt_path, session.directory)
        outcomes = {name: part(session) for name, part in self._parts(session).items()}
        path = session.directory / "report.html"
        if rank() == 0:
            write_text(path, self._page(session, outcomes))
        return Outcome(
            metrics={name: value for outcome in outcomes.values() for name, value in outcome.metrics.items()},
            paths={"page": str(path)},
            images=sum(outcome.images for outcome in outcomes.values()),
            numbers=[number for outcome in outcomes.values() for number in outcome.numbers],
            tables=[table for outcome in outcomes.values() for table in outcome.tables[: outcome.printed]],
        )

    def _parts(self, session: Session) -> dict[str, Task]:
        """The tasks to run, in order; the ladder is first, because the others may use its σ lists."""
        found = {"ladder": self.ladder, "fidelity": self.fidelity, "sample": self.sample, "gap": self.gap}
        student = session.trained.role != Denoiser.role
        return {name: part for name, part in found.items() if part and (student or name != "gap")}

    def _page(self, session: Session, outcomes: dict[str, Outcome]) -> str:
        t, origin = session.trained, session.trained.provenance
        name = origin.experiment or "a run"
        debug = debug_of(origin.config)
        note = [f"A debug run ({debug}): its numbers are no result to compare."] if debug else []
        head = [*note, f"A {t.role}: step {origin.step or 0:,}, weights {origin.weights}, {origin.path}"]
        return html_page(
            name,
            head,
            [
                *sample_sections(outcomes),
                *number_sections(outcomes),
                *training_sections(session),
                environment_section(session),
            ],
        )


def sample_sections(outcomes: dict[str, Outcome]) -> Iterator[Section]:
    """The samples, with their nearest training images."""
    if "sample" in outcomes:
        paths, metrics = outcomes["sample"].paths, outcomes["sample"].metrics
        shares = ", ".join(f"{value:.1%} ({name.partition('/')[2]})" for name, value in metrics.items())
        notes = [f"Copies of training images among the samples looked at: {shares}."] if shares else []
        names = sorted(paths, key=lambda name: "-nearest" in name)
        pictures = [Picture.file(Path(paths[name]), sample_caption(name), pixels=True) for name in names]
        yield Section("Samples", notes, pictures)


def sample_caption(name: str) -> str:
    """The caption of a picture by its name: `1step`, or `1step-nearest`."""
    sampler, nearest, _ = name.partition("-nearest")
    return f"{sampler}: samples, each before its nearest training images" if nearest else sampler


def number_sections(outcomes: dict[str, Outcome]) -> Iterator[Section]:
    """The metrics with their cards, the ladder and the gaps."""
    if "fidelity" in outcomes:
        first, *cards = outcomes["fidelity"].tables
        yield Section("Fidelity", tables=[first], folded=cards)
    if "ladder" in outcomes:
        first, *cards = outcomes["ladder"].tables
        chart = Picture.file(Path(outcomes["ladder"].paths["chart"]), "quality against calls and time")
        yield Section("Ladder", pictures=[chart], tables=[first], folded=cards)
    if "gap" in outcomes:
        chart = Picture.file(Path(outcomes["gap"].paths["picture"]), "gaps by σ")
        values = [[name, f"{value:.4g}"] for name, value in outcomes["gap"].metrics.items()]
        yield Section("Consistency", pictures=[chart], tables=[Table(["root mean square", ""], values)])


def training_sections(session: Session) -> Iterator[Section]:
    """The differences from the experiment's config, and the curves of the run."""
    where = session.trained.provenance
    changed = config_changes(where.experiment, where.config)
    if changed is None:
        yield Section("Config", ["The experiment that this is a variation of is not known."])
    elif changed.rows:
        yield Section("Config", ["What differs from the experiment's own config:"], tables=[changed])
    else:
        yield Section("Config", [f"As {where.experiment} says, nothing changed."])
    curves = read_curves(where.run)
    pictures, notes = draw_charts(curves) if curves else ([], [NO_LOG])
    if pictures or notes:
        yield Section("Curves", notes, pictures)


def environment_section(session: Session) -> Section:
    """Devices, versions and other facts, of the training run and of this evaluation."""
    path = session.trained.provenance.run / "result.json"
    kept = read_result(path) if path.is_file() else {}
    here = {**versions_and_commit(), "precision": session.precision}
    keys = ("device", "precision", "seed", "seconds", "parameters", "memory_mib", "rollbacks", "commit")
    rows = [[key, one_line_text(kept.get(key)), one_line_text(here.get(key))] for key in (*keys, "versions")]
    return Section("Environment", tables=[Table(["", "training", "this page"], rows)])


def one_line_text(value: Any) -> str:
    """A value of a result.json as one line of text."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return "" if value is None else f"{value:,.4g}" if isinstance(value, float) else str(value)
