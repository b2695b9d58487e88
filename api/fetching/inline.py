"""Replaces addresses in a job's parameters by what is behind them, before the job is stored: workers fetch nothing."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, get_args

from ...grid.sniffing import HEAD, OF_KIND, Kind, is_kind, sniff
from .fetcher import Fetched, FetchRefused

KINDS: tuple[Kind, ...] = get_args(Kind)
MAX_PICTURES = 16
"""Pictures in the messages of one job."""
_DATA = re.compile(r"data:[a-z0-9.+/-]{0,100}(;[a-z0-9=._-]{1,100}){0,4};base64,", re.IGNORECASE)


class MediaRefused(FetchRefused):
    """A `FetchRefused` that knows which parameter it is about."""

    def __init__(self, message: str, place: str) -> None:
        super().__init__(message)
        self.place = place


async def inline_media(params: Mapping[str, Any], fetcher: Fetched) -> dict[str, Any]:
    """`params` with `audio_base64` for `audio_url`, `image_base64` for `image_url`, and data: URLs for the addresses of
    pictures in `messages` of a chat. What names no address stays as it is.

    Raises FetchRefused (MediaRefused, with the place) for what the client must change, FetchFailed for the other side.
    """
    found = dict(params)
    for kind in KINDS:
        url = found.get(f"{kind}_url")
        if isinstance(url, str):
            data = await _bytes(url, kind, fetcher, f"{kind}_url")
            del found[f"{kind}_url"]
            found[f"{kind}_base64"] = base64.b64encode(data).decode()
    if isinstance(found.get("messages"), list):
        found["messages"] = await _messages(found["messages"], fetcher)
    return found


def has_addresses(params: Mapping[str, Any]) -> bool:
    """Whether `inline_media` would change anything."""
    if any(isinstance(params.get(f"{kind}_url"), str) for kind in KINDS):
        return True
    messages = params.get("messages")
    return isinstance(messages, list) and next(_pictures(messages), None) is not None


async def _messages(messages: list[Any], fetcher: Fetched) -> list[Any]:
    messages = deepcopy(messages)
    pictures = list(_pictures(messages))
    if len(pictures) > MAX_PICTURES:
        raise MediaRefused(f"{len(pictures)} pictures; at most {MAX_PICTURES} are taken", "messages")
    for place, part, url in pictures:
        data = await _bytes(url, "image", fetcher, place)
        kind = sniff(data[:HEAD])
        inline = {"url": f"data:image/{kind};base64,{base64.b64encode(data).decode()}"}
        given = part["image_url"]
        part["image_url"] = given | inline if isinstance(given, dict) else inline
    return messages


def _pictures(messages: list[Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Each picture of a chat in OpenAI's form: where it stands, its part of a message, its address."""
    for index, message in enumerate(messages):
        content = message.get("content") if isinstance(message, dict) else None
        for at, part in enumerate(content if isinstance(content, list) else ()):
            given = part.get("image_url") if isinstance(part, dict) else None
            url = given.get("url") if isinstance(given, dict) else given
            if isinstance(url, str):
                yield f"messages.{index}.content.{at}.image_url", part, url


async def _bytes(url: str, kind: Kind, fetcher: Fetched, place: str) -> bytes:
    if url[:5].lower() == "data:":
        return _inside(url, kind, fetcher.limits.max_bytes, place)
    try:
        return await fetcher.fetch(url, kind=kind)
    except FetchRefused as error:
        raise MediaRefused(str(error), place) from None


def _inside(url: str, kind: Kind, most: int, place: str) -> bytes:
    """What a data: URL holds."""
    head = _DATA.match(url)
    if head is None:
        raise MediaRefused("a data: URL is taken as data:TYPE;base64,…", place)
    if (len(url) - head.end()) * 3 // 4 > most + 3:
        raise MediaRefused(f"the file has more than {most:,} bytes (setting fetch.max_mb)", place)
    try:
        data = base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise MediaRefused("what the data: URL holds is no Base64", place) from None
    if not is_kind(data[:HEAD], kind):
        formats = ", ".join(sorted(OF_KIND[kind]))
        raise MediaRefused(f"the data: URL holds no {kind} of a known format: {formats}", place)
    return data
