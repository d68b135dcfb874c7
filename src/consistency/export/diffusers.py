"""A folder of diffusers, which its ConsistencyModelPipeline loads and samples from.

Where UNet2DModel can be the network, the folder is that library's alone; any other network stands in it as a
component of this package. `teacher=diffusers` reads both.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from consistency.codec.pixels import pixels_of
from consistency.errors import UserError
from consistency.export.diffusers_page import PIXELS, model_card
from consistency.export.grid import RHO, Grid, grid_of
from consistency.export.model import Outgoing, Run, Written, check_plain
from consistency.export.parts import optional_library
from consistency.model.condition import given_label
from consistency.model.maps import Consistency
from consistency.model.precond import EDM, Boundary
from consistency.sampling.levels import visits
from consistency.sampling.samplers import MultiStep
from consistency.teachers import unet2d, unet2d_tensors
from consistency.teachers.diffusers import seal
from consistency.teachers.schedulers import TIME_SCALE

BATCH = 2  # of the pipeline's own samples, when they are compared


@dataclass(frozen=True)
class Diffusers:
    """unet/, scheduler/, model_index.json, weights as safetensors, and a README.md that says how to sample.

    Args:
        tolerance: greatest difference from the model's own samples, in units of x.
    """

    tolerance: float = 1e-3

    def __call__(self, model: Outgoing, folder: Path) -> Written:
        """See `Format`. The pipeline itself is run as well, on the levels that its scheduler knows.

        Raises:
            UserError: no consistency model of square images, or the pipeline's samples are not the model's.
        """
        theirs = optional_library("diffusers")
        check_pipeline(model)
        grid, reason = grid_of(model.sigmas, model.sigma_min), foreign(model)
        with without_library_advice(theirs):
            unet = component(model) if reason else standard(theirs, model)
            theirs.ConsistencyModelPipeline(unet, scheduler(theirs, model, grid)).save_pretrained(folder)
            seal(folder)
            pipe = theirs.ConsistencyModelPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
        pipe.set_progress_bar_config(disable=True)
        gap = max(
            pipeline_difference(pipe, model, timesteps) for timesteps in [[0], *grid.timesteps.values()]
        )
        if not gap <= self.tolerance:
            raise UserError(
                f"export=diffusers: diffusers {theirs.__version__} samples otherwise than this model, by "
                f"{gap:.3g}, and {self.tolerance} is allowed: nothing was kept; use another version of it"
            )
        (folder / "README.md").write_text(model_card(model, grid, reason), encoding="utf-8")
        runs = {name: pipeline_sampler(pipe, model, sigmas) for name, sigmas in model.sigmas.items()}
        return Written(sorted(p for p in folder.rglob("*") if p.is_file()), runs, self.tolerance)


def check_pipeline(model: Outgoing) -> None:
    """Refuse what no pipeline can sample.

    Raises:
        UserError: points, images that are not square, another space than pixels, a teacher; a level that the
            scheduler hides.
    """
    shape = model.codec.decoded(model.shape)
    _, *size = shape
    if len(size) != 2 or size[0] != size[1]:
        raise UserError(
            f"export=diffusers needs square images, not data of shape {shape}: "
            "choose another format, such as export=onnx"
        )
    pixels_of(model.codec, *PIXELS)
    if not isinstance(model.f, Consistency):
        raise UserError(
            f"export=diffusers needs a consistency function, and this is a {model.f.role}: choose "
            "export=safetensors"
        )
    if not model.sigmas:
        raise UserError("export=diffusers needs a sampler of one step or more: name one with task.samplers")
    check_plain(model, "diffusers")
    at_the_end = model.f.precond(torch.tensor([model.sigma_min])).out.abs() > 1e-6
    for name, (_, *sigmas) in model.sigmas.items():
        if at_the_end and any(sigma <= model.sigma_min for sigma in sigmas):
            raise UserError(
                f"export=diffusers: {name} has a level at ε={model.sigma_min}, where a pipeline does nothing "
                "and this denoiser does: leave it out with task.samplers"
            )


def foreign(model: Outgoing) -> str | None:
    """Why the network is none of the library's; None where it is one."""
    if model.f.precond != Boundary(sigma_data(model), model.sigma_min, TIME_SCALE):
        return f"denoiser is not `boundary` with time_scale={TIME_SCALE:g}"
    return unet2d.why_not_unet2d(model.f.net)


def sigma_data(model: Outgoing) -> float:
    """Of the scheduler's scalings: the model's own where it has one, or else any would do."""
    precond = model.f.precond
    return precond.sigma_data if isinstance(precond, Boundary | EDM) else 0.5


def standard(theirs: Any, model: Outgoing) -> nn.Module:
    """The network as a UNet2DModel."""
    net = model.f.net
    assert isinstance(net, unet2d.UNet)
    unet = theirs.UNet2DModel(
        sample_size=model.shape[-1], **unet2d.fixed_config(net), **unet2d.tensor_sizes(net)
    )
    unet.load_state_dict(unet2d_tensors.their_weights(net))
    return unet.eval()


def component(model: Outgoing) -> nn.Module:
    """The network as it is, in the place of a UNet2DModel."""
    from consistency.export.diffusers_network import Network

    unet = Network(
        denoiser=model.about["config"]["model"],
        sample_size=model.shape[-1],
        in_channels=model.shape[0],
        num_class_embeds=model.classes or None,
        sigma_data=sigma_data(model),
        sigma_min=model.sigma_min,
    )
    unet.load_state_dict(model.f.state_dict())
    return unet.eval()


def scheduler(theirs: Any, model: Outgoing, grid: Grid) -> Any:
    """The levels; what is denoised is never clipped, as in training."""
    return theirs.CMStochasticIterativeScheduler(
        num_train_timesteps=grid.N,
        sigma_min=grid.sigma_min,
        sigma_max=grid.sigma_max,
        sigma_data=sigma_data(model),
        rho=RHO,
        clip_denoised=False,
    )


class Stream:
    """Draws from one generator, in the pipeline's order.

    Args:
        seed: of it.
    """

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, x: Tensor) -> Tensor:
        """Standard normal numbers like x, on the CPU."""
        return torch.randn(x.shape, generator=self.generator)

    def uniform(self, n: int, device: torch.device) -> Tensor:
        """Uniform numbers [n] on [0, 1)."""
        return torch.rand(n, generator=self.generator, dtype=torch.float64).to(device)


def pipeline_difference(pipe: Any, model: Outgoing, timesteps: Sequence[int]) -> float:
    """Greatest difference of the pipeline's samples from the model's, for the same noise and σ.

    Its images are clipped: what they are made of comes from its callback.
    """
    labels = model.labels(BATCH)
    found: list[Tensor] = []
    pipe(
        batch_size=BATCH,
        class_labels=None if labels is None else labels.tolist(),
        num_inference_steps=None,
        timesteps=list(timesteps),
        generator=Stream(0).generator,
        output_type="pt",
        callback=lambda step, t, x: found.append(x),
    )
    draws, sigmas = Stream(0), pipe.scheduler.sigmas[:-1].double().tolist()
    z = draws.normal(torch.empty(BATCH, *model.shape))
    own = MultiStep(sigmas, model.sigma_min)(model.f, z, given_label(labels), draws)
    return (found[-1] - own).abs().max().item()


def pipeline_sampler(pipe: Any, model: Outgoing, sigmas: Sequence[float]) -> Run:
    """A sampler at its own σ, known to the scheduler or not: network and scalings are the folder's."""

    @torch.no_grad()
    def run(z: Tensor, label: Tensor | None = None) -> Tensor:
        x = torch.zeros_like(z[:, 0])
        for k, (tau, added) in enumerate(visits(sigmas, model.sigma_min)):
            x = pipeline_denoise(pipe, x + added * z[:, k], tau, label)
        return x

    return run


def pipeline_denoise(pipe: Any, x: Tensor, sigma: float, label: Tensor | None) -> Tensor:
    """One turn of the pipeline's loop at any σ. With a single level the scheduler adds no noise."""
    levels = pipe.scheduler
    levels.set_timesteps(1)
    levels.sigmas = torch.tensor([sigma, levels.config.sigma_min])
    levels.timesteps = torch.tensor([float(levels.sigma_to_t(sigma))], dtype=torch.float64)
    (t,) = levels.timesteps
    F = pipe.unet(levels.scale_model_input(x, t), t, class_labels=label, return_dict=False)[0]
    return levels.step(F, t, x)[0]


@contextmanager
def without_library_advice(theirs: Any) -> Iterator[None]:
    """Without bars and advice of the library."""
    logging = theirs.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
