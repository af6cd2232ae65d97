"""Studies: grids of runs, what is measured of them, and their reports. `study.py` says what one is."""
