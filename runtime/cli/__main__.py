"""`python -m cir_rt.cli`."""

from cir_rt.cli.command import main

main()
