"""Any network of this project where a pipeline of diffusers expects a UNet2DModel.

A folder's model_index.json names this module, and the library wants it imported first; it needs the library.
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin  # the pipeline looks for this name in here
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from consistency.files.configs import trusted
from consistency.model.condition import given_label
from consistency.model.precond import Boundary
from consistency.teachers.diffusers import described
from consistency.teachers.schedulers import TIME_SCALE
from consistency.tensor import expand

NEAR = 1e-6  # c_out below which the scheduler hides whatever the network says


class Network(ModelMixin, ConfigMixin):
    """A consistency function f as the F' of which the scheduler makes c_skip x + c_out F'.

    Where f is such a function already, F' is its network's output; else it is (f(x, σ) - c_skip x)/c_out. At
    ε itself f(x, ε) = x, whatever the network says.

    Args:
        denoiser: what f is, as in checkpoints: plain data with `_target_`, which may name this project, and
            packages that `consistency.files.configs.trust` was given.
        sample_size: height and width of an image.
        in_channels: of an image.
        num_class_embeds: number of classes, None for none.
        sigma_data: of the scheduler.
        sigma_min: ε of the scheduler.

    Raises:
        UserError: `denoiser` would call something else.
    """

    @register_to_config
    def __init__(
        self,
        denoiser: Mapping[str, Any],
        sample_size: int,
        in_channels: int,
        num_class_embeds: int | None = None,
        sigma_data: float = 0.5,
        sigma_min: float = 0.002,
    ) -> None:
        super().__init__()
        names = [package.name for package in trusted()]
        f = described("unet", "config.json", denoiser, names)
        self.net, self.precond = f.net, f.precond
        self.scalings = Boundary(sigma_data, sigma_min)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> "Network":
        """See the library. Loaded as it is, then narrowed by layers that know what must not be rounded."""
        asked = [kwargs.pop(key, None) for key in ("dtype", "torch_dtype")]  # its new word and its old one
        network = super().from_pretrained(*args, **kwargs)
        for dtype in filter(None, asked):
            nn.Module.to(network, dtype)
        return network

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """F' of x/√(σ² + σ_data²) [B, C, H, W] at 250 ln σ ([B] or one for all), and labels [B] or None."""
        t = torch.as_tensor(timestep).cpu().double()  # not every device has float64
        sigma = (t / TIME_SCALE).exp().reshape(-1).expand(len(sample))
        there, c = self.scalings(sigma), self.precond(sigma)
        here, out = there.out.abs() > NEAR, there.out.where(there.out.abs() > NEAR, torch.ones(()).double())
        skip = ((c.skip - there.skip) / there.inp / out).where(here, torch.zeros(()).double())
        gain = (c.out / out).where(here, torch.zeros(()).double())
        x = expand(c.inp / there.inp, sample) * sample
        noise = c.noise.to(sample.device, torch.promote_types(sample.dtype, torch.float32))
        F = self.net(x, noise, given_label(None if class_labels is None else class_labels.long()))
        F = expand(skip, sample) * sample + expand(gain, sample) * F.to(sample.dtype)
        return UNet2DOutput(sample=F) if return_dict else (F,)
