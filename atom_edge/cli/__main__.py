"""`python -m atom_edge.cli`."""

from atom_edge.cli import main

main()
