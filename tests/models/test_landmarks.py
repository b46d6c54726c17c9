"""Where landmarks lie does not depend on what the caller wants to hear of."""

from __future__ import annotations

import numpy as np
import pytest

OPTIONS = {"max_size_px": 640}


@pytest.mark.parametrize("min_score", [0.3, 0.75, 0.85])
async def test_min_score_moves_no_landmark(make_detector, six_faces_image, min_score):
    """Faces above every threshold have the same landmarks at each, so the same embedding."""
    image = six_faces_image
    detector = make_detector("yunet")

    (usual,) = await detector.detect([image], min_score=0.6, **OPTIONS)
    (other,) = await detector.detect([image], min_score=min_score, **OPTIONS)

    sure = [face for face in usual if face.score >= max(0.6, min_score)]
    assert len(sure) >= 4
    for one, same in zip(sure, other, strict=False):
        assert np.array_equal(one.landmarks, same.landmarks)
