"""atom-edge, through its public session, without lookahead."""

from functools import partial

from protocol import serve
from run_atom_edge import load

if __name__ == "__main__":
    serve(partial(load, lookahead=False))
