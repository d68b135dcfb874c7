"""The teacher of a student, if it is still at hand."""

from dataclasses import replace

import torch
from hydra.utils import instantiate

from consistency.errors import UserError
from consistency.lit.consistency import Consistency
from consistency.model.denoiser import DenoiserLike
from consistency.tasks.session import Trained
from consistency.tensor import weights_sha256
from consistency.truth.oracle import Mixture


def teacher_of(trained: Trained) -> Trained | None:
    """The denoiser that a student learned from, in the student's place; None without one.

    A checkpoint of a student does not need its teacher: what is gone is done without.
    """
    role = next((key for key in ("teacher", "start") if trained.config.module.get(key)), None)
    if role is None or not isinstance(trained.module, Consistency):
        return None
    try:
        D: DenoiserLike = instantiate(trained.config.module[role], _convert_="all")()
    except (UserError, FileNotFoundError):
        return None
    if isinstance(D, torch.nn.Module):
        D = D.to(trained.module.device).eval()
    return replace(trained, f=D, weights="teacher", weights_sha256=digest(D), experiment=None)


def digest(D: DenoiserLike) -> str:
    """Hash of all that makes a denoiser."""
    if isinstance(D, Mixture):
        std = torch.tensor(D.std, dtype=torch.float64)
        return weights_sha256({"means": D.means, "weights": D.weights, "std": std})
    assert isinstance(D, torch.nn.Module)
    return weights_sha256(D.state_dict())
