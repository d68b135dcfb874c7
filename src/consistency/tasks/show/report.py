"""All that is known of a run, on one page; or of the runs of a sweep."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consistency.files.atomic import write_text
from consistency.metrics.processes import rank
from consistency.model.maps import Consistency
from consistency.result import read_result, versions_and_commit
from consistency.sweep.runs import is_sweep
from consistency.table import Table
from consistency.tasks.session import Outcome, Session, Task
from consistency.tasks.show.curves import charts, read_curves
from consistency.tasks.show.page import Picture, Section, html_page
from consistency.tasks.show.sweep_report import sweep_report
from consistency.tasks.show.variation import variation
from consistency.teachers.debugged import debug_of

NO_LOG = "The run has no log in its directory, neither for TensorBoard nor as CSV."


@dataclass(frozen=True)
class Report:
    """Asks the other tasks, and puts what they say on a page; what was asked before is not computed again.

    Args:
        sample: pictures; None to leave them out.
        fidelity: numbers with their cards; None to leave them out.
        ladder: quality against calls; None to leave it out.
        gap: consistency by σ; None to leave it out, as it is for a teacher.
    """

    sample: Task | None = None
    fidelity: Task | None = None
    ladder: Task | None = None
    gap: Task | None = None

    def __call__(self, session: Session) -> Outcome:
        """`report.html`, with all metrics of its parts; of a sweep, a page of all its runs."""
        if session.ckpt_path is not None and is_sweep(session.ckpt_path):
            return sweep_report(session.ckpt_path, session.directory)
        said = {name: part(session) for name, part in self._parts(session).items()}
        path = session.directory / "report.html"
        if rank() == 0:
            write_text(path, self._page(session, said))
        return Outcome(
            metrics={name: value for outcome in said.values() for name, value in outcome.metrics.items()},
            paths={"page": str(path)},
            images=sum(outcome.images for outcome in said.values()),
            numbers=[number for outcome in said.values() for number in outcome.numbers],
            tables=[table for outcome in said.values() for table in outcome.tables[: outcome.printed]],
        )

    def _parts(self, session: Session) -> dict[str, Task]:
        """Those that were asked for, and that suit what was trained: the ladder's σ lists come first."""
        found = {"ladder": self.ladder, "fidelity": self.fidelity, "sample": self.sample, "gap": self.gap}
        student = session.trained.role == Consistency.role
        return {name: part for name, part in found.items() if part and (student or name != "gap")}

    def _page(self, session: Session, said: dict[str, Outcome]) -> str:
        t, where = session.trained, session.trained.provenance
        name = where.experiment or "a run"
        cut = debug_of(where.config)
        note = [f"A debug run ({cut}): its numbers are no result to compare."] if cut else []
        head = [*note, f"A {t.role}: step {where.step or 0:,}, weights {where.weights}, {where.path}"]
        return html_page(
            name,
            head,
            [
                *pictures(said),
                *sections_of_numbers(said),
                *section_of_training(session),
                section_of_run(session),
            ],
        )


def pictures(said: dict[str, Outcome]) -> Iterator[Section]:
    """Samples, and the training images nearest to them."""
    if "sample" in said:
        paths, metrics = said["sample"].paths, said["sample"].metrics
        shares = ", ".join(f"{value:.1%} ({name.partition('/')[2]})" for name, value in metrics.items())
        notes = [f"Copies of training images among the samples looked at: {shares}."] if shares else []
        names = sorted(paths, key=lambda name: "-nearest" in name)
        shown = [Picture.file(Path(paths[name]), caption(name), pixels=True) for name in names]
        yield Section("Samples", notes, shown)


def caption(name: str) -> str:
    """Of a picture of samples."""
    sampler, nearest, _ = name.partition("-nearest")
    return f"{sampler}: samples, each before its nearest training images" if nearest else sampler


def sections_of_numbers(said: dict[str, Outcome]) -> Iterator[Section]:
    """Numbers with their protocols, the ladder, the gaps."""
    if "fidelity" in said:
        first, *cards = said["fidelity"].tables
        yield Section("Fidelity", tables=[first], folded=cards)
    if "ladder" in said:
        first, *cards = said["ladder"].tables
        chart = Picture.file(Path(said["ladder"].paths["chart"]), "quality against calls and time")
        yield Section("Ladder", pictures=[chart], tables=[first], folded=cards)
    if "gap" in said:
        chart = Picture.file(Path(said["gap"].paths["picture"]), "gaps by σ")
        values = [[name, f"{value:.4g}"] for name, value in said["gap"].metrics.items()]
        yield Section("Consistency", pictures=[chart], tables=[Table(["root mean square", ""], values)])


def section_of_training(session: Session) -> Iterator[Section]:
    """What was changed of the experiment, and how training went."""
    where = session.trained.provenance
    changed = variation(where.experiment, where.config)
    if changed is None:
        yield Section("Config", ["The experiment that this is a variation of is not known."])
    elif changed.rows:
        yield Section("Config", ["What differs from the experiment's own config:"], tables=[changed])
    else:
        yield Section("Config", [f"As {where.experiment} says, nothing changed."])
    curves = read_curves(where.run)
    pictures, notes = charts(curves) if curves else ([], [NO_LOG])
    if pictures or notes:
        yield Section("Curves", notes, pictures)


def section_of_run(session: Session) -> Section:
    """Of the run that trained it, and of this evaluation."""
    path = session.trained.provenance.run / "result.json"
    kept = read_result(path) if path.is_file() else {}
    here = {**versions_and_commit(), "precision": session.precision}
    keys = ("device", "precision", "seed", "seconds", "parameters", "memory_mib", "rollbacks", "commit")
    rows = [[key, one_line_text(kept.get(key)), one_line_text(here.get(key))] for key in (*keys, "versions")]
    return Section("Environment", tables=[Table(["", "training", "this page"], rows)])


def one_line_text(value: Any) -> str:
    """On one line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return "" if value is None else f"{value:,.4g}" if isinstance(value, float) else str(value)
