"""The README.md of a folder of diffusers."""

from collections.abc import Iterator, Sequence

from consistency.codec.pixels import Pixels, pixels_of
from consistency.export.grid import Grid
from consistency.export.model import Outgoing
from consistency.files.configs import trusted
from consistency.markup import code_span, literal_text
from consistency.table import Table

NO_STEPS = "none: it begins elsewhere, or its levels are too close"
PIXELS = "export=diffusers makes", "choose export=onnx, which decodes"


def model_card(model: Outgoing, grid: Grid, impure: str | None) -> str:
    """What the folder holds, who can load it, at which levels it samples, and what its images are.

    Args:
        model: that was exported.
        grid: of its scheduler.
        impure: why the network is none of the library's; None where it is one.
    """
    return "\n".join(
        [
            *card_head(model, impure),
            *use(model, grid, impure),
            *levels_section(model, grid),
            *pixels_section(model),
            "",
        ]
    )


def card_head(model: Outgoing, impure: str | None) -> Iterator[str]:
    """What it is."""
    about = model.about
    yield f"# {literal_text(about.get('experiment') or 'A consistency model')}, for diffusers"
    yield ""
    yield f"Step {literal_text(about.get('step'))}, weights {code_span(about.get('weights'))}, SHA-256"
    yield f"{literal_text(about.get('weights_sha256'))}."
    yield ""
    if impure is None:
        yield "Network and scheduler are the library's own: no other package is needed."
    else:
        yield f"The network is a component of the package `consistency`, which must be installed ({impure})."
        yield "The library logs that it expected a UNet2DModel; it has what it needs."


def use(model: Outgoing, grid: Grid, impure: str | None) -> Iterator[str]:
    """How it is loaded."""
    label = f", class_labels=[{', '.join(str(i % model.classes) for i in range(4))}]" if model.classes else ""
    yield ""
    yield "```python"
    if impure is not None:
        yield "import consistency.export.diffusers_network  # what a folder names is not imported"
        if names := [package.name for package in trusted()]:
            yield "from consistency.files.configs import trust"
            yield ""
            yield f"trust({names})  # other packages whose classes config.json may name"
    yield "from diffusers import ConsistencyModelPipeline"
    yield ""
    yield 'pipe = ConsistencyModelPipeline.from_pretrained(".")'
    yield f"images = pipe(batch_size=4{label}).images  # one network call"
    for steps in grid.timesteps.values():
        if len(steps) > 1:
            yield f"images = pipe(batch_size=4{label}, num_inference_steps=None, timesteps={steps}).images"
    yield "```"


def levels_section(model: Outgoing, grid: Grid) -> Iterator[str]:
    """Which numbers stand for which σ list."""
    yield ""
    yield f"The scheduler has {grid.N} levels, from σ = {grid.sigma_max:g}, which is number 0, to"
    yield f"{grid.sigma_min:g}, number {grid.N - 1}; the last of `timesteps` must be 0. Those nearest to the"
    yield "σ lists of the model:"
    yield ""
    rows: list[list[str]] = []
    for name, sigmas in model.sigmas.items():
        steps = grid.timesteps.get(name)
        found = [NO_STEPS, ""] if steps is None else [str(steps), six_digits(grid.sigmas(steps))]
        rows.append([name, six_digits(sigmas), *found])
    yield Table(["sampler", "σ", "timesteps", "σ of these"], rows).markdown()


def six_digits(sigmas: Sequence[float]) -> str:
    """Levels in six digits."""
    return ", ".join(f"{sigma:.6g}" for sigma in sigmas)


def pixels_section(model: Outgoing) -> Iterator[str]:
    """What the numbers in the images mean."""
    codec = pixels_of(model.codec, *PIXELS)
    if codec == Pixels():  # what the pipeline takes for offset and scale
        return
    yield ""
    yield "**These `images` have the wrong contrast, and are cut off**: for the pipeline a pixel of 0 to 255"
    yield f"is 127.5 x + 127.5; it is {codec.scale:.6g} x + {codec.offset:.6g}. The callback has x itself:"
    yield ""
    yield "```python"
    yield "raw = []"
    yield "pipe(batch_size=4, callback=lambda i, t, x: raw.append(x))"
    yield f"pixels = ({codec.scale!r} * raw[-1] + {codec.offset!r}).round().clamp(0, 255).byte()"
    yield "```"
