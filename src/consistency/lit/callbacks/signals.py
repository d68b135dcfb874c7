"""The gaps of a consistency function at fixed points: how far it is from consistent, which no loss tells."""

import torch
from lightning import Trainer

from consistency.lit.callbacks.validation import Extra
from consistency.lit.consistency import ConsistencyModule
from consistency.lit.data.module import DataModule, data_of
from consistency.lit.loggers.base import log_picture
from consistency.lit.module import Module
from consistency.lit.pacing import paced, uncounted
from consistency.metrics.gaps import Probe, ProbeData, Trajectories, gap_figure
from consistency.model.condition import given_label
from consistency.model.maps import DenoiserLike
from consistency.objectives.flow import TeacherFlow


class Signals(Extra):
    """Logs the gaps of a consistency function, `gap/...`, and a figure of them by σ. Denoisers have none.

    The gaps are computed at each validation with the weights that it uses, on trajectories that are computed
    once: of the exact density, else of the teacher, else of the posterior mean over a few training samples.

    Args:
        sigma_min: lowest noise level.
        sigma_max: highest noise level.
        count: number of trajectories; of large images as many as fit into 256 MiB, which a notice tells.
        levels: number of noise levels, evenly spaced in ln σ.
        substeps: steps of the solver from one level to the next.
    """

    measures = ("self", "trajectory", "reconstruction", "boundary")

    def __init__(
        self, sigma_min: float, sigma_max: float, count: int = 256, levels: int = 12, substeps: int = 2
    ) -> None:
        self.probe = Probe(sigma_min, sigma_max, count, levels, substeps).checked("callbacks.signals")
        self.kept: Trajectories | None = None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Compute the gaps on every process, so that all choose the best checkpoint by the same number."""
        if not isinstance(pl_module, ConsistencyModule):
            return
        if self.kept is None:
            self.kept = self._trajectories(data_of(trainer), pl_module)
        gaps = self.probe.measure(pl_module.paced_one_time(), self.kept)
        pl_module.log_dict(gaps.means(), rank_zero_only=False, sync_dist=True)
        log_picture(trainer, "gap/by_sigma", lambda: gap_figure(gaps))

    def calls(self, trainer: Trainer, module: Module) -> int:
        """Those of the probe; none with a teacher's training."""
        consistent = isinstance(module, ConsistencyModule)
        return self.probe.fitting(data_of(trainer).shape).calls if consistent else 0

    @property
    def size(self) -> str:
        """The number of trajectories."""
        return f"callbacks.signals.count (now {self.probe.count})"

    def _trajectories(self, data: DataModule, module: Module) -> Trajectories:
        some = excerpt(data, self.probe, module.device)
        teacher = followed_teacher(module)
        paced_teacher = None if teacher is None else paced(teacher, data, uncounted)
        source = self.probe.source(data.density, paced_teacher, some)
        return self.probe.trajectories(source, some)


def followed_teacher(module: Module) -> DenoiserLike | None:
    """The teacher whose trajectories a run is trained on; None where it holds none."""
    flow = getattr(module, "flow", None)
    return flow.teacher if isinstance(flow, TeacherFlow) else None


def excerpt(data: DataModule, probe: Probe, device: torch.device) -> ProbeData:
    """The training samples that a probe starts from, encoded, not mirrored."""
    index = probe.pool(len(data.data), data.shape)
    x, label = data.data.x.index_select(0, index).to(device), data.data.label
    return ProbeData(data.codec.encode(x), given_label(label).rows(index).to(device))
