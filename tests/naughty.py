"""A stranger's job type that does whatever its parameters say, installed as a package is: found by its entry point."""

import importlib
import sys

CODE = '''
import os, socket, subprocess, sys, time
from pydantic import BaseModel, ConfigDict
from idlegrid.grid.jobs import Ask
from idlegrid.grid.task_limits import TaskLimits

GENERATIONS = 7
"""A bomb of these tests ends by itself, with 128 processes: they share the machine."""


class Params(BaseModel):
    model_config = ConfigDict(extra="forbid")
    do: str = "answer"
    mark: str = ""


class Result(BaseModel):
    answer: str


def bomb(mark):
    for _ in range(GENERATIONS):
        os.fork()
    time.sleep(30)


def memory(mark):
    held = []
    while len(held) < 64:  # 4 GB
        held.append(bytearray(os.urandom(1 << 20)) * 64)


def loop(mark):
    while True:
        pass


def printing(mark):
    for _ in range(1000):
        sys.stdout.write("x" * 1_000_000)


def result(mark):
    return "x" * 50_000_000


def tokens(mark, context):
    for _ in range(1000):
        context.tokens("x" * 1_000_000)


def sockets(mark):
    held = []
    for _ in range(5000):
        one = socket.socket()
        one.bind(("127.0.0.1", 0))
        one.listen()
        held.append(one)


def leaves(mark):
    """Something that wants to outlive its task: in a session of its own, twice orphaned."""
    code = "import os, time; os.setsid(); os.fork() and os._exit(0); time.sleep(60)"
    subprocess.Popen([sys.executable, "-c", code, mark], start_new_session=True).wait()
    return "left"


def segfault(mark):
    import ctypes
    ctypes.string_at(0)


def fails(mark):
    raise KeyError("nothing there")


def refuses(mark):
    raise ValueError("mark: nobody can use it")


def environment(mark):
    return " ".join(sorted(os.environ))


class Naughty:
    name, Params, Result = "naughty", Params, Result
    isolated = True
    task_limits = TaskLimits(
        memory_bytes=300_000_000, wall_seconds=4, output_bytes=20_000_000, processes=24, files=200
    )

    def ask(self, params):
        return Ask(type="naughty")

    def run(self, params, context):
        if params.do == "answer":
            context.progress({"done": 1})
            context.tokens("hello")
            return Result(answer=f"{params.mark} from {os.getpid()}")
        if params.do == "waits":
            while not context.cancelled():
                time.sleep(0.01)
            context.check()
        if params.do == "tokens":
            tokens(params.mark, context)
        return Result(answer=str(globals()[params.do](params.mark)))


JOB_TYPE = Naughty()
'''


def install(folder):
    """Write the package into `folder`, which must be on `sys.path`."""
    (folder / "naughty_types.py").write_text(CODE)
    info = folder / "naughty_types-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: naughty-types\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[idlegrid.job_types]\nnaughty = naughty_types:JOB_TYPE\n")
    sys.modules.pop("naughty_types", None)
    importlib.invalidate_caches()
