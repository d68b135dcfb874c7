"""task=export: a model in the formats of `configs/export/`, each verified before it is kept."""

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
from consistency.tasks.requests import progress_bar
from consistency.tasks.schedules import chosen_samplers
from consistency.tasks.session import Outcome, Session, Trained
from consistency.tasks.show.export_page import Deviation, ProgramRow, programs_table, write_description
from consistency.tasks.timing import LONGEST, time_side_by_side

BATCHES = (3, 7)  # batch sizes of the verification; no format is written with one of them
LEVELS = 40  # number of noise levels whose coefficients are listed, besides those of the samplers
REPEATS = 200  # most calls per time measurement

Expected = Callable[..., Tensor]  # (*Inputs) -> the model's own output


@dataclass(frozen=True)
class Export:
    """Writes a folder per format to the run directory, once it is verified to reproduce the model's samples.

    Args:
        formats: functions that write a format (`Format`), by name; None leaves one out.
        samplers: names of the samplers to export; None for all except solvers of a denoiser.
        batches: batch sizes at which latency is measured.
        patience: seconds for each time measurement.
    """

    formats: Mapping[str, Format | None]
    samplers: Sequence[str] | None = None
    batches: Sequence[int] = (1, 64)
    patience: float = 0.5

    def __post_init__(self) -> None:
        within("task", 1, 2**16, **{f"batches[{i}]": n for i, n in enumerate(self.batches)})
        within("task", 0, LONGEST, patience=self.patience)

    def __call__(self, session: Session) -> Outcome:
        """Write the folders, each with instructions, and `export.md` with errors, sizes and latencies."""
        formats = {name: make for name, make in self.formats.items() if make is not None}
        if not formats:
            raise UserError("task.formats is empty: choose a format of configs/export/, such as export=onnx")
        check_names("task.formats", formats)
        return from_first(lambda: self._export(session, formats))

    def _export(self, session: Session, formats: Mapping[str, Format]) -> Outcome:
        t = session.trained
        model = Outgoing.of(t, samplers_to_export(t, self.samplers))
        cases = {name: (program, model_output(model, name)) for name, program in programs(model).items()}
        rows: list[ProgramRow] = []
        for name, make in formats.items():
            rows += self._export_format(session, name, make, model, cases)
        table: Table = programs_table(rows, self.batches)
        path = session.directory / "export.md"
        write_text(path, table.markdown() + "\n")
        metrics = {key: value for row in rows for key, value in row.metrics().items()}
        folders = {name: str(session.directory / name) for name in formats}
        return Outcome(metrics=metrics, paths={**folders, "table": str(path)}, tables=[table])

    def _export_format(
        self,
        session: Session,
        name: str,
        make: Format,
        model: Outgoing,
        cases: Mapping[str, tuple[ExportProgram, Expected]],
    ) -> list[ProgramRow]:
        """Write the files of a format, verify and publish them, and measure their latency."""
        place = session.directory / name
        if place.exists() and not (place / "model.json").is_file():
            raise UserError(
                f"run_dir={session.directory} holds a {name} that is no export: choose another run_dir"
            )
        temporary = session.directory / f".{name}.partial"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            notice(f"exporting {name}: writing")  # one library call: no progress bar
            with explain_write(place):
                temporary.mkdir(parents=True)
                out = make(model, temporary)
            runs = {**out.runs, **({} if out.network is None else {NETWORK: out.network})}
            errors = check_programs(name, runs, out, cases)
            sigma = session.trained.sigma
            sigmas = karras_sigmas(LEVELS, sigma.min, sigma.max, sigma.rho)
            with explain_write(place):
                write_description(model, out, errors, temporary, sigmas)
                sizes = {path.relative_to(temporary): path.stat().st_size for path in out.files}
                publish(temporary, place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        times = self._time_programs(name, runs, cases, out.device)
        rows = [ProgramRow(name, part, sizes, errors[part], times[part]) for part in runs]
        return rows or [ProgramRow(name, "", sizes, None, {})]

    def _time_programs(
        self,
        name: str,
        runs: Mapping[str, Run],
        cases: Mapping[str, tuple[ExportProgram, Expected]],
        device: torch.device,
    ) -> dict[str, dict[int, tuple[float, float]]]:
        """Median seconds per call (exported program, PyTorch module), by program and batch size."""
        times: dict[str, dict[int, tuple[float, float]]] = {part: {} for part in runs}
        pieces = [(part, batch) for part in runs for batch in self.batches]
        with progress_bar(f"exporting {name}: timing" if pieces else None, len(pieces)) as advance:
            for done, (part, batch) in enumerate(pieces, 1):
                times[part][batch] = self._time_program(runs[part], cases[part][0], batch, device)
                advance(done)
        return times

    def _time_program(
        self, run: Run, program: ExportProgram, batch: int, device: torch.device
    ) -> tuple[float, float]:
        """Median seconds per call: (exported program, PyTorch module)."""
        module = copy.deepcopy(program.module).to(device)
        inputs = [x.to(device) for x in program.inputs(batch, 0)]
        with torch.inference_mode():
            calls = [partial(run, *inputs), partial(module, *inputs)]
            theirs, ours = time_side_by_side(calls, device, REPEATS, 2 * self.patience)
        return theirs, ours


def samplers_to_export(t: Trained, names: Sequence[str] | None) -> dict[str, Sampler]:
    """The samplers of these names. Solvers, whose programs repeat the network for each call, must be named.

    Raises:
        UserError: a name is not known.
    """
    chosen = chosen_samplers(t, names)
    return {name: each for name, each in chosen.items() if names or each.role is not Denoiser}


def model_output(model: Outgoing, name: str) -> Expected:
    """What the model itself makes of a program's inputs: by a sampler, its codec, its map or its network."""
    if name == DECODER:
        return model.decoder() or nn.Identity()
    if name == JUMP and isinstance(model.f, FlowMap):
        return AnyJump(model.f)
    return network(model.f) if name == NETWORK else model.sampled(name)


def check_programs(
    name: str, runs: Mapping[str, Run], out: Written, cases: Mapping[str, tuple[ExportProgram, Expected]]
) -> dict[str, Deviation]:
    """The deviation of each program of a format from the model.

    Raises:
        UserError: one is larger than the format's tolerance.
    """
    errors: dict[str, Deviation] = {}
    with progress_bar(f"exporting {name}: verifying" if runs else None, len(runs)) as advance:
        for part, run in runs.items():
            errors[part] = verify_program(name, part, run, out, *cases[part])
            advance(len(errors))
    return errors


def verify_program(
    name: str, part: str, run: Run, out: Written, program: ExportProgram, expected: Expected
) -> Deviation:
    """The deviation of a program, as read back from its file, from the model.

    Raises:
        UserError: it is larger than the format's tolerance, or not finite.
    """
    with torch.no_grad():
        pairs = [
            compare_outputs(run, expected, program.inputs(batch, batch), out.device) for batch in BATCHES
        ]
    difference, truth = (torch.cat([pair[i] for pair in pairs]).double() for i in (0, 1))
    found = Deviation(
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
    """Difference of a program from the model, and the model's output, both flat; NaN for another shape."""
    truth = expected(*inputs)
    output = run(*(x.to(device) for x in inputs)).cpu()
    if output.shape != truth.shape:
        output = torch.full_like(truth, float("nan"))
    return (output - truth).flatten(), truth.flatten()


def publish(made: Path, place: Path) -> None:
    """Move a folder to its place; a former one there is deleted after that."""
    old = place.with_name(f".{place.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    made.rename(place)
    shutil.rmtree(old, ignore_errors=True)
