"""What tests of the command line share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def enrolled(make_data: Callable[[], Path], face_server: Callable[..., Any], shared: Path) -> tuple[Path, Any]:
    """A data folder into which photos/people was enrolled, and what the command said. Only to be read."""
    folder = make_data()
    return folder, face_server("enroll", shared / "data/photos/people", "--data", folder, "--json")
