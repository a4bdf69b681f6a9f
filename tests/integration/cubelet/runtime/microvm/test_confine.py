"""The last system call filter of a forked machine, tried by a program of its own that has nothing else against it."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[5] / "native" / "vmm-guard"
#: Tries what stands in its arguments, under the filter, and says with what error it ended; 0 for none.
PROGRAM = r"""
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "confine.h"

static void *nothing(void *argument) { return argument; }

int main(int argc, char **argv)
{
    pthread_t thread;
    long result = -1;
    (void)argc;
    if (confine((uint32_t)getpid()) != 0)
        return 1;
    switch (atoi(argv[1])) {
    case -1: result = pthread_create(&thread, NULL, nothing, NULL) == 0 ? pthread_join(thread, NULL) : -1; break;
    case -2: result = syscall(SYS_tgkill, getpid(), gettid(), 0); break;
    case -3: result = syscall(SYS_tgkill, getppid(), getppid(), 0); break;
    case -4: result = syscall(SYS_clone, CLONE_VFORK | SIGCHLD, 0, 0, 0, 0); break;
    default: result = syscall(atoi(argv[1]), 0, 0, 0, 0, 0, 0); break;
    }
    printf("%d\n", result < 0 ? errno : 0);
    return 0;
}
"""
#: Numbers of x86-64.
REFUSED = {
    "fork": 57,
    "vfork": 58,
    "execve": 59,
    "execveat": 322,
    "kill": 62,
    "tkill": 200,
    "rt_sigqueueinfo": 129,
    "rt_tgsigqueueinfo": 297,
    "pidfd_open": 434,
    "pidfd_send_signal": 424,
    "pidfd_getfd": 438,
    "ptrace": 101,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "setuid": 105,
    "setresuid": 117,
    "setresgid": 119,
    "setgroups": 116,
    "capset": 126,
    "setsid": 112,
    "setpriority": 141,
    "sched_setscheduler": 144,
    "shmget": 29,
    "semget": 64,
    "msgget": 68,
    "mq_open": 240,
    "socket": 41,
    "bind": 49,
    "connect": 42,
}

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter knows the calls of x86-64")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("confine")
    (directory / "main.c").write_text(PROGRAM)
    built = directory / "main"
    command = ["gcc", "-D_GNU_SOURCE", "-I", SOURCES, directory / "main.c", SOURCES / "confine.c", "-o", built]
    subprocess.run([*command, "-lpthread"], check=True)
    return built


def tried(program: Path, what: int) -> int:
    run = ["setpriv", "--no-new-privs", str(program), str(what)]
    return int(subprocess.run(run, capture_output=True, text=True, check=True, timeout=20).stdout)


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED.keys())
def test_it_starts_nobody_and_reaches_nobody(program: Path, call: int) -> None:
    assert tried(program, call) == errno.EPERM


def test_it_cannot_fork_by_clone(program: Path) -> None:
    assert tried(program, -4) == errno.EPERM


def test_flags_that_cannot_be_seen_are_refused(program: Path) -> None:
    assert tried(program, 435) == errno.ENOSYS


def test_it_signals_its_own_threads_alone(program: Path) -> None:
    assert tried(program, -2) == 0
    assert tried(program, -3) == errno.EPERM


def test_it_makes_threads(program: Path) -> None:
    assert tried(program, -1) == 0
