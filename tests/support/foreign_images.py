"""Images unlike our templates, made of what Debian's packages have: container hubs are far away."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from support.oci_images import Entry, directory, file, layer, make_layout, symlink

_PROGRAM = r"""
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
    char line[256] = "";
    if (argc > 1 && strcmp(argv[1], "cat") == 0)
        while (fgets(line, sizeof line, stdin)) fputs(line, stdout);
    else
        printf("hello from %s as %u\n", LIBC, getuid());
    return 0;
}
"""
_LOADER, _LIBRARIES = "/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu"
#: Those of busybox that a person at a prompt expects.
_TOOLS = "sh ls cat id echo env pwd sleep grep mkdir rm touch chown"


def like_alpine(workshop: Path) -> Path:
    """An OCI layout of an image with musl and busybox: no glibc, no bash, no Python, no ``useradd``."""
    program = _compiled(workshop, "musl-gcc", "musl")
    entries = [
        *_below(("bin", "etc", "home", "home/user", "lib", "tmp", "usr", "usr/bin", "root")),
        file("etc/passwd", b"root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n"),
        file("etc/group", b"root:x:0:\nuser:x:1000:\n"),
        file("etc/os-release", b"ID=like-alpine\n"),
        _copied("bin/busybox", Path(shutil.which("busybox") or "busybox")),
        *(symlink(f"bin/{tool}", "busybox") for tool in _TOOLS.split()),
        _copied("lib/ld-musl-x86_64.so.1", Path("/lib/x86_64-linux-musl/libc.so")),
        _copied("usr/bin/hello", program),
    ]
    return make_layout(
        workshop / "alpine", layer(*entries), User="user", WorkingDir="/home/user", Env=["PATH=/usr/bin:/bin"]
    )


def like_distroless(workshop: Path) -> Path:
    """An OCI layout of an image with glibc and one program: no shell, nothing to look around with."""
    program = _compiled(workshop, "gcc", "glibc")
    entries = [
        *_below(("app", "etc", "home", "home/nonroot", "lib", "lib/x86_64-linux-gnu", "lib64")),
        file("etc/passwd", b"root:x:0:0::/root:/sbin/nologin\nnonroot:x:65532:65532::/home/nonroot:/sbin/nologin\n"),
        file("etc/group", b"root:x:0:\nnonroot:x:65532:\n"),
        _copied(_LOADER[1:], Path(_LOADER)),
        _copied(f"{_LIBRARIES[1:]}/libc.so.6", Path(_LIBRARIES) / "libc.so.6"),
        _copied("app/hello", program),
    ]
    return make_layout(
        workshop / "distroless", layer(*entries), User="nonroot", WorkingDir="/app", Entrypoint=["/app/hello"]
    )


def _compiled(workshop: Path, compiler: str, libc: str) -> Path:
    program = workshop / f"hello-{libc}"
    command = [compiler, "-O1", f'-DLIBC="{libc}"', "-x", "c", "-", "-o", str(program)]
    subprocess.run(command, input=_PROGRAM, text=True, check=True, timeout=60)
    return program


def _below(names: tuple[str, ...]) -> list[Entry]:
    owners = {"home/user": 1000, "home/nonroot": 65532}
    return [directory(name, uid=owners.get(name, 0), gid=owners.get(name, 0)) for name in names]


def _copied(name: str, source: Path) -> Entry:
    return file(name, source.read_bytes(), mode=0o755)
