"""How commands run in an image, by engine, and all processes that one of them has started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INSIDE = "/proof"  # where a container has the scratch folder
DRIVER = "/usr/local/nvidia/bin:/usr/local/cuda/bin"  # where a host may bring nvidia-smi from


@dataclass(frozen=True)
class Where:
    """An image, and how commands run in it."""

    engine: str
    image: str
    scratch: Path
    env: Mapping[str, str]

    @property
    def inside(self) -> str:
        """The scratch folder's name there."""
        return str(self.scratch) if self.engine == "none" else INSIDE

    def program(self, home: str, *argv: str, env: Mapping[str, str] | None = None) -> list[str]:
        """A command of ours, without the image's own start; `home` is a name below scratch."""
        own = f"{self.image}/bin" if self.engine == "none" else "/opt/venv/bin"
        script = (
            f'export PATH="{own}:$PATH:{DRIVER}" HOME="{self.inside}/{home}"; '
            'export CUDA_CACHE_PATH="$HOME/.nv/ComputeCache" XDG_CACHE_HOME="$HOME/.cache"; '
            'mkdir -p "$HOME"; exec "$@"'
        )
        # Once more: a bare folder has no scripts that would take what Apptainer is given.
        both = {**self.env, **(env or {})}
        own_env = [f"{key}={value}" for key, value in both.items()]
        argv = ("env", *own_env, *argv)
        return self._command(("-c", script, "sh", *argv), {}, name=home, entry="sh")

    def server(self, home: str, command: Sequence[str], *argv: str) -> list[str]:
        """The image's own start, with caches below `home`."""
        env = {"IMGBUILD_CACHE": f"{self.inside}/{home}"}
        if self.engine == "none":
            return self.program(home, *command, *argv, env=env)
        return self._command(argv, env, name=home)

    def _command(
        self, argv: Sequence[str], env: Mapping[str, str], *, name: str, entry: str = ""
    ) -> list[str]:
        both = {**self.env, **env}
        if self.engine == "none":
            return ["env", *(f"{key}={value}" for key, value in both.items()), entry, *argv]
        if self.engine == "docker":
            options = ["--rm", f"--name={self.name(name)}", "--gpus=all", "--network=host"]
            options += ["--shm-size=1g", f"--volume={self.scratch}:{INSIDE}"]
            options += [f"--env={key}={value}" for key, value in both.items()]
            options += [f"--entrypoint={entry}"] if entry else []
            return ["docker", "run", *options, self.image, *argv]
        options = ["--nv", "--cleanenv", "--no-home", "--pwd", INSIDE]
        options += [f"--env={key}={value}" for key, value in both.items()]
        options += [f"--bind={self.scratch}:{INSIDE}"]
        if entry:
            return ["apptainer", "exec", *options, self.image, entry, *argv]
        return ["apptainer", "run", *options, self.image, *argv]

    def name(self, home: str) -> str:
        """Of a container of Docker's."""
        return f"imgbuild-{self.scratch.name}-{home}".lower().replace("_", "-")


class Group:
    """A process and all that it has started, of which nothing stays."""

    def __init__(self, command: Sequence[str], out: Path, err: Path | None, container: str) -> None:
        self.container = container  # Docker's name of it
        self.start = time.monotonic()
        with out.open("wb") as stdout, (err or out).open("ab") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=out.parent,
                start_new_session=True,
            )

    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self.start

    def pids(self) -> set[int]:
        """Its processes, also those whose parent has gone."""
        root = self.process.pid
        parents, found = _parents(), {root}
        if self.container and (pid := _docker_pid(self.container)):
            found.add(pid)
        more = True
        while more:
            children = {pid for pid, parent in parents.items() if parent in found}
            more = not children <= found
            found |= children
        for pid in parents:
            with contextlib.suppress(OSError):
                if os.getsid(pid) == root:
                    found.add(pid)
        return found

    def stop(self, seconds: float) -> int | None:
        """SIGTERM; its exit code, None where it did not end."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(seconds)
        return None

    def end(self) -> None:
        """Kill what is left."""
        if self.container:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(
                    ["docker", "rm", "--force", self.container],
                    capture_output=True,
                    check=False,
                    timeout=30,
                )
        mine = {os.getpid(), os.getppid(), 0, 1}
        for _ in range(3):  # one may start another meanwhile
            for pid in self.pids() - mine:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)


def _parents() -> dict[int, int]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                text = (entry / "stat").read_text(errors="replace")
                found[int(entry.name)] = int(text.rpartition(")")[2].split()[1])
    return found


def _docker_pid(name: str) -> int:
    with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
        return int(output("docker", "inspect", "--format={{.State.Pid}}", name))
    return 0


def output(*command: str) -> str:
    """What a command prints; nothing where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.strip() if done.returncode == 0 else ""


class Meter(threading.Thread):
    """Peak of the memory of a group's processes, and what they read from disks."""

    def __init__(self, group: Group) -> None:
        super().__init__(daemon=True)
        self._group, self._over = group, threading.Event()
        self._peak, self._anon = 0, 0
        self._read: dict[int, int] = {}

    def run(self) -> None:
        """Look twice a second: shared memory counts once."""
        while not self._over.wait(0.5):
            total = anon = 0
            for pid in self._group.pids():
                with contextlib.suppress(OSError, ValueError):
                    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
                    rows = dict(line.split()[:2] for line in text.splitlines()[1:])
                    total += int(rows["Pss:"]) << 10
                    anon += int(rows.get("Pss_Anon:", 0)) << 10
                with contextlib.suppress(OSError, ValueError, StopIteration):
                    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
                    own = next(line for line in lines if line.startswith("read_bytes"))
                    self._read[pid] = int(own.split()[1])
            self._peak, self._anon = max(self._peak, total), max(self._anon, anon)

    def figures(self) -> dict[str, Any]:
        """What was seen; None where the kernel does not tell."""
        self._over.set()
        self.join(5)
        return {
            "peak_pss_bytes": self._peak or None,
            "peak_pss_anon_bytes": self._anon or None,
            "read_bytes": sum(self._read.values()) if self._read else None,
        }
