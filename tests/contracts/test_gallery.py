"""What every gallery does, whatever it keeps templates in."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest

from benchmarks.redis_server import RedisServer, missing
from face_server.clock import FakeClock
from face_server.domain.embedding import Embedding, Embeddings, ModelId
from face_server.domain.identity import (
    AddTemplate,
    Change,
    Collection,
    Identity,
    MergeIdentities,
    MoveTemplate,
    PutIdentity,
    RemoveIdentity,
    RemoveTemplate,
    Template,
    TemplateRecord,
)
from face_server.domain.ports import Gallery
from face_server.errors import Conflict, FaceServerError, InputTooLarge, InvalidInput, ModelMismatch, NotFound, Unavailable
from face_server.gallery.redis import RedisGallery
from face_server.gallery.scoring import BEST_WEIGHT
from face_server.gallery.sqlite import SqliteGallery
from face_server.redis_connection import RedisOptions, open_redis
from face_server.workers import Workers

MODEL = ModelId("sface", "fb143eea0783", 1, 16)
OTHER_MODEL = ModelId("arcface", "0123456789ab", 1, 16)
DIGEST = "ab" * 32
NOW = 1_700_000_000.0

Open = Callable[[], Awaitable[Gallery]]


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that forgets nothing."""
    if reason := missing():
        pytest.skip(reason)
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["sqlite", "redis"])
async def open_gallery(request: pytest.FixtureRequest, tmp_path: Path, workers: Workers) -> AsyncIterator[Open]:
    """Opens the same gallery each time, of each kind."""
    async with AsyncExitStack() as stack:

        async def sqlite() -> Gallery:
            return await SqliteGallery.open(tmp_path / "gallery.sqlite3", workers, FakeClock(NOW))

        async def redis() -> Gallery:
            server: RedisServer = request.getfixturevalue("redis_server")
            connection = await open_redis(RedisOptions(server.url, namespace=namespace))
            stack.push_async_callback(connection.close)
            return await RedisGallery.open(connection, workers, FakeClock(NOW))

        namespace = secrets.token_hex(8)
        if request.param == "redis":
            request.getfixturevalue("redis_server")
        yield {"sqlite": sqlite, "redis": redis}[request.param]


@pytest.fixture
def within_s(request: pytest.FixtureRequest) -> float:
    """How long after a change another process may take to see it."""
    return {"sqlite": 0.0, "redis": 0.2}[request.node.callspec.params["open_gallery"]]


@pytest.fixture
async def gallery(open_gallery: Open) -> AsyncIterator[Gallery]:
    """A gallery with the empty collection "staff"."""
    opened = await open_gallery()
    await opened.create_collection(Collection("staff", MODEL))
    yield opened
    await opened.close()


def vector(seed: int) -> np.ndarray:
    """A unit vector."""
    raw = np.random.default_rng(seed).standard_normal(MODEL.dimension).astype(np.float32)
    return raw / np.linalg.norm(raw)


def towards(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """A unit vector between two."""
    mixed = (1 - share) * first + share * second
    return (mixed / np.linalg.norm(mixed)).astype(np.float32)


def template(template_id: str, identity_id: str, values: np.ndarray, **more: object) -> AddTemplate:
    """The change that adds a template."""
    crop = more.pop("crop", None)
    shown = Template(template_id, identity_id, 0.5, 0.0, **more)
    return AddTemplate(TemplateRecord(shown, Embedding(values, 7.5, MODEL), crop))


def person(identity_id: str, *seeds: int, name: str = "") -> list[Change]:
    """The changes that enrol somebody with templates ``<id>-<seed>``."""
    put = PutIdentity(Identity(identity_id, name or identity_id.upper()))
    return [put, *(template(f"{identity_id}-{seed}", identity_id, vector(seed)) for seed in seeds)]


def probes(*vectors: np.ndarray, model: ModelId = MODEL) -> Embeddings:
    """Probes."""
    return Embeddings(np.stack(vectors).astype(np.float32), np.ones(len(vectors), np.float32), model)


async def found(gallery: Gallery, probe: np.ndarray, limit: int = 10) -> list[str]:
    """Ids of the people nearest to a probe."""
    ((candidates),) = await gallery.search("staff", probes(probe), limit=limit)
    return [one.identity.id for one in candidates]


class TestCollections:
    async def test_a_new_collection_is_empty_and_dated(self, gallery: Gallery) -> None:
        """Counts given at creation are ignored, a time of 0 becomes now."""
        made = await gallery.create_collection(Collection("door-2", MODEL, threshold=0.4, margin=0.1, keep_crops=False, identities=9))
        assert made == Collection("door-2", MODEL, threshold=0.4, margin=0.1, keep_crops=False, created_at=NOW)
        assert await gallery.collection("door-2") == made
        assert [one.name for one in await gallery.collections()] == ["door-2", "staff"]

    async def test_names_are_taken_once(self, gallery: Gallery) -> None:
        """A second collection of the same name is a conflict."""
        with pytest.raises(Conflict):
            await gallery.create_collection(Collection("staff", OTHER_MODEL))

    @pytest.mark.parametrize(
        "wrong",
        [
            Collection("", MODEL),
            Collection("a b", MODEL),
            Collection("../up", MODEL),
            Collection("员工", MODEL),
            Collection("x" * 65, MODEL),
            Collection("c", MODEL, threshold=1.5),
            Collection("c", MODEL, threshold=float("nan")),
            Collection("c", MODEL, margin=-0.1),
            Collection("c", MODEL, target_fpir=0.0),
            Collection("c", ModelId("sface", "fb", 1, 0)),
            Collection("c", ModelId("sf@ce", "fb", 1, 16)),
        ],
    )
    async def test_settings_that_cannot_work_are_refused(self, gallery: Gallery, wrong: Collection) -> None:
        """Bad names, thresholds and models never reach the store."""
        with pytest.raises(InvalidInput):
            await gallery.create_collection(wrong)
        assert len(await gallery.collections()) == 1

    async def test_settings_change_but_the_model_does_not(self, gallery: Gallery) -> None:
        """Threshold, margin and target are replaced; another model is refused."""
        changed = await gallery.update_collection(Collection("staff", MODEL, threshold=0.5, margin=0.02, target_fpir=0.001))
        assert (changed.threshold, changed.margin, changed.target_fpir, changed.created_at) == (0.5, 0.02, 0.001, NOW)
        with pytest.raises(ModelMismatch):
            await gallery.update_collection(Collection("staff", OTHER_MODEL))
        with pytest.raises(NotFound):
            await gallery.update_collection(Collection("nobody", MODEL))

    async def test_crops_go_when_they_are_kept_no_longer(self, gallery: Gallery) -> None:
        """Switching keep_crops off erases the crops, and new ones are not stored."""
        await gallery.apply("staff", [*person("ada"), template("t1", "ada", vector(1), crop=b"jpeg")])
        assert (await gallery.record("staff", "t1")).crop == b"jpeg"
        await gallery.update_collection(Collection("staff", MODEL, keep_crops=False))
        await gallery.apply("staff", [template("t2", "ada", vector(2), crop=b"jpeg")])
        for record in await gallery.records("staff"):
            assert record.crop is None
            assert not record.template.has_crop

    async def test_a_dropped_collection_is_gone_with_everything(self, gallery: Gallery) -> None:
        """All calls say NotFound, and the name is free again for another model."""
        await gallery.apply("staff", person("ada", 1, 2))
        await gallery.drop_collection("staff")
        for call in (
            gallery.collection("staff"),
            gallery.apply("staff", []),
            gallery.identities("staff"),
            gallery.identity("staff", "ada"),
            gallery.records("staff"),
            gallery.record("staff", "ada-1"),
            gallery.find_image("staff", DIGEST),
            gallery.search("staff", probes(vector(1)), limit=1),
            gallery.compare("staff", "ada", probes(vector(1))),
            gallery.drop_collection("staff"),
        ):
            with pytest.raises(NotFound):
                await call
        assert (await gallery.create_collection(Collection("staff", OTHER_MODEL))).templates == 0


class TestChanges:
    async def test_an_identity_is_put_and_replaced(self, gallery: Gallery) -> None:
        """Name and metadata are replaced, Chinese is kept, the date of creation stays."""
        await gallery.apply("staff", [PutIdentity(Identity("p-1", "王小明", {"部门": "研发"}, created_at=5.0))])
        await gallery.apply("staff", [PutIdentity(Identity("p-1", "王大明", {"floor": "3"}, created_at=9.0))])
        stored, templates = await gallery.identity("staff", "p-1")
        assert stored == Identity("p-1", "王大明", {"floor": "3"}, created_at=5.0)
        assert templates == []
        assert (await gallery.collection("staff")).identities == 1

    async def test_a_template_is_kept_exactly(self, gallery: Gallery) -> None:
        """Every field and every bit of the vector come back."""
        add = template("t1", "ada", vector(1), source="ada.jpg", image_digest=DIGEST, crop=b"\xff\xd8jpeg")
        await gallery.apply("staff", [*person("ada"), add])
        record = await gallery.record("staff", "t1")
        assert record.template == Template("t1", "ada", 0.5, NOW, "ada.jpg", DIGEST, has_crop=True)
        assert record.embedding.vector.tobytes() == vector(1).tobytes()
        assert (record.embedding.norm, record.embedding.model, record.crop) == (7.5, MODEL, b"\xff\xd8jpeg")

    async def test_counts_follow(self, gallery: Gallery) -> None:
        """Collections count people and templates, people their templates, through every kind of change."""
        await gallery.apply("staff", [*person("ada", 1, 2, 3), *person("bob", 4), *person("cy", 5)])
        await gallery.apply("staff", [MoveTemplate("ada-1", "bob"), RemoveTemplate("ada-2"), MergeIdentities("cy", "bob")])
        stored = await gallery.collection("staff")
        assert (stored.identities, stored.templates) == (2, 4)
        assert {one.id: one.templates for one in await gallery.identities("staff")} == {"ada": 1, "bob": 3}
        await gallery.apply("staff", [RemoveIdentity("bob")])
        stored = await gallery.collection("staff")
        assert (stored.identities, stored.templates) == (1, 1)

    @pytest.mark.parametrize(
        ("last", "error"),
        [
            (template("t", "nobody", vector(9)), NotFound),
            (template("ada-1", "ada", vector(9)), Conflict),
            (RemoveTemplate("nothing"), NotFound),
            (RemoveTemplate("\ud800"), NotFound),
            (RemoveIdentity("nobody"), NotFound),
            (MoveTemplate("ada-1", "nobody"), NotFound),
            (MoveTemplate("nothing", "bob"), NotFound),
            (MergeIdentities("ada", "nobody"), NotFound),
            (MergeIdentities("nobody", "ada"), NotFound),
            (MergeIdentities("ada", "ada"), InvalidInput),
            (PutIdentity(Identity("a/b", "A")), InvalidInput),
            (PutIdentity(Identity("a", " ")), InvalidInput),
            (PutIdentity(Identity("a", "new\nline")), InvalidInput),
            (PutIdentity(Identity("a", "half \ud83d")), InvalidInput),
            (PutIdentity(Identity("a", "x" * 201)), InputTooLarge),
            (PutIdentity(Identity("a", "A", {str(n): "" for n in range(33)})), InputTooLarge),
            (PutIdentity(Identity("a", "A", {"k": "v" * 1025})), InputTooLarge),
            (template("t", "ada", vector(9) * 2), InvalidInput),
            (template("t", "ada", np.full(16, np.nan, np.float32)), InvalidInput),
            (template("t t", "ada", vector(9)), InvalidInput),
            (template("t", "ada", vector(9), image_digest="abc"), InvalidInput),
            (template("t", "ada", vector(9), crop=b"x" * 300_000), InputTooLarge),
            (AddTemplate(TemplateRecord(Template("t", "ada", 0.5, 0.0), Embedding(vector(9), 1.0, OTHER_MODEL))), ModelMismatch),
        ],
    )
    async def test_all_changes_or_none(self, gallery: Gallery, last: Change, error: type[FaceServerError]) -> None:
        """If the last of a sequence is refused, store and search are as before."""
        await gallery.apply("staff", [*person("ada", 1, 2), *person("bob", 3)])
        before = await _everything(gallery)
        with pytest.raises(error):
            await gallery.apply("staff", [RemoveTemplate("ada-2"), *person("zoe", 7), MergeIdentities("bob", "zoe"), last])
        assert await _everything(gallery) == before
        assert set(await found(gallery, vector(1))) == {"ada", "bob"}

    async def test_a_sequence_is_bounded(self, gallery: Gallery) -> None:
        """More changes or templates than the limits are refused in one sentence that states them."""
        with pytest.raises(InputTooLarge, match="10000"):
            await gallery.apply("staff", [RemoveTemplate("t")] * 10_001)
        with pytest.raises(InputTooLarge, match="1000 templates"):
            await gallery.apply("staff", person("ada", *range(1_001)))
        await gallery.apply("staff", person("ada", *range(1_000)))
        with pytest.raises(InputTooLarge, match="1000 templates"):
            await gallery.apply("staff", [*person("bob", 2_000), MergeIdentities("bob", "ada")])

    async def test_an_id_may_be_used_again(self, gallery: Gallery) -> None:
        """An identity that is removed and put again in one sequence has only its new templates."""
        await gallery.apply("staff", person("ada", 1, 2))
        await gallery.apply("staff", [RemoveIdentity("ada"), *person("ada", 2, 3)])
        stored, templates = await gallery.identity("staff", "ada")
        assert [one.id for one in templates] == ["ada-2", "ada-3"]
        assert stored.templates == 2
        ((candidate,),) = await gallery.search("staff", probes(vector(1)), limit=3)
        assert candidate.template_similarity < 0.99


class TestReading:
    async def test_identities_come_in_pages(self, gallery: Gallery) -> None:
        """Pages by id; by name only those of exactly that name."""
        await gallery.apply("staff", [change for n in range(7) for change in person(f"p{n}", name="Même" if n % 2 else "même")])
        first = await gallery.identities("staff", limit=3)
        second = await gallery.identities("staff", after=first[-1].id, limit=3)
        assert [one.id for one in first + second] == ["p0", "p1", "p2", "p3", "p4", "p5"]
        assert [one.id for one in await gallery.identities("staff", name="Même", after="p1")] == ["p3", "p5"]
        assert await gallery.identities("staff", name="half \ud83d") == []
        with pytest.raises(InvalidInput, match="limit"):
            await gallery.identities("staff", limit=0)

    async def test_records_come_in_pages(self, gallery: Gallery) -> None:
        """Pages by template id, whoever they belong to."""
        await gallery.apply("staff", [*person("bob", 1, 4), *person("ada", 2, 3)])
        first = await gallery.records("staff", limit=3)
        rest = await gallery.records("staff", after=first[-1].template.id, limit=3)
        assert [one.template.id for one in first + rest] == ["ada-2", "ada-3", "bob-1", "bob-4"]
        assert all(one.embedding.vector.tobytes() == vector(int(one.template.id[4:])).tobytes() for one in first + rest)

    async def test_an_uploaded_picture_is_found_again(self, gallery: Gallery) -> None:
        """By its digest, until its template is gone; the empty digest finds nothing."""
        await gallery.apply("staff", [*person("ada", 1), template("t", "ada", vector(2), image_digest=DIGEST)])
        twin = await gallery.find_image("staff", DIGEST)
        assert twin is not None
        assert (twin.id, twin.identity_id) == ("t", "ada")
        assert await gallery.find_image("staff", "") is None
        await gallery.apply("staff", [RemoveTemplate("t")])
        assert await gallery.find_image("staff", DIGEST) is None

    async def test_the_unknown_is_not_found(self, gallery: Gallery) -> None:
        """Ids that nothing is stored under."""
        for call in (
            gallery.identity("staff", "nobody"),
            gallery.record("staff", "nothing"),
            gallery.compare("staff", "x", probes(vector(1))),
        ):
            with pytest.raises(NotFound):
                await call


class TestSearch:
    async def test_people_come_once_best_first(self, gallery: Gallery) -> None:
        """Each person once, with the template that is nearest and the number of all they have."""
        await gallery.apply("staff", [*person("ada", 1, 2, 3), *person("bob", 4, 5), *person("cy", 6), *person("empty")])
        first, second = await gallery.search("staff", probes(vector(2), vector(6)), limit=2)
        assert (first[0].identity.id, first[0].template_id, first[0].identity.templates) == ("ada", "ada-2", 3)
        assert first[0].template_similarity == pytest.approx(1.0, abs=1e-3)
        assert second[0].identity.id == "cy"
        assert len(first) == len(second) == 2
        everybody = await found(gallery, vector(9))
        assert sorted(everybody) == ["ada", "bob", "cy"]

    async def test_a_person_is_scored_by_best_and_mean(self, gallery: Gallery) -> None:
        """The score is the stated mix of the nearest template and the mean of all."""
        await gallery.apply("staff", person("ada", 1, 2, 3))
        probe = vector(8)
        templates = np.stack([vector(seed) for seed in (1, 2, 3)])
        mean = templates.mean(0) / np.linalg.norm(templates.mean(0))
        expected = BEST_WEIGHT * (templates @ probe).max() + (1 - BEST_WEIGHT) * (mean @ probe)
        ((candidate,),) = await gallery.search("staff", probes(probe), limit=1)
        assert candidate.similarity == pytest.approx(expected, abs=1e-3)

    async def test_a_person_near_by_their_mean_only_is_found(self, gallery: Gallery) -> None:
        """Hundreds of single templates nearer than any of a person's own do not hide a near mean."""
        rng = np.random.default_rng(5)
        probe, turns = vector(1), rng.standard_normal((2_008, MODEL.dimension)).astype(np.float32)
        turns -= np.outer(turns @ probe, probe)
        turns /= np.linalg.norm(turns, axis=1, keepdims=True)
        tilted = [(0.5 * probe + np.sqrt(0.75) * turn).astype(np.float32) for turn in turns[:8]]
        around = [template(f"m-{n}", "mean", one) for n, one in enumerate(tilted)]
        lone = [(0.55 * probe + np.sqrt(1 - 0.55**2) * turn).astype(np.float32) for turn in turns[8:]]
        others = [change for n, one in enumerate(lone) for change in (PutIdentity(Identity(f"p{n}", "P")), template(f"t{n}", f"p{n}", one))]
        await gallery.apply("staff", [PutIdentity(Identity("mean", "M")), *around, *others])
        assert (await found(gallery, probe, limit=1)) == ["mean"]

    async def test_ties_go_by_id(self, gallery: Gallery) -> None:
        """People with the same templates come in the order of their ids, however few are asked for."""
        ids = ["d", "a", "c", "e", "b"]
        await gallery.apply("staff", [c for one in ids for c in (PutIdentity(Identity(one, "X")), template(f"t-{one}", one, vector(1)))])
        assert await found(gallery, vector(1)) == ["a", "b", "c", "d", "e"]
        assert await found(gallery, vector(2), limit=2) == ["a", "b"]

    async def test_compare_agrees_with_search(self, gallery: Gallery) -> None:
        """1:1 with an identity gives the numbers that 1:N gives."""
        await gallery.apply("staff", [*person("ada", 1, 2, 3), *person("bob", 4, 5), *person("empty")])
        asked = probes(vector(2), vector(9))
        searched = await gallery.search("staff", asked, limit=5)
        for identity in ("ada", "bob"):
            compared = await gallery.compare("staff", identity, asked)
            assert compared == [next(one for one in some if one.identity.id == identity) for some in searched]
        with pytest.raises(NotFound, match="no template"):
            await gallery.compare("staff", "empty", asked)

    async def test_wrong_probes_are_refused(self, gallery: Gallery) -> None:
        """Another model, NaN, too many probes or candidates; no probe is no work."""
        with pytest.raises(ModelMismatch):
            await gallery.search("staff", probes(vector(1), model=OTHER_MODEL), limit=1)
        with pytest.raises(InvalidInput, match="NaN"):
            await gallery.search("staff", probes(np.full(16, np.nan, np.float32)), limit=1)
        with pytest.raises(InputTooLarge, match="1000 probes"):
            await gallery.search("staff", probes(*[vector(1)] * 1_001), limit=1)
        for limit in (0, 1_001):
            with pytest.raises(InvalidInput, match="1 to 1000"):
                await gallery.search("staff", probes(vector(1)), limit=limit)
        assert await gallery.search("staff", Embeddings(np.empty((0, 16), np.float32), np.empty(0, np.float32), MODEL), limit=1) == []
        assert await gallery.search("staff", probes(vector(1)), limit=1) == [[]]

    async def test_changes_are_seen_at_once(self, gallery: Gallery) -> None:
        """What apply acknowledged, the next search knows."""
        await gallery.apply("staff", [*person("ada", 1, 2), *person("bob", 3)])
        await gallery.apply("staff", [MoveTemplate("ada-1", "bob")])
        assert await found(gallery, vector(1), 1) == ["bob"]
        await gallery.apply("staff", [MergeIdentities("bob", "ada"), PutIdentity(Identity("ada", "Ada L."))])
        ((candidate,),) = await gallery.search("staff", probes(vector(3)), limit=5)
        assert (candidate.identity.id, candidate.identity.name, candidate.identity.templates) == ("ada", "Ada L.", 3)
        await gallery.apply("staff", [RemoveIdentity("ada")])
        assert await found(gallery, vector(1)) == []

    async def test_a_search_sees_all_of_a_change_or_nothing(self, gallery: Gallery) -> None:
        """While a template wanders between two people, it is always with exactly one of them."""
        await gallery.apply("staff", [*person("ada", 1, 11), *person("bob", 12), *person("cy", 5)])
        seen: set[tuple[int, int]] = set()

        async def wander() -> None:
            for _ in range(15):
                await gallery.apply("staff", [MoveTemplate("ada-1", "bob")])
                await gallery.apply("staff", [MoveTemplate("ada-1", "ada")])

        async def watch() -> None:
            while not wandering.done():
                ((first, *others),) = await gallery.search("staff", probes(vector(1)), limit=3)
                counts = {one.identity.id: one.identity.templates for one in (first, *others)}
                assert first.template_id == "ada-1"
                assert counts[first.identity.id] == 2
                seen.add((counts["ada"], counts["bob"]))

        wandering = asyncio.create_task(wander())
        await asyncio.gather(wandering, watch(), watch())
        assert seen == {(2, 1), (1, 2)}

    async def test_many_write_at_once(self, gallery: Gallery) -> None:
        """Concurrent changes are all made; one that is refused harms no other."""
        await gallery.apply("staff", person("ada", 0))

        async def enrol(seed: int) -> bool:
            try:
                await gallery.apply("staff", person(f"p{seed}", seed) if seed % 5 else [template("ada-0", "ada", vector(seed))])
            except Conflict:
                return False
            return True

        outcomes = await asyncio.gather(*(enrol(seed) for seed in range(1, 61)))
        assert outcomes == [bool(seed % 5) for seed in range(1, 61)]
        assert (await gallery.collection("staff")).templates == 49
        answers = await gallery.search("staff", probes(*(vector(seed) for seed in range(61))), limit=1)
        assert [one[0].identity.id for one in answers if one[0].template_similarity > 0.999] == [
            "ada",
            *(f"p{s}" for s in range(61) if s % 5),
        ]


class TestLife:
    async def test_everything_survives_a_restart(self, gallery: Gallery, open_gallery: Open) -> None:
        """Closing twice is fine; a gallery opened again has and finds the same."""
        await gallery.apply("staff", [*person("ada", 1, 2), *person("bob", 3), MoveTemplate("ada-2", "bob"), *person("empty")])
        before, answer = await _everything(gallery), await gallery.search("staff", probes(vector(2)), limit=3)
        await gallery.close()
        await gallery.close()
        again = await open_gallery()
        try:
            assert await _everything(again) == before
            assert await again.search("staff", probes(vector(2)), limit=3) == answer
        finally:
            await again.close()

    async def test_a_closed_gallery_says_so(self, gallery: Gallery) -> None:
        """Calls after close raise Unavailable instead of hanging."""
        await gallery.close()
        for call in (gallery.collections(), gallery.apply("staff", []), gallery.search("staff", probes(vector(1)), limit=1)):
            with pytest.raises(Unavailable, match="closed"):
                await call

    async def test_two_see_each_other(self, gallery: Gallery, open_gallery: Open, within_s: float) -> None:
        """What one process changes, another that uses the same gallery finds: with its next search, or 200 ms later."""
        other = await open_gallery()
        try:
            await other.apply("staff", person("ada", 1))
            await soon(lambda: found(gallery, vector(1)), ["ada"], within_s)
            await gallery.apply("staff", [*person("bob", 2), MergeIdentities("ada", "bob")])
            await soon(lambda: found(other, vector(1)), ["bob"], within_s)
            for seed in range(10, 310):
                await other.apply("staff", [template(f"t{seed}", "bob", vector(seed))])

            async def nearest() -> tuple[str, int]:
                ((candidate,),) = await gallery.search("staff", probes(vector(309)), limit=2)
                return candidate.template_id, candidate.identity.templates

            await soon(nearest, ("t309", 302), within_s)
            await other.drop_collection("staff")

            async def gone() -> bool:
                try:
                    await found(gallery, vector(1))
                except NotFound:
                    return True
                return False

            await soon(gone, True, within_s)
        finally:
            await other.close()

    async def test_it_says_that_it_is_current(self, gallery: Gallery) -> None:
        """After a change as before it; nothing is being loaded."""
        await gallery.apply("staff", person("ada", 1, 2))
        fresh = gallery.freshness
        assert (fresh.current, fresh.stale_since, fresh.reason) == (True, None, "")
        assert fresh.loaded == fresh.total


async def soon(look: Callable[[], Awaitable[object]], expected: object, within_s: float) -> None:
    """Make sure that a look gives what is expected, at the latest after ``within_s``."""
    until = time.monotonic() + within_s
    while (seen := await look()) != expected and time.monotonic() < until:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.005)
    assert seen == expected


async def _everything(gallery: Gallery) -> list[object]:
    people = await gallery.identities("staff", limit=1000)
    shown = [await gallery.identity("staff", one.id) for one in people]
    records = [(one.template, one.embedding.vector.tobytes(), one.embedding.norm, one.crop) for one in await gallery.records("staff")]
    return [await gallery.collection("staff"), shown, records]
