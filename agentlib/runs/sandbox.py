"""Running programs that a model wrote, in a process that reaches nothing of the machine.

The process is a Python that has loaded some modules (`MODULES`), and then gives up all else: it is in namespaces of its
own (user, mount, network, processes, messages), its root is an empty folder in memory, and it has no rights, no
network, no other processes or threads, and little time, memory and room for files. It is made by Linux's own calls;
where these are not allowed, nothing is run. SECURITY.md says how far this goes.

This file is the program of that process, too, and imports nothing but Python's own modules.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

MODULES = (
    "bisect", "collections", "copy", "ctypes", "functools", "heapq", "io", "itertools", "json", "math", "operator",
    "re", "resource", "signal", "string", "time",
)  # fmt: skip
"""Modules that a program can import, with those that they import."""
READY = b"ready\n"
NOBODY = 65_534
NAMESPACES = {"mount": 0x20000, "utsname": 0x4000000, "ipc": 0x8000000, "user": 0x10000000, "pid": 0x20000000,
              "net": 0x40000000}  # fmt: skip
PRIVATE, READ_ONLY, PLAIN = (
    1 << 18 | 1 << 14,
    1,
    2 | 4 | 8,
)  # MS_PRIVATE | MS_REC, MS_RDONLY, no set-id, devices, programs
PIVOT_ROOT, KEYCTL = {"x86_64": 155, "aarch64": 41, "riscv64": 41}, {"x86_64": 250, "aarch64": 219, "riscv64": 219}
"""Numbers of system calls, by machine."""


class SandboxError(RuntimeError):
    """Generated code cannot be run here without danger, and was not."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a program may use."""

    seconds: float = 2.0
    """Time, of the processor and of the clock."""
    memory: int = 256 << 20
    """Bytes of memory."""
    files: int = 16
    """Files that are open at once."""
    room: int = 1 << 20
    """Bytes of all files, which are in memory and gone with the process."""
    output: int = 1 << 16
    """Bytes of the results as JSON, and of the program."""


class Outcome(NamedTuple):
    """Results of a program's function."""

    values: list[Any] | None
    """One of each call; None where any failed."""
    failure: str = ""
    """Why it failed."""


def run_function(
    program: str,
    function: str,
    arguments: Sequence[Sequence[Any]],
    *,
    run_generated_code: bool = False,
    limits: Limits = Limits(),
) -> Outcome:
    """Runs a program in a sandbox, and calls one of its functions.

    The results are the program's word: compare them to values that it has not seen.

    Args:
        program: its text.
        function: name of the function that it defines.
        arguments: those of each call, which JSON can hold, as the results have to.
        run_generated_code: nothing is run without it.
        limits: time, memory and files.

    Raises:
        PermissionError: `run_generated_code` is False.
        SandboxError: the system does not allow what the sandbox is made of.
        ValueError: the program and its arguments are longer than `limits.output`.
    """
    if not run_generated_code:
        raise PermissionError("code of a model is not run unless you ask for it: read SECURITY.md, then pass "
                              "run_generated_code=True")  # fmt: skip
    if sys.platform != "linux" or not sys.executable:
        raise SandboxError("generated code is run on Linux alone, in namespaces that other systems lack")
    work = {"program": program, "function": function, "arguments": list(arguments), "limits": asdict(limits)}
    written = json.dumps(work).encode()
    if len(written) > limits.output:
        raise ValueError(f"the program and its arguments take {len(written)} bytes, more than {limits.output}")
    command = [sys.executable, "-I", "-S", os.path.abspath(__file__)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/", env={},
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        watch = threading.Timer(limits.seconds + 20.0, process.kill)  # were its own clock to fail
        watch.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(written)
                process.stdin.close()
            found = process.stdout.read(limits.output + len(READY))
        finally:
            process.terminate()  # it ends all others before itself
            process.wait()
            watch.cancel()
    return _outcome(found, len(arguments), limits)


def _outcome(found: bytes, calls: int, limits: Limits) -> Outcome:
    """What the process wrote. Behind `READY` it may be anything."""
    if not found.startswith(READY):
        why = found.decode(errors="replace").strip() or "its process did not start"
        raise SandboxError(f"generated code is not run here: {why}")
    found = found.removeprefix(READY)
    if not found:
        return Outcome(None, f"it ended without results, within {limits.seconds:g} s and {limits.memory >> 20} MB")
    try:
        result = json.loads(found)
    except (ValueError, RecursionError):
        result = None
    if isinstance(result, dict) and isinstance(result.get("values"), list) and len(result["values"]) == calls:
        return Outcome(result["values"])
    failure = result.get("failure") if isinstance(result, dict) else None
    return Outcome(None, str(failure)[:500] if failure else "its results are no JSON, or too long")


# The process of the sandbox -------------------------------------------------------------------------------------------


def _main() -> None:
    """Makes the namespaces, in them a first process and that of the program; ends them when their time is over."""
    import ctypes
    import signal

    libc = ctypes.CDLL(None, use_errno=True)
    work = json.loads(sys.stdin.buffer.read())
    for name in MODULES:
        __import__(name)
    ends = [signal.SIGCHLD, signal.SIGTERM]
    try:
        _leave(libc)
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: ends with the process that asked for it
        signal.pthread_sigmask(signal.SIG_BLOCK, ends)
        child = os.fork()
    except OSError as error:
        os.write(1, f"the system refuses namespaces ({error})".encode())
        return
    if child:
        signal.sigtimedwait(ends, work["limits"]["seconds"])
        os.kill(child, signal.SIGKILL)  # the first of its namespace: all others in it end, too
        os.waitpid(child, 0)
        return
    # The program's process may set what it likes for itself: the one above it ends by what is set here.
    libc.prctl(1, signal.SIGKILL)
    libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: the program cannot trace it
    try:
        program = os.fork()
        if program:
            os.waitpid(program, 0)
            os._exit(0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ends)
        _lock(libc, work["limits"])
    except (OSError, AttributeError, ValueError) as error:
        os.write(1, f"the system refuses a sandbox ({error})".encode())
        os._exit(1)
    os.write(1, READY)
    os.write(1, _called(work["program"], work["function"], work["arguments"]))
    os._exit(0)


def _checked(result: int, what: str) -> None:
    import ctypes

    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _leave(libc: Any) -> None:
    """Into new namespaces, in which this process is the first user; as nobody, where it was the machine's."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)  # limits do not hold for the machine's first user
        _checked(libc.prctl(4, 1, 0, 0, 0), "prctl")  # PR_SET_DUMPABLE: the files below are still its own
    user, group = os.getuid(), os.getgid()
    _checked(libc.unshare(sum(NAMESPACES.values())), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _lock(libc: Any, limits: dict[str, Any]) -> None:
    """An empty root in memory, limits, and no rights."""
    import ctypes
    import resource

    for name in ("shmmni", "msgmni"):  # of these messages' namespace, where the system allows it
        with contextlib.suppress(OSError), open(f"/proc/sys/kernel/{name}", "w") as file:
            file.write("0")
    machine = os.uname().machine
    if machine not in PIVOT_ROOT:
        raise OSError(f"pivot_root is not known on {machine}")
    # The keys of whoever asked are in the session's keyring; where the call is refused, the program has none, either.
    if libc.syscall(ctypes.c_long(KEYCTL[machine]), 1, None) < 0:
        _checked(ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM), "keyctl")
    _checked(libc.sethostname(b"sandbox", 7), "sethostname")
    _checked(libc.mount(None, b"/", None, PRIVATE, None), "mount")
    # On a folder that every machine has, and no Python lies in.
    room = f"size={limits['room']},nr_inodes=64,mode=0755".encode()
    _checked(libc.mount(b"tmpfs", b"/proc", b"tmpfs", PLAIN, room), "mount of a tmpfs")
    os.chdir("/proc")
    _checked(libc.syscall(ctypes.c_long(PIVOT_ROOT[machine]), b".", b"."), "pivot_root")
    _checked(libc.umount2(b".", 2), "umount")  # MNT_DETACH: the old root, which lies over the new one
    os.mkdir("/room")
    os.chroot("/room")  # in which the system makes no namespace of users, and so no rights
    os.chdir("/")
    seconds = int(limits["seconds"]) + 1
    for name, most in (("CPU", seconds), ("AS", limits["memory"]), ("NOFILE", limits["files"]), ("NPROC", 0),
                       ("FSIZE", limits["room"]), ("CORE", 0), ("MSGQUEUE", 0), ("MEMLOCK", 0)):  # fmt: skip
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
    _checked(libc.prctl(38, 1, 0, 0, 0), "prctl")  # PR_SET_NO_NEW_PRIVS
    header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    _checked(libc.capset(header, nothing), "capset")


def _called(program: str, function: str, arguments: list[list[Any]]) -> bytes:
    """The program's results as JSON, or its failure."""
    import io

    sys.stdout = sys.stderr = io.StringIO()
    sys.stdin = io.StringIO()
    try:
        names: dict[str, Any] = {"__name__": "generated"}
        exec(compile(program, "<generated>", "exec"), names)  # noqa: S102 - what this file is for
        return json.dumps({"values": [names[function](*each) for each in arguments]}).encode()
    except BaseException as error:
        return json.dumps({"failure": f"{type(error).__name__}: {error}"[:500]}).encode()


if __name__ == "__main__":
    _main()
