"""sCT and sCD (2410.11081): the limit of neighbours, where f must not change along its trajectory.

The paper's angle t = atan(σ/σ_data) has cos t sin t d/dt = d/d ln σ: the rearranged tangent that it trains on
is the rate of f per unit of ln σ. Taken so, no derivative is large at either end: that of EDM's c_noise is
1/4 throughout. In units of the network's output, g = -(σ_data / c_out) df/d ln σ.
"""

import torch
from torch import Tensor, nn

from consistency.errors import at_least, positive
from consistency.model.condition import Condition
from consistency.model.maps import Map
from consistency.objectives.balance import Balance
from consistency.objectives.bound import Bound
from consistency.objectives.derivative import Derivative
from consistency.objectives.flow import Flow
from consistency.objectives.target import Target
from consistency.objectives.weighting import Weight
from consistency.schedule.draws import Draws
from consistency.schedule.noise import NoiseLaw
from consistency.tensor import Terms, expand, perturb, same_dropout


class Continuous(nn.Module):
    """e^w λ mean‖F - sg F - g‖² - w, where g is the tangent, bounded, and the gradient of F alone remains.

    Args:
        noise: law of σ.
        derivative: how df is taken.
        bound: how long a tangent may be.
        balance: w of σ; its parameters, if any, are trained too.
        weight: λ, called as weight(σ, 0).
        sigma_data: standard deviation of the data.
        sigma_min: where f is the identity: 0 unless the preconditioner has another.
        warmup: steps over which the tangent turns from that of diffusion, at r = 0, into its own, at r = 1.
    """

    def __init__(
        self,
        noise: NoiseLaw,
        derivative: Derivative,
        bound: Bound,
        balance: Balance,
        weight: Weight,
        sigma_data: float = 0.5,
        sigma_min: float = 0.0,
        warmup: int = 10_000,
    ) -> None:
        super().__init__()
        positive("objective", sigma_data=sigma_data)
        at_least("objective", 0, sigma_min=sigma_min, warmup=warmup)
        self.noise, self.derivative, self.bound, self.balance = noise, derivative, bound, balance
        self.weight, self.sigma_data, self.sigma_min, self.warmup = weight, sigma_data, sigma_min, warmup

    def __call__(
        self, f: Map, target: Target, flow: Flow, x: Tensor, c: Condition, k: int, draws: Draws
    ) -> Terms:
        """Loss and σ of each sample of x [B, ...] at optimiser step k."""
        sigma = self.noise.sample(len(x), draws, x.device)
        z = draws.normal(x)
        x_t = perturb(x, z, sigma)
        v = flow.velocity(x_t, sigma, x, z, c)
        with torch.no_grad(), same_dropout(x.device):  # the next forward draws the same masks
            change = self.change(target(f), x_t, sigma, v, c, self.ramp(k))
        y = f(x_t, sigma, c)
        unit = expand(f.precond(sigma).out, x)  # of y, per unit of the network's output
        g = self.bound(-self.sigma_data * change / unit)
        w, lam = self.balance(sigma), self.weight(sigma, torch.zeros_like(sigma))
        d = ((y - y.detach()) / unit - g).flatten(1).square().mean(1)  # in value, only g is left
        return Terms(w.exp() * lam * d - w, sigma)

    def change(self, f: Map, x_t: Tensor, sigma: Tensor, v: Tensor, c: Condition, r: float) -> Tensor:
        """df/d ln σ [B, ...] along the velocity v = dx/dσ; at r < 1, partly what diffusion makes of it.

        Diffusion's part is cos²t (f - D̂), with D̂ = x - σv what the flow takes for clean data.
        """
        dx = expand(sigma, x_t) * v
        y, dy = self.derivative(f, x_t, sigma, c, dx, sigma)
        cos2 = self.sigma_data**2 / (self.sigma_data**2 + sigma**2)
        return torch.lerp(expand(cos2, x_t) * (y - (x_t - dx)), dy, r) if r < 1 else dy

    def ramp(self, k: int) -> float:
        """r = min(1, k/H)."""
        return min(1.0, k / self.warmup) if self.warmup else 1.0

    def mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability that σ falls between neighbouring edges [E] -> [E-1]."""
        return self.noise.mass(edges)

    def progress(self, k: int) -> dict[str, float]:
        """r."""
        return {"r": self.ramp(k)}
