"""The teacher of a student, if its file is still available, with its samplers."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from consistency.errors import UserError
from consistency.files.configs import TARGET
from consistency.lit.consistency import check_teacher_codec
from consistency.lit.distillation import ConsistencyDistillation, identity
from consistency.model.maps import Denoiser, DenoiserLike, as_denoiser
from consistency.objectives.flow import TeacherFlow
from consistency.sampling.levels import karras_sigmas
from consistency.sampling.ode import Euler, Heun
from consistency.sampling.samplers import Sampler
from consistency.tasks.session import Trained
from consistency.teachers.checkpoint import read_named
from consistency.tensor import weights_sha256
from consistency.truth.oracle import Mixture

CHECKPOINT = "consistency.teachers.checkpoint.checkpoint"  # the function that opens a run's checkpoint
SOLVERS = {
    "consistency.model.solvers.euler": Euler,
    "consistency.model.solvers.heun": Heun,
}  # by the `_target_` of a flow's solver
LEVELS = 18  # of Karras et al. (2206.00364) for CIFAR-10


def teacher_of(trained: Trained) -> Trained | None:
    """The student's `Trained` with the teacher's denoiser and samplers in place of its own.

    None if the run had no teacher, or if the teacher's file is missing or is not a denoiser: a student's
    checkpoint does not need it.

    Raises:
        UserError: the teacher's codec is not that of the student.
    """
    build = teacher_builder(trained)
    if build is None:
        return None
    try:
        f = build()
        D = as_denoiser(f, "teacher.path")  # a training may start from a consistency function
    except (UserError, FileNotFoundError):
        return None
    check_teacher_codec(f, trained.codec)
    if isinstance(D, torch.nn.Module):
        D = D.to(trained.device).eval()
    return replace(
        trained,
        f=D,
        provenance=replace(
            trained.provenance, weights="teacher", weights_sha256=denoiser_digest(D), experiment=None
        ),
        samplers=teacher_samplers(trained),
        found={},
    )


def teacher_builder(trained: Trained) -> Callable[[], DenoiserLike] | None:
    """A function that builds the teacher that a run distilled or started from; None without one."""
    for name in ("teacher", "start"):
        if trained.file is not None and config_section(trained.provenance.config, "module", name):
            return trained.file.build("module", name)
    return None


def uses_teacher_flow(trained: Trained) -> bool:
    """Whether a run follows its teacher's trajectories, by its config; the teacher itself is not opened."""
    node = config_section(trained.provenance.config, "module")
    if trained.file is None or not config_section(node, "teacher") or not config_section(node, "flow"):
        return False
    training = trained.file.registry.find(node[TARGET])
    if not (isinstance(training, type) and issubclass(training, ConsistencyDistillation)):
        return False
    return isinstance(trained.file.build("module", "flow")(identity), TeacherFlow)


def teacher_samplers(trained: Trained) -> dict[str, Sampler]:
    """The samplers of a student's teacher, by name.

    The latter takes the 18 levels of Karras et al. between the student's own. Nothing where neither is said.
    Jumps of a flow map, whose denoiser is the teacher, are no samplers of that.
    """
    module = config_section(trained.provenance.config, "module")
    node = config_section(module, "teacher") or config_section(module, "start")
    if node.get("_target_") == CHECKPOINT and isinstance(node.get("path"), str):
        trust = [name for name in node.get("trust") or () if isinstance(name, str)]
        config = read_named(node["path"], "teacher.path", trust)[1]["config"]
        place = ("samplers",) if config.names("samplers") else ("module", "samplers")
        built = config.build(*place) if config.names(*place) else {}
        found = {name: each for name, each in built.items() if isinstance(each, Sampler)}
        if own := {name: each for name, each in found.items() if each.role is Denoiser}:
            return own
    kind = SOLVERS.get(
        config_section(trained.provenance.config, "module", "flow", "solver").get("_target_", "")
    )
    if kind is None:
        return {}
    sigma = trained.sigma
    sampler = kind(karras_sigmas(LEVELS, sigma.min, sigma.max, sigma.rho))
    return {sampler.title: sampler}


def config_section(config: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """The section of a config under these keys, one inside the other; empty if there is none."""
    node: Any = config
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else {}


def denoiser_digest(D: DenoiserLike) -> str:
    """SHA-256 of a denoiser's weights, or of a mixture's means, weights and standard deviation."""
    if isinstance(D, Mixture):
        std = torch.tensor(D.std, dtype=torch.float64)
        return weights_sha256({"means": D.means, "weights": D.weights, "std": std})
    assert isinstance(D, torch.nn.Module)
    return weights_sha256(D.state_dict())
