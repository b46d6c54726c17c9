"""Whole videos inside of a real tritonserver: every frame's faces are those that this process finds."""

from __future__ import annotations

import asyncio
import io
import re
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import av
import numpy as np
import pytest

from benchmarks.triton_server import TritonServer
from face_server.domain.ports import Analysis, AnalysisOptions
from face_server.domain.video_pipeline import VideoQuestion
from face_server.errors import InputTooLarge, InvalidInput
from face_server.pipeline.analysis import LocalAnalyzer
from face_server.video.recording import recorded_frames

from .asking import Asker, Refused, assert_same_faces, faces_here

DETECT = AnalysisOptions(embed=False, quality=False)


@pytest.fixture(scope="session")
def stage(videos: Path) -> bytes:
    """275 frames of 640×360, 25 a second, people on a stage."""
    return (videos / "stage_360p.mp4").read_bytes()


def small_video(
    frames: int = 12, *, size: tuple[int, int] = (320, 240), rotation: int = 0, codec: str = "mpeg4", form: str = "mp4"
) -> bytes:
    """A video of moving stripes; nobody in it."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(frames):
            picture = np.full((size[1], size[0], 3), 40, np.uint8)
            picture[:, 10 * number : 10 * number + 30] = 200
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode())
    return buffer.getvalue()


async def all_of(ask: Asker, data: bytes, question: VideoQuestion | bytes) -> list[tuple[float, int]]:
    """Time and number of every analysed frame."""
    async with aclosing(ask.video(data, question)) as frames:
        return [(time_s, number) async for time_s, number, _ in frames]


async def until_refused(ask: Asker, data: bytes, question: VideoQuestion) -> tuple[list[Analysis], str]:
    """What is answered before the video is refused as too large, and the sentence that refuses it."""
    answered = []
    async with aclosing(ask.video(data, question)) as frames:
        try:
            async for _, _, analysis in frames:
                answered.append(analysis)
        except Refused as refused:
            if isinstance(refused.fault, InputTooLarge):
                return answered, refused.fault.message
            raise
    pytest.fail("nothing was refused")


async def test_faces_of_frames_are_those_of_this_process(ask: Asker, here: LocalAnalyzer, stage: bytes):
    """Number, time, size, boxes, quality and embeddings of every twentieth frame equal those of the same frames here."""
    wanted = {frame.number: frame for frame in recorded_frames(np.frombuffer(stage, np.uint8)) if frame.number % 20 == 0}
    async with aclosing(ask.video(stage, VideoQuestion(every_n=20))) as frames:
        found = [one async for one in frames]

    assert [number for _, number, _ in found] == list(wanted) == list(range(0, 275, 20))
    for time_s, number, analysis in found:
        frame = wanted[number]
        assert time_s == pytest.approx(frame.position_s, abs=1e-3)
        assert (analysis.width, analysis.height) == (frame.width, frame.height) == (640, 360)
        assert_same_faces(analysis.faces, await faces_here(here, frame.image().pixels))
    assert sum(len(analysis.faces) for _, _, analysis in found) > 14


async def test_frames_are_chosen_by_rate_and_time(ask: Asker, stage: bytes):
    """``max_fps``, ``start_s`` and ``end_s`` take the frames that they say."""
    fifth = await all_of(ask, stage, VideoQuestion(DETECT, max_fps=5, start_s=2.0, end_s=4.0))

    times = [time_s for time_s, _ in fifth]
    assert len(times) == 10
    assert times[0] == pytest.approx(2.0, abs=0.05)
    assert times[-1] < 4.0
    assert np.diff(times).min() > 0.15
    assert [number for _, number in fifth] == sorted({number for _, number in fifth})


async def test_two_videos_at_once(ask: Asker, stage: bytes):
    """Two instances answer side by side; answers do not mix."""
    first, second = await asyncio.gather(
        all_of(ask, stage, VideoQuestion(DETECT, every_n=10)), all_of(ask, small_video(), VideoQuestion(DETECT, every_n=3))
    )

    assert [number for _, number in first] == list(range(0, 275, 10))
    assert [number for _, number in second] == [0, 3, 6, 9]


@pytest.mark.parametrize(("codec", "form"), [("mpeg4", "avi"), ("mjpeg", "matroska"), ("mpeg4", "mpegts")])
async def test_other_containers(ask: Asker, codec: str, form: str):
    """What FFmpeg plays is played."""
    found = await all_of(ask, small_video(codec=codec, form=form), VideoQuestion(DETECT))

    assert [number for _, number in found] == list(range(12))
    assert [time_s for time_s, _ in found] == pytest.approx([number / 10 for number in range(12)], abs=0.06)


async def test_cancelling_in_the_middle_ends_the_decoding(ask: Asker, stage: bytes):
    """Who goes away is not decoded for: both instances are free again long before two videos would have ended."""
    for _ in range(2):
        async with aclosing(ask.video(stage)) as frames:
            async for _answer in frames:
                break

    found = await asyncio.wait_for(all_of(ask, small_video(), VideoQuestion(DETECT)), 5.0)
    assert len(found) == 12


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"garbage", "the data is not a video in a known format"),
        (b"\0" * 10_000, "the data is not a video in a known format"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", "the data is not a video in a known format"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "the data is not a video in a known format"),
    ],
)
async def test_what_is_no_video_is_one_sentence(ask: Asker, data: bytes, message: str):
    """Garbage, and lists that name other files, are refused; nothing of the machine is read."""
    with pytest.raises(Refused) as caught:
        await all_of(ask, data, VideoQuestion())

    assert caught.value.fault.message == message
    assert (caught.value.fault.code, caught.value.fault.field) == ("invalid_video", "video")


async def test_a_truncated_video_gives_its_frames_first(ask: Asker):
    """What can be read is answered; a container without its index is no video at all."""
    whole = small_video(40, form="mpegts")
    found = await all_of(ask, whole[: len(whole) // 2], VideoQuestion(DETECT))
    assert 5 < len(found) < 40

    cut = small_video(40)
    with pytest.raises(Refused) as caught:
        await all_of(ask, cut[: len(cut) // 2], VideoQuestion(DETECT))
    assert caught.value.fault.code == "invalid_video"


async def test_a_sound_without_pictures_is_refused(ask: Asker):
    """A file without a picture track says so."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(Refused) as caught:
        await all_of(ask, buffer.getvalue(), VideoQuestion())

    assert caught.value.fault.message == "the video has no picture track whose codec is supported"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "must be the JSON of a question"),
        (b'{"every_n": 0}', "every_n must be at least 1"),
        (b'{"max_fps": "all"}', "max_fps must be of the type float"),
        (b'{"start_s": 5, "end_s": 4}', "end_s must be later than start_s"),
        (b'{"analysis": {"max_faces": 1.5}}', "max_faces must be of the type int"),
    ],
)
async def test_bad_options_are_refused(ask: Asker, text: bytes, message: str):
    """Before anything is decoded."""
    with pytest.raises(Refused) as caught:
        await all_of(ask, b"garbage", text)

    assert type(caught.value.fault) is InvalidInput
    assert message in caught.value.fault.message


async def test_bounds_of_the_server(ask: Asker):
    """Bytes of the file, seconds, analysed frames and pixels have bounds; frames before the bound are answered."""
    with pytest.raises(Refused) as caught:
        await all_of(ask, bytes(11_000_000), VideoQuestion())
    assert isinstance(caught.value.fault, InputTooLarge)

    long = small_video(320)
    answered, message = await until_refused(ask, long, VideoQuestion(DETECT, every_n=100))
    assert (len(answered), message) == (4, "the video is longer than the 30 seconds that are allowed")
    answered, message = await until_refused(ask, long, VideoQuestion(DETECT))
    assert (len(answered), message) == (300, "more than the 300 frames that are allowed would be analysed")
    answered, message = await until_refused(ask, small_video(2, size=(5600, 4000), codec="mjpeg", form="matroska"), VideoQuestion(DETECT))
    assert (len(answered), message) == (0, "frames of the video are 5600×4000 = 22400000 pixels, at most 20000000 are allowed")


async def test_all_answers_together_have_a_bound(ask: Asker, stage: bytes):
    """A caller who asks for crops of every frame, and reads slowly, would fill the memory of the server."""
    question = VideoQuestion(AnalysisOptions(embed=False, quality=False, crops=True))

    answered, message = await until_refused(ask, stage, question)

    assert 800_000 < sum(face.crop.nbytes for analysis in answered for face in analysis.faces) <= 1_000_000
    assert message.startswith("at most 1000000 bytes of answers to one video are allowed")


async def test_the_example_client(pipelines: TritonServer, videos: Path, tmp_path: Path):
    """The documented client prints a line a frame, and the server's sentence for what is no video."""
    client = Path(__file__).parents[2] / "docs" / "triton" / "video_client.py"
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"garbage")

    async def printed(*arguments: object) -> tuple[int, str, str]:
        line = [sys.executable, str(client), *map(str, arguments), "--server", pipelines.url]
        process = await asyncio.create_subprocess_exec(*line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()

    code, out, err = await printed(videos / "stage_360p.mp4", "--end", 2)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 4
    assert re.match(r" +0.00 s  frame +0  2 faces \[\[\d+, \d+, \d+, \d+\], ", out)
    code, out, err = await printed(garbage)
    assert (code, out) == (1, "")
    assert "the data is not a video in a known format" in err


async def test_the_server_goes_on_after_all_that(pipelines: TritonServer, ask: Asker):
    """The instances are the ones that were started, and answer."""
    assert await all_of(ask, small_video(3), VideoQuestion(DETECT))
    assert pipelines.is_ready()
