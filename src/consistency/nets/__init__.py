"""What computes? Networks, called as net(x [B, ...], c_noise [B], c) -> like x."""
