"""The control groups of this process: where a container or a SLURM job says how much of the machine it may use."""

from pathlib import Path

ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def own_cgroups(controller: str, root: Path = ROOT, own: Path = OWN) -> list[Path]:
    """The folders of this process's group and of those above it, for version 2 and for a controller of version 1.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html. Empty if this is no Linux.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return []
    folders: list[Path] = []
    for _, controllers, path in lines:
        if not controllers or controller in controllers.split(","):
            top = root / controllers if controllers else root
            inner = top / path.lstrip("/")
            folders += [folder for folder in (inner, *inner.parents) if folder.is_relative_to(top)]
    return folders
