"""The files of the console and of the documentation."""

from __future__ import annotations

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope


class FreshFiles(StaticFiles):
    """Static files that browsers keep but ask about each time.

    Packages are built with an old modification date, from which browsers conclude that a file may be
    used for months: after an upgrade old scripts would meet the new page.
    """

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file, or 304 where the browser has it."""
        response = await super().get_response(path, scope)
        response.headers["cache-control"] = "no-cache"
        response.headers["x-content-type-options"] = "nosniff"
        return response
