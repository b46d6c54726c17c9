"""Unknown people, remembered in a real gallery by real embeddings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from face_server.api.services import Services
from face_server.clock import FakeClock
from face_server.domain.embedding import Embeddings
from face_server.domain.face import Face
from face_server.domain.identity import Identity, PutIdentity, RemoveIdentity
from face_server.domain.image import Image
from face_server.domain.ports import AnalysisOptions
from face_server.domain.strangers import StrangerPolicy
from face_server.errors import Conflict, InvalidInput, ModelMismatch, NotFound, Unavailable
from face_server.pipeline.recognition import Recognition
from face_server.pipeline.strangers import StrangerBook

DAY_S = 86_400.0


@pytest.fixture
def clock() -> FakeClock:
    """Time that only the test moves."""
    return FakeClock()


@pytest.fixture
def open_book(services: Services, clock: FakeClock) -> Callable[..., StrangerBook]:
    """Opens a book on the gallery, as each start of the server does; keywords change the policy."""

    def build(**policy: object) -> StrangerBook:
        return StrangerBook(services.gallery, services.recognition, services.codec, clock, StrangerPolicy(**policy))

    return build


@pytest.fixture
def book(open_book: Callable[..., StrangerBook]) -> StrangerBook:
    """A book under the default policy."""
    return open_book()


async def look_at(services: Services, *files: Path) -> list[Face]:
    """The most central face of each picture."""
    images = [Image.from_pixels(np.asarray(cv2.imread(str(file)), np.uint8)) for file in files]
    found = await services.analyzer.analyze(images, AnalysisOptions(crops=True))
    middle = [np.array([image.width, image.height]) / 2 for image in images]
    return [
        min(faces, key=lambda face: np.linalg.norm(face.detection.landmarks.mean(axis=0) - centre))
        for faces, centre in zip(found, middle, strict=True)
    ]


async def photos_of(services: Services, photos: Path, person: str) -> list[Face]:
    """All faces of one of the people whose photos there are, best first."""
    faces = await look_at(services, *sorted((photos / "people" / person).iterdir()))
    return sorted(faces, key=lambda face: -face.quality.score)


async def test_the_same_stranger_keeps_the_number_and_another_gets_the_next(book, services, photos, clock):
    """Two photos of one person are Stranger 1, somebody else is Stranger 2; both are known again, by any camera."""
    first, again, *_ = await photos_of(services, photos, "obama")
    other = (await photos_of(services, photos, "lin_manuel_miranda"))[0]

    assert await book.recognise([first.embedding]) == [None]
    one = await book.remember(first)
    await clock.advance(3600)
    assert (await book.remember(again)).stranger_id == one.stranger_id
    two = await book.remember(other)

    assert (one.name, two.name) == ("Stranger 1", "Stranger 2")
    assert (one.similarity, one.collection, one.identity_id) == (1.0, "", "")
    known, unknown = await book.recognise([again.embedding, (await photos_of(services, photos, "rose_leslie"))[0].embedding])
    assert known.stranger_id == one.stranger_id
    assert known.similarity >= known.threshold > 0.4
    assert unknown is None
    stranger = await book.get(one.stranger_id)
    assert (stranger.number, stranger.sightings, stranger.last_seen_at - stranger.first_seen_at) == (1, 2, 3600)
    assert [found.number for found in sorted(await book.page(), key=lambda one: one.number)] == [1, 2]


async def test_a_face_of_low_quality_is_not_remembered(book, services, photos):
    """Small, blurred and turned faces are refused without a trace; a face without its parts is a mistake of the caller."""
    (face, *_) = await photos_of(services, photos, "obama")
    for flaw in ({"size_px": 47.0}, {"sharpness": 0.1}, {"pose": replace(face.quality.pose, yaw=75.0)}, {"detection_score": 0.7}):
        assert await book.remember(replace(face, quality=replace(face.quality, **flaw))) is None
    assert await book.page() == []
    with pytest.raises(ValueError, match="needs quality, embedding and crop"):
        await book.remember(replace(face, crop=None))


async def test_a_stranger_in_view_elsewhere_is_nobody_else(book, services, photos):
    """An excluded id is neither recognised nor given again: of two alike faces in one frame the second is another stranger."""
    first, again, *_ = await photos_of(services, photos, "obama")
    one = await book.remember(first)
    assert await book.recognise([again.embedding], exclude=[one.stranger_id]) == [None]
    two = await book.remember(again, exclude={one.stranger_id})
    assert two.stranger_id != one.stranger_id


async def test_numbers_survive_restarts_and_are_never_given_again(open_book, services, photos):
    """The newest stranger goes, the server starts anew: the next one gets a fresh number; even if the counter itself was erased."""
    faces = [(await photos_of(services, photos, person))[0] for person in ("obama", "rose_leslie", "paul_rudd", "biden")]
    one, two = [await open_book().remember(face) for face in faces[:2]]
    await open_book().dismiss(two.stranger_id)
    assert (await open_book().remember(faces[2])).name == "Stranger 3"
    assert len(await open_book().page()) == 2
    await services.gallery.apply("strangers", [RemoveIdentity("numbering")])
    assert (await open_book().remember(faces[3])).name == "Stranger 4"
    assert (await open_book().get(one.stranger_id)).number == 1


async def test_many_at_once_get_numbers_of_their_own(book, services, photos):
    """People who are remembered at the same moment, some of them twice, become as many strangers as they are."""
    everybody = [await photos_of(services, photos, person) for person in ("obama", "rose_leslie", "paul_rudd", "lin_manuel_miranda")]
    found = await asyncio.gather(*(book.remember(faces[0]) for faces in everybody * 2))
    assert {who.name for who in found} == {f"Stranger {number}" for number in (1, 2, 3, 4)}
    assert sorted(stranger.number for stranger in await book.page()) == [1, 2, 3, 4]


async def test_few_shots_are_kept_and_the_best_is_the_picture(open_book, services, shared):
    """However often somebody is seen, no more than the allowed shots stay, among them the best; it is what people see."""
    book = open_book(max_templates=3)
    faces = await look_at(services, *sorted((shared / "data/lfw/images/Lleyton_Hewitt").iterdir())[:10])
    fit = [face for face in faces if not face.quality.reasons(StrangerPolicy().limits)]
    seen = [await book.remember(face) for face in fit]
    (stranger_id,) = {who.stranger_id for who in seen}
    identity, templates = await services.gallery.identity("strangers", stranger_id)
    assert identity.templates == 3 < len(fit)
    best = max(fit, key=lambda face: face.quality.score)
    assert max(one.quality for one in templates) == pytest.approx(best.quality.score)
    shown = cv2.imdecode(np.frombuffer(await book.picture(stranger_id), np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(shown.astype(int) - best.crop).mean() < 6
    assert (await book.get(stranger_id)).quality == pytest.approx(best.quality.score, abs=1e-4)


async def test_being_seen_is_noted(book, services, photos, clock):
    """The last time counts; stretches a minute apart count as sightings; somebody gone is an error."""
    who = await book.remember((await photos_of(services, photos, "obama"))[0])
    begin = clock.now()
    for seconds in (1, 6, 30, 200, 203, 210, 100):
        await book.seen(who.stranger_id, begin + seconds)
    stranger = await book.get(who.stranger_id)
    assert (stranger.last_seen_at, stranger.sightings) == (begin + 210, 2)
    with pytest.raises(NotFound, match="no stranger has the id 'gone'"):
        await book.seen("gone", begin)


async def test_naming_makes_an_identity_and_forgets_the_stranger(book, services, photos):
    """The templates and crops move; the person is then recognised by name, and the number is gone for good."""
    first, again, *_ = await photos_of(services, photos, "obama")
    who = await book.remember(first)
    identity = await book.name(who.stranger_id, collection="default", name="Barack Obama")
    assert (identity.id, identity.name, identity.templates) == (who.stranger_id, "Barack Obama", 1)
    (found,) = await services.gallery.search("default", _batch(again), limit=1)
    assert (found[0].identity.name, found[0].similarity > 0.5) == ("Barack Obama", True)
    assert (await services.gallery.record("default", found[0].template_id)).crop
    assert await book.page() == []
    with pytest.raises(NotFound, match="no stranger has the id"):
        await book.name(who.stranger_id, collection="default", name="Barack Obama")


async def test_a_stranger_becomes_part_of_somebody_enrolled(book, services, photos):
    """With an identity_id the templates join that identity, whose name stays."""
    first, again, *_ = await photos_of(services, photos, "obama")
    await services.enrollment.enroll_embedding("default", Identity("obama", "Barack Obama"), first.embedding)
    who = await book.remember(again)
    identity = await book.name(who.stranger_id, collection="default", identity_id="obama")
    assert (identity.id, identity.name, identity.templates) == ("obama", "Barack Obama", 2)
    assert await book.page() == []


async def test_naming_somebody_who_looks_enrolled_is_refused(book, services, photos):
    """A new identity that looks like an old one is a conflict that names it and changes nothing; it can be overridden."""
    first, *_ = await photos_of(services, photos, "obama")
    await services.enrollment.enroll_embedding("default", Identity("obama", "Barack Obama"), first.embedding)
    who = await book.remember(first)
    with pytest.raises(Conflict, match="looks like 'Barack Obama'") as refused:
        await book.name(who.stranger_id, collection="default", name="Somebody Else")
    assert (refused.value.code, refused.value.field) == ("identity_conflict", "identity_id")
    assert len(await book.page()) == 1
    assert (await services.gallery.collection("default")).identities == 1
    assert (await book.name(who.stranger_id, collection="default", name="Twin", override=True)).name == "Twin"


@pytest.mark.parametrize(
    ("wish", "error", "sentence"),
    [
        ({"collection": "default"}, InvalidInput, "with a name, or an existing identity_id"),
        ({"collection": "default", "name": "x", "identity_id": "y"}, InvalidInput, "with a name, or an existing identity_id"),
        ({"collection": "strangers", "name": "x"}, InvalidInput, "is for strangers"),
        ({"collection": "nowhere", "name": "x"}, NotFound, "nowhere"),
        ({"collection": "default", "identity_id": "nobody"}, NotFound, "nobody"),
    ],
)
async def test_a_name_that_cannot_be_given_changes_nothing(book, services, photos, wish, error, sentence):
    """Each mistake is one sentence, and the stranger stays."""
    who = await book.remember((await photos_of(services, photos, "obama"))[0])
    with pytest.raises(error, match=sentence):
        await book.name(who.stranger_id, **wish)
    assert [one.id for one in await book.page()] == [who.stranger_id]


class _CutOff:
    """A gallery that loses its power before the strangers are written the next time."""

    def __init__(self, gallery) -> None:
        self._gallery = gallery

    def __getattr__(self, name: str):
        return getattr(self._gallery, name)

    async def apply(self, collection, changes):
        if collection == "strangers":
            raise Unavailable("the disk is gone")
        await self._gallery.apply(collection, changes)


async def test_a_crash_in_the_middle_of_naming_loses_nobody_and_the_same_call_completes_it(book, services, photos, clock):
    """After the identity was written and before the stranger was removed both exist; naming again leaves the identity, once."""
    first, again, *_ = await photos_of(services, photos, "obama")
    who = await book.remember(first)
    await book.remember(again)
    halfway = StrangerBook(_CutOff(services.gallery), services.recognition, services.codec, clock)
    with pytest.raises(Unavailable):
        await halfway.name(who.stranger_id, collection="default", name="Barack Obama")
    assert (await book.get(who.stranger_id)).number == 1
    before, templates = await services.gallery.identity("default", who.stranger_id)
    identity = await book.name(who.stranger_id, collection="default", name="Barack Obama")
    assert (identity, len(templates)) == (before, identity.templates)
    assert await book.page() == []


async def test_merging_keeps_the_target_with_the_best_of_both(open_book, services, photos, clock):
    """Times and sightings add up, templates stay within bounds, the source is gone; merging with oneself is refused."""
    book = open_book(threshold=0.99, max_templates=2)
    faces = await photos_of(services, photos, "obama")
    assert len(faces) >= 2
    one = await book.remember(faces[0])
    await clock.advance(100)
    two = await book.remember(faces[1])
    merged = await book.merge(one.stranger_id, two.stranger_id)
    assert (merged.id, merged.number, merged.sightings) == (two.stranger_id, 2, 2)
    assert (merged.last_seen_at - merged.first_seen_at, merged.quality) == (100, pytest.approx(faces[0].quality.score, abs=1e-4))
    assert merged == await book.get(two.stranger_id)
    assert (await services.gallery.identity("strangers", two.stranger_id))[0].templates == 2
    for source, target, error in ((one, two, NotFound), (two, one, NotFound), (two, two, InvalidInput)):
        with pytest.raises(error):
            await book.merge(source.stranger_id, target.stranger_id)


async def test_strangers_expire_and_the_longest_away_give_way(open_book, services, photos, clock):
    """Beyond the capacity who was away longest goes at once; after the retention everybody not seen since goes."""
    book = open_book(capacity=2, retention_days=10.0)
    found = []
    for person in ("obama", "rose_leslie", "paul_rudd"):
        found.append(await book.remember((await photos_of(services, photos, person))[0]))
        await clock.advance(DAY_S)
        if person == "rose_leslie":
            await book.seen(found[0].stranger_id, clock.now())
    assert sorted(stranger.number for stranger in await book.page()) == [1, 3]
    assert await book.expire() == 0
    await book.seen(found[2].stranger_id, clock.now())
    await clock.advance(9.5 * DAY_S)
    assert await book.expire() == 1
    assert [stranger.number for stranger in await book.page()] == [3]
    await clock.advance(DAY_S)
    assert await book.expire() == 1
    assert await book.expire() == 0


async def test_pages_go_by_id_and_show_no_bookkeeping(open_book, services, photos):
    """All strangers, each once, in pages of any size; what keeps the numbers is no stranger."""
    book = open_book(threshold=0.9999)
    for person in ("obama", "rose_leslie", "paul_rudd"):
        for face in await photos_of(services, photos, person):
            await book.remember(face)
    everybody = await book.page()
    pages, after = [], ""
    while page := await book.page(after=after, limit=2):
        pages += page
        after = page[-1].id
    assert pages == everybody == sorted(everybody, key=lambda one: one.id)
    assert sorted(one.number for one in everybody) == list(range(1, len(everybody) + 1))
    with pytest.raises(NotFound):
        await book.get("numbering")


async def test_before_anybody_was_remembered_the_book_is_empty(book, services, photos):
    """Nothing is stored for looking: no collection, no page, no picture."""
    assert await book.recognise([]) == []
    assert await book.page() == []
    assert await book.expire() == 0
    for what in (book.get("x"), book.picture("x"), book.dismiss("x"), book.seen("x", 0.0)):
        with pytest.raises(NotFound, match="no stranger has the id 'x'"):
            await what
    assert [one.name for one in await services.gallery.collections()] == ["default"]


async def test_another_embedder_is_told_apart(book, services, photos):
    """Strangers of another model are not compared: that is an error, not a number."""
    face = (await photos_of(services, photos, "obama"))[0]
    await book.remember(face)
    foreign = replace(face.embedding, model=replace(face.embedding.model, name="other"))
    with pytest.raises(ModelMismatch):
        await book.recognise([foreign])
    with pytest.raises(ModelMismatch):
        await book.remember(face.with_embedding(foreign))


async def test_a_model_without_measured_similarities_has_a_threshold_too(services, photos, clock):
    """An embedder whose impostors nobody measured still remembers strangers, under the threshold kept for that."""
    first, again, *_ = await photos_of(services, photos, "obama")
    book = StrangerBook(services.gallery, Recognition(services.gallery, {}), services.codec, clock)
    assert (await book.remember(first)).threshold == StrangerPolicy().uncalibrated_threshold
    assert (await book.recognise([again.embedding]))[0] is not None


async def test_identities_that_others_put_there_are_strangers_without_a_number(book, services, photos):
    """What lacks the bookkeeping of a stranger is read as well as possible."""
    face = (await photos_of(services, photos, "obama"))[0]
    await book.remember(face)
    await services.gallery.apply("strangers", [PutIdentity(Identity("abc", "By hand", {"number": "seven"}, 5.0))])
    by_hand = await book.get("abc")
    assert (by_hand.number, by_hand.name, by_hand.first_seen_at, by_hand.sightings) == (0, "By hand", 5.0, 1)
    with pytest.raises(NotFound, match="has no picture"):
        await book.picture("abc")


async def test_a_crowd_is_told_apart(book, services, shared):
    """60 people of LFW with three photos each: returning people rarely get a second number, and hardly anybody another's.

    Over all of LFW: 3.7 % second numbers, 0.2 % somebody else's.
    """
    folders = [folder for folder in sorted((shared / "data/lfw/images").iterdir()) if len(list(folder.iterdir())) >= 3][:60]
    faces = {folder.name: await look_at(services, *sorted(folder.iterdir())[:3]) for folder in folders}
    owner: dict[str, str] = {}
    returned = split = wrong = 0
    for number in range(3):
        for person, shots in faces.items():
            who = await book.remember(shots[number])
            if who is None:
                continue
            known = person in owner.values()
            returned += known
            split += known and who.stranger_id not in owner
            wrong += owner.setdefault(who.stranger_id, person) != person
    assert returned >= 100
    assert split <= 0.08 * returned
    assert wrong <= 1


def _batch(face: Face):
    return Embeddings(face.embedding.vector[None], np.array([1.0], np.float32), face.embedding.model)
