#!/usr/bin/env bash
# Build TensorRT engines for the GPUs of this machine, start a Triton server with them and face_server in front of it.
#
# Run it again whenever you like: what is as wanted is kept, what changed is replaced, galleries are never touched.
# docs/gpu.md explains every step. Usage: ./deploy_trt.sh [--OPTION VALUE]... [--cpu] [--dry-run | --status | --stop | --help]
set -euo pipefail

# Options: edit them here, set them in the environment, or write --n_gpu 2, --n_gpu=2 or --n-gpu 2.
: "${n_gpu:=all}"                # GPUs to use, the first ones of the machine: a number, or all
: "${gpus:=}"                    # GPUs to use by index, such as 1,3, instead of n_gpu
: "${n_workers:=0}"              # face_server containers a GPU; 0: one container for the whole machine, with one gallery
: "${START_PORT:=18081}"         # port of the first face_server container; the others follow
: "${BIND:=127.0.0.1}"           # address that these ports are opened on; on any but loopback requests need API keys
: "${max_size:=640,640}"         # width,height that pictures are scaled down to for detection; the longer one counts
: "${precision:=fp16}"           # arithmetic of the engines: fp16, fp32, or int8 (the detector only, needs calibration; the embedder stays fp16)
: "${force_fp16:=False}"         # True: the same as precision=fp16
: "${calibration:=}"             # folder of some hundred pictures with faces that int8 is calibrated on
: "${det_model:=yunet}"          # detector, by its name in face-server models list
: "${det_batch_size:=}"          # most pictures in one call of the detector; as rec_batch_size, but at most 8, if empty
: "${rec_model:=sface}"          # embedder, by its name in face-server models list
: "${rec_batch_size:=32}"        # most faces in one call of the embedder
: "${models_path:=}"             # folder with weight files of your own, for networks that cannot be downloaded
: "${mask_detector:=None}"       # not in this server: must be None
: "${ga_model:=None}"            # not in this server: must be None
: "${triton_uri:=None}"          # host:port of Triton servers that run already, comma-separated; none is started then
: "${backend:=triton-pipeline}"  # triton-pipeline (one call a picture) or triton (one call a network)
: "${return_face_data:=False}"   # requests ask for it themselves: must be False
: "${extract_embeddings:=True}"  # requests ask for it themselves: must be True
: "${detect_ga:=False}"          # not in this server: must be False
: "${det_thresh:=None}"          # score from which a detection counts; None: what suits the detector
: "${log_level:=info}"           # debug, info, warning or error
: "${settings:=}"                # file with more FACE_SERVER_ variables for the containers, one NAME=value a line
: "${IMAGE:=face_server}"        # image of face_server; docker/Dockerfile makes its tags cpu, gpu and triton
: "${TAG:=}"                     # its tag; gpu, or with --cpu cpu, if empty
: "${TRITON_IMAGE:=}"            # Triton with the Python packages of the pipeline; IMAGE:triton if empty
: "${TRITON_TAG:=25.06}"         # NVIDIA's release that TRITON_IMAGE is made from; it builds the engines too
: "${TRITON_PORT:=8001}"         # Triton's gRPC on loopback; its metrics are one above
: "${shm_size:=2g}"              # shared memory between Triton and face_server
: "${name:=face}"                # names of containers, volumes and network begin with it
: "${folder:=data/triton}"       # where weights, model repository, engines and logs are kept
: "${user:=$(id -u):$(id -g)}"   # who owns what is written there
: "${timeout_s:=600}"            # how long a container may take to become ready

action=deploy dry_run='' cpu='' log=/dev/null doing='a command failed'

die() { printf 'deploy_trt.sh: %s\n' "$*" >&2; exit 2; }
note() { printf '%s%s\n' "${dry_run:+# }" "$*"; }
step() { if [[ $dry_run ]]; then printf '\n# %s\n' "$*"; else printf '==> %s\n' "$*"; fi; }
digest() { sha256sum | cut -c1-16; }
options() { sed -n 's/^: "\${\([A-Za-z0-9_]*\):=\(.*\)}" *# /\1|\2|/p' "$0"; }

help() {
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
  options | awk -F'|' '{ printf "  --%-19s %s%s\n", $1, $3, $2 == "" ? "" : " [" $2 "]" }'
  printf '  %-21s %s\n' --cpu 'no GPU: Triton runs the networks on the CPU' --dry-run 'print every command and touch nothing' \
    --status 'print the table of what runs' --stop 'remove containers and network; galleries, weights and engines stay'
}

# A word as a shell reads it; only what needs quotes gets them.
quoted() { if [[ $1 =~ ^[[:alnum:]_@%+=:,./-]+$ ]]; then printf '%s' "$1"; else printf '%s' "${1@Q}"; fi; }

# A command as it may be pasted into a shell.
show() {
  local line='' word
  for word in "$@"; do
    word=$(quoted "$word")
    if [[ $line && $((${#line} + ${#word})) -gt 116 ]]; then
      printf '%s \\\n' "$line"
      line="    $word"
    else
      line=${line:+$line }$word
    fi
  done
  printf '%s' "$line"
}

# Run a command, what it says into the log; in a dry run print it instead.
run() {
  if [[ $dry_run ]]; then show "$@"; printf '\n'; return; fi
  printf '+ %s\n' "$*" >>"$log"
  "$@" >>"$log" 2>&1 || explain
}

# Write lines into a file; in a dry run print the command that does.
write() {
  local file=$1
  shift
  if [[ $dry_run ]]; then show printf '%s\n' "$@"; printf ' >%s\n' "$(quoted "$file")"; else printf '%s\n' "$@" >"$file"; fi
}

# One sentence for what a failed command said last, with what to do.
explain() {
  local said last
  said=$(tac "$log" | sed '/^+ /q')
  last=$(grep -m 1 -F '[E]' <<<"$said" || grep -m 1 -v -e '^ *$' -e "^Run 'docker" <<<"$said")
  case ${said,,} in
    *"no space left on device"*) die "$doing: the disk is full; free some space (docker system df says what images take) and run this again" ;;
    *"already allocated"* | *"address already in use"*) die "$doing: a port is taken (${last}); stop what listens there, or choose START_PORT or TRITON_PORT" ;;
    *"unsatisfied condition"* | *"driver version is insufficient"*)
      die "$doing: the NVIDIA driver is too old for release $TRITON_TAG; install a newer driver, or choose an older TRITON_TAG" ;;
    *"could not select device driver"* | *nvidia-container-cli* | *"unresolvable cdi"*)
      die "$doing: Docker cannot reach the GPU (${last}); install the NVIDIA Container Toolkit, run nvidia-ctk runtime configure, restart Docker" ;;
    *"cannot connect to the docker daemon"*) die "$doing: the Docker daemon went away; start it (sudo systemctl start docker) and run this again" ;;
    *"manifest unknown"* | *"pull access denied"* | *"no such host"*) die "$doing: ${last}; check IMAGE, TAG, TRITON_TAG and the network" ;;
  esac
  die "$doing: ${last}; all that was said is in $log"
}

read_options() {
  local word option known
  known=" $(options | cut -d'|' -f1 | tr '\n' ' ') "
  while (($#)); do
    word=$1
    shift
    case $word in
      --help | -h) help; exit 0 ;;
      --dry-run | --dry_run) dry_run=1; continue ;;
      --cpu) cpu=1; continue ;;
      --status | --stop) action=${word#--}; continue ;;
      --*=*) option=${word%%=*} word=${word#*=} ;;
      --*) option=$word; (($#)) || die "$word needs a value"; word=$1; shift ;;
      *) die "$word is no option; ./deploy_trt.sh --help lists them" ;;
    esac
    option=${option#--}
    option=${option//-/_}
    if [[ $known == *" ${option^^} "* ]]; then option=${option^^}; fi
    [[ $known == *" $option "* ]] || die "--$option is no option; ./deploy_trt.sh --help lists them"
    printf -v "$option" '%s' "$word"
  done
}

is() { [[ ${1,,} =~ ^(true|1|yes)$ ]]; }
is_none() { [[ -z $1 || ${1,,} =~ ^(none|false|0|no)$ ]]; }

want() { [[ ${!1} =~ ^($2)$ ]] || die "$1=${!1}: write $3"; }

want_number() {
  if [[ ! ${!1} =~ ^[0-9]{1,6}$ ]] || ((${!1} < $2 || ${!1} > $3)); then die "$1=${!1}: write a whole number from $2 to $3"; fi
}

check_options() {
  local path most
  is_none "$mask_detector" || die "mask_detector=$mask_detector: this server detects no masks; leave it at None"
  is_none "$ga_model" || die "ga_model=$ga_model: this server estimates neither gender nor age; leave it at None"
  is_none "$detect_ga" || die "detect_ga=$detect_ga: this server estimates neither gender nor age; leave it at False"
  is_none "$return_face_data" || die "return_face_data=$return_face_data: a request asks for face data itself; leave it at False"
  is "$extract_embeddings" || die "extract_embeddings=$extract_embeddings: a request that wants none says so itself; leave it at True"
  want precision 'fp16|int8|fp32' 'fp16, int8 or fp32'
  if is "$force_fp16" && [[ $precision != fp16 ]]; then die "force_fp16 and precision=$precision contradict each other; choose one"; fi
  want backend 'triton|triton-pipeline' 'triton-pipeline or triton'
  want max_size '[0-9]{2,4},[0-9]{2,4}' 'width,height, such as 640,640'
  want gpus '([0-9]+(,[0-9]+)*)?' 'indices separated by commas, such as 0,1'
  want name '[a-z0-9][a-z0-9_-]*' 'small letters, digits, - and _'
  want TRITON_TAG '[0-9]{2}\.[0-9]{2}' "a release of NVIDIA's containers, such as 25.06"
  log_level=${log_level,,}
  want log_level 'debug|info|warning|error' 'debug, info, warning or error'
  is_none "$det_thresh" || want det_thresh '0?\.[0-9]+|1|1\.0+' 'a number between 0 and 1, or None'
  [[ $n_gpu == all ]] || want_number n_gpu 1 64
  want_number n_workers 0 64
  want_number rec_batch_size 1 32
  most=$((rec_batch_size < 8 ? rec_batch_size : 8))
  [[ ${det_batch_size:-$most} == "$most" ]] || die "det_batch_size=$det_batch_size: one bound holds for both networks; with rec_batch_size=$rec_batch_size write $most"
  want_number START_PORT 1 65000
  want_number TRITON_PORT 1 65000
  want_number timeout_s 1 86400
  det_model=$(our_name "$det_model")
  rec_model=$(our_name "$rec_model")
  want det_model '[a-z0-9][a-z0-9._-]*' 'a name of face-server models list'
  want rec_model '[a-z0-9][a-z0-9._-]*' 'a name of face-server models list'
  max_px=${max_size%,*}
  if ((${max_size#*,} > max_px)); then max_px=${max_size#*,}; fi
  ((max_px >= 32 && max_px <= 1280)) || die "max_size=$max_size: the repository is made for pictures of 32 to 1280 pixels a side"
  if is_none "$triton_uri"; then triton_uri=''; fi
  [[ ! $triton_uri =~ (^|,)(localhost|127\.|\[?::1) ]] ||
    die "triton_uri=$triton_uri: inside of a container that is the container itself; write the host's name or address"
  if [[ $precision == int8 && ! $cpu && ! $triton_uri ]]; then
    [[ $calibration ]] || die "precision=int8 needs calibration=FOLDER with some hundred pictures that show faces as your cameras do"
  fi
  for path in folder calibration models_path settings; do
    [[ -z ${!path} || ${!path} == /* ]] || printf -v "$path" '%s' "$PWD/${!path}"
    [[ -z ${!path} || $path == folder || $dry_run || -e ${!path} ]] || die "$path=${!path} is not there"
  done
}

# Detectors of InsightFace-REST by their names here. An embedder is never exchanged for another: their embeddings cannot be compared.
our_name() {
  case $1 in
    scrfd_500m_* | scrfd_2.5g_* | retinaface_mnet025_*) printf '%s' "${1%_*}" ;;
    yolov5*-face | dbface | mnet_cov2 | retinaface_r50_*) die "det_model=$1: this server has no such detector; face-server models list says what there is" ;;
    *) printf '%s' "$1" ;;
  esac
}

# What a network is called in the repository: other systems' clients expect another model under the name centerface.
served_name() { if [[ $1 == centerface ]]; then printf centerface_uint8; else printf '%s' "$1"; fi; }

check_docker() {
  local said
  command -v docker >/dev/null || die "docker is not installed; see https://docs.docker.com/engine/install"
  said=$(docker info 2>&1) && return
  [[ ${said,,} != *"permission denied"* ]] || die "you may not use Docker; run this with sudo, or join the group docker and log in again"
  die "the Docker daemon does not answer; start it: sudo systemctl start docker"
}

# Sets gpus (indices), gpu_count and gpu_model.
find_gpus() {
  local seen=() models='' line driver index
  gpu_count=0 gpu_model=''
  if [[ $cpu ]]; then gpus=''; return; fi
  if [[ $dry_run ]]; then
    if [[ $n_gpu$gpus == all ]]; then n_gpu=1; note "n_gpu=all: one GPU is assumed for this dry run"; fi
  else
    command -v nvidia-smi >/dev/null || die "no GPU is visible: nvidia-smi is not there; install the NVIDIA driver, or use --cpu"
    line=$(nvidia-smi --query-gpu=index,driver_version,name --format=csv,noheader 2>&1) || line=${line:-nvidia-smi failed}
    [[ $line =~ ^[0-9]+,\ [0-9] ]] || die "no GPU is visible: ${line##*$'\n'}; install the NVIDIA driver, or use --cpu"
    mapfile -t seen <<<"$line"
    if [[ $n_gpu == all ]]; then n_gpu=${#seen[@]}; fi
  fi
  : "${gpus:=$(seq -s, 0 $((n_gpu - 1)))}"
  gpu_count=$(tr ',' '\n' <<<"$gpus" | wc -l)
  if [[ $dry_run ]]; then return; fi
  for index in ${gpus//,/ }; do
    ((index < ${#seen[@]})) || die "there is no GPU $index: this machine has ${#seen[@]}; lower n_gpu, or choose others with gpus"
    IFS=, read -r _ driver gpu_model <<<"${seen[index]//, /,}"
    # Release 25.06 wants driver 575; on data-centre GPUs it brings what older ones from 535 on lack.
    ((${driver%%.*} >= 535)) || die "the NVIDIA driver $driver is too old for release $TRITON_TAG; install 575 or later, or choose an older TRITON_TAG"
    models+=$gpu_model$'\n'
  done
  (($(sort -u <<<"${models%$'\n'}" | wc -l) == 1)) ||
    die "the GPUs $gpus are of different kinds, and an engine runs on the kind it was built on; deploy each with gpus, name, folder and ports of its own"
}

image_id() { [[ $dry_run ]] || docker image inspect --format '{{.Id}}' "$1"; }

need_image() {
  doing="the image $1 is missing and cannot be pulled"
  if [[ ! $dry_run ]] && docker image inspect "$1" >/dev/null 2>&1; then return; fi
  case $1 in
    */*) run docker pull --quiet "$1" ;;
    *) [[ $dry_run ]] || die "the image $1 is missing; build it: docker build --file docker/Dockerfile --target ${1##*:} --tag $1 ." ;;
  esac
}

check_images() {
  local release
  step "Images: what is missing is pulled where it has a registry; face_server's own are built from docker/Dockerfile"
  need_image "$server_image"
  if [[ $triton_uri ]]; then return; fi
  need_image "$TRITON_IMAGE"
  if [[ $cpu ]]; then return; fi
  need_image "$builder_image"
  if [[ $dry_run ]]; then return; fi
  release=$(docker image inspect --format '{{range .Config.Env}}{{println .}}{{end}}' "$TRITON_IMAGE" | sed -n 's/^NVIDIA_TRITON_SERVER_VERSION=//p')
  [[ -z $release || $release == "$TRITON_TAG" ]] ||
    die "$TRITON_IMAGE is made from release $release, but $TRITON_TAG would build the engines; set TRITON_TAG=$release"
}

# A command of face_server in a container of its own, on the folder of weights. OpenCV of the image gpu loads beside a driver only.
in_server() {
  local own=()
  [[ -z $gpus ]] || own+=("--gpus=device=${gpus%%,*}")
  [[ -z $models_path ]] || own+=("--volume=$models_path:/own:ro" --env=FACE_SERVER_MODELS_PATH=/own:/opt/models)
  run docker run --rm "--user=$user" --workdir=/tmp "${own[@]}" --env=FACE_SERVER_DATA=/weights "--volume=$folder/weights:/weights" "$@"
}

# Both commands leave alone what is there already; engines stay beside networks that did not change.
write_repository() {
  local to=(--to=tensorrt) place
  if [[ $cpu ]]; then to=(--to=onnxruntime --cpu); fi
  step "Weights: fetched once for all containers, checked against their digests"
  doing='the weights cannot be fetched'
  run mkdir -p "$folder/weights/models" "$folder/repository" "$folder/cache"
  in_server "$server_image" models pull "$det_model" "$rec_model"
  if [[ $triton_uri ]]; then return; fi
  step "Model repository: what Triton serves"
  doing='the model repository cannot be written'
  for place in "$folder"/repository/*/; do
    case $(basename "$place") in
      '*' | face_* | video_* | "$(served_name "$det_model")" | "$(served_name "$rec_model")") ;;
      *) run rm -rf "$place" ;;
    esac
  done
  in_server "--volume=$folder/repository:/repository" "$server_image" models export "${to[@]}" "--models=$det_model,$rec_model" \
    "--detector=$det_model" "--embedder=$rec_model" "--max-batch=$rec_batch_size" /repository
}

# For int8 the range of every tensor, measured on pictures, becomes part of the graph. The embedder is left alone: what it says in
# eight bits could not be compared with what galleries hold.
calibrate() {
  step "Calibration of the detector for int8"
  doing='the detector cannot be calibrated'
  in_server "--volume=$folder/repository:/repository" "--volume=$calibration:/calibration:ro" --entrypoint=python "$server_image" \
    -m face_server.commands.calibration "--detector=$det_model" /repository /calibration
}

# An engine belongs to a kind of GPU, a build of TensorRT, a precision, shapes and weights; the stamp beside it says which.
build_engine() {
  local model=$1 precision=$2 graph=model.onnx place=$folder/repository/$1 stamp=() flags=()
  case $precision in
    fp16) flags=(--fp16) ;;
    fp32) flags=(--noTF32) ;;
    int8) graph=model.int8.onnx flags=(--int8 --fp16) ;;
  esac
  if [[ ! $dry_run ]]; then
    stamp=("gpu: $gpu_model" "tensorrt: $builder_image $(image_id "$builder_image")" "precision: $precision"
      "shapes: $(tr '\n' ' ' <"$place/trtexec.args")" "graph: $(sha256sum <"$place/$graph" | cut -d' ' -f1)")
    if [[ -f $place/1/model.plan ]] && cmp -s "$place/1/model.plan.stamp" <(printf '%s\n' "${stamp[@]}"); then
      note "the engine of $model is there"
      return
    fi
    note "building the engine of $model, which takes minutes"
    log=$folder/logs/$model.log
    : >"$log"
  fi
  doing="the engine of $model cannot be built"
  run rm -f "$place/1/model.plan.stamp"
  run docker run --rm "--gpus=device=${gpus%%,*}" "--user=$user" "--volume=$folder/repository:/repository" "--volume=$folder/cache:/cache" \
    "--workdir=/repository/$model" "$builder_image" xargs --arg-file=trtexec.args trtexec "--onnx=$graph" --saveEngine=1/model.plan.new \
    "--timingCacheFile=/cache/timing-$TRITON_TAG" --skipInference "${flags[@]}"
  run mv "$place/1/model.plan.new" "$place/1/model.plan"
  if [[ ! $dry_run ]]; then
    write "$place/1/model.plan.stamp" "${stamp[@]}"
    log=$folder/logs/deploy.log
  fi
}

listens() { (exec 3<>"/dev/tcp/${1/#0.0.0.0/127.0.0.1}/$2") 2>/dev/null; }

# The port of a container that does not exist yet must be free.
check_port() {
  if docker container inspect "$1" >/dev/null 2>&1; then return; fi
  ! listens "$2" "$3" || die "port $3 is taken by another program (ss -ltnp says which); stop it, or choose another $4"
}

# Keep a container that runs as wanted, start one that was stopped, replace one that differs. In phase "remove" nothing is started,
# so that a port is free before another container wants it.
# Arguments: its name, what it depends on beside its command line, its row in the table, then options and command line of docker run.
ensure() {
  local container=$1 depends=$2 row=$3 wanted state=''
  shift 3
  set -- "--label=face_server.row=$row" "--network=$name" --restart=unless-stopped "$@"
  wanted=$(printf '%s\n' "$depends" "$@" | digest)
  doing="$container cannot be started"
  if [[ ! $dry_run ]]; then
    state=$(docker container inspect --format '{{.State.Status}} {{index .Config.Labels "face_server.config"}}' "$container" 2>/dev/null || true)
  fi
  case $phase/$state in
    remove/?*" $wanted" | remove/) ;;
    remove/*) note "$container is replaced"; run docker rm --force "$container" ;;
    start/running*) note "$container runs as wanted" ;;
    start/?*) note "$container is started again"; run docker start "$container" ;;
    start/) run docker run --detach "--name=$container" "--label=face_server.deployment=$name" "--label=face_server.config=$wanted" "$@" ;;
  esac
}

# A value of --gpus; several devices need quotes of their own there.
devices_of() { if [[ $1 == *,* ]]; then printf '"device=%s"' "$1"; else printf 'device=%s' "$1"; fi; }

start_triton() {
  local own=() depends=''
  step "Triton: one server with ${gpus:+the GPUs }${gpus:-no GPU}; its shared memory is open to face_server"
  if [[ ! $dry_run ]]; then
    depends=$(image_id "$TRITON_IMAGE")$(find "$folder/repository" -type f ! -name model.plan -exec sha256sum {} + | sort | digest)
  fi
  [[ $cpu ]] || own=("--gpus=$(devices_of "$gpus")")
  for phase in remove start; do
    ensure "$triton" "$depends" "${gpus:-none}/$TRITON_PORT/$det_model+$rec_model/$engine" "${own[@]}" --ipc=shareable "--shm-size=$shm_size" \
      --ulimit=memlock=-1 "--publish=127.0.0.1:$TRITON_PORT:8001" "--publish=127.0.0.1:$((TRITON_PORT + 1)):8002" \
      "--volume=$folder/repository:/models:ro" "$TRITON_IMAGE"
  done
  wait_ready "$triton"
}

# What is the same in every container of face_server.
write_settings() {
  local lines=("FACE_SERVER_INFERENCE__BACKEND=$backend" "FACE_SERVER_TRITON__ENDPOINTS=${triton_uri:-$triton:8001}"
    "FACE_SERVER_MODELS__DETECTOR=$det_model" "FACE_SERVER_MODELS__EMBEDDER=$rec_model" "FACE_SERVER_ANALYSIS__MAX_SIZE_PX=$max_px"
    "FACE_SERVER_LOG_LEVEL=$log_level")
  is_none "$det_thresh" || lines+=("FACE_SERVER_ANALYSIS__MIN_SCORE=$det_thresh")
  # Nobody but this machine reaches a port that is open on loopback only.
  [[ ! $BIND =~ ^(127\.|localhost$) ]] || lines+=(FACE_SERVER_ALLOW_ANONYMOUS=true)
  write "$folder/face_server.env" "${lines[@]}"
}

# Container i of face_server: its port, its volume (so its gallery), and the GPUs that it may decode video with.
start_server() {
  local i=$1 devices=$2 depends='' own=() data=$name-data port=$((START_PORT + $1))
  ((i == 0)) || data+="-$i"
  [[ $dry_run ]] || depends="$(image_id "$server_image")$(digest <"$folder/face_server.env")"
  if [[ $settings ]]; then
    own+=("--env-file=$settings")
    [[ $dry_run ]] || depends+=$(digest <"$settings")
  fi
  if [[ ! $triton_uri ]]; then
    own+=("--ipc=container:$triton")
    # The shared memory of a Triton that was replaced is gone: face_server follows it.
    [[ $dry_run ]] || depends+=$(docker container inspect --format '{{.Id}}' "$triton")
  fi
  [[ -z $devices ]] || own+=("--gpus=$(devices_of "$devices")")
  ensure "$name-$i" "$depends" "${devices:-none}/$port/$det_model+$rec_model/$engine" "--env-file=$folder/face_server.env" "${own[@]}" \
    "--publish=$BIND:$port:18081" "--volume=$data:/data" "--volume=$folder/weights/models:/data/models:ro" --read-only --tmpfs=/tmp \
    --cap-drop=ALL --security-opt=no-new-privileges "$server_image"
}

start_servers() {
  local i list
  step "face_server: $n_servers container(s), the first on port $START_PORT"
  write_settings
  remove_surplus
  IFS=, read -ra list <<<"$gpus"
  for phase in remove start; do
    for ((i = 0; i < n_servers; i++)); do
      if ((n_workers && gpu_count)); then start_server "$i" "${list[i / n_workers]}"; else start_server "$i" "$gpus"; fi
    done
  done
  for ((i = 0; i < n_servers; i++)); do wait_ready "$name-$i"; done
}

containers() { docker ps --all --filter "label=face_server.deployment=$name" --format '{{.Names}}' | sort -V; }

# Containers of an earlier run with more workers, or with a Triton of its own.
remove_surplus() {
  local container number
  if [[ $dry_run ]]; then return; fi
  for container in $(containers); do
    number=${container#"$name-"}
    if [[ $number == triton && ! $triton_uri ]] || { [[ $number =~ ^[0-9]+$ ]] && ((number < n_servers)); }; then continue; fi
    note "$container is not wanted any more; its data stay in its volume"
    doing="$container cannot be removed"
    run docker rm --force "$container"
  done
}

wait_ready() {
  local deadline=$((SECONDS + timeout_s)) state
  if [[ $dry_run ]]; then note "waits for at most $timeout_s s until $1 is healthy"; return; fi
  while true; do
    state=$(docker container inspect --format '{{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{end}}' "$1" 2>/dev/null || printf gone)
    case $state in
      "running healthy") return ;;
      running* | created*) ;;
      *) die "$1 does not stay up: $(docker logs --tail 1 "$1" 2>&1 | tail -n 1); docker logs $1 says more" ;;
    esac
    ((SECONDS < deadline)) || die "$1 is not ready after $timeout_s s; docker logs $1 says what it does, and another run goes on waiting"
    sleep 1
  done
}

status() {
  local all row='{{.Name}}/{{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{end}}/{{index .Config.Labels "face_server.row"}}'
  mapfile -t all < <(containers)
  ((${#all[@]})) || die "nothing of the deployment $name runs; ./deploy_trt.sh starts it"
  { printf '/CONTAINER/STATE/GPU/PORT/MODEL/ENGINE\n'; docker container inspect --format "$row" "${all[@]}"; } |
    awk -F/ '{ printf "%-14s %-7s %-6s %-18s %-28s %s\n", $2, $4, $5, $3, $6, $7 }'
}

stop() {
  local all=("$name-0" "$triton")
  if [[ ! $dry_run ]]; then mapfile -t all < <(containers); fi
  if ((${#all[@]} == 0)); then note "nothing of the deployment $name runs"; return; fi
  doing='the containers cannot be removed'
  run docker stop --time=30 "${all[@]}"
  run docker rm "${all[@]}"
  run docker network rm "$name"
}

shares_state() {
  [[ $settings ]] && grep -q '^FACE_SERVER_STATE__REDIS_URL=.' -- "$settings"
}

deploy() {
  local i
  find_gpus
  n_servers=1
  if ((n_workers)); then n_servers=$((n_workers * (gpu_count ? gpu_count : 1))); fi
  ((n_servers == 1)) || shares_state || printf 'deploy_trt.sh: %s\n' "$n_servers containers of face_server keep $n_servers separate galleries, cameras and \
keys, each in a volume of its own: right for /extract, wrong for recognition behind one address (docs/redis.md says how they share one)" >&2
  if [[ ! $dry_run ]]; then
    (($(df -Pk "$folder" | awk 'NR == 2 { print $4 }') > 2000000)) || die "$folder has less than 2 GB of free space; free some, or choose another folder"
    if [[ ! $triton_uri ]]; then
      check_port "$triton" 127.0.0.1 "$TRITON_PORT" TRITON_PORT
      check_port "$triton" 127.0.0.1 $((TRITON_PORT + 1)) TRITON_PORT
    fi
    for ((i = 0; i < n_servers; i++)); do check_port "$name-$i" "$BIND" $((START_PORT + i)) START_PORT; done
  fi
  check_images
  write_repository
  if [[ ! $triton_uri && ! $cpu ]]; then
    if [[ $precision == int8 ]]; then calibrate; fi
    step "Engines: built on this machine's GPU, skipped where the stamp beside them says that they fit"
    build_engine "$(served_name "$det_model")" "$precision"
    build_engine "$(served_name "$rec_model")" "${precision/int8/fp16}"
  fi
  step "Network: containers find each other by name"
  doing='the network cannot be created'
  if [[ $dry_run ]] || ! docker network inspect "$name" >/dev/null 2>&1; then run docker network create "$name"; fi
  [[ $triton_uri ]] || start_triton
  start_servers
  [[ $dry_run ]] || status
}

read_options "$@"
check_options
triton=$name-triton engine=$precision
if [[ $precision == int8 ]]; then engine=int8+fp16; fi
if [[ $triton_uri ]]; then engine=remote; elif [[ $cpu ]]; then engine=onnx; fi
: "${TAG:=${cpu:+cpu}}" "${TRITON_IMAGE:=$IMAGE:triton}"
server_image=$IMAGE:${TAG:-gpu} builder_image=nvcr.io/nvidia/tensorrt:$TRITON_TAG-py3
if [[ ! $dry_run ]]; then
  check_docker
  mkdir -p "$folder/logs" || die "folder=$folder cannot be written; choose another"
  log=$folder/logs/deploy.log
  exec 9>"$folder/lock"
  flock --nonblock 9 || die "another deploy_trt.sh works on $folder; wait until it is done"
  : >"$log"
fi
if [[ ! $dry_run || $action != status ]]; then "$action"; fi
