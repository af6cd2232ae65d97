"""Speed and memory of attention with positional methods, beside what others offer; run by `wavepos bench`."""
