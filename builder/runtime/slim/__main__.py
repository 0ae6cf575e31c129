"""Slims on its own: `python3 -ES slim PATH --sm 90`, wherever this folder stands and as whatever.

A build mounts nothing but this folder into the step that installs, so that a change of the rest of
the runtime leaves its layers as they are.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[0] = os.path.dirname(here)
    name = f"{os.path.basename(here)}.command"
    __import__(name)
    sys.exit(sys.modules[name].main(sys.argv[1:]))
