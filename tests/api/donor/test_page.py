"""The donor's page over HTTP: what it shows and does, and every way in that must stay shut."""

from __future__ import annotations

from datetime import timedelta
from html.parser import HTMLParser

import httpx
import pytest
from agent_face import WEDNESDAY, FaceInMemory, some_status

from idlegrid.api.donor.face import AgentState, JobLine, LogLine
from idlegrid.api.donor.page import opening_file, page_app, page_url
from idlegrid.api.donor.page_door import SESSIONS, cookie_name

PORT = 49321
TOKEN = "T0ken-" + "x" * 38
BASE = f"http://127.0.0.1:{PORT}"
OURS = {"origin": BASE, "sec-fetch-site": "same-origin"}
CHANGES = [
    ("/pause", {"for": "hour"}),
    ("/resume", {}),
    ("/drain", {}),
    ("/limits", {"load_control.max_concurrent_jobs": "3"}),
]


class Tags(HTMLParser):
    """The tags of a page as a browser reads them."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def values(self, *names):
        return [attrs[name] for _tag, attrs in self.found for name in names if name in attrs]

    def handlers(self):
        return [name for _tag, attrs in self.found for name in attrs if name.startswith("on") or name == "style"]


@pytest.fixture
def face():
    return FaceInMemory()


@pytest.fixture
async def stranger(face):
    """A client without a session."""
    app = page_app(face, TOKEN, port=PORT, clock=lambda: WEDNESDAY)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE) as client:
        yield client


@pytest.fixture
async def owner(stranger):
    """A client that came by the opened URL."""
    assert (await stranger.get(page_url(TOKEN, PORT))).status_code == 303
    return stranger


async def test_the_url_opens_a_session_and_leads_to_a_clean_one(stranger):
    answer = await stranger.get(page_url(TOKEN, PORT))
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    page = await stranger.get("/")
    assert page.status_code == 200
    assert TOKEN not in page.text


async def test_a_browser_that_was_led_here_by_a_file_hops_once_more(stranger):
    """A strict cookie is withheld for a whole chain of redirects that another site began."""
    answer = await stranger.get(
        page_url(TOKEN, PORT), headers={"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}
    )
    assert answer.status_code == 200
    assert 'content="0;url=/"' in answer.text
    assert cookie_name(PORT) in answer.headers["set-cookie"]
    assert page_url(TOKEN, PORT) in opening_file(TOKEN, PORT)


@pytest.mark.parametrize(
    "query", ["", "?token=", "?token=wrong", f"?token={TOKEN}x", f"?token={TOKEN[:-1]}", "?token=é"]
)
async def test_without_the_right_token_nothing_opens(stranger, query):
    answer = await stranger.get(f"/open{query}")
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


async def test_without_a_session_nothing_is_told_or_done(stranger, face):
    for path in ("/", f"/?token={TOKEN}", "/nothing"):
        answer = await stranger.get(path)
        assert answer.status_code == 401
        assert face.now.name not in answer.text
    for cookie in ("x", TOKEN, ""):
        answer = await stranger.get("/", headers={"cookie": f"{cookie_name(PORT)}={cookie}"})
        assert answer.status_code == 401
    for path, form in CHANGES:
        assert (await stranger.post(path, data=form, headers=OURS)).status_code == 401
    assert face.calls == []


async def test_the_session_of_another_agent_opens_nothing(owner):
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(page_app(FaceInMemory(), TOKEN, port=PORT)), base_url=BASE, cookies=owner.cookies
    ) as other:
        assert (await other.get("/")).status_code == 401


async def test_the_oldest_session_ends_when_too_many_are_open(owner):
    first = dict(owner.cookies)
    for _ in range(SESSIONS):
        await owner.get(page_url(TOKEN, PORT))
    assert (await owner.get("/")).status_code == 200
    owner.cookies.clear()
    answer = await owner.get("/", headers={"cookie": f"{cookie_name(PORT)}={first[cookie_name(PORT)]}"})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "host",
    ["evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:80", f"127.0.0.1.evil.example:{PORT}",
     f"localhost.:{PORT}", f"0.0.0.0:{PORT}", f"127.0.0.1:{PORT}@evil.example", ""],
)  # fmt: skip
async def test_a_name_that_was_pointed_here_is_not_served(owner, face, host):
    """DNS rebinding: the browser sends the attacker's name as Host, and counts the answer as the attacker's own."""
    for path in ("/", "/page.js", f"/open?token={TOKEN}"):
        answer = await owner.get(path, headers={"host": host})
        assert answer.status_code == 421
        assert face.now.name not in answer.text
    assert (await owner.post("/drain", headers={"host": host, "origin": f"http://{host}"})).status_code == 421
    assert face.calls == []


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]"])
async def test_it_answers_as_each_name_of_loopback(owner, face, name):
    mine = {"host": f"{name}:{PORT}", "origin": f"http://{name}:{PORT}"}
    assert (await owner.get("/", headers=mine)).status_code == 200
    assert (await owner.post("/resume", headers=mine)).status_code == 303
    assert face.calls == [("resume",)]


@pytest.mark.parametrize(
    "headers",
    [{}, {"origin": "null"}, {"origin": "http://evil.example"}, {"origin": "http://127.0.0.1:3000"},
     {"origin": f"http://localhost:{PORT}"}, {"origin": f"https://127.0.0.1:{PORT}"},
     {"origin": f"{BASE}.evil.example"},
     {"origin": BASE, "sec-fetch-site": "cross-site"}, {"origin": BASE, "sec-fetch-site": "same-site"}],
)  # fmt: skip
async def test_a_change_from_another_page_is_refused(owner, face, headers):
    """CSRF, also from another port of this machine, which is the same site and so gets the cookie sent along."""
    for path, form in CHANGES:
        assert (await owner.post(path, data=form, headers=headers)).status_code == 403
    assert face.calls == []


@pytest.mark.parametrize("site", ["same-site", "cross-site"])
@pytest.mark.parametrize("kind", ["iframe", "script", "empty", "image"])
async def test_another_page_takes_nothing_in(owner, site, kind):
    """Another port of this machine is the same site, and the browser sends it our cookie along."""
    for path in ("/", "/page.js"):
        answer = await owner.get(path, headers={"sec-fetch-site": site, "sec-fetch-dest": kind})
        assert answer.status_code == 403
    led = await owner.get("/", headers={"sec-fetch-site": site, "sec-fetch-dest": "document"})
    assert led.status_code == 200  # a link to it


async def test_changes_are_posted(owner, face):
    for path, form in CHANGES:
        for method in ("GET", "HEAD"):
            assert (await owner.request(method, path, params=form)).status_code == 405
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
            assert (await owner.request(method, path, headers=OURS)).status_code == 405
    assert face.calls == []
    for path, form in CHANGES:  # the control: the same, posted from our own page
        assert (await owner.post(path, data=form, headers=OURS)).status_code == 303
    assert [call[0] for call in face.calls] == ["pause", "resume", "drain", "set_many"]


async def test_every_answer_carries_the_headers(owner):
    answers = [await owner.get(path) for path in ("/", "/page.css", "/page.js", "/nothing", "/pause", "/open?token=x")]
    answers += [await owner.get("/", headers={"host": "evil.example"}), await owner.post("/drain")]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in answer.headers


async def test_nothing_comes_from_elsewhere_and_nothing_stands_inline(owner):
    page = Tags((await owner.get("/")).text)
    assert all(link.startswith(("/", "#", "data:,")) for link in page.values("src", "href", "action"))
    assert not page.handlers()
    assert not [tag for tag, _attrs in page.found if tag in ("style", "iframe", "object", "base")]
    assert [attrs for tag, attrs in page.found if tag == "script"] == [{"src": "/page.js", "defer": None}]


ATTACK = """<script>alert(1)</script>"' onload=alert(1) {{ 7*7 }} &lt;"""


async def test_whatever_is_told_is_escaped(owner, face):
    job = JobLine(ATTACK, ATTACK, WEDNESDAY, WEDNESDAY, ATTACK)
    face.now = some_status(
        name=ATTACK, reason=ATTACK, region=ATTACK, server=ATTACK, worker_id=ATTACK, types=(ATTACK,), running=(job,),
        finished=(job,), limits={"schedule": ATTACK, "max_concurrent_jobs": ATTACK},
    )  # fmt: skip
    face.log.append(LogLine(9, WEDNESDAY, ATTACK, ATTACK))
    pages = [await owner.get("/"), await owner.get("/", params={"said": ATTACK})]
    wrong = {"load_control.max_concurrent_jobs": ATTACK}
    pages.append(await owner.post("/limits", data=wrong | {"load_control.time_zone": ATTACK}, headers=OURS))
    for page in pages:
        tags = Tags(page.text)
        assert [attrs for tag, attrs in tags.found if tag == "script"] == [{"src": "/page.js", "defer": None}]
        assert not tags.handlers()
        assert "{{ 7*7 }}" in page.text
        assert "alert(1)" in page.text
    assert ATTACK in Tags(pages[-1].text).values("value")


def test_the_reader_of_tags_would_see_an_attack():
    """The control: unescaped, it is a script and a handler."""
    tags = Tags(f'<p title="{ATTACK}">{ATTACK}</p>')
    assert "script" in [tag for tag, _attrs in tags.found]


async def test_pauses_of_each_length(owner, face):
    for how_long in ("hour", "tomorrow", "resume"):
        answer = await owner.post("/pause", data={"for": how_long}, headers=OURS, follow_redirects=True)
        assert answer.status_code == 200
        assert "Paused. What ran was handed back" in answer.text
    until_eight = timedelta(hours=17, minutes=39, seconds=55)  # it is 14:20:05 in Berlin
    assert face.calls == [("pause", 3600.0), ("pause", until_eight.total_seconds()), ("pause", None)]
    assert (await owner.post("/pause", data={"for": "ever"}, headers=OURS)).status_code == 422
    assert (await owner.post("/pause", headers=OURS)).status_code in (415, 422)
    assert len(face.calls) == 3


async def test_only_what_differs_is_set(owner, face):
    form = {f"load_control.{name}": value for name, value in [("max_concurrent_jobs", "4"), ("acceptance_rate", "1")]}
    answer = await owner.post("/limits", data=form, headers=OURS, follow_redirects=True)
    assert "Saved." in answer.text
    assert face.calls == [("set_many", {"load_control.max_concurrent_jobs": "4"})]
    assert face.now.limits["max_concurrent_jobs"] == 4


async def test_a_refused_limit_says_why_beside_it_and_none_is_changed(owner, face):
    form = {"load_control.max_concurrent_jobs": "none of them", "load_control.max_jobs_per_hour": "7"}
    answer = await owner.post("/limits", data=form, headers=OURS)
    assert answer.status_code == 422
    assert 'value="none of them"' in answer.text
    assert "should be a valid integer" in answer.text
    assert 'aria-invalid="true"' in answer.text
    assert 'value="7"' in answer.text
    assert face.now.limits["max_jobs_per_hour"] == 0
    assert face.now.limits["max_concurrent_jobs"] == 2


async def test_what_is_no_limit_is_refused(owner, face):
    for name in ("server.url", "load_control.nothing", "__class__"):
        assert (await owner.post("/limits", data={name: "x"}, headers=OURS)).status_code == 422
    assert face.calls == []


async def test_bodies_that_are_no_forms(owner, face):
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert (await owner.post("/limits", content=b"{}", headers=OURS)).status_code == 415
    assert (await owner.post("/limits", json={}, headers=OURS)).status_code == 415
    assert (await owner.post("/limits", content=b"a=" + b"b" * 20_000, headers=OURS | form)).status_code == 413
    assert (await owner.post("/limits", content=b"a=%ff", headers=OURS | form)).status_code == 400
    assert (await owner.post("/limits", content=b"&".join([b"a=b"] * 200), headers=OURS | form)).status_code == 400
    assert face.calls == []


@pytest.mark.parametrize("state", AgentState)
async def test_each_state_offers_what_is_possible(owner, face, state):
    face.now = some_status(state=state, gpu=None, score=None, running=(), finished=(), types=(), worker_id=None)
    face.log.clear()
    page = (await owner.get("/")).text
    assert ('action="/resume"' in page) == (state in (AgentState.PAUSED, AgentState.DRAINING))
    assert ('action="/pause"' in page) == (state is not AgentState.DRAINING)
    assert face.now.reason in page


async def test_it_shows_score_week_jobs_and_log(owner):
    page = (await owner.get("/")).text
    for text in ("0.84", "0.91", "40 %", "long stays", "00:00–07:00, 12:30–24:00", "handed back", "out of memory",
                 "9.8 of 25.4 GB", "64 °C", "your hours end Thu 07:00", "14 jobs today"):  # fmt: skip
        assert text.lower() in page.lower(), text
    cells = [value for value in Tags(page).values("class") if value and value.split()[0] in ("open", "closed", "part")]
    assert len(cells) == 7 * 24
    assert [cell for cell in cells if "here" in cell] == ["open here"]


def test_a_short_token_is_refused():
    with pytest.raises(ValueError, match="token_urlsafe"):
        page_app(FaceInMemory(), "short", port=PORT)
