"""The description of an export: a table of all programs, and in each folder `model.json` and `README.md`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from consistency.export.model import Outgoing, Written
from consistency.export.parts import DECODER, JUMP, NETWORK, programs, sigmas_of
from consistency.export.programs import coefficients, describe_second
from consistency.markup import code_span, fenced, literal_text
from consistency.table import Table

OTHERS = {  # the outputs of the programs that are not samplers
    NETWORK: "F(c_in x, c_noise) -> c_skip x + c_out F is the denoised x",
    JUMP: "x at noise level t -> the point of its trajectory at s, 0 <= s <= t, both σ; clean data at s = 0",
    DECODER: "the denoised x of the network -> images in [-1, 1], or points, as samplers end with them",
}


class Deviation(NamedTuple):
    """The deviation of an exported program from the model, in units of x."""

    error: float  # greatest absolute difference
    rms: float  # root mean square difference
    spread: float  # standard deviation of the model's own output


class ProgramRow(NamedTuple):
    """A row of the table: one program of one format."""

    format: str
    part: str  # a sampler, or `network`; empty if only weights were written
    sizes: Mapping[Path, int]  # bytes of each file of its format
    measured: Deviation | None
    seconds: Mapping[int, tuple[float, float]]  # by batch size: of the program, of the PyTorch module

    @property
    def size(self) -> int:
        """Bytes of the program's own file; of all files of the format if no file has its name."""
        own = sum(size for path, size in self.sizes.items() if path.stem == self.part)
        return own or sum(self.sizes.values())

    def metrics(self) -> dict[str, float]:
        """Numbers for result.json; latencies are seconds."""
        name = f"{self.format}/{self.part}"
        if self.measured is None:
            return {f"bytes/{self.format}": float(self.size)}
        times = {
            f"{kind}_{batch}/{name}": value
            for batch, both in self.seconds.items()
            for kind, value in zip(("latency", "eager"), both, strict=True)
        }
        return {f"error/{name}": self.measured.error, f"rms/{name}": self.measured.rms, **times}


def programs_table(rows: Sequence[ProgramRow], batches: Sequence[int]) -> Table:
    """A row per program: size, errors, and milliseconds per call (of the PyTorch module in brackets)."""
    head = ["format", "sampler", "MB", "max error", "RMS error", "spread"]
    lines = []
    for row in rows:
        errors = [f"{value:.2g}" for value in row.measured or ()] or ["–"] * 3
        times = [
            f"{1e3 * theirs:.3g} ({1e3 * ours:.3g})"
            for theirs, ours in (row.seconds[batch] for batch in batches if row.seconds)
        ] or ["–"] * len(batches)
        lines.append([row.format, row.part or "weights", f"{row.size / 1e6:.2f}", *errors, *times])
    times = [f"ms at {batch} (eager)" for batch in batches]
    return Table([*head, *times], lines, "Errors are in units of x, as is the spread of the model's samples")


def write_description(
    model: Outgoing, out: Written, errors: Mapping[str, Deviation], folder: Path, sigmas: Sequence[float]
) -> None:
    """Write `model.json` and `README.md` to an export's folder, unless the format has written its own.

    Args:
        model: the exported model.
        out: the files and programs of the format.
        errors: deviations by program.
        folder: of the export.
        sigmas: noise levels whose coefficients are listed, besides those of the samplers.
    """
    facts = model_facts(model, errors, sigmas)
    for name, text in (
        ("model.json", json.dumps(facts, indent=1) + "\n"),
        ("README.md", readme_text(model, out, facts)),
    ):
        if not (folder / name).exists():
            (folder / name).write_text(text, encoding="utf-8")


def model_facts(model: Outgoing, errors: Mapping[str, Deviation], sigmas: Sequence[float]) -> dict[str, Any]:
    """The content of `model.json`: inputs of the programs, noise levels, coefficients, deviations."""
    parts, means = {n: program for n, program in programs(model).items() if n in errors}, model.pixels
    inputs = {
        name: {key: ["batch", *x.shape[1:]] for key, x in zip(p.names, p.inputs(2, 0), strict=True)}
        for name, p in parts.items()
    }
    own = (sigma for sampler in model.samplers.values() for sigma in sampler.sigmas)
    every = sorted({*sigmas, *own}, reverse=True)
    return {
        **{key: value for key, value in model.about.items() if key != "config"},
        "shape": list(model.shape),
        "classes": model.classes,
        "codec": {**model.codec.describe(), "shape": list(model.codec.decoded(model.shape))},
        "pixels": None if means is None else {"scale": means.scale, "offset": means.offset},
        "sigma_min": model.sigma_min,
        "programs": {
            name: {
                "inputs": inputs[name],
                "sigmas": sigmas_of(model, name),
                **errors[name]._asdict(),
            }
            for name in parts
        },
        "coefficients": coefficients(model.f.precond, every),
        **describe_second(model.f),
    }


def readme_text(model: Outgoing, out: Written, facts: Mapping[str, Any]) -> str:
    """The content of `README.md`: the programs with their inputs, and code that runs one of them.

    Args:
        model: the exported model.
        out: the files and programs of the format.
        facts: the content of `model.json`.
    """
    what = " ".join(str(model.about[k]) for k in ("experiment", "weights") if model.about.get(k))
    lines = [
        f"# {literal_text(what)}, {model.provenance.step or 0:,} steps\n".lstrip(),
        f"Weights {literal_text(model.about.get('weights_sha256'))}.\n",
    ]
    for name, part in facts["programs"].items():
        takes = ", ".join(f"{key} {shape}".replace("'", "") for key, shape in part["inputs"].items())
        means = f"σ {part['sigmas']}" if part["sigmas"] else OTHERS[name]
        off = f"greatest difference from the model {part['error']:.2g}"
        lines.append(f"- {code_span(name)}: {literal_text(takes)}; {means}; {off}\n")
    if any(part["sigmas"] for part in facts["programs"].values()):
        lines.append("\nz is unit noise, standard normal: call k of the network adds z[:, k].\n")
    lines.append("Coefficients c by σ stand in `model.json`.\n")
    if "h" in facts:
        lines.append(f"\nWhere F leads from σ = t to s, 0 <= s <= t: h = {facts['h']}, and c are at t.\n")
    if out.how:
        lines.append(f"\n{fenced(out.how + pixel_formula(model), 'python')}\n")
    return "".join(lines)


def pixel_formula(model: Outgoing) -> str:
    """A line of Python that converts x to pixels u; empty for points."""
    means = model.pixels
    if means is None:
        return ""
    return f"u = np.clip({means.scale:.9g} * x + {means.offset + 0.5:.9g}, 0, 255).astype(np.uint8)\n"
