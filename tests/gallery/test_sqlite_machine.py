"""Random histories of a real SQLite gallery against a plain model of what it should hold."""

from __future__ import annotations

import asyncio
import contextlib
import logging.handlers
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

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
from face_server.errors import FaceServerError
from face_server.gallery.scoring import BEST_WEIGHT
from face_server.gallery.sqlite import SqliteGallery
from face_server.workers import Workers

MODEL = ModelId("toy", "00", 1, 4)
TOLERANCE = 2e-6


def _pool() -> list[np.ndarray]:
    raw = np.random.default_rng(3).standard_normal((10, MODEL.dimension)).astype(np.float32)
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    # Opposites make people whose mean points nowhere; a nearly equal pair makes near ties.
    close = unit[0] + 1e-3 * unit[1]
    return [*unit, -unit[0], (close / np.linalg.norm(close)).astype(np.float32)]


VECTORS = _pool()
IDENTITY_IDS = st.sampled_from([f"p{n}" for n in range(6)])
TEMPLATE_NAMES = {f"t{n:02}" for n in range(24)}
RARELY = st.sampled_from([False] * 9 + [True])
KINDS = st.sampled_from(["put", "add", "add", "add", "add", "move", "remove", "remove", "merge", "erase"])


Draw = Callable[[st.SearchStrategy[Any]], Any]


def added(template_id: str, identity_id: str, values: np.ndarray) -> AddTemplate:
    """The change that adds a template."""
    return AddTemplate(TemplateRecord(Template(template_id, identity_id, 0.5, 1.0), Embedding(values, 1.0, MODEL)))


class Refused(Exception):
    """The model refuses a change."""


class Model:
    """What a collection holds: names by identity id, (identity id, vector) by template id."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.templates: dict[str, tuple[str, np.ndarray]] = {}

    def apply(self, changes: Sequence[Change]) -> None:
        """Make all changes or raise Refused and make none."""
        names, templates = dict(self.names), dict(self.templates)
        for change in changes:
            self._make(change, names, templates)
        self.names, self.templates = names, templates

    def copy(self) -> Model:
        """Another that holds the same."""
        other = Model()
        other.names, other.templates = dict(self.names), dict(self.templates)
        return other

    def score(self, identity_id: str, probe: np.ndarray) -> tuple[float, float] | None:
        """Score and similarity of the nearest template, by the definition."""
        own = [vector.astype(np.float16).astype(np.float64) for owner, vector in self.templates.values() if owner == identity_id]
        if not own:
            return None
        similarities, total = np.array(own) @ probe, np.sum(own, axis=0)
        length = np.linalg.norm(total)
        mean = float(total @ probe / length) if length > 1e-6 else 0.0
        # Rounding to half floats leaves lengths a little beside 1; similarities end at 1 all the same.
        score = BEST_WEIGHT * similarities.max() + (1 - BEST_WEIGHT) * np.clip(mean, -1, 1)
        return min(1.0, score), min(1.0, similarities.max())

    @staticmethod
    def _make(change: Change, names: dict[str, str], templates: dict[str, tuple[str, np.ndarray]]) -> None:
        def require(holds: bool) -> None:
            if not holds:
                raise Refused

        match change:
            case PutIdentity(identity):
                names[identity.id] = identity.name
            case AddTemplate(record):
                require(record.template.identity_id in names and record.template.id not in templates)
                templates[record.template.id] = (record.template.identity_id, record.embedding.vector)
            case MoveTemplate(template_id, identity_id):
                require(template_id in templates and identity_id in names)
                templates[template_id] = (identity_id, templates[template_id][1])
            case RemoveTemplate(template_id):
                require(template_id in templates)
                del templates[template_id]
            case MergeIdentities(source_id, target_id):
                require(source_id in names and target_id in names and source_id != target_id)
                for key, (owner, vector) in list(templates.items()):
                    templates[key] = (target_id if owner == source_id else owner, vector)
                del names[source_id]
            case RemoveIdentity(identity_id):
                require(identity_id in names)
                del names[identity_id]
                for key in [key for key, (owner, _) in templates.items() if owner == identity_id]:
                    del templates[key]


class GalleryMachine(RuleBasedStateMachine):
    """Does the same to a gallery and to the model, restarts now and then, and compares."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.workers = self.stack.enter_context(Workers(2))
        self.runner = self.stack.enter_context(asyncio.Runner())
        self.models: dict[str, Model] = {}
        # An index that fails is built anew, which would hide that it failed.
        self.complaints = logging.handlers.BufferingHandler(1_000)
        logging.getLogger("face_server").addHandler(self.complaints)
        self.stack.callback(logging.getLogger("face_server").removeHandler, self.complaints)
        self.gallery = self.opened()

    def opened(self) -> SqliteGallery:
        """The gallery in the folder of this history."""
        return self.runner.run(SqliteGallery.open(self.folder / "gallery.sqlite3", self.workers, FakeClock()))

    @initialize()
    def begin(self) -> None:
        """Every history begins with a collection."""
        self.create()

    @precondition(lambda self: not self.models)
    @rule()
    def create(self) -> None:
        """Make the collection."""
        self.runner.run(self.gallery.create_collection(Collection("all", MODEL)))
        self.models["all"] = Model()

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def apply(self, data: st.DataObject) -> None:
        """Both make a sequence of changes, most of which make sense, or both refuse it."""
        scratch, changes = self.models["all"].copy(), []
        for _ in range(data.draw(st.integers(1, 6))):
            change = self.change(data.draw, scratch)
            try:
                scratch.apply([change])
            except Refused:
                if not data.draw(RARELY):
                    continue
            changes.append(change)
        self.apply_both(changes)

    @precondition(lambda self: self.models)
    @rule(who=IDENTITY_IDS, vectors=st.lists(st.sampled_from(VECTORS), max_size=4))
    def enrol(self, who: str, vectors: list[np.ndarray]) -> None:
        """Put somebody with new templates."""
        fresh = sorted(TEMPLATE_NAMES.difference(self.models["all"].templates))
        self.apply_both([PutIdentity(Identity(who, "Ann")), *(added(*one) for one in zip(fresh, [who] * 4, vectors, strict=False))])

    def apply_both(self, changes: list[Change]) -> None:
        """Apply to gallery and model."""
        try:
            self.models["all"].apply(changes)
            refused = False
        except Refused:
            refused = True
        try:
            self.runner.run(self.gallery.apply("all", changes))
        except FaceServerError:
            assert refused
        else:
            assert not refused

    @staticmethod
    def change(draw: Draw, model: Model) -> Change:
        """One change, mostly to what is there."""
        people = st.sampled_from(sorted(model.names) or ["p0"])
        templates = st.sampled_from(sorted(model.templates) or ["t00"])
        fresh = st.sampled_from(sorted(TEMPLATE_NAMES.difference(model.templates)) or ["t00"])
        match draw(KINDS):
            case "put":
                return PutIdentity(Identity(draw(IDENTITY_IDS), draw(st.sampled_from(["Ann", "安"]))))
            case "add":
                return added(draw(fresh), draw(people), draw(st.sampled_from(VECTORS)))
            case "move":
                return MoveTemplate(draw(templates), draw(people))
            case "remove":
                return RemoveTemplate(draw(templates))
            case "merge":
                return MergeIdentities(draw(people), draw(people))
            case _:
                return RemoveIdentity(draw(people))

    @precondition(lambda self: self.models)
    @rule(really=RARELY)
    def drop(self, really: bool) -> None:
        """Erase the collection."""
        if not really:
            return
        self.runner.run(self.gallery.drop_collection("all"))
        self.models.clear()

    @rule(really=RARELY)
    def restart(self, really: bool) -> None:
        """Close and open again."""
        if not really:
            return
        self.runner.run(self.gallery.close())
        self.gallery = self.opened()

    @precondition(lambda self: self.models)
    @rule(number=st.integers(0, 99), limit=st.integers(1, 7))
    def search(self, number: int, limit: int) -> None:
        """The answer has the right scores, is sorted, and leaves nobody better out."""
        raw = np.random.default_rng(number).standard_normal((1, MODEL.dimension))
        probe = Embeddings.from_features(VECTORS[number][None] if number < len(VECTORS) else raw, MODEL)
        (answer,) = self.runner.run(self.gallery.search("all", probe, limit=limit))
        model = self.models["all"]
        scores = {one: model.score(one, probe.vectors[0].astype(np.float64)) for one in model.names}
        expected = {one: score for one, score in scores.items() if score is not None}
        assert len(answer) == min(limit, len(expected))
        assert answer == sorted(answer, key=lambda one: (-one.similarity, one.identity.id))
        for candidate in answer:
            score, nearest = expected.pop(candidate.identity.id)
            assert abs(candidate.similarity - score) < TOLERANCE
            assert abs(candidate.template_similarity - nearest) < TOLERANCE
            assert model.templates[candidate.template_id][0] == candidate.identity.id
            assert candidate.identity.name == model.names[candidate.identity.id]
        assert all(score <= answer[-1].similarity + TOLERANCE for score, _ in expected.values())

    @invariant()
    def same_contents(self) -> None:
        """Store and model hold the same, and the index is a copy of the store."""
        assert self.runner.run(self.gallery.index_differences()) == 0
        assert not [one.getMessage() for one in self.complaints.buffer]
        if not self.models:
            assert self.runner.run(self.gallery.collections()) == []
            return
        model = self.models["all"]
        people = self.runner.run(self.gallery.identities("all"))
        records = self.runner.run(self.gallery.records("all"))
        counts = [sum(owner == one for owner, _ in model.templates.values()) for one in sorted(model.names)]
        assert [(one.id, one.name, one.templates) for one in people] == [
            (one, model.names[one], count) for one, count in zip(sorted(model.names), counts, strict=True)
        ]
        assert {one.template.id: (one.template.identity_id, one.embedding.vector.tobytes()) for one in records} == {
            key: (owner, vector.tobytes()) for key, (owner, vector) in model.templates.items()
        }
        stored = self.runner.run(self.gallery.collection("all"))
        assert (stored.identities, stored.templates) == (len(model.names), len(model.templates))

    def teardown(self) -> None:
        """Close what is open."""
        self.runner.run(self.gallery.close())
        self.stack.close()


class TestGalleryMachine(GalleryMachine.TestCase):
    """At random, but the same each run."""

    settings = settings(
        max_examples=50,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
