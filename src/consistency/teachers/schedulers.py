"""The preconditioner of a UNet2DModel, from its scheduler_config.json; unknown settings are refused.

A scheduler of diffusers is a sampler together with the noise levels and the prediction that a network was
trained on. Only those are read whose networks predict the noise or the velocity on a chain of DDPM, and that
of consistency models.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from consistency.errors import UserError, nearest
from consistency.files.paths import printable_path
from consistency.model.coefficients import Precond
from consistency.model.coordinates import DDPM
from consistency.model.precond import Boundary, Epsilon, Velocity
from consistency.teachers.values import brief_value

Config = dict[str, Any]
Method = TypeVar("Method")

TIME_SCALE = 250.0  # of consistency models there: the network is given 250 ln σ
CONSISTENCY = "CMStochasticIterativeScheduler"

BETAS: dict[str, Callable[..., DDPM]] = {
    "linear": DDPM.linear,
    "scaled_linear": DDPM.scaled_linear,
    "squaredcos_cap_v2": lambda T, first, last: DDPM.cosine(T),
}
PREDICTIONS: dict[str, Callable[[DDPM], Precond]] = {"epsilon": Epsilon, "v_prediction": Velocity}

# Samplers of one chain, and the first and last β that they mean where a file is silent (diffusers 0.42).
IMAGE, LATENT = (1e-4, 0.02), (0.00085, 0.012)
CHAINS = dict.fromkeys(
    [
        *("DDPM", "DDPMParallel", "DDIM", "DDIMParallel", "DDIMInverse", "PNDM", "LMSDiscrete"),
        *("EulerDiscrete", "EulerAncestralDiscrete", "DEISMultistep", "UniPCMultistep", "SASolver"),
        *("DPMSolverMultistep", "DPMSolverMultistepInverse", "DPMSolverSinglestep"),
    ],
    IMAGE,
) | dict.fromkeys(["HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverSDE"], LATENT)
# What others are for.
OTHERS = (
    (r"LCM|TCD", "networks that were distilled into few steps, and no longer predict the noise"),
    (r"UnCLIP", "the prior and the decoders of unCLIP"),
    (r"Flow|LTX|Piflow|Helios", "flow matching"),
    (r"SCM", "sCM, in TrigFlow"),
    (r"^EDM|CosineDPM|KarrasVe|ScoreSde", "networks on a continuous σ"),
    (r"VQ|Amused|Entropy|DiscreteDDIM|BlockRefinement", "discrete tokens"),
    (r"RePaint", "inpainting"),
    (r"IPNDM", "a chain of another law"),
    (r"CogVideoX|Wuerstchen", "latent video or image models with noise levels of their own"),
)
# Fields of a chain's sampler, which say nothing of the network.
SAMPLING = frozenset(
    [
        *("algorithm_type", "clip_sample", "clip_sample_range", "corrector_order", "disable_corrector"),
        *("dynamic_thresholding_ratio", "euler_at_final", "final_sigmas_type", "flow_shift", "tensor_format"),
        *("interpolation_type", "lambda_min_clipped", "lower_order_final", "predict_x0", "predictor_order"),
        *("sample_max_value", "set_alpha_to_one", "sigma_max", "sigma_min", "skip_prk_steps", "solver_order"),
        *("solver_p", "solver_type", "steps_offset", "tau_func", "thresholding", "time_shift_type"),
        *("timestep_spacing", "use_beta_sigmas", "use_exponential_sigmas", "use_karras_sigmas"),
        *("use_lu_lambdas", "variance_type", "predict_epsilon", "timestep_type"),
        *(
            "num_train_timesteps",
            "trained_betas",
            "beta_schedule",
            "beta_start",
            "beta_end",
            "prediction_type",
        ),
    ]
)


class Read(NamedTuple):
    """The preconditioner of a network, and its role, from a scheduler."""

    precond: Precond
    consistent: bool  # whether it is a consistency function, and no denoiser


class Unfit(NamedTuple):
    """A value of a field that gives the network another meaning."""

    field: str
    applies: Callable[[Any], bool]
    reason: str


UNFIT = (
    Unfit("use_flow_sigmas", bool, "the network was trained by flow matching"),
    Unfit("use_dynamic_shifting", bool, "the network was trained by flow matching"),
    Unfit("rescale_betas_zero_snr", bool, "the chain ends at infinite noise"),
    Unfit("predict_epsilon", lambda value: value is False, "the network predicts the image"),
    Unfit("timestep_type", lambda value: value not in (None, "discrete"), "the network is given ln(σ)/4"),
    Unfit(
        "variance_type",
        lambda value: str(value).startswith("learned"),
        "the network predicts a variance as well, with twice as many channels",
    ),
)


def read_scheduler(file: Path, config: Config) -> Read:
    """The preconditioner and the role of the network.

    Args:
        file: for messages.
        config: its content.

    Raises:
        UserError: a scheduler, noise levels or a prediction that are not supported, by their key in the file.
    """
    name = str(config.get("_class_name"))
    if name == CONSISTENCY:
        return Read(consistency(file, config), consistent=True)
    kind = name.removesuffix("Scheduler")
    if kind not in CHAINS or kind == name:
        raise UserError(f"teacher.path={file}: _class_name={printable_path(name)}: {why(kind)}")
    return Read(chain(file, config, CHAINS[kind]), consistent=False)


def why(kind: str) -> str:
    """The reason why a scheduler of this name is refused, and the names of those that are read."""
    use = next((use for pattern, use in OTHERS if re.search(pattern, kind)), None)
    what = f"a scheduler for {use}" if use else "not a scheduler that is known here"
    return (
        f"{what}; a teacher has to predict noise or velocity on a chain of DDPM, as with DDPMScheduler or "
        f"DDIMScheduler, or be a consistency model with {CONSISTENCY}"
    )


def consistency(file: Path, config: Config) -> Precond:
    """A consistency function in the coordinates of EDM: f(x, ε) = x."""
    sigma_data, sigma_min = config.get("sigma_data", 0.5), config.get("sigma_min", 0.002)
    try:
        return Boundary(float(sigma_data), float(sigma_min), TIME_SCALE)
    except (TypeError, ValueError, OverflowError) as error:
        said = f"sigma_data={brief_value(sigma_data)} and sigma_min={brief_value(sigma_min)}"
        raise UserError(f"teacher.path={file}: {said} must be numbers from 1e-9 to 1e6") from error


def chain(file: Path, config: Config, ends: tuple[float, float]) -> Precond:
    """A network trained on the chain of DDPM; `ends`: first and last β where the file does not say."""
    for field, applies, reason in UNFIT:
        if applies(config.get(field)):
            value = brief_value(config[field])
            raise UserError(f"teacher.path={file}: {field}={value}: {reason}, which is not supported")
    check_known(file, config)
    prediction = supported(file, "prediction_type", config.get("prediction_type", "epsilon"), PREDICTIONS)
    return prediction(read_levels(file, config, ends))


def check_known(file: Path, config: Config) -> None:
    """Refuse an unknown field, unless it is null, false or a note of the library."""
    fields = {*SAMPLING, *(unfit.field for unfit in UNFIT)}
    for field, value in config.items():
        if field not in fields and not field.startswith("_") and value not in (None, False):
            raise UserError(
                f"teacher.path={file}: {printable_path(field)}={brief_value(value)} is not known, "
                "and may change what the "
                "network predicts: where it does not, take it out of the file"
            )


def read_levels(file: Path, config: Config, ends: tuple[float, float]) -> DDPM:
    """The chain of noise levels.

    Raises:
        UserError: an unknown beta_schedule, or numbers that make no chain.
    """
    T, betas = config.get("num_train_timesteps", 1000), config.get("trained_betas")
    first, last = config.get("beta_start", ends[0]), config.get("beta_end", ends[1])
    law = None if betas else supported(file, "beta_schedule", config.get("beta_schedule", "linear"), BETAS)
    try:
        return law(T, first, last) if law else DDPM(tuple(betas or ()))
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        keys = "num_train_timesteps, beta_start and beta_end" if law else "trained_betas"
        raise UserError(f"teacher.path={file}: {keys} do not make a chain of β between 0 and 1") from error


def supported(file: Path, field: str, value: Any, known: Mapping[str, Method]) -> Method:
    """The known method that the value of a field names."""
    name = str(value)
    if name not in known:
        raise UserError(
            f"teacher.path={file}: {field}={printable_path(name)} is not supported; {nearest(name, known)}"
        )
    return known[name]
