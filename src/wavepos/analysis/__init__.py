"""What the paper claims and shows, computed: RoPE as a wavelet transform, windows, attention maps, tables."""
