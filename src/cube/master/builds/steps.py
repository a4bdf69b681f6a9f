"""What each kind of step does in the sandbox of its build. Nothing of a client is ever unpacked or run on the host."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace

from cube.master.builds.surroundings import Surroundings
from cube.master.builds.uploads import Uploads
from cube.master.builds.workshop import StepFailed, Workshop
from cube.model.builds import Step, StepKind

#: A part of a path with one of these is a pattern, which the client has applied already.
_PATTERN = re.compile(r"[*?\[{]")
#: A name, or the number of a user that need not be anybody.
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}|[0-9]{1,9}")

#: Images without ``useradd`` exist; the two files are the same everywhere.
_MAKE_USER = """
id -u -- "$1" >/dev/null 2>&1 && exit 0
shell=/bin/sh; [ -x /bin/bash ] && shell=/bin/bash
if command -v useradd >/dev/null 2>&1; then
    exec useradd --create-home --user-group --shell "$shell" -- "$1"
fi
set -e
uid=1000
while grep -q "^[^:]*:[^:]*:$uid:" /etc/passwd /etc/group; do uid=$((uid + 1)); done
echo "$1:x:$uid:$uid::/home/$1:$shell" >> /etc/passwd
echo "$1:x:$uid:" >> /etc/group
mkdir -p "/home/$1"
chown "$uid:$uid" "/home/$1"
"""

_MAKE_DIRECTORY = """
cd -- "$2" 2>/dev/null || cd /
[ -d "$1" ] && { cd -- "$1" && pwd; exit; }
mkdir -p -- "$1" && chown -- "$3" "$1" && cd -- "$1" && pwd
"""

#: $1 archive, $2 how it is packed, $3 what of it, $4 where to, $5 owner, $6 permissions, $7 where a relative $4 begins.
_UNPACK = """
set -eu
umask 022
place="$1.d"
trap 'rm -rf -- "${1%/*}"' EXIT
mkdir -- "$place"
tar -x"$2"of "$1" -C "$place" || { echo "the archive could not be unpacked" >&2; exit 1; }
item="$place/$3"
[ -e "$item" ] || [ -L "$item" ] || { echo "$3 is not in the uploaded files" >&2; exit 1; }
owner="$5"
case "$owner" in
    *:*) ;;
    *) group=$(id -g -- "$owner" 2>/dev/null) && owner="$owner:$group" ;;
esac
chown -R -h -- "$owner" "$item"
[ -z "$6" ] || chmod -R -- "$6" "$item"
cd -- "$7" 2>/dev/null || cd /
case "$4" in
    /*) target="$4" ;;
    *) target="$PWD/$4" ;;
esac
directory() {
    [ -d "$1" ] && return
    mkdir -p -- "$1"
    chown -- "$owner" "$1"
}
if [ -d "$item" ] && [ ! -L "$item" ]; then
    directory "$target"
    for entry in "$item"/* "$item"/.[!.]* "$item"/..?*; do
        [ -e "$entry" ] || [ -L "$entry" ] || continue
        cp -a -- "$entry" "$target/"
    done
elif [ -d "$target" ] || [ "${target%/}" != "$target" ]; then
    directory "$target"
    cp -a -- "$item" "$target/"
else
    directory "${target%/*}/"
    cp -a -- "$item" "$target"
fi
"""

_Action = Callable[[Workshop, Step, Surroundings, Uploads], Awaitable[Surroundings]]


async def carry_out(workshop: Workshop, step: Step, surroundings: Surroundings, uploads: Uploads) -> Surroundings:
    """Carry out a step; returns what the next one runs with. Raises ``StepFailed``, and what the guest raises."""
    return await _ACTIONS[step.kind](workshop, step, surroundings, uploads)


async def _run(workshop: Workshop, step: Step, surroundings: Surroundings, _: Uploads) -> Surroundings:
    command, user = (*step.args, "")[:2]
    await workshop.run(command, surroundings, user)
    return surroundings


async def _env(_: Workshop, step: Step, surroundings: Surroundings, __: Uploads) -> Surroundings:
    return surroundings.with_variables(step.args)


async def _user(workshop: Workshop, step: Step, surroundings: Surroundings, _: Uploads) -> Surroundings:
    """Make a user that there is not. A group behind the name plays no part: commands have all groups of the user."""
    user = surroundings.expanded(step.args[0]).partition(":")[0]
    if _USER.fullmatch(user) is None:
        raise StepFailed(f"{user[:100]!r} is no name of a user")
    if not user.isdecimal():
        await workshop.script(_MAKE_USER, user)
    return replace(surroundings, user=user)


async def _workdir(workshop: Workshop, step: Step, surroundings: Surroundings, _: Uploads) -> Surroundings:
    path = surroundings.expanded(step.args[0])
    start = await workshop.answer("pwd", surroundings)
    root = replace(surroundings, user="root", workdir="/")
    directory = await workshop.answer(_MAKE_DIRECTORY, root, path, start, surroundings.user)
    return replace(surroundings, workdir=directory)


async def _copy(workshop: Workshop, step: Step, surroundings: Surroundings, uploads: Uploads) -> Surroundings:
    source, target, owner, mode = (*step.args, "", "")[:4]
    async with uploads.using(step.files_hash) as upload:
        archive = await workshop.bring(upload.path)
    start = await workshop.answer("pwd", surroundings)
    target, owner = surroundings.expanded(target), owner or surroundings.user
    await workshop.script(_UNPACK, archive, upload.packing, plain_part(source), target, owner, mode, start)
    return surroundings


def plain_part(source: str) -> str:
    """The part of a path before the first pattern, without a way out of the archive: ``src/*.py`` → ``src``."""
    parts: list[str] = []
    for part in source.split("/"):
        if _PATTERN.search(part):
            break
        if part == ".." and parts:
            parts.pop()
        elif part not in ("", ".", ".."):
            parts.append(part)
    return "/".join(parts) or "."


_ACTIONS: dict[StepKind, _Action] = {
    StepKind.RUN: _run,
    StepKind.ENV: _env,
    StepKind.USER: _user,
    StepKind.WORKDIR: _workdir,
    StepKind.COPY: _copy,
}
