#!/usr/bin/env bash
# Times a bundle of BiomedCLIP's shape on this machine's GPU, then the whole server under load. See docs/gpu.md.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: deploy/loadtest/gpu.sh [options]

Makes a bundle of BiomedCLIP's shape with random weights, converts it to fp16, times its models on every runtime that
this machine has, host to host, and loads `radrank serve` with image, text and embedding queries. Writes gpu.md,
gpu.json, gpu.png and gpu.log. Where there is no GPU it says so and ends with 0.

  --minutes N      for everything (default 8); what is not reached is named in gpu.md
  --out DIR        for results (default: $OUT if it is set, else results/gpu)
  --work DIR       for the bundle, 2 GB, kept and used again (default: results/gpu-work)
  --python FILE    the interpreter (default: .venv/bin/python, else python3)
  --packages DIR   for a machine without a package index: wheels (*.whl) and packed site-packages (*.tar.xz, or its
                   parts *.tar.xz.00, …) that are put before those of the interpreter
  --rows N         studies in the archive (default 10000)
  --plans          build TensorRT plans too, before the minutes begin to count: takes long. Of both flavours; one that
                   is not installed, or does not build for this GPU, is named and left out
  --tests          pass tests/gpu afterwards, beyond the minutes
  --without-gpu    go on without a GPU: a rehearsal on the CPU
  --help           this text; further options after -- go to `radrank bench gpu`

Example: deploy/loadtest/gpu.sh --minutes 8 --out results/gpu
Example: deploy/loadtest/gpu.sh --without-gpu --minutes 4 -- --only sage --batches 1
TEXT
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
minutes=8 out=${OUT:-$root/results/gpu} work=$root/results/gpu-work python="" packages="" rows=10000
plans=false tests=false without_gpu=false
while (($#)); do
  case $1 in
    --minutes) minutes=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --work) work=$2; shift 2 ;;
    --python) python=$2; shift 2 ;;
    --packages) packages=$2; shift 2 ;;
    --rows) rows=$2; shift 2 ;;
    --plans) plans=true; shift ;;
    --tests) tests=true; shift ;;
    --without-gpu) without_gpu=true; shift ;;
    --help | -h) usage; exit 0 ;;
    --) shift; break ;;
    *) echo "gpu.sh: unknown option $1; see gpu.sh --help" >&2; exit 2 ;;
  esac
done
[[ $minutes =~ ^[1-9][0-9]*$ ]] || { echo "gpu.sh: --minutes must be a whole number above zero" >&2; exit 2; }

if ! $without_gpu; then
  command -v nvidia-smi >/dev/null || { echo "no GPU here: there is no nvidia-smi, which comes with NVIDIA's driver"; exit 0; }
  nvidia-smi -L 2>/dev/null | grep -q '^GPU' || { echo "no GPU here: nvidia-smi names none"; exit 0; }
fi

if [[ -z $python ]]; then
  python=$root/.venv/bin/python
  [[ -x $python ]] || python=python3
fi
mkdir -p "$out" "$work"
out=$(cd "$out" && pwd) work=$(cd "$work" && pwd)
export PYTHONUNBUFFERED=1

unpack() { # packages of an offline machine, into a folder of their own
  local site=$work/site archive
  rm -rf "$site" && mkdir -p "$site"
  if compgen -G "$packages/*.whl" >/dev/null; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$site" "$packages"/*.whl
  fi
  for archive in "$packages"/*.tar.xz "$packages"/*.tar.xz.00; do
    [[ -e $archive ]] || continue
    if [[ $archive == *.00 ]]; then cat "${archive%.00}".[0-9][0-9]; else cat "$archive"; fi |
      "$python" -c 'import sys, tarfile; tarfile.open(fileobj=sys.stdin.buffer, mode="r|xz").extractall(sys.argv[1], filter="data")' "$site"
  done
  export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
  # onnxruntime looks for CUDA's packages beside itself; here they are beside torch, in another folder.
  local libraries
  libraries=$("$python" -c '
import importlib.util as util, pathlib
found = util.find_spec("nvidia")
roots = found.submodule_search_locations if found else ()
print(":".join(str(folder) for root in roots for folder in sorted(pathlib.Path(root).glob("*/lib"))))')
  export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
}

radrank() { "$python" -m radrank.client.cli "$@"; }
step() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

bundle() { # made once: the last file says that all of it is there
  [[ -e $work/made ]] && return
  rm -rf "$work"/{checkpoint,run,bundle,archive,bundle.plans}
  radrank bench bundle --to "$work" --rows "$rows"
  radrank export precision --bundle "$work/bundle" --precision fp16
  touch "$work/made"
}

plans() { # for the batches that are measured; the server's own, 8, is one of them
  local flavour
  for flavour in tensorrt tensorrt-rtx; do
    step "plans of $flavour"
    radrank export tensorrt --flavour "$flavour" --bundle "$work/bundle" --batch 1,8,32 ||
      echo "no plans of $flavour, or not all: the line above says why; what is there is measured"
  done
}

measure() {
  local left=$((minutes * 60 - SECONDS - 10))
  if ((left < 60)); then
    echo "only $left s of $minutes minutes are left; the bundle in $work is ready: run it again" >&2
    return 1
  fi
  timeout --kill-after=10 $((left + 10)) "$python" -m radrank.client.cli bench gpu --bundle "$work/bundle" \
    --run "$work/run" --archive "$work/archive" --out "$work/results" \
    --minutes "$(awk "BEGIN { print $left / 60 }")" "$@"
}

keep() { # whatever there is by now, however the run ended
  local name
  for name in gpu.md gpu.json gpu.png; do
    [[ ! -e $work/results/$name ]] || cp "$work/results/$name" "$out/$name"
  done
}

all() {
  trap keep EXIT
  rm -f "$work"/results/gpu.*
  if [[ -n $packages ]]; then step "packages" && unpack; fi
  if ! "$python" -c 'import radrank.client.cli' 2>/dev/null; then # a checkout that is not installed
    local part
    for part in core engines datasets training export evaluation server client bench; do
      PYTHONPATH=${PYTHONPATH:+$PYTHONPATH:}$root/$part
    done
    export PYTHONPATH
  fi
  if $plans; then
    step "bundle" && bundle
    plans
    SECONDS=0
  fi
  step "bundle" && bundle
  step "measuring" && measure "$@"
  if $tests; then step "tests" && (cd "$root" && "$python" -m pytest -q -p no:cacheprovider tests/gpu); fi
  step "done; results in $out"
}

SECONDS=0
(all "$@") 2>&1 | tee "$out/gpu.log"
