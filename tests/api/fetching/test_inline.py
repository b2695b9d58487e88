import base64
from dataclasses import dataclass, field

import media_files as files
import pytest

from idlegrid.api.fetching import FetchFailed, FetchLimits, FetchRefused, inline_media
from idlegrid.api.fetching.inline import MAX_PICTURES, MediaRefused, has_addresses

PICTURE = files.black_png(10, 10)
SOUND = files.sound(files.tone(0.1), 16_000)


def b64(data):
    return base64.b64encode(data).decode()


@dataclass
class Shelf:
    """Has one file of each kind, behind every address but one."""

    limits: FetchLimits = field(default_factory=FetchLimits)
    asked: list = field(default_factory=list)

    async def fetch(self, url, *, kind, limits=None):
        self.asked.append((url, kind))
        if "refused" in url:
            raise FetchRefused("not there")
        return {"audio": SOUND, "image": PICTURE}[kind]


@pytest.fixture
def shelf():
    return Shelf()


async def test_addresses_become_files(shelf):
    params = {"model": "m", "audio_url": "https://media.example/a", "image_url": "https://media.example/b"}
    found = await inline_media(params, shelf)
    assert found == {"model": "m", "audio_base64": b64(SOUND), "image_base64": b64(PICTURE)}
    assert shelf.asked == [("https://media.example/a", "audio"), ("https://media.example/b", "image")]
    assert params["audio_url"] == "https://media.example/a"


@pytest.mark.parametrize(
    "params", [{}, {"texts": ["https://media.example"]}, {"audio_url": None}, {"messages": "hello"}]
)
async def test_what_names_no_address_stays(params, shelf):
    assert not has_addresses(params)
    assert await inline_media(params, shelf) == params
    assert shelf.asked == []


async def test_data_urls_are_opened(shelf):
    params = {"image_url": f"data:image/png;base64,{b64(PICTURE)}", "audio_url": f"DATA:;base64,{b64(SOUND)}"}
    assert has_addresses(params)
    assert await inline_media(params, shelf) == {"image_base64": b64(PICTURE), "audio_base64": b64(SOUND)}
    assert shelf.asked == []


async def test_pictures_of_a_chat(shelf):
    text = {"type": "text", "text": "What is it?"}
    picture = {"type": "image_url", "image_url": {"url": "https://media.example/p", "detail": "low"}}
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": [text, picture]}]
    found = await inline_media({"messages": messages}, shelf)
    inline = {"url": f"data:image/png;base64,{b64(PICTURE)}", "detail": "low"}
    assert found["messages"][1]["content"] == [text, {"type": "image_url", "image_url": inline}]
    assert messages[1]["content"][1]["image_url"]["url"] == "https://media.example/p"
    assert await inline_media(found, shelf) == found  # nothing is fetched twice
    assert len(shelf.asked) == 1


async def test_a_chat_is_no_album(shelf):
    part = {"type": "image_url", "image_url": {"url": "https://media.example/p"}}
    with pytest.raises(MediaRefused, match="at most 16"):
        await inline_media({"messages": [{"role": "user", "content": [part] * (MAX_PICTURES + 1)}]}, shelf)
    assert shelf.asked == []


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://refused.example/", "not there"),
        ("data:image/png,plain", "is taken as"),
        ("data:image/png;base64,§§§§", "no Base64"),
        ("data:image/png;base64," + b64(SOUND), "no image of a known format"),
        ("data:image/png;base64," + "A" * 8000, "more than 4,000 bytes"),
    ],
)
async def test_refusals_name_the_place(url, told, shelf):
    shelf.limits = FetchLimits(max_bytes=4000)
    part = {"type": "image_url", "image_url": {"url": url}}
    for params, place in (
        ({"image_url": url}, "image_url"),
        ({"messages": [{"role": "user", "content": [part]}]}, "messages.0.content.0.image_url"),
    ):
        with pytest.raises(MediaRefused, match=told) as caught:
            await inline_media(params, shelf)
        assert caught.value.place == place


async def test_trouble_of_the_other_side_stays_its_own(shelf):
    async def fetch(url, *, kind, limits=None):
        raise FetchFailed("away")

    shelf.fetch = fetch
    with pytest.raises(FetchFailed):
        await inline_media({"image_url": "https://media.example/"}, shelf)
