"""Sends a video file to the model video_pipeline of a Triton server and prints the faces of its frames as they are found.

pip install "tritonclient[grpc]"
python video_client.py VIDEO [--server 127.0.0.1:8001] [--fps 2] [--start 0] [--end 0]

Ctrl-C cancels: the server stops decoding. Times are seconds from the first frame of the file.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton

OUTPUTS = ("time_s", "frame_number", "boxes", "scores", "embeddings", "size")


async def faces_of(client: Any, video: bytes, question: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The named outputs of each analysed frame, as NumPy arrays."""
    data = np.frombuffer(video, np.uint8)
    inputs = [triton.InferInput("video", [data.size], "UINT8"), triton.InferInput("options", [1], "BYTES")]
    inputs[0].set_data_from_numpy(data)
    inputs[1].set_data_from_numpy(np.array([json.dumps(question).encode()], np.object_))
    outputs = [triton.InferRequestedOutput(name) for name in OUTPUTS]

    async def requests() -> AsyncIterator[dict[str, Any]]:
        # The empty final response tells the end of the video from a server that has gone.
        yield {"model_name": "video_pipeline", "inputs": inputs, "outputs": outputs, "enable_empty_final_response": True}

    answers = client.stream_infer(requests())
    try:
        async for answer, error in answers:
            if error is not None:
                raise error
            response = answer.get_response()
            if response.outputs:
                yield {name: answer.as_numpy(name) for name in OUTPUTS}
            if response.parameters["triton_final_response"].bool_param:
                return
    finally:
        answers.cancel()


async def main() -> int:
    """Print one line a frame."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("--server", default="127.0.0.1:8001", help="host:port of Triton's gRPC service")
    parser.add_argument("--fps", type=float, default=2.0, help="analyse at most this many frames a second; 0 for all")
    parser.add_argument("--start", type=float, default=0.0, help="from this second on")
    parser.add_argument("--end", type=float, default=0.0, help="up to this second; 0 for the end")
    arguments = parser.parse_args()
    question = {"max_fps": arguments.fps, "start_s": arguments.start, "end_s": arguments.end, "analysis": {"min_score": 0.6}}
    async with triton.InferenceServerClient(arguments.server) as client:
        try:
            async for frame in faces_of(client, arguments.video.read_bytes(), question):
                boxes = [[round(value) for value in box] for box in frame["boxes"].tolist()]
                line = f"{frame['time_s'][0]:8.2f} s  frame {frame['frame_number'][0]:6d}  {len(boxes)} faces {boxes}"
                print(line, flush=True)  # noqa: T201 - what the program is for
        except triton.InferenceServerException as error:
            print(f"the server refuses: {error.message()}", file=sys.stderr)  # noqa: T201 - likewise
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
