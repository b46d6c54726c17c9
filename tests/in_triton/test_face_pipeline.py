"""The whole pipeline inside of a real tritonserver gives what this process gives."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from benchmarks.triton_server import TritonServer
from face_server.domain.face_pipeline import Question
from face_server.domain.image import Image, Pixels
from face_server.domain.ports import AnalysisOptions, CompressedPicture
from face_server.errors import FaceServerError, InputTooLarge, InvalidImage, InvalidInput
from face_server.pipeline.analysis import LocalAnalyzer
from face_server.video.images import ImageLimits, decode_image

from .asking import Asker, Refused, assert_same_faces, faces_here, refusal_here
from .conftest import MAX_BYTES, MAX_PIXELS

LIMITS = ImageLimits(MAX_BYTES, MAX_PIXELS)


@pytest.fixture(scope="session")
def group(shared: Path) -> bytes:
    """A JPEG of six faces."""
    return (shared / "data/photos/scenes/friends_six_faces.jpg").read_bytes()


def pixels_of(data: bytes) -> Pixels:
    """BGR."""
    return decode_image(data, LIMITS).pixels


def as_pillow(data: bytes) -> Pillow.Image:
    """For writing it in another format."""
    return Pillow.fromarray(np.ascontiguousarray(pixels_of(data)[..., ::-1]))


def saved(picture: Pillow.Image, form: str, **options: object) -> bytes:
    """A file."""
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def sideways(picture: Pillow.Image) -> bytes:
    """A JPEG as a phone stores it that was held upright."""
    exif = Pillow.Exif()
    exif[0x0112] = 6
    return saved(picture.transpose(Pillow.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)


def sixteen_bits(picture: Pillow.Image) -> bytes:
    """A PNG of 16 bits a channel."""
    wide = np.asarray(picture)[..., ::-1].astype(np.uint16) * 257
    return cv2.imencode(".png", wide)[1].tobytes()


FORMS: dict[str, Callable[[Pillow.Image], bytes]] = {
    "JPEG": lambda picture: saved(picture, "JPEG", quality=95),
    "sideways JPEG": sideways,
    "CMYK JPEG": lambda picture: saved(picture.convert("CMYK"), "JPEG", quality=95),
    "PNG": lambda picture: saved(picture, "PNG", compress_level=1),
    "16-bit PNG": sixteen_bits,
    "WebP": lambda picture: saved(picture, "WEBP", quality=95),
    "GIF": lambda picture: saved(picture, "GIF"),
    "BMP": lambda picture: saved(picture, "BMP"),
    "TIFF": lambda picture: saved(picture, "TIFF", compression="tiff_lzw"),
    "grey JPEG": lambda picture: saved(picture.convert("L"), "JPEG", quality=95),
}


@pytest.mark.parametrize("form", FORMS)
async def test_every_format_is_answered_as_in_process(ask: Asker, here: LocalAnalyzer, group: bytes, form: str):
    """The same file gives the same faces, in the same order, with the same quality, embeddings and size."""
    data = FORMS[form](as_pillow(group).resize((640, 443)))

    expected = await here.analyze_compressed(CompressedPicture(data, lambda: decode_image(data, LIMITS)), AnalysisOptions())
    found = await ask.encoded(data)

    assert len(expected.faces) >= 5
    assert_same_faces(found.faces, expected.faces)
    assert (found.width, found.height) == (expected.width, expected.height) == (640, 443)
    assert found.decode_ms > 0


@pytest.mark.parametrize("name", ["people/obama/obama1.jpg", "scenes/multiface.jpg", "scenes/two_people.jpg", "scenes/rgba_32bit.png"])
async def test_photos_and_frames_are_answered_as_in_process(ask: Asker, here: LocalAnalyzer, photos: Path, name: str):
    """One face, two, many: as a compressed picture and as pixels."""
    file = photos / name
    if not file.exists():
        file = next((photos / "people/obama").iterdir())
    data = file.read_bytes()
    pixels = pixels_of(data)
    expected = await faces_here(here, pixels)

    assert expected
    assert_same_faces((await ask.encoded(data)).faces, expected)
    found = await ask.analysis({"frame": pixels})
    assert_same_faces(found.faces, expected)
    assert (found.width, found.height, found.decode_ms) == (pixels.shape[1], pixels.shape[0], 0.0)


async def test_a_picture_of_nobody_has_no_rows(ask: Asker):
    """No face is an answer, not an error."""
    tensors = await ask.raw({"frame": np.full((480, 640, 3), 90, np.uint8)})

    assert [tensors[name].shape[0] for name in ("boxes", "scores", "landmarks", "quality", "embeddings", "norms", "face_crops")] == [0] * 7
    assert tensors["embeddings"].shape == (0, 128)


@pytest.mark.parametrize(
    "options",
    [
        AnalysisOptions(mirror=True),
        AnalysisOptions(min_face_px=115),
        AnalysisOptions(max_faces=2),
        AnalysisOptions(min_score=0.9),
        AnalysisOptions(max_size_px=1280),
        AnalysisOptions(max_size_px=210, min_score=0.5, embed=False),
        AnalysisOptions(embed=False, quality=False),
        AnalysisOptions(crops=True, embed=False),
    ],
    ids=str,
)
async def test_options_mean_the_same(ask: Asker, here: LocalAnalyzer, group: bytes, options: AnalysisOptions):
    """What is chosen and computed follows the options as in process; a scaled decode happens where no embedding is wanted."""
    size = None if options.embed else options.max_size_px
    expected = await here.analyze_compressed(CompressedPicture(group, lambda: decode_image(group, LIMITS, size)), options)

    found = await ask.encoded(group, options)

    assert expected.faces
    assert_same_faces(found.faces, expected.faces)
    assert (found.width, found.height) == (1280, 886)


async def test_the_second_pass_is_the_askers_choice(ask: Asker, here: LocalAnalyzer, photos: Path):
    """A face that fills the picture is found with it, as in process, and not without."""
    whole = pixels_of((photos / "scenes/obama1.jpg").read_bytes())
    frame = cv2.resize(np.ascontiguousarray(whole[120:630, 540:903]), (480, 640))
    png = cv2.imencode(".png", frame)[1].tobytes()
    sure = AnalysisOptions(min_score=0.9)
    (expected,) = await here.analyze([Image.from_pixels(frame)], sure)

    assert len(expected) == 1
    assert_same_faces((await ask.analysis({"frame": frame}, sure)).faces, expected)
    assert_same_faces((await ask.encoded(png, sure)).faces, expected)
    assert not (await ask.analysis({"frame": frame}, sure, second_pass=False)).faces
    assert not (await ask.encoded(png, sure, second_pass=False)).faces


async def test_a_frame_may_stand_for_a_larger_picture(ask: Asker, here: LocalAnalyzer, group: bytes):
    """Results are in pixels of the source, and ``min_face_px`` counts those."""
    half = cv2.resize(pixels_of(group), (640, 443), interpolation=cv2.INTER_AREA)
    options = AnalysisOptions(min_face_px=60)
    (expected,) = await here.analyze([Image(half, 1280, 886)], options)

    found = await ask.analysis({"frame": half}, options, source_width=1280, source_height=886)

    assert_same_faces(found.faces, expected)
    assert (found.width, found.height) == (1280, 886)


@pytest.mark.parametrize("mirror", [False, True])
async def test_aligned_crops_are_embedded_as_in_process(ask: Asker, here: LocalAnalyzer, group: bytes, mirror: bool):
    """Crops skip detection: one face each, in order."""
    crops = np.stack([face.crop for face in await faces_here(here, pixels_of(group), AnalysisOptions(crops=True))])
    expected = await here.embed_crops([Image.from_pixels(crop) for crop in crops], mirror=mirror)

    found = await ask.analysis({"crops": crops}, AnalysisOptions(mirror=mirror, crops=True))

    assert_same_faces(found.faces, expected)


async def test_only_what_is_asked_for_is_sent(ask: Asker, group: bytes):
    """A caller who names outputs gets these."""
    tensors = await ask.raw({"encoded": np.frombuffer(group, np.uint8)}, ("boxes", "model"))

    assert tensors.keys() == {"boxes", "model"}
    assert tensors["model"][0] == str(ask.model).encode()


def refused_here(data: bytes, limits: ImageLimits = LIMITS) -> FaceServerError:
    """What this process says of a picture."""
    with pytest.raises(InvalidInput) as caught:
        decode_image(data, limits)
    return caught.value


@pytest.mark.parametrize("spoil", [lambda _: b"garbage", lambda data: data[: len(data) // 2], lambda _: b"%PDF-1.7", lambda _: b"{}"])
async def test_pictures_are_refused_in_the_words_of_this_process(ask: Asker, group: bytes, spoil: Callable[[bytes], bytes]):
    """Garbage, a truncated picture, a document: the very error of the in-process path."""
    data = spoil(group)

    with pytest.raises(Refused) as caught:
        await ask.encoded(data)

    assert caught.value.status == "StatusCode.INVALID_ARGUMENT"
    assert refusal_here(caught.value.fault) == refusal_here(refused_here(data))


@pytest.mark.parametrize("limits", [ImageLimits(1000, MAX_PIXELS), ImageLimits(MAX_BYTES, 1000)])
async def test_limits_of_the_asker_hold(ask: Asker, group: bytes, limits: ImageLimits):
    """Who asks may allow less than the server, and is refused in the usual words."""
    with pytest.raises(Refused) as caught:
        await ask.encoded(group, max_bytes=limits.max_bytes, max_pixels=limits.max_pixels)

    assert refusal_here(caught.value.fault) == refusal_here(refused_here(group, limits))
    assert isinstance(caught.value.fault, InputTooLarge)


async def test_limits_of_the_server_hold(ask: Asker):
    """Nobody can allow more than the server does: neither bytes, nor pixels of a picture, of a frame, of crops."""
    large = saved(Pillow.new("L", (5000, 5000)), "PNG")
    given = {
        "encoded": np.frombuffer(large, np.uint8),
        "frame": np.zeros((5000, 5000, 3), np.uint8),
        "crops": np.zeros((1600, 112, 112, 3), np.uint8),
    }
    for name, tensor in given.items():
        with pytest.raises(Refused) as caught:
            await ask.analysis({name: tensor}, max_pixels=2**30, max_bytes=2**30)
        assert isinstance(caught.value.fault, InputTooLarge), name
    with pytest.raises(Refused) as caught:
        await ask.encoded(b"\xff\xd8\xff" + bytes(MAX_BYTES), max_bytes=2**30)
    assert isinstance(caught.value.fault, InputTooLarge)


@pytest.mark.parametrize(
    ("names", "got"),
    [((), "none"), (("encoded", "frame"), "encoded and frame"), (("encoded", "frame", "crops"), "encoded and frame and crops")],
)
async def test_exactly_one_picture_is_taken(ask: Asker, group: bytes, names: tuple[str, ...], got: str):
    """No picture and several pictures are refused by name."""
    every = {
        "encoded": np.frombuffer(group, np.uint8),
        "frame": np.zeros((64, 64, 3), np.uint8),
        "crops": np.zeros((1, 112, 112, 3), np.uint8),
    }
    with pytest.raises(Refused) as caught:
        await ask.analysis({name: every[name] for name in names})

    assert caught.value.fault.field == "inputs"
    assert caught.value.fault.message.endswith(f"got {got}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "must be the JSON of a question"),
        (b"[]", "must be the JSON of a question"),
        (b'{"analysis": 3}', "must be the JSON of a question"),
        (b'{"surprise": 1}', "surprise"),
        (b'{"analysis": {"min_score": "high"}}', "min_score must be of the type float"),
        (b'{"analysis": {"min_score": NaN}}', "min_score must be from 0 to 1"),
        (b'{"analysis": {"min_score": 1' + b"0" * 400 + b"}}", "min_score must be from 0 to 1"),
        (b'{"analysis": {"embed": 1}}', "embed must be of the type bool"),
        (b'{"analysis": {"max_size_px": 100000}}', "max_size_px must be from 0 to 8192"),
        (b'{"analysis": {"max_size_px": 31}}', "max_size must be at least 32 pixels"),
        (b'{"analysis": {"max_faces": -1}}', "max_faces must be from 0"),
        (b'{"max_bytes": -1}', "max_bytes must be from 0"),
        (b'{"max_pixels": true}', "max_pixels must be of the type int"),
    ],
)
async def test_bad_options_are_refused(ask: Asker, group: bytes, text: bytes, message: str):
    """Options that cannot be read or cannot be meant are the asker's error, in one sentence that names the value."""
    with pytest.raises(Refused) as caught:
        await ask.raw({"encoded": np.frombuffer(group, np.uint8), "options": np.array([text], np.object_)})

    assert type(caught.value.fault) is InvalidInput
    assert message in caught.value.fault.message


async def test_a_source_smaller_than_its_frame_is_refused(ask: Asker):
    """As in process."""
    with pytest.raises(Refused) as caught:
        await ask.analysis({"frame": np.zeros((64, 64, 3), np.uint8)}, source_width=32, source_height=32)

    assert caught.value.fault.field == "frame"


async def test_two_hundred_at_once(ask: Asker, here: LocalAnalyzer, photos: Path):
    """Two instances answer 200 concurrent requests, sound and broken ones mixed, each as if it were alone."""
    data = next((photos / "people/biden").iterdir()).read_bytes()
    small = cv2.resize(pixels_of(data), (240, 240))
    expected = await faces_here(here, small)

    async def one(number: int) -> None:
        if number % 5 == 4:
            with pytest.raises(Refused) as caught:
                await ask.encoded(b"\xff\xd8\xff garbage")
            assert isinstance(caught.value.fault, InvalidImage)
        else:
            assert_same_faces((await ask.analysis({"frame": small})).faces, expected)

    assert expected
    await asyncio.gather(*map(one, range(200)))


async def test_a_network_that_is_unloaded_and_loaded_again(pipelines: TritonServer, ask: Asker, group: bytes):
    """Without its embedder the pipeline says so in one sentence, still detects, and is whole again once the network is back."""
    await asyncio.to_thread(pipelines.unload, "sface")
    try:
        while pipelines.index()["sface"] == "READY":  # noqa: ASYNC110 - another process decides when
            await asyncio.sleep(0.05)
        with pytest.raises(Refused) as caught:
            await ask.encoded(group)
        assert (caught.value.status, caught.value.text) == ("StatusCode.UNAVAILABLE", "the model sface is not loaded")
        assert len((await ask.encoded(group, AnalysisOptions(embed=False))).faces) == 6
    finally:
        await asyncio.to_thread(pipelines.load, "sface")

    assert len((await ask.encoded(group)).faces) == 6


async def test_cancelled_requests_are_not_worked_on(ask: Asker, group: bytes):
    """Who goes away while the request waits costs nothing but its place in the queue."""
    given = {"encoded": np.frombuffer(group, np.uint8)}
    started = time.monotonic()
    await ask.raw(given)
    alone_s = time.monotonic() - started
    requests = [asyncio.ensure_future(ask.raw(given)) for _ in range(60)]
    await asyncio.sleep(0.05)
    for request in requests:
        request.cancel()
    await asyncio.gather(*requests, return_exceptions=True)

    # Worked on by two instances they would keep the next one waiting for about thirty times as long.
    await asyncio.wait_for(ask.raw(given), 12 * alone_s)


def test_the_question_has_defaults():
    """A caller who has no options leaves them out."""
    assert Question.from_tensor(None) == Question()
