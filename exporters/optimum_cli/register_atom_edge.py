"""Makes `optimum-cli export onnx` know Atom.

Optimum imports every file of the namespace folder `optimum.commands.register`, in which this one is
installed, at each start of its command line. So it does nothing but for an ONNX export, and never
lets an error of ours stop somebody else's command.
"""

import contextlib
import sys

if sys.argv[1:3] == ["export", "onnx"]:
    with contextlib.suppress(Exception):
        from atom_edge.exporters.optimum import register

        register()
