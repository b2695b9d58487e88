"""`idlegrid run`: talk with a model in the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Address, ApiKey, ConfigFile, Url
from .output import Json, print_json, tell
from .settings import settings

if TYPE_CHECKING:
    from ...actors.llm.completion import Completion
    from ...actors.llm.request import Sampling
    from ...grid.config import Settings
    from .run_remote import Remote

    Talk = Callable[[list[dict[str, str]]], Generator[str, None, Completion]]

_GREETING = "Ask something. /clear forgets the conversation, Ctrl-C ends an answer, Ctrl-D ends this."


def run(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="See `idlegrid models`; or a folder.")],
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="What to ask.", show_default="a conversation")
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="How the model is to behave.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Tokens of an answer at most.")] = 512,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0: always the likeliest token.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Choose among the likeliest tokens that have this share.")] = 0.9,
    top_k: Annotated[int, typer.Option(min=0, metavar="N", help="Choose among so many tokens; 0: all.")] = 0,
    seed: Annotated[int | None, typer.Option(metavar="N", help="The same seed gives the same answer.")] = None,
    stop: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="Ends the answer; repeatable.")] = None,
    engine: Annotated[str, typer.Option(metavar="NAME", help="torch or transformers; on this machine.")] = "torch",
    dtype: Annotated[str, typer.Option(metavar="TYPE", help="auto, float32, bfloat16 …; on this machine.")] = "auto",
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda; on this machine.")] = "auto",
    here: Annotated[bool, typer.Option("--here", help="Load the model on this machine in any case.")] = False,
    scheduler: Address = None,
    url: Url = None,
    api_key: ApiKey = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Ask a model, and read the answer while it is written.

    Without a prompt it is a conversation; a prompt can also come through a pipe.

    With --url the model is one that a grid serves. Else it gets a replica of its own, if a scheduler is named here or
    configured; else it is asked of the grid on this machine, if one serves it; else it is loaded on this machine.
    """
    sampling = _sampling(max_tokens, temperature, top_p, top_k, seed, stop)
    values = settings(config)
    address = scheduler or values.scheduler.address
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read()
    first = [{"role": "system", "content": system}] if system is not None else []
    as_usual = not here and (engine, dtype, device) == ("torch", "auto", "auto")
    remote = None
    if url is not None or (as_usual and not address):
        remote = _served(url, model, values, api_key)
    if remote is not None:
        opened = _served_by(remote, model, sampling)
    elif address and not here:
        opened = _on_grid(address, model, sampling)
    else:
        opened = _here(model, engine, dtype, device, sampling)
    with opened as talk:
        if prompt is None:
            _converse(talk, first)
        else:
            _once(talk, model, [*first, {"role": "user", "content": prompt}], as_json=as_json)


def _sampling(
    max_tokens: int, temperature: float, top_p: float, top_k: int, seed: int | None, stop: list[str] | None
) -> Sampling:
    import secrets

    from ...actors.llm.request import Sampling

    return Sampling(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=secrets.randbits(63) if seed is None else seed,
        stop=tuple(stop or ()),
    )


def _served(url: str | None, model: str, values: Settings, api_key: str | None) -> Remote | None:
    """The service that is named; else the one on this machine, if it serves the model. No prompt goes elsewhere by
    itself.
    """
    from .run_remote import Remote, on_this_machine

    if url is None and not on_this_machine(values.service_url):
        return None
    remote = Remote(url or values.service_url, values, api_key)
    if url is not None:
        return remote
    if remote.serves(model):
        tell(f"{model} is served by {remote.base}; --here loads it on this machine instead")
        return remote
    remote.close()
    return None


@contextmanager
def _served_by(remote: Remote, model: str, sampling: Sampling) -> Iterator[Talk]:
    """A model that a service serves."""
    try:
        yield lambda messages: remote.talk(model, messages, sampling)
    finally:
        remote.close()


@contextmanager
def _here(model: str, engine: str, dtype: str, device: str, sampling: Sampling) -> Iterator[Talk]:
    """An engine in this process."""
    import uuid

    from ...actors.llm.request import Request
    from ...actors.llm.resident import encoded, llm_engine
    from ...grid import catalogue

    resident = llm_engine(catalogue.canonical(model, "llm"), engine=engine, dtype=dtype, device=device)

    def talk(messages: list[dict[str, str]]) -> Generator[str, None, Completion]:
        prompt = encoded(resident.engine, messages, None)
        return resident.texts(Request(id=uuid.uuid4().hex, prompt=prompt, sampling=sampling))

    try:
        yield talk
    finally:
        resident.close()


@contextmanager
def _on_grid(address: str, model: str, sampling: Sampling) -> Iterator[Talk]:
    """A replica on the grid at `address`."""
    from dataclasses import asdict

    from ..grid import Grid

    with Grid(address) as grid:
        yield lambda messages: grid.stream_chat(messages, model=model, **asdict(sampling))


def _once(talk: Talk, model: str, messages: list[dict[str, str]], *, as_json: bool) -> None:
    begun = time.monotonic()
    done = _told(talk(messages), silent=as_json)
    if not as_json:
        return
    seconds = time.monotonic() - begun
    usage = {"prompt_tokens": done.prompt_tokens, "completion_tokens": done.completion_tokens}
    print_json(
        {
            "model": model,
            "response": done.text,
            "finish_reason": done.finish_reason,
            "usage": usage | {"total_tokens": sum(usage.values())},
            "seconds": round(seconds, 3),
            "tokens_per_second": round(done.completion_tokens / max(seconds, 1e-9), 1),
        }
    )


def _told(pieces: Generator[str, None, Completion], *, silent: bool = False) -> Completion:
    """Write an answer while it comes. Ctrl-C ends it, and is raised."""
    try:
        while True:
            piece = next(pieces)
            if not silent:
                sys.stdout.write(piece)
                sys.stdout.flush()
    except StopIteration as end:
        done: Completion = end.value
        return done
    finally:
        pieces.close()
        if not silent:
            sys.stdout.write("\n")
            sys.stdout.flush()


def _converse(talk: Talk, first: list[dict[str, str]]) -> None:
    """Question and answer until the end of the input. What can't be answered is told, and forgotten."""
    from ...actors.llm.completion import GenerationFailed
    from ...actors.llm.request import RequestRefused

    with suppress(ImportError):
        import readline  # noqa: F401 - gives `input` a history and keys to edit with
    tell(_GREETING)
    messages: list[Any] = list(first)
    while (asked := _asked()) is not None:
        if asked == "/clear":
            messages = list(first)
            continue
        question = {"role": "user", "content": asked}
        try:
            done = _told(talk([*messages, question]))
        except KeyboardInterrupt:
            continue
        except (RequestRefused, GenerationFailed) as error:
            tell(str(error), label="error:", style="bold red")
            continue
        messages += [question, {"role": "assistant", "content": done.text}]


def _asked() -> str | None:
    """The next question; None at the end of the input."""
    try:
        while not (line := input(">>> ").strip()):
            pass
    except EOFError:
        sys.stdout.write("\n")
        return None
    return line
