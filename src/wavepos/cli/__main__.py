"""`python -m wavepos.cli`: the command where no script is installed, as for `torchrun -m`."""

from wavepos.cli import main

if __name__ == "__main__":
    main()
