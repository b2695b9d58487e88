"""Direct mode at the worker: what a ticket opens, once, within the owner's limits, and what everybody else is told."""

from __future__ import annotations

import json
import socket
import ssl
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # helper modules of all tests

from direct_worker import PATIENCE, DirectWorker, Unchecked, credentials, direct_worker

from idlegrid.api.donor.direct_server import DirectServer
from idlegrid.api.donor.direct_work import CannotListen
from idlegrid.api.donor.spent_tickets import SpentTickets
from idlegrid.grid.config.donor import Direct
from idlegrid.grid.donors import Limits, Load
from idlegrid.grid.tickets import BadTicket, Ticket, proof

pytestmark = pytest.mark.slow


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[DirectWorker]:
    with direct_worker(tmp_path) as worker:
        yield worker


def ask(worker: DirectWorker, ticket: str | None = None, kind: str = "llm", **params: Any) -> httpx.Response:
    body = {"texts": ["a lease"]} | params
    headers = {"X-Ticket": worker.ticket(kind) if ticket is None else ticket}
    return httpx.post(f"{worker.url}/v1/direct/{kind}", json=body, headers=headers, timeout=PATIENCE)


def refused(response: httpx.Response, status: int, code: str) -> None:
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == f"urn:idlegrid:problem:{code}"


def test_a_ticket_opens_one_job(worker):
    answer = ask(worker)
    assert (answer.status_code, answer.json()) == (200, {"words": ["A", "LEASE"]})
    assert answer.headers["cache-control"] == "no-store"
    assert ask(worker, kind="embedding").json() == {"words": ["A", "LEASE"]}
    assert worker.places.left == [("direct-llm-1", "completed"), ("direct-embedding-2", "completed")]


def test_clients_share_no_cached_prefix(worker):
    for client in ("c-1", "c-2", "c-1"):
        assert ask(worker, worker.ticket(client_id=client)).status_code == 200
    one, other, again = worker.kinds["llm"].salts
    assert one == again
    assert other not in (one, "")


@pytest.mark.parametrize(
    "said",
    [
        {"job_type": "embedding"},
        {"worker_id": "w-2"},
        {"seconds": 0},
        {"seconds": -60},
        {"seconds": 3600},
        {"secret": b"another worker's"},
    ],
)
def test_a_ticket_for_something_else_opens_nothing(worker, said):
    refused(ask(worker, worker.ticket(**said)), 401, "invalid_ticket")
    assert worker.kinds["llm"].runs == 0


@pytest.mark.parametrize("ticket", ["", "t1", "t1..", "t1.e30.00"])
def test_without_a_ticket_nothing_is_read(worker, ticket):
    refused(ask(worker, ticket), 401, "invalid_ticket")
    broken = httpx.post(f"{worker.url}/v1/direct/llm", content=b"{", headers={"X-Ticket": ticket})
    refused(broken, 401, "invalid_ticket")
    assert worker.kinds["llm"].runs == 0


def test_a_ticket_is_taken_once_however_its_job_ends(worker):
    ticket, wrong = worker.ticket(), worker.ticket()
    assert ask(worker, ticket).status_code == 200
    refused(ask(worker, ticket), 401, "invalid_ticket")
    refused(ask(worker, wrong, texts=7), 422, "invalid_params")
    refused(ask(worker, wrong), 401, "invalid_ticket")
    assert worker.kinds["llm"].runs == 1


def test_control_without_the_check_a_ticket_is_taken_twice_and_none_is_needed(tmp_path):
    with direct_worker(tmp_path, endpoint=Unchecked) as worker:
        ticket = worker.ticket()
        assert [ask(worker, t).status_code for t in (ticket, ticket, worker.ticket(worker_id="w-2"), "")] == [200] * 4


def test_a_process_that_is_started_again_takes_no_ticket_anew(tmp_path):
    with direct_worker(tmp_path) as worker:
        ticket = worker.ticket()
        assert ask(worker, ticket).status_code == 200
    with direct_worker(tmp_path) as worker:
        refused(ask(worker, ticket), 401, "invalid_ticket")
        assert ask(worker).status_code == 200


def test_what_is_noted_of_tickets_is_read_by_its_owner_only_and_stays_small(tmp_path):
    now, path = datetime.now(UTC), tmp_path / "state" / "spent"
    path.parent.mkdir()
    path.write_text("garbage\n1e400 00\n9999999999 nonsense\n17")
    spent = SpentTickets(path, now)
    for number in range(1000):
        at = now + timedelta(seconds=number)
        expires = at + timedelta(seconds=5)
        spent.spend(Ticket(worker_id="", client_id="", job_type="", expires_at=expires, nonce=f"{number:032x}"), at)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_text().splitlines()) <= 300
    last = Ticket(worker_id="", client_id="", job_type="", expires_at=expires, nonce=f"{999:032x}")
    with pytest.raises(BadTicket, match="used before"):
        SpentTickets(path, at).spend(last, at)


def test_only_the_worker_proves_who_it_is(worker):
    challenge = "0f" * 16
    told = httpx.get(f"{worker.url}/v1/direct/proof", params={"challenge": challenge}).json()
    assert told == {"worker_id": "w-1", "proof": proof(credentials().key, "w-1", challenge)}
    refused(httpx.get(f"{worker.url}/v1/direct/proof", params={"challenge": "../etc"}), 422, "invalid_request")


def closed() -> Limits:
    """Hours that are not now."""
    hour = datetime.now(UTC).hour
    return Limits(working_hours_start=(hour + 2) % 24, working_hours_end=(hour + 3) % 24)


@pytest.mark.parametrize(
    ("load", "limits", "reason"),
    [
        (Load(paused=True), Limits(), "paused"),
        (Load(running=1), Limits(), "concurrency"),
        (Load(), closed(), "outside_working_hours"),
    ],
)
def test_the_owners_limits_count_direct_work_too(tmp_path, load, limits, reason):
    with direct_worker(tmp_path, limits=limits) as worker:
        worker.places.load = load
        ticket = worker.ticket()
        answer = ask(worker, ticket)
        refused(answer, 503, reason)
        assert int(answer.headers["retry-after"]) >= 1
        assert worker.kinds["llm"].runs == 0
        worker.places.load = Load()
        if reason != "outside_working_hours":
            assert ask(worker, ticket).status_code == 200  # what was refused by the limits has not used its ticket


def test_a_job_type_that_the_owner_does_not_offer_is_refused(worker):
    refused(ask(worker, kind="vision"), 422, "type_not_supported")


def test_one_place_means_one_job_at_a_time(worker):
    kind = worker.kinds["llm"]
    with httpx.stream(
        "POST",
        f"{worker.url}/v1/direct/llm",
        json={"texts": ["a b"], "stream": True, "hold": True},
        headers={"X-Ticket": worker.ticket()},
        timeout=PATIENCE,
    ) as first:
        assert kind.began.wait(PATIENCE)
        refused(ask(worker), 503, "concurrency")
        assert first.status_code == 200
    assert kind.stopped.wait(PATIENCE)  # its client went away
    assert ("direct-llm-1", "cancelled") in until(worker, 1)


def until(worker: DirectWorker, count: int) -> list[tuple[str, str]]:
    """The works that have ended, once so many have."""
    from time import monotonic, sleep

    deadline = monotonic() + PATIENCE
    while len(worker.places.left) < count and monotonic() < deadline:
        sleep(0.01)
    return worker.places.left


def events(response: httpx.Response) -> Iterator[tuple[str, Any]]:
    for block in response.iter_text():
        for event in filter(None, block.split("\n\n")):
            if not event.startswith(":"):
                kind, data = event.split("\n")
                yield kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def stream(worker: DirectWorker, **params: Any) -> Any:
    body = {"texts": ["one lease two"], "stream": True} | params
    headers = {"X-Ticket": worker.ticket()}
    return httpx.stream("POST", f"{worker.url}/v1/direct/llm", json=body, headers=headers, timeout=PATIENCE)


def test_a_stream_tells_the_text_as_it_comes_and_then_the_result(worker):
    with stream(worker) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        told = list(events(response))
    words = [data["text"] for kind, data in told if kind == "tokens"]
    assert words == ["ONE", "LEASE", "TWO"]
    assert told[-1] == ("result", {"words": words})


def test_trouble_in_the_middle_of_a_stream_ends_it_with_an_error(worker):
    with stream(worker, trouble="it broke") as response:
        told = list(events(response))
    assert [kind for kind, _ in told] == ["tokens", "tokens", "error"]
    assert (told[-1][1]["code"], told[-1][1]["status"]) == ("job_failed", 500)


@pytest.mark.parametrize(("trouble", "status", "code"), [("params", 422, "invalid_params"), ("x", 500, "job_failed")])
def test_trouble_before_the_answer_is_a_problem(worker, trouble, status, code):
    refused(ask(worker, trouble=trouble), status, code)


def test_hand_back_ends_direct_work_with_503(worker):
    with stream(worker, hold=True) as response:
        told = events(response)
        assert next(told)[0] == "tokens"
        (stop,) = worker.places.stops.values()
        stop("the owner plays")
        assert [data["code"] for kind, data in told if kind == "error"] == ["handed_back"]
    worker.kinds["llm"].began.clear()


def test_hand_back_before_the_first_byte_is_a_status(worker):
    from threading import Thread

    answers: list[httpx.Response] = []
    client = Thread(target=lambda: answers.append(ask(worker, hold=True)))
    client.start()
    assert worker.kinds["llm"].began.wait(PATIENCE)
    for stop in list(worker.places.stops.values()):
        stop("the owner plays")
    client.join(PATIENCE)
    refused(answers[0], 503, "handed_back")
    assert int(answers[0].headers["retry-after"]) >= 1


def test_time_is_capped(worker):
    where = f"{worker.url}/v1/direct/llm"
    body, late = {"texts": ["a"], "hold": True}, {"timeout_seconds": 0.1}
    answer = httpx.post(where, json=body, params=late, headers={"X-Ticket": worker.ticket()}, timeout=PATIENCE)
    refused(answer, 504, "timeout")
    assert worker.kinds["llm"].stopped.wait(PATIENCE)
    for wrong in ("0", "-1", "nan", "1e9", "soon"):
        answer = httpx.post(where, json=body, params={"timeout_seconds": wrong}, headers={"X-Ticket": worker.ticket()})
        refused(answer, 422, "invalid_request")


def test_a_body_is_capped_and_is_json(worker):
    where, large = f"{worker.url}/v1/direct/llm", b'{"texts": ["' + b"a" * 200_000 + b'"]}'
    kind = {"Content-Type": "application/json"}
    refused(httpx.post(where, content=large, headers=kind | {"X-Ticket": worker.ticket()}), 413, "request_too_large")

    def pieces() -> Iterator[bytes]:
        yield from (large[at : at + 10_000] for at in range(0, len(large), 10_000))

    refused(httpx.post(where, content=pieces(), headers=kind | {"X-Ticket": worker.ticket()}), 413, "request_too_large")
    refused(httpx.post(where, content=b"x=1", headers={"X-Ticket": worker.ticket()}), 415, "unsupported_media_type")
    refused(httpx.post(where, content=b"{", headers=kind | {"X-Ticket": worker.ticket()}), 422, "invalid_params")
    assert worker.kinds["llm"].runs == 0


def test_there_is_nothing_else(worker):
    assert httpx.get(f"{worker.url}/healthz").json() == {"status": "ok"}
    refused(httpx.get(f"{worker.url}/"), 404, "unknown_url")
    refused(httpx.get(f"{worker.url}/v1/direct/llm"), 405, "method_not_allowed")
    assert httpx.get(f"{worker.url}/docs").status_code == 404


def test_a_taken_port_and_no_certificate_are_told(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotListen, match=f"127.0.0.1:{port}"):
            DirectServer(lambda: None, Direct(host="127.0.0.1", port=port))
    (tmp_path / "x.pem").write_text("no certificate")
    with pytest.raises(CannotListen, match="no certificate"):
        DirectServer(
            lambda: None, Direct(host="127.0.0.1", port=0, tls_cert=tmp_path / "x.pem", tls_key=tmp_path / "x.pem")
        )


def test_over_tls_with_a_certificate_of_its_own(tmp_path):
    with direct_worker(tmp_path, tls=True) as worker:
        assert worker.url.startswith("https://")
        trusted = ssl.create_default_context(cafile=tmp_path / "certificate.pem")
        assert httpx.get(f"{worker.url}/healthz", verify=trusted).json() == {"status": "ok"}
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{worker.url}/healthz")
