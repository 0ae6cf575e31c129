"""What bench/render.py compares with: images described to HPC Container Maker (hpccm).

Reads a JSON list of images, writes FOLDER/<id>/Dockerfile and Singularity.def for each. It chooses
no release, reads no lock and checks nothing: all that is done before it starts.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import hpccm
from hpccm.building_blocks import packages, pip
from hpccm.primitives import baseimage, comment, copy, environment, label, runscript, user, workdir

FILES = {"docker": "Dockerfile", "singularity": "Singularity.def"}


def main(images: Path, folder: Path) -> None:
    """Write both files of each image."""
    logging.disable(logging.WARNING)  # it cannot tell all distributions from an image's name
    for image in json.loads(images.read_text(encoding="utf-8")):
        target = folder / image["id"]
        target.mkdir(parents=True)
        for form, name in FILES.items():
            hpccm.config.set_container_format(form)
            (target / name).write_text(f"{stage(image)}\n", encoding="utf-8")


def stage(image: dict[str, Any]) -> hpccm.Stage:
    """One image in hpccm's words."""
    made = hpccm.Stage()
    made += comment(image["id"])
    made += baseimage(image=image["base"], _distro=image["distro"])
    made += packages(ospackages=image["packages"])
    for lock in image["locks"]:
        made += pip(requirements=lock, pip="pip3", ospackages=[])
    for source, path in image["copies"]:
        made += copy(src=source, dest=path)
    made += environment(variables=image["env"])
    made += label(metadata=image["labels"])
    made += user(user=image["user"])
    made += workdir(directory=image["home"])
    made += runscript(commands=[" ".join(image["entrypoint"])])
    return made


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
