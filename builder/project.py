"""Where a project's files are: beside its matrix.yaml, else those that ship with imgbuild.

The shipped tree has the layout of the repository (matrix.yaml, templates/, images/locks/), so a
source checkout is its own shipped tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
SIF_FOLDER = Path("dist")  # where SIFs are written and looked for, unless the user says otherwise


def shipped() -> Path:
    """The tree that came with this installation."""
    data = PACKAGE / "_data"
    return data if data.is_dir() else PACKAGE.parent


def engines_script() -> str:
    """The command that installs and starts engines, as a user here would type it."""
    script = shipped() / "scripts" / "engines.sh"
    here = Path.cwd()
    shown = script.relative_to(here) if script.is_relative_to(here) else script
    return f"bash {shown}"


def _in_repository(folder: Path) -> bool:
    return any((above / ".git").exists() for above in (folder, *folder.parents))


@dataclass(frozen=True)
class Project:
    """A matrix file and the folder whose `images/` and `templates/` belong to it."""

    matrix_file: Path
    root: Path

    @classmethod
    def find(cls, file: Path | None = None) -> Project:
        """`file` if given, else the nearest matrix.yaml upwards, else the shipped one.

        It is looked for up to the top of a Git repository; outside of one, only in the working
        directory: what lies above that is not of one project.
        """
        if file is not None:
            return cls(file, file.parent)
        here, folder = Path.cwd(), Path()
        for above in (here, *here.parents) if _in_repository(here) else (here,):
            if (above / "matrix.yaml").is_file():
                return cls(folder / "matrix.yaml", folder)
            if (above / ".git").exists():
                break
            folder /= ".."
        return cls(shipped() / "matrix.yaml", Path())

    @property
    def template_dirs(self) -> tuple[Path, ...]:
        """Searched in order: a project's own template hides the shipped one of the same name."""
        return (self.root / "templates", shipped() / "templates")

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def locks(self) -> Path:
        """Where this project's locks are written."""
        return self.images / "locks"

    def sizes(self, cell_id: str) -> Path:
        """Where the sizes of a cell's image are recorded."""
        return self.images / "sizes" / f"{cell_id}.json"

    @property
    def lock_dirs(self) -> tuple[Path, ...]:
        return (self.locks, shipped() / "images" / "locks")

    @property
    def wheels(self) -> Path:
        """Wheels that a site adds by hand; the folder itself is in every build context."""
        return self.images / "wheels"

    @property
    def runtime(self) -> Path:
        return PACKAGE / "runtime"
