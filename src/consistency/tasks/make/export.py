"""A trained model for use elsewhere: in the formats of `configs/export/`, each verified before it stands."""

import copy
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf, isfinite
from pathlib import Path

import torch
from torch import Tensor, nn

from consistency.errors import UserError, within
from consistency.export.model import Format, Inputs, Outgoing, Run, Written
from consistency.export.parts import DECODER, JUMP, NETWORK, ExportProgram, programs
from consistency.export.programs import AnyJump, network
from consistency.files.atomic import explain_write, write_text
from consistency.files.paths import check_names
from consistency.metrics.processes import from_first
from consistency.model.maps import Denoiser, FlowMap
from consistency.process.notices import notice
from consistency.sampling.levels import karras_sigmas
from consistency.sampling.samplers import Sampler
from consistency.table import Table
from consistency.tasks.measure.schedules import chosen_samplers
from consistency.tasks.measure.timing import LONGEST, side_by_side
from consistency.tasks.requests import bar
from consistency.tasks.session import Outcome, Session, Trained
from consistency.tasks.show.export_page import Measured, ProgramRow, describe, programs_table

BATCHES = (3, 7)  # of verification: other than what any format is written with
LEVELS = 40  # at which coefficients are listed, besides those of samplers
REPEATS = 200  # of a call, when it is timed, at most

Expected = Callable[..., Tensor]  # (*Inputs) -> what the model itself makes of them


@dataclass(frozen=True)
class Export:
    """A folder per format in the run directory, that stands there only if it makes the model's own samples.

    Args:
        formats: by name, see `Format`; None leaves one out.
        samplers: names of those to export; None for all but solvers of a denoiser.
        batches: at which latency is measured.
        patience: seconds for each time that is measured.
    """

    formats: Mapping[str, Format | None]
    samplers: Sequence[str] | None = None
    batches: Sequence[int] = (1, 64)
    patience: float = 0.5

    def __post_init__(self) -> None:
        within("task", 1, 2**16, **{f"batches[{i}]": n for i, n in enumerate(self.batches)})
        within("task", 0, LONGEST, patience=self.patience)

    def __call__(self, session: Session) -> Outcome:
        """`export.md` with errors, sizes and latencies, and in each folder how it is used."""
        formats = {name: make for name, make in self.formats.items() if make is not None}
        if not formats:
            raise UserError("task.formats is empty: choose a format of configs/export/, such as export=onnx")
        check_names("task.formats", formats)
        return from_first(lambda: self._export(session, formats))

    def _export(self, session: Session, formats: Mapping[str, Format]) -> Outcome:
        t = session.trained
        model = Outgoing.of(t, exported(t, self.samplers))
        cases = {name: (program, model_output(model, name)) for name, program in programs(model).items()}
        rows: list[ProgramRow] = []
        for name, make in formats.items():
            rows += self._format(session, name, make, model, cases)
        return self._outcome(session, formats, rows)

    def _format(
        self,
        session: Session,
        name: str,
        make: Format,
        model: Outgoing,
        cases: Mapping[str, tuple[ExportProgram, Expected]],
    ) -> list[ProgramRow]:
        """Write, verify, publish, and then see how fast it is."""
        place = session.directory / name
        if place.exists() and not (place / "model.json").is_file():
            raise UserError(
                f"run_dir={session.directory} holds a {name} that is no export: choose another run_dir"
            )
        partial_ = session.directory / f".{name}.partial"
        try:
            shutil.rmtree(partial_, ignore_errors=True)
            notice(f"exporting {name}: writing")  # in one call of a library: nobody knows how long
            with explain_write(place):
                partial_.mkdir(parents=True)
                out = make(model, partial_)
            runs = {**out.runs, **({} if out.network is None else {NETWORK: out.network})}
            errors = check_programs(name, runs, out, cases)
            sigma = session.trained.sigma
            levels_ = karras_sigmas(LEVELS, sigma.min, sigma.max, sigma.rho)
            with explain_write(place):
                describe(model, out, errors, partial_, levels_)
                sizes = {path.relative_to(partial_): path.stat().st_size for path in out.files}
                publish(partial_, place)
        finally:
            shutil.rmtree(partial_, ignore_errors=True)
        times = self._timed(name, runs, cases, out.device)
        rows = [ProgramRow(name, part, sizes, errors[part], times[part]) for part in runs]
        return rows or [ProgramRow(name, "", sizes, None, {})]

    def _timed(
        self,
        name: str,
        runs: Mapping[str, Run],
        cases: Mapping[str, tuple[ExportProgram, Expected]],
        device: torch.device,
    ) -> dict[str, dict[int, tuple[float, float]]]:
        """Seconds of each export and of the same program in eager mode, by batch."""
        found: dict[str, dict[int, tuple[float, float]]] = {part: {} for part in runs}
        pieces = [(part, batch) for part in runs for batch in self.batches]
        with bar(f"exporting {name}: timing" if pieces else None, len(pieces)) as advance:
            for done, (part, batch) in enumerate(pieces, 1):
                found[part][batch] = self._seconds(runs[part], cases[part][0], batch, device)
                advance(done)
        return found

    def _seconds(
        self, run: Run, program: ExportProgram, batch: int, device: torch.device
    ) -> tuple[float, float]:
        module = copy.deepcopy(program.module).to(device)
        inputs = [x.to(device) for x in program.inputs(batch, 0)]
        with torch.inference_mode():
            calls = [partial(run, *inputs), partial(module, *inputs)]
            theirs, ours = side_by_side(calls, device, REPEATS, 2 * self.patience)
        return theirs, ours

    def _outcome(
        self, session: Session, formats: Mapping[str, Format], rows: Sequence[ProgramRow]
    ) -> Outcome:
        shown: Table = programs_table(rows, self.batches)
        path = session.directory / "export.md"
        write_text(path, shown.markdown() + "\n")
        metrics = {key: value for row in rows for key, value in row.metrics().items()}
        folders = {name: str(session.directory / name) for name in formats}
        return Outcome(metrics=metrics, paths={**folders, "table": str(path)}, tables=[shown])


def exported(t: Trained, names: Sequence[str] | None) -> dict[str, Sampler]:
    """The samplers of these names. Solvers, whose programs repeat the network for each call, must be named.

    Raises:
        UserError: a name is not known.
    """
    found = chosen_samplers(t, names)
    return {name: each for name, each in found.items() if names or each.role is not Denoiser}


def model_output(model: Outgoing, name: str) -> Expected:
    """What the model itself makes of a program's inputs: by a sampler, its codec, its map or its network."""
    if name == DECODER:
        return model.decoder() or nn.Identity()
    if name == JUMP and isinstance(model.f, FlowMap):
        return AnyJump(model.f)
    return network(model.f) if name == NETWORK else model.sampled(name)


def check_programs(
    name: str, runs: Mapping[str, Run], out: Written, cases: Mapping[str, tuple[ExportProgram, Expected]]
) -> dict[str, Measured]:
    """How far each program of a format is from the model.

    Raises:
        UserError: one is too far.
    """
    errors: dict[str, Measured] = {}
    with bar(f"exporting {name}: verifying" if runs else None, len(runs)) as advance:
        for part, run in runs.items():
            errors[part] = verify_program(name, part, run, out, *cases[part])
            advance(len(errors))
    return errors


def verify_program(
    name: str, part: str, run: Run, out: Written, program: ExportProgram, expected: Expected
) -> Measured:
    """How far a program that was read back is from the model.

    Raises:
        UserError: too far.
    """
    with torch.no_grad():
        both = [compare_outputs(run, expected, program.inputs(batch, batch), out.device) for batch in BATCHES]
    difference, truth = (torch.cat([pair[i] for pair in both]).double() for i in (0, 1))
    found = Measured(
        difference.abs().max().item(), difference.square().mean().sqrt().item(), truth.std().item()
    )
    most = inf if out.tolerance is None else out.tolerance
    if not isfinite(found.error) or found.error > most:
        allowed = "any finite number" if out.tolerance is None else out.tolerance
        raise UserError(
            f"export={name}: {part} differs from the model's own by {found.error:.3g}, and {allowed} is "
            "allowed: nothing was kept; choose another format, or another version of its library"
        )
    return found


def compare_outputs(
    run: Run, expected: Expected, inputs: Inputs, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Difference and truth, flat."""
    truth = expected(*inputs)
    made = run(*(x.to(device) for x in inputs)).cpu()
    if made.shape != truth.shape:
        made = torch.full_like(truth, float("nan"))  # no number could say how far that is
    return (made - truth).flatten(), truth.flatten()


def publish(made: Path, place: Path) -> None:
    """Put a folder in its place; what stood there goes once the new one is there."""
    old = place.with_name(f".{place.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    made.rename(place)
    shutil.rmtree(old, ignore_errors=True)
