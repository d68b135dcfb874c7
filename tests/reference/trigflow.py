"""The tangent of sCM as its paper writes it, in the angle t (2410.11081, section 4.1 and algorithm 1)."""

import torch


def tangent(F, x0, z, t, r, velocity, s=0.5):
    """g for x_t = cos t x0 + sin t z, z ~ N(0, s²), and dx/dt = velocity(x_t, t); everything float64.

    g = -cos²t (s F - dx/dt) - r [cos t sin t x_t + s cos t sin t dF/dt], by one derivative of F(x/s, t).
    """
    column = t[:, None]
    cos, sin = column.cos(), column.sin()
    x = cos * x0 + sin * z
    dx = velocity(x, t)
    F_x, dF = torch.func.jvp(F, (x / s, t), (cos * sin * dx / s * s, (cos * sin)[:, 0] * s))
    return -(cos**2) * (s * F_x - dx) - r * (cos * sin * x + dF)
