"""What does a network's output mean? Preconditioners and the denoiser."""
