"""Files of clients: kept whole, listed, given back, deleted, and nobody else's."""

import asyncio

import httpx
import pytest
from hash_embedder import HashEmbedder
from jobs_service import BASE, SECRET, with_settings

from idlegrid.api.http import create_app
from idlegrid.api.http.jobs_door import JobDoor

CONTENT = b'{"custom_id": "a"}\n'


@pytest.fixture
async def files(store, tmp_path):
    """Clients with keys of their own: `files("ada")`."""
    limits = {"files_folder": str(tmp_path / "files"), "max_file_mb": 0.02, "max_files_gb": 0.00005}
    settings = with_settings(api={"auth": True}, jobs=limits)
    app = create_app(HashEmbedder(), settings, jobs=JobDoor(store, settings, secret=SECRET))
    clients = []

    def client(name):
        key = store.keys.create(name, {"jobs"}, client_id=name)[1]
        made = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url=BASE, headers={"Authorization": f"Bearer {key}"}
        )
        clients.append(made)
        return made

    from idlegrid.api.batches.folder import FileFolder

    FileFolder(tmp_path / "files").open()
    yield client
    for one in clients:
        await one.aclose()


async def upload(client, content=CONTENT, purpose="batch", name="in.jsonl"):
    return await client.post("/v1/files", files={"file": (name, content)}, data={"purpose": purpose})


async def test_a_file_from_beginning_to_end(files):
    ada = files("ada")
    made = (await upload(ada)).json()
    assert made["object"] == "file"
    assert (made["bytes"], made["filename"], made["purpose"]) == (len(CONTENT), "in.jsonl", "batch")
    assert made["expires_at"] > made["created_at"]
    assert (await ada.get(f"/v1/files/{made['id']}")).json() == made
    assert (await ada.get(f"/v1/files/{made['id']}/content")).content == CONTENT
    listed = (await ada.get("/v1/files")).json()
    assert (listed["data"], listed["has_more"]) == ([made], False)
    gone = await ada.delete(f"/v1/files/{made['id']}")
    assert gone.json() == {"id": made["id"], "object": "file", "deleted": True}
    assert (await ada.get(f"/v1/files/{made['id']}")).status_code == 404
    assert (await ada.get(f"/v1/files/{made['id']}/content")).status_code == 404


async def test_nobody_sees_anothers_file(files):
    ada, bob = files("ada"), files("bob")
    made = (await upload(ada)).json()
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        answer = await bob.request(method, f"/v1/files/{made['id']}{path}")
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "file_not_found"
    assert (await bob.get("/v1/files")).json()["data"] == []
    assert (await ada.get(f"/v1/files/{made['id']}/content")).content == CONTENT


async def test_pages_of_files(files):
    ada = files("ada")
    ids = [(await upload(ada, name=f"{n}.jsonl")).json()["id"] for n in range(3)]
    first = (await ada.get("/v1/files", params={"limit": 2})).json()
    assert [file["id"] for file in first["data"]] == [ids[2], ids[1]]
    assert first["has_more"]
    rest = (await ada.get("/v1/files", params={"limit": 2, "after": first["last_id"]})).json()
    assert [file["id"] for file in rest["data"]] == [ids[0]]
    assert (await ada.get("/v1/files", params={"limit": 0})).status_code == 400


@pytest.mark.parametrize(
    ("given", "status", "code"),
    [
        ({"content": b""}, 400, "invalid_value"),
        ({"purpose": "assistants"}, 400, None),
        ({"content": b"x" * 20_001}, 413, "file_too_large"),
        ({"content": b"x" * 2_000_000}, 413, "request_too_large"),
    ],
    ids=["empty", "another purpose", "too large", "far too large"],
)
async def test_what_is_not_kept(files, tmp_path, given, status, code):
    answer = await upload(files("ada"), **given)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"] == code
    assert not [path for path in (tmp_path / "files").iterdir() if path.is_file()]


async def test_a_form_without_a_file(files):
    answer = await files("ada").post("/v1/files", data={"purpose": "batch"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "file"


async def test_who_has_enough_is_told_to_delete(files):
    ada = files("ada")
    answers = await asyncio.gather(*(upload(ada, b"x" * 18_000) for _ in range(3)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 413], "not even when they race"
    full = await upload(ada, b"x" * 18_000)
    assert (full.status_code, full.json()["error"]["code"]) == (413, "quota_exceeded")
    assert (await upload(files("bob"))).status_code == 200


@pytest.mark.parametrize("name", ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "file-%00", "a" * 300])
async def test_an_id_is_no_path(files, name):
    for path in (name, f"{name}/content"):
        assert (await files("ada").get(f"/v1/files/{path}")).status_code in (400, 404)


async def test_a_file_lives_as_long_as_its_client_says(files):
    ada, asked = files("ada"), {"purpose": "batch", "expires_after[anchor]": "created_at"}
    form = {"files": {"file": ("in.jsonl", CONTENT)}}
    made = (await ada.post("/v1/files", data=asked | {"expires_after[seconds]": "3600"}, **form)).json()
    assert made["expires_at"] - made["created_at"] == 3600
    refused = await ada.post("/v1/files", data=asked | {"expires_after[seconds]": "5"}, **form)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "expires_after")
    second = (await upload(ada)).json()
    oldest_first = (await ada.get("/v1/files", params={"order": "asc"})).json()
    assert [file["id"] for file in oldest_first["data"]] == [made["id"], second["id"]]
