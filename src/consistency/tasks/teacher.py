"""The teacher of a student, if it is still at hand."""

from dataclasses import replace

import torch

from consistency.errors import UserError
from consistency.lit.consistency import check_codec
from consistency.lit.distillation import Distillation
from consistency.model.maps import DenoiserLike, as_denoiser
from consistency.tasks.session import Trained
from consistency.tensor import weights_sha256
from consistency.truth.oracle import Mixture


def teacher_of(trained: Trained) -> Trained | None:
    """The denoiser that a student learned from, in the student's place; None without one.

    A checkpoint of a student does not need its teacher: what is gone is done without.

    Raises:
        UserError: the teacher that is named now has seen the data in another space.
    """
    module = trained.module
    taught = module.teacher if isinstance(module, Distillation) else getattr(module, "start", None)
    if taught is None:
        return None
    try:
        f = taught()
        D = as_denoiser(f, "teacher.path")  # a training may start from a consistency function
    except (UserError, FileNotFoundError):
        return None
    check_codec(f, trained.data.codec)
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
