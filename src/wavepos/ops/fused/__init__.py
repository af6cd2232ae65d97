"""The fused Triton kernel."""
