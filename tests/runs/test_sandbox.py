"""Generated code reaches nothing, ends within seconds, and leaves nothing; without the word for it, it is not run."""

import ctypes
import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agentlib.runs import sandbox
from agentlib.runs.sandbox import Limits, SandboxError, run_function


def is_allowed() -> bool:
    try:
        return run_function("def f(): return 1", "f", [[]], run_generated_code=True).values == [1]
    except SandboxError:
        return False


SECONDS = 20.0
"""Of the clock, on a busy machine; a program that ran on would take for ever."""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has the namespaces")
confined = pytest.mark.skipif("not is_allowed()", reason="this system refuses unprivileged namespaces")


def outcome(body: str, *arguments: list[object]) -> sandbox.Outcome:
    """Of a function `f` of one argument with this body, within seconds; afterwards no process is left."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    start = time.monotonic()
    found = run_function(f"def f(x):\n{lines}\n", "f", arguments or ([3],), run_generated_code=True)
    assert time.monotonic() - start < SECONDS
    assert left_over() == []
    return found


def left_over() -> list[str]:
    """Processes of sandboxes that nobody waits for."""
    return [number for number, parent in of_sandboxes().items() if parent == 1]


def of_sandboxes() -> dict[str, int]:
    """All processes of sandboxes, and their parents."""
    found = dict[str, int]()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
            parent = int(path.with_name("status").read_text().split("\nPPid:\t")[1].split("\n")[0])
        except OSError:  # it ended meanwhile
            continue
        if any(word.endswith(b"runs/sandbox.py") for word in words):
            found[path.parent.name] = parent
    return found


def test_nothing_runs_without_the_word(monkeypatch):
    monkeypatch.setattr("subprocess.Popen", None)
    with pytest.raises(PermissionError, match=r"read SECURITY.md, then pass run_generated_code=True"):
        run_function("def f(): return 1", "f", [[]])


def test_other_systems_refuse(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(SandboxError, match="on Linux alone"):
        run_function("def f(): return 1", "f", [[]], run_generated_code=True)


def test_a_system_without_namespaces_refuses(monkeypatch, tmp_path):
    """The program is not run then, as a file shows that it would have written."""
    written = tmp_path / "written"
    text = Path(sandbox.__file__).read_text().replace('"user": 0x10000000', '"user": 0x7')  # EINVAL
    (tmp_path / "sandbox.py").write_text(text)
    monkeypatch.setattr(sandbox, "__file__", str(tmp_path / "sandbox.py"))
    with pytest.raises(SandboxError, match="not run here: the system refuses"):
        run_function(f"open({str(written)!r}, 'w')\ndef f(): return 1", "f", [[]], run_generated_code=True)
    assert not written.exists()


@confined
def test_a_program_is_called():
    found = outcome("import itertools, math\nreturn [math.isqrt(x), sum(itertools.repeat(x, 2))]", [9], [16])
    assert found == ([[3, 18], [4, 32]], "")


@confined
@pytest.mark.parametrize(
    ("body", "failure"),
    [
        ("import os\nwhile True: os.fork()", "BlockingIOError"),
        ("import os\nos.execv('/bin/sh', ['sh'])", "FileNotFoundError"),
        ("import threading\nthreading.Thread(target=print).start()", "RuntimeError"),
        ("a = []\nwhile True: a.append(bytearray(10**7))", "MemoryError"),
        ("return len(' ' * 10**10)", "MemoryError"),
        ("return open('/etc/passwd').read()", "FileNotFoundError"),
        ("return [open(f'/{i}', 'w') for i in range(100)]", "Too many open files"),
        ("for i in range(100): open(f'/{i}', 'w').write('a' * 10**5)", "No space left"),
        ("open('/a', 'w').write('a' * 10**7)", "File too large"),
        ("import socket", "ModuleNotFoundError"),
        ("return f(x)", "RecursionError"),
        ("raise SystemExit(0)", "SystemExit"),
        ("return {1}", "TypeError"),
        ("return 1 +", "SyntaxError"),
    ],
)
def test_bad_programs_fail(body, failure):
    found = outcome(body)
    assert found.values is None
    assert failure in found.failure


@confined
@pytest.mark.parametrize(
    "body",
    [
        "while True: pass",
        "import time\ntime.sleep(1000)",
        "import os, signal, time\nos.setsid()\nfor s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)\ntime.sleep(99)",
        "import os\nos._exit(0)",
        "import os\nos.close(1)",
        "import os\nwhile True: os.write(1, b'a' * 60000)",
        "import os\nos.write(1, b'[' * 60000)\nos._exit(0)",
        "return list(range(10**5))",
    ],
)
def test_programs_without_results_end(body):
    assert outcome(body).values is None


@confined
def test_the_process_sees_nothing_of_the_machine():
    """No files, network, other processes, rights, variables; and by system calls it gets none of them back."""
    seen = """import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
address = (ctypes.c_char * 16)(2, 0, 0, 80, 127, 0, 0, 1)
socket = libc.socket(2, 1, 0)
return [os.getpid(), os.uname().nodename, os.listdir("/"), os.listdir("/.."), sorted({*os.environ} - {"LC_CTYPE"}),
        libc.connect(socket, address, 16), ctypes.get_errno(), libc.mount(b"a", b"/", b"tmpfs", 0, None),
        libc.unshare(0x10000000), libc.fork(), libc.chroot(b"/"), libc.kill(-1, 0),
        libc.ptrace(16, 1, 0, 0)]"""
    assert outcome(seen).values == [[2, "sandbox", [], [], [], -1, errno.ENETUNREACH, -1, -1, -1, -1, -1, -1]]


@confined
def test_the_keys_of_the_session_are_out_of_reach():
    body = "import ctypes\nreturn ctypes.CDLL(None).syscall(x, 0, -3, 0)"  # the number of the session's keyring
    call = sandbox.KEYCTL[os.uname().machine]
    ours = ctypes.CDLL(None).syscall(ctypes.c_long(call), 0, -3, 0)
    if ours == -1:
        pytest.skip("the system has no keys")
    assert outcome(body, [call]).values != [ours]


UNBOUND = "import ctypes, os, time\nctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\n"
"""The program's process no longer ends with the one above it."""


@confined
def test_a_process_that_writes_too_much_and_waits_is_ended():
    assert outcome(f"{UNBOUND}for _ in range(3): os.write(1, b'a' * 60000)\ntime.sleep(60)").values is None


@confined
def test_the_process_ends_with_the_one_that_asked_for_it(tmp_path):
    asking = """import sys
from agentlib.runs.sandbox import Limits, run_function
run_function(sys.argv[1], "f", [[]], run_generated_code=True, limits=Limits(seconds=60))"""
    body = "\n    ".join(f"{UNBOUND}time.sleep(60)".splitlines())
    with subprocess.Popen([sys.executable, "-c", asking, f"def f():\n    {body}"]) as process:
        assert comes(lambda: len(of_sandboxes()) >= 3)
        process.kill()
    assert comes(lambda: not of_sandboxes())


def comes(is_so: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SECONDS
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.05)
    return is_so()


@confined
def test_files_are_gone_with_the_process():
    body = "open('/note', 'w').write('a')\nreturn open('/note').read()"
    assert outcome(body).values == ["a"]
    assert not Path("/note").exists()
    assert outcome("import os\nreturn os.listdir('/')").values == [[]]


def test_a_program_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="more than 100"):
        run_function("#" * 200, "f", [], run_generated_code=True, limits=Limits(output=100))


def test_results_are_the_programs_word():
    """Whatever it writes is JSON at most."""
    for text in (b"[" * 60_000, b'{"values": 3}', b'{"values": []}', b"\xff", b'{"failure": {}}', b"1" * 9_000):
        assert sandbox._outcome(sandbox.READY + text, 1, Limits()).values is None
    assert sandbox._outcome(sandbox.READY + json.dumps({"values": [1]}).encode(), 1, Limits()).values == [1]
