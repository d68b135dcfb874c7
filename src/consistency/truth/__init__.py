"""Densities whose denoiser, trajectories and consistency function are known exactly."""
