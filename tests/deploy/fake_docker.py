"""A stand-in for the `docker` program: keeps its containers in a file, notes every call, and fails as a scenario says.

FAKE_DOCKER names its folder: `state.json` (containers, images, networks), `calls.jsonl` (what it was asked), `scenario.json`:

- `daemon`: what it says to every call while the daemon is away
- `fails`: [word of the command line, what is said] for commands that end with 1
- `health`: health of containers by name, "healthy" for others
- `dies`: names of containers that stop at once
- `release`: what the image of Triton is made from
- `weights`: what the export writes, by network
- `face_server`: the program that the image's commands are really run by; without it they write what a test needs
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

FOLDER = Path(os.environ["FAKE_DOCKER"])
ARGUMENTS = sys.argv[1:]
IMAGES = ("face_server:gpu", "face_server:cpu", "face_server:triton")
TAKES_VALUE = {"--filter", "--format", "--tail"}


def read(name, default):
    """A file of the folder, or ``default`` where there is none."""
    file = FOLDER / name
    return json.loads(file.read_text()) if file.is_file() else default


STATE = read("state.json", {"containers": {}, "images": {image: f"sha256:{image}" for image in IMAGES}, "networks": []})
SCENARIO = read("scenario.json", {})


def end(code=0, said="", *, keep=True):
    """Leave, with the state on disk."""
    if keep:
        (FOLDER / "state.json").write_text(json.dumps(STATE))
    print(said, end="\n" if said else "", file=sys.stderr if code else sys.stdout)
    sys.exit(code)


def split(arguments):
    """Options as (name, value), and the words that are none."""
    options, words = [], []
    rest = iter(arguments)
    for word in rest:
        if words or not word.startswith("--"):
            words.append(word)
        elif "=" in word:
            options.append(tuple(word.split("=", 1)))
        else:
            options.append((word, next(rest) if word in TAKES_VALUE else ""))
    return options, words


def all_of(options, name):
    """Every value of an option."""
    return [value for option, value in options if option == name]


def one_of(options, name, default=""):
    """The value of an option."""
    return (all_of(options, name) or [default])[0]


def shown(container, template):
    """A container by one of the templates that the script uses; docker evaluates the language they are written in."""
    labels = container["labels"]
    health = "{{if .State.Health}}{{.State.Health.Status}}{{end}}"
    text = template.replace(health, SCENARIO.get("health", {}).get(container["name"], "healthy"))
    for token, value in {
        "{{.Id}}": container["id"],
        "{{.Name}}": f"/{container['name']}",
        "{{.State.Status}}": container["status"],
        '{{index .Config.Labels "face_server.config"}}': labels.get("face_server.config", ""),
        '{{index .Config.Labels "face_server.row"}}': labels.get("face_server.row", ""),
    }.items():
        text = text.replace(token, value)
    assert "{{" not in text, text
    return text


def start_detached(options, words):
    """Add a container that goes on running."""
    name = one_of(options, "--name")
    if name in STATE["containers"]:
        end(125, f'docker: Error response from daemon: Conflict. The container name "/{name}" is already in use')
    ipc = one_of(options, "--ipc")
    if ipc.startswith("container:") and ipc.removeprefix("container:") not in STATE["containers"]:
        end(125, f"docker: Error response from daemon: No such container: {ipc}")
    STATE["serial"] = STATE.get("serial", 0) + 1
    STATE["containers"][name] = {
        "name": name,
        "id": f"id{STATE['serial']}",
        "image": words[0],
        "status": "restarting" if name in SCENARIO.get("dies", []) else "running",
        "labels": dict(label.split("=", 1) for label in all_of(options, "--label")),
        "ports": all_of(options, "--publish"),
    }
    taken = [port for other in STATE["containers"].values() for port in other["ports"]]
    if len(set(taken)) < len(taken):
        STATE["containers"][name]["status"] = "created"
        end(125, "docker: Error response from daemon: driver failed: Bind for 127.0.0.1 failed: port is already allocated")
    end(0, STATE["containers"][name]["id"])


def run_once(options, words):
    """What the containers do that end by themselves."""
    volumes = {inside: outside for outside, inside in (value.split(":")[:2] for value in all_of(options, "--volume"))}
    if words[1:3] == ["models", "export"]:
        if program := SCENARIO.get("face_server"):
            (FOLDER / "state.json").write_text(json.dumps(STATE))
            environment = {**os.environ, "FACE_SERVER_DATA": volumes["/weights"]}
            os.execve(program, [program, *(volumes.get(word, word) for word in words[1:])], environment)
        asked = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
        batch = asked["--max-batch"]
        for name in asked["--models"].split(","):
            place = Path(volumes["/repository"]) / name
            place.mkdir(exist_ok=True)
            (place / "model.onnx").write_text(SCENARIO.get("weights", {}).get(name, f"weights of {name}"))
            (place / "trtexec.args").write_text(f"--minShapes=images:1x32x32x3\n--maxShapes=images:{batch}x1280x1280x3\n")
            (place / "config.pbtxt").write_text(f"max_batch_size: {batch}\n")
    if "trtexec" in words:
        place = Path(volumes["/repository"]) / Path(one_of(options, "--workdir")).name
        arguments = (place / "trtexec.args").read_text() + " ".join(words)
        (place / "1").mkdir(exist_ok=True)
        (place / "1" / "model.plan.new").write_text(hashlib.sha256(arguments.encode()).hexdigest())
    if words[1:3] == ["-m", "face_server.commands.calibration"]:
        place = Path(volumes["/repository"]) / words[3].partition("=")[2]
        (place / "model.int8.onnx").write_text(f"{(place / 'model.onnx').read_text()}, eight bits")
    end(0, "done")


def inspect_images(options, words):
    """Say what an image is, or that it is not there."""
    missing = [word for word in words if word not in STATE["images"]]
    if missing:
        end(1, f"Error response from daemon: No such image: {missing[0]}")
    template = one_of(options, "--format")
    if ".Config.Env" in template:
        end(0, f"PATH=/usr/bin\nNVIDIA_TRITON_SERVER_VERSION={SCENARIO.get('release', '25.06')}")
    end(0, STATE["images"][words[0]])


def containers(command, options, words):
    """What is done with containers that exist."""
    known = STATE["containers"]
    if command == "ps":
        label = one_of(options, "--filter").removeprefix("label=").split("=", 1)
        end(0, "\n".join(name for name, one in known.items() if one["labels"].get(label[0]) == label[1]))
    missing = [word for word in words if word not in known]
    if missing:
        end(1, f"Error response from daemon: No such container: {missing[0]}")
    match command:
        case "inspect":
            template = one_of(options, "--format")
            end(0, "\n".join(shown(known[word], template) for word in words))
        case "rm":
            for word in words:
                del known[word]
        case "stop" | "start":
            for word in words:
                known[word]["status"] = "exited" if command == "stop" else "running"
        case "logs":
            end(0, "port 18081 cannot be opened: it is in use")
    end(0, "\n".join(words))


def main():
    """Note the call, then answer it."""
    with (FOLDER / "calls.jsonl").open("a") as calls:
        calls.write(f"{json.dumps(ARGUMENTS)}\n")
    if "daemon" in SCENARIO:
        end(1, SCENARIO["daemon"], keep=False)
    for word, said in SCENARIO.get("fails", []):
        if any(word in argument for argument in ARGUMENTS):
            end(1, said)
    command, *rest = ARGUMENTS
    if command in {"container", "image", "network"}:
        kind, command, *rest = ARGUMENTS
    else:
        kind = ""
    options, words = split(rest)
    match kind, command:
        case "", "info":
            end(0, "Server Version: 28.2.2")
        case "image", "inspect":
            inspect_images(options, words)
        case "", "pull":
            STATE["images"][words[0]] = f"sha256:{words[0]}"
            end(0, words[0])
        case "network", "inspect":
            end(0 if words[0] in STATE["networks"] else 1)
        case "network", "create":
            STATE["networks"].append(words[0])
            end(0, words[0])
        case "network", "rm":
            STATE["networks"].remove(words[0])
            end(0, words[0])
        case "", "run":
            start_detached(options, words) if ("--detach", "") in options else run_once(options, words)
        case _:
            containers(command, options, words)


main()
