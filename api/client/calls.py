"""Every call of the SDK, written once: `GridClient` runs them, `AsyncGridClient` awaits them (face.py)."""

# ruff: noqa: A002, ASYNC109 - `type` is the field's name; a timeout of our own works without a loop too

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal, TypeVar, Unpack
from urllib.parse import quote

import httpx

from . import media
from .asking import STILL_RUNNING, Asking, Tries, tries, words
from .direct import Direct, Mode
from .errors import GridError, JobFailed, Refused
from .options import JobOptions
from .results import Completion, Embeddings, Image, ImageAnswer, Transcription
from .sse import Decoder, Message
from .values import Event, Job, JobPage, Queue, Submitted, Why

T = TypeVar("T")
API = "/api/v1"
DEPLOYMENTS = f"{API}/admin/deployments"
IDLE = 40.0
"""Seconds of silence after which a stream of events counts as broken: the service says something every 15."""
HELD = 20.0
"""Seconds for which the service may hold back the answer to who waits for a job: proxies cut off what is longer."""
SETTLED = 1.0
"""Seconds after which a connection that brings nothing but signs of life counts as a good one."""


class Calls:
    """The calls over one way to the service. They raise `GridError`s; the message says what to do."""

    def __init__(self, asking: Asking, direct: Mode = False) -> None:
        """`direct`: whether calls for a result may go to a worker itself, see direct.py."""
        self._asking = asking
        self._direct = Direct(asking, only=direct is True) if direct else None

    # what comes out of a model: submit, wait, take the result

    async def chat(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        wait: float | None = None,
        **options: Unpack[JobOptions],
    ) -> Completion:
        """The answer to a conversation, or to one question as a text.

        `wait`: longest time in s; None: as long as the job takes. What is None the service decides. Raises JobFailed,
        WaitTimedOut, Refused, Unavailable, as all calls that wait for a result.
        """
        talk = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        sampling = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "stop": stop, "seed": seed}
        params = {"model": model, "messages": talk, "max_tokens": max_tokens, **sampling}
        return Completion.of(await self._result("llm", params, wait, options))

    async def complete(
        self,
        prompt: str,
        *,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        wait: float | None = None,
        **options: Unpack[JobOptions],
    ) -> Completion:
        """A text that goes on from `prompt`. Everything else as in `chat`."""
        sampling = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "stop": stop, "seed": seed}
        params = {"model": model, "prompt": prompt, "max_tokens": max_tokens, **sampling}
        return Completion.of(await self._result("llm", params, wait, options))

    async def embed(
        self,
        texts: str | Sequence[str],
        *,
        model: str | None = None,
        normalize: bool | None = None,
        dimensions: int | None = None,
        wait: float | None = None,
        **options: Unpack[JobOptions],
    ) -> Embeddings:
        """One vector for each text."""
        several = [texts] if isinstance(texts, str) else list(texts)
        params = {"model": model, "texts": several, "normalize": normalize, "dimensions": dimensions}
        return Embeddings.of(await self._result("embedding", params, wait, options))

    async def transcribe(
        self,
        audio: media.Source,
        *,
        model: str | None = None,
        language: str | None = None,
        task: Literal["transcribe", "translate"] = "transcribe",
        words: bool | None = None,
        prompt: str | None = None,
        temperature: float | None = None,
        wait: float | None = None,
        **options: Unpack[JobOptions],
    ) -> Transcription:
        """What is said in a recording: its content, a file, or an http(s) address that the service fetches.

        `words`: whether the time of each word is wanted. `prompt`: how names are written.
        """
        content = await self._asking.wire.aside(lambda: media.params("audio", audio))
        more = {"words": words, "prompt": prompt, "temperature": temperature}
        params = {"model": model, **content, "language": language, "task": task, **more}
        return Transcription.of(await self._result("whisper", params, wait, options))

    async def generate_image(
        self,
        prompt: str,
        *,
        model: str | None = None,
        negative_prompt: str | None = None,
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        seed: int | None = None,
        wait: float | None = None,
        **options: Unpack[JobOptions],
    ) -> Image:
        """An image of what `prompt` says; `width` and `height` in pixels."""
        size = {"width": width, "height": height, "steps": steps, "seed": seed}
        params = {"model": model, "prompt": prompt, "negative_prompt": negative_prompt, **size}
        return Image.of(await self._result("image_gen", params, wait, options))

    async def analyze_image(
        self,
        image: media.Source,
        question: str | None = None,
        *,
        task: Literal["image_qa", "image_caption", "ocr"] | None = None,
        model: str | None = None,
        max_tokens: int | None = None,
        wait: float | None = None,
        **options: Unpack[JobOptions],
    ) -> ImageAnswer:
        """What is in an image. Without `task`: the answer to `question`, or a caption where there is none."""
        content = await self._asking.wire.aside(lambda: media.params("image", image))
        wanted = task or ("image_qa" if question else "image_caption")
        params = {"model": model, **content, "task": wanted, "question": question, "max_tokens": max_tokens}
        return ImageAnswer.of(await self._result("vision", params, wait, options))

    # jobs

    async def submit(
        self,
        type: str,
        params: Mapping[str, Any],
        **options: Unpack[JobOptions],
    ) -> Submitted:
        """Hand in a job. Once this returns, the job is kept: it ends exactly once, whatever dies.

        Tried again with the same idempotency key, so that a lost answer makes no second job.
        """
        return Submitted.of(await self._asking.ask("POST", f"{API}/jobs", **_request(type, params, options)))

    async def job(self, job: str | Job) -> Job:
        """The job as it stands now, with its result once it has one."""
        return Job.of(await self._asking.ask("GET", _path(job)))

    async def wait(self, job: str | Job, *, timeout: float | None = None) -> Job:
        """The job once it has ended, however it did. `timeout` in s; None: as long as it takes. Raises WaitTimedOut."""
        course = tries(_id(job), timeout)
        while True:
            async with aclosing(self._connection(_id(job), 0, course)) as events:
                async for _ in events:
                    pass  # to the end of the stream, which comes with the job's: so the connection can be used again
            found = Job.of(await self._asking.ask("GET", _path(job), course))
            if found.status.final:
                return found
            await self._asking.pause(course)

    async def cancel(self, job: str | Job) -> Job:
        """Stop a job that waits or runs; the job as it stands then. One that has ended stays as it is."""
        return Job.of(await self._asking.ask("DELETE", _path(job)))

    async def stream(
        self, job: str | Job, *, after: int = 0, timeout: float | None = None
    ) -> AsyncGenerator[Event, None]:
        """What happens to a job, from its beginning or behind the event `after`, until it has ended.

        Each event once and none left out, through broken connections and restarts of the service.
        """
        course = tries(_id(job), timeout)
        while True:
            ended = False
            async with aclosing(self._connection(_id(job), after, course)) as events:
                async for event in events:
                    after, ended = event.seq, event.final
                    yield event
            if ended:
                return
            if not course.trouble and (await self.job(job)).status.final:
                return  # its events are older than the service keeps them, or `after` is the last
            await self._asking.pause(course)

    async def jobs(
        self,
        *,
        status: str | None = None,
        type: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> JobPage:
        """Your jobs, newest first, a page at a time."""
        wanted = {"status": status, "type": type, "limit": limit, "cursor": cursor}
        document = await self._asking.ask("GET", f"{API}/jobs", params=_given(wanted))
        return JobPage(tuple(map(Job.of, document["jobs"])), document.get("next_cursor"))

    async def why(self, job: str | Job) -> Why:
        """Where a job stands: each worker that was considered, with the verdict and its reason."""
        return Why.of(await self._asking.ask("GET", f"{_path(job)}/why"))

    async def queue(self, *, region: str | None = None) -> Queue:
        """What waits, and how long it would take."""
        return Queue.of(await self._asking.ask("GET", f"{API}/queue/stats", params=_given({"region": region})))

    # which language models are served: for administrators

    async def deploy(self, /, model: str, **wanted: Any) -> dict[str, Any]:
        """Have a language model served: ``replicas=2, stages=3, region="oceania"``, see docs/deployments.md.

        The document of the deployment, at once; `deployment` tells how far it is. Raises Refused with the code
        ``already_deployed`` for one that is there: `change_deployment` changes it.
        """
        made: dict[str, Any] = await self._asking.ask("POST", DEPLOYMENTS, json={"model": model, **wanted})
        return made

    async def deployment(self, model: str) -> dict[str, Any]:
        """One deployment: what is wanted, and how it stands."""
        found: dict[str, Any] = await self._asking.ask("GET", f"{DEPLOYMENTS}/{quote(model)}")
        return found

    async def deployments(self) -> dict[str, Any]:
        """All deployments, and which process of the grid serves them."""
        found: dict[str, Any] = await self._asking.ask("GET", DEPLOYMENTS)
        return found

    async def change_deployment(self, /, model: str, *, version: int | None = None, **wanted: Any) -> dict[str, Any]:
        """Want something else of a deployment; what is not named stays. `version`: only if it is at this one."""
        headers = {} if version is None else {"If-Match": f'"{version}"'}
        path = f"{DEPLOYMENTS}/{quote(model)}"
        changed: dict[str, Any] = await self._asking.ask("PATCH", path, json=wanted, headers=headers)
        return changed

    async def undeploy(self, model: str) -> dict[str, Any]:
        """Have a language model served no more; its answers that are under way end with an error."""
        ended: dict[str, Any] = await self._asking.ask("DELETE", f"{DEPLOYMENTS}/{quote(model)}")
        return ended

    # how it is done

    async def _result(
        self,
        type: str,
        params: Mapping[str, Any],
        wait: float | None,
        options: JobOptions,
    ) -> Mapping[str, Any]:
        """In one request where the job is short; a longer one is waited for. Past the queue where that is allowed."""
        begun = time.monotonic()
        if self._direct is not None:
            found = await self._direct.result(type, _given(params), wait, options)
            if found is not None:
                return found
        held = HELD if wait is None else max(0.001, min(HELD, wait - (time.monotonic() - begun)))
        request = _request(type, _given(params), options)
        try:
            job = Job.of(
                await self._asking.ask("POST", f"{API}/jobs/sync", held=held, params={"timeout": held}, **request)
            )
        except Refused as refusal:
            if refusal.code != STILL_RUNNING:
                raise
            left = None if wait is None else wait - (time.monotonic() - begun)
            job = await self.wait(refusal.problem["job_id"], timeout=left)
        if job.result is None:
            raise JobFailed(job)
        return job.result

    async def _connection(self, job_id: str, after: int, course: Tries) -> AsyncGenerator[Event, None]:
        """The events behind `after` that one connection brings; it ends with the connection, without raising.

        What ended it stands in `course.trouble`: empty when the service did it in order.
        """
        headers = {"Last-Event-ID": str(after)} if after else {}
        asking = self._asking
        course.trouble = ""
        opened = time.monotonic()
        silence = min(IDLE, course.ends - opened)
        response = await asking.open(f"{API}/jobs/{job_id}/events", course, idle=silence, headers=headers)
        if response is None:
            return
        decoder = Decoder()
        try:
            async with aclosing(asking.wire.chunks(response)) as chunks:
                async for chunk in chunks:
                    if time.monotonic() - opened > SETTLED:
                        course.came_on()
                    for event in filter(None, map(_event, decoder.feed(chunk))):
                        if event.seq > after:  # else it was there before the connection broke
                            after = event.seq
                            course.came_on()
                            yield event
                    course.check()
                    if course.overslept_by(silence) > max(0.5, silence / 8):
                        return  # the next connection waits for no longer than there is time
        except httpx.TransportError as error:
            course.trouble = words(error)
        finally:
            await asking.wire.end(response)


def _request(type: str, params: Mapping[str, Any], options: JobOptions) -> dict[str, Any]:
    """A submission as httpx takes it, under a key that all its tries have in common."""
    body: dict[str, Any] = {"type": type, "params": params, **options}
    key = body.pop("idempotency_key", None) or uuid.uuid4().hex
    return {"json": body, "headers": {"Idempotency-Key": key}}


def _event(message: Message) -> Event | None:
    """The event in a message; None for kinds that we don't know."""
    if message.event not in ("status", "progress", "tokens"):
        return None
    try:
        return Event.of(message.id, message.event, json.loads(message.data))
    except (ValueError, KeyError) as error:
        raise GridError(f"an event of the service can't be read: {message.data[:80]!r}") from error


def _id(job: str | Job) -> str:
    return quote(job.id if isinstance(job, Job) else job, safe="")


def _path(job: str | Job) -> str:
    return f"{API}/jobs/{_id(job)}"


def _given(values: Mapping[str, T | None]) -> dict[str, T]:
    """What was said: None is left to the service."""
    return {name: value for name, value in values.items() if value is not None}
