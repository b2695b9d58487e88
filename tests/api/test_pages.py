"""The card that a notebook shows."""

from __future__ import annotations

from html.parser import HTMLParser

from idlegrid.api.pages import SHOWN, UNFOLDED, grid_html


def worker(name="w", **other):
    return {
        "id": name,
        "name": name,
        "region": "asia-east",
        "state": "online",
        "reason": None,
        "score": 0.75,
        "running": 0,
        "loaded": [],
    } | other


def state(*workers, **other):
    return {"workers": workers, "running_by_type": {}, "waiting_by_type": {}, "without_facts": []} | other


class Text(HTMLParser):
    """The words of a page; complains of tags that do not match."""

    def __init__(self, html):
        super().__init__()
        self.words, self.open, self.tags = [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def test_it_says_where_the_grid_is_and_who_works():
    busy = worker("b", state="busy", reason="runs 1 of 1 jobs", running=1, region="oceania", loaded=["org/model-x"])
    html = grid_html("tcp://127.0.0.1:8786", "http://127.0.0.1:8787/grid", state(worker("a"), busy))
    page = Text(html)
    for words in ("tcp://127.0.0.1:8786", "1 busy", "1 online", "asia-east, oceania", "runs 1 of 1 jobs", "model-x"):
        assert words in page.text
    assert ("a", "http://127.0.0.1:8787/grid") in [(tag, given.get("href")) for tag, given in page.tags]
    assert "org/" not in page.text


def test_what_runs_and_waits():
    work = state(running_by_type={"embedding": 2}, waiting_by_type={"embedding": 5, "llm": 0})
    page = Text(grid_html("a", None, work))
    assert "Running 2 embedding" in page.text
    assert "Waiting 5 embedding" in page.text
    assert "llm" not in page.text
    assert "Page none" in page.text
    assert "Workers none" in page.text


def test_names_can_not_be_markup():
    evil = "<script>alert(1)</script>"
    html = grid_html(evil, evil, state(worker(evil, reason=evil, loaded=[evil]), without_facts=[evil], problem=evil))
    assert "<script" not in html


def test_a_large_grid_is_folded_and_counted():
    few = Text(grid_html("a", None, state(*(worker(f"w{i}") for i in range(UNFOLDED)))))
    many = Text(grid_html("a", None, state(*(worker(f"w{i}") for i in range(SHOWN + 7)))))
    details = [next(given for tag, given in page.tags if tag == "details") for page in (few, many)]
    assert ["open" in given for given in details] == [True, False]
    assert "… and 7 more" in many.text
    assert f"{SHOWN + 7} online" in many.text


def test_what_must_be_mended_is_told():
    page = Text(grid_html("a", None, state(problem="the rule fails", without_facts=["s1", "s2"])))
    assert "the rule fails" in page.text
    assert "workers that run without our plugin: s1, s2" in page.text
