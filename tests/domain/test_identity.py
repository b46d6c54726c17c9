"""Defaults of what a gallery holds."""

from __future__ import annotations

import dataclasses

import pytest

from face_server.domain.embedding import ModelId
from face_server.domain.identity import Collection, Identity, Template

MODEL = ModelId("sface", "fb143eea0783", 1, 128)


def test_a_new_collection_derives_its_threshold() -> None:
    """Nothing is pinned: 1 % of strangers may be named, whatever the gallery's size."""
    collection = Collection("people", MODEL)
    assert collection.threshold is None
    assert collection.target_fpir == 0.01
    assert collection.margin == 0.0
    assert (collection.identities, collection.templates) == (0, 0)


@pytest.mark.parametrize("value", [Collection("people", MODEL), Identity("1", "Ann"), Template("1", "2", 0.5, 0.0)])
def test_stored_values_cannot_be_changed_in_place(value: object) -> None:
    """Values are frozen: a change goes through the gallery or not at all."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, "other")  # type: ignore[arg-type]


def test_two_identities_do_not_share_their_metadata() -> None:
    """The default is a fresh mapping each time."""
    assert Identity("1", "Ann").metadata is not Identity("2", "Bob").metadata
