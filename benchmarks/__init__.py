"""Speed and memory of attention with positional methods, beside what others offer; `python -m benchmarks` runs them."""
