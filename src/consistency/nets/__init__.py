"""What computes? Networks, called as net(x [B, ...], c_noise [B], label [B] or None) -> like x."""
