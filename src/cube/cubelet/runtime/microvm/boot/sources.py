"""Where a kernel and its modules come from: a file that the settings name, an installed or a downloaded package."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cube.model.errors import HostError
from cube.settings import Settings

PACKAGE = "linux-image-cloud-amd64"
_KERNEL = re.compile(r"vmlinuz-(.+-cloud-amd64)")
_REAL = re.compile(r"^\s*Depends:\s*(linux-image-\S+-cloud-amd64)\s*$", re.MULTILINE)

#: Seconds for each step of fetching a package.
_PATIENCE_S = 600

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class KernelSource:
    """A kernel, packed or not, and the directory of its modules; ``None`` when all it needs is built in."""

    kernel: Path
    modules: Path | None


def downloads(settings: Settings) -> Path:
    """Where a downloaded package is taken apart."""
    return settings.state_dir / "boot" / "package"


async def find_kernel(settings: Settings, report: Report) -> KernelSource:
    """The kernel to boot. Raises ``HostError`` when there is none and none can be downloaded."""
    if settings.vm_kernel:
        return _configured(settings)
    if (installed := _newest(Path("/"))) is not None:
        return installed
    target = downloads(settings)
    if (downloaded := _newest(target)) is not None:
        return downloaded
    await _download(target, report)
    if (downloaded := _newest(target)) is None:
        raise HostError(f"the package {PACKAGE} has no kernel in it")
    return downloaded


def _configured(settings: Settings) -> KernelSource:
    kernel, modules = Path(settings.vm_kernel), Path(settings.vm_modules)
    if not kernel.is_file():
        raise HostError(f"CUBE_VM_KERNEL names {str(kernel)!r}, which is not a file")
    if settings.vm_modules and not (modules / "modules.dep").is_file():
        raise HostError(f"CUBE_VM_MODULES names {str(modules)!r}, which is not a directory that depmod has filled")
    return KernelSource(kernel, modules if settings.vm_modules else None)


def _newest(root: Path) -> KernelSource | None:
    found = list(_sources(root))
    return max(found, key=lambda source: _order(source.kernel.name)) if found else None


def _sources(root: Path) -> Iterator[KernelSource]:
    for kernel in (root / "boot").glob("vmlinuz-*-cloud-amd64"):
        match = _KERNEL.fullmatch(kernel.name)
        for modules in (root / "lib/modules", root / "usr/lib/modules"):
            if match and (modules / match[1] / "modules.builtin").is_file():
                yield KernelSource(kernel, modules / match[1])
                break


def _order(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


async def _download(target: Path, report: Report) -> None:
    """Fetch the package and take it apart; nothing is installed on this machine."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        report(f"looking for the package {PACKAGE}")
        match = _REAL.search(await _output("apt-cache", "depends", PACKAGE))
        if match is None:
            raise HostError(f"apt knows no package {PACKAGE}; run apt-get update, or set CUBE_VM_KERNEL")
        report(f"downloading {match[1]}")
        await _output("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", match[1], cwd=partial)
        (package,) = partial.glob("*.deb")
        report(f"unpacking {match[1]}")
        await _output("dpkg-deb", "--extract", package.name, "tree", cwd=partial)
        await _output("depmod", "--basedir", "tree", _version(partial / "tree"), cwd=partial)
        shutil.rmtree(target, ignore_errors=True)
        (partial / "tree").rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _version(tree: Path) -> str:
    """A package brings no list of what its modules need: that is made where it is installed."""
    (modules,) = [path for top in ("lib", "usr/lib") for path in (tree / top / "modules").glob("*")]
    return modules.name


async def _output(*argv: str, cwd: Path | None = None) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError:
        raise HostError(f"{argv[0]} is needed to fetch a kernel and is not installed; or set CUBE_VM_KERNEL") from None
    try:
        async with asyncio.timeout(_PATIENCE_S):
            output, errors = await process.communicate()
    except TimeoutError:
        raise HostError(f"{' '.join(argv[:2])} took longer than {_PATIENCE_S} s; or set CUBE_VM_KERNEL") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise HostError(f"{' '.join(argv[:2])} failed: {errors.decode(errors='replace').strip()[-500:]}")
    return output.decode(errors="replace")
