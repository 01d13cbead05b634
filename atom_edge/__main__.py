"""`python -m atom_edge`: the command line, where the script `atom-edge` is not on the path."""

from atom_edge.cli import main

if __name__ == "__main__":
    main()
