"""How are images made? Plain functions of a denoiser, noise and a list of σ."""
