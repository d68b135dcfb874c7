"""The teacher of a student, if it is still at hand, with the samplers that it has of its own."""

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

CHECKPOINT = "consistency.teachers.checkpoint.checkpoint"  # the function that reads a run's
SOLVERS = {"consistency.model.solvers.euler": Euler, "consistency.model.solvers.heun": Heun}  # of a flow
LEVELS = 18


def teacher_of(trained: Trained) -> Trained | None:
    """The denoiser that a student learned from, in the student's place; None without one.

    A checkpoint of a student does not need its teacher: what is gone is done without.

    Raises:
        UserError: the teacher that is named now has seen the data in another space.
    """
    taught = builder_of(trained)
    if taught is None:
        return None
    try:
        f = taught()
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
        samplers=samplers_of(trained),
        found={},
    )


def builder_of(trained: Trained) -> Callable[[], DenoiserLike] | None:
    """What makes the teacher that a run learned from, or whose weights it began with; None without one."""
    for name in ("teacher", "start"):
        if trained.file is not None and config_section(trained.provenance.config, "module", name):
            return trained.file.build("module", name)
    return None


def follows_teacher(trained: Trained) -> bool:
    """Whether a run measures on its teacher's trajectories; asks for no teacher."""
    node = config_section(trained.provenance.config, "module")
    if trained.file is None or not config_section(node, "teacher") or not config_section(node, "flow"):
        return False
    training = trained.file.registry.find(node[TARGET])
    if not (isinstance(training, type) and issubclass(training, ConsistencyDistillation)):
        return False
    return isinstance(trained.file.build("module", "flow")(identity), TeacherFlow)


def samplers_of(trained: Trained) -> dict[str, Sampler]:
    """How a student's teacher is sampled: as its own file says, else by the solver that the student follows.

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
    """A section of a config; empty where there is none."""
    node: Any = config
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else {}


def denoiser_digest(D: DenoiserLike) -> str:
    """Hash of all that makes a denoiser."""
    if isinstance(D, Mixture):
        std = torch.tensor(D.std, dtype=torch.float64)
        return weights_sha256({"means": D.means, "weights": D.weights, "std": std})
    assert isinstance(D, torch.nn.Module)
    return weights_sha256(D.state_dict())
