"""Networks of the catalogue on Triton."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from face_server.backends.contract import check_inputs, select
from face_server.backends.gathering import join_rows, row_count, slice_rows
from face_server.backends.triton.client import TritonClient
from face_server.domain.network import Network, served_name
from face_server.domain.ports import Runner, Tensors
from face_server.workers import map_bounded

_PARTS_AT_ONCE: Final = 4


class TritonBackend:
    """Runs ``networks`` through ``client``, which it closes; implements ``domain.ports.Backend``.

    A call of more rows than the model takes at a time is sent in parts.
    """

    def __init__(self, client: TritonClient, networks: Sequence[Network]) -> None:
        self._client = client
        self._networks = {network.name: network for network in networks}

    @property
    def description(self) -> str:
        """Version and addresses of the servers, and how tensors reach them."""
        return self._client.description

    async def infer(self, network: str, inputs: Tensors) -> Tensors:
        """Run ``network`` on a server; see ``Backend.infer``."""
        known = select(self._networks, network)
        check_inputs(known, inputs)
        model = served_name(network)
        outputs = [spec.name for spec in known.outputs]
        rows, limit = row_count(inputs), await self._client.batch_limit(model)
        if not limit or rows <= limit:
            return await self._client.call(model, inputs, outputs)
        parts = [slice_rows(inputs, start, start + limit) for start in range(0, rows, limit)]
        answers = await map_bounded(lambda part: self._client.call(model, part, outputs), parts, _PARTS_AT_ONCE)
        return await self._client.workers.run(join_rows, answers)

    def runner(self, network: str) -> Runner | None:
        """None: calls must be awaited. Raises NotFound for an unknown network."""
        select(self._networks, network)
        return None

    async def ready(self, network: str) -> bool:
        """Whether some server runs ``network``, or ``face_pipeline`` where the client expects it, now."""
        return self._client.ready(served_name(network) if network in self._networks else network)

    async def close(self) -> None:
        """Close the client."""
        await self._client.close()
