"""What would be exact? Densities whose denoiser and consistency function are known."""
