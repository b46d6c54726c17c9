"""What one frame may cost."""

from __future__ import annotations

from face_server.pipeline.following import MAX_EMBEDDED

from .watching_parts import Watch


async def test_a_crowd_is_embedded_over_several_frames(watch: Watch):
    """However many people a frame shows, few of them are embedded at once; those who had to wait follow on the next frames."""
    watcher = watch.watcher()
    most = crowd = 0
    known: set[int] = set()
    for frame in watch.street(5.0):
        before = watcher.counts
        look = await watcher.look(frame)
        most = max(most, watcher.counts.embeddings - before.embeddings)
        crowd = max(crowd, watcher.counts.faces - before.faces)
        known |= {one.track.id for one in look.tracks if one.who is not None}

    assert crowd > MAX_EMBEDDED
    assert most == MAX_EMBEDDED
    assert len(known) > MAX_EMBEDDED
