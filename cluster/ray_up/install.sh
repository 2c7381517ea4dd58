#!/usr/bin/env bash
# Puts RetinaFocus, every package pinned, into ~/.retinafocus of a node. Beside this script (`file_mounts` in the cluster's
# YAML) lie the wheel and constraints.txt. Running it again changes nothing.
#
#   install.sh [cpu|cuda]     without a word: cuda where a driver answers, else cpu
#
# PYTHON        which Python, with its venv module (python3.12). Ray wants the same version on every node.
# TORCH_INDEX   where the CPU build of torch comes from, a tenth of the size of the other.
set -euo pipefail

setup=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
home=$HOME/.retinafocus
python=${PYTHON:-python3.12}
torch_index=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}

variant=${1:-}
if [[ -z $variant ]]; then
  if nvidia-smi -L > /dev/null 2>&1; then variant=cuda; else variant=cpu; fi
fi

# OpenCV wants libGL and glib, which servers may lack.
complete() { ldconfig -p | grep -F libGL.so.1 > /dev/null && "$python" -c 'import ensurepip' 2> /dev/null; }
if ! complete && command -v apt-get > /dev/null; then
  # A fresh machine may be installing updates by itself, and lets nobody else in meanwhile.
  sudo true
  for _ in {1..60}; do
    if sudo apt-get update -qq; then break; fi
    sleep 5
  done
  sudo DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -y -qq --no-install-recommends \
    libgl1 libglib2.0-0 "$(basename "$python")-venv"
fi

[[ -x $home/bin/pip ]] || "$python" -m venv "$home"
pip() { "$home/bin/pip" install --quiet --disable-pip-version-check --constraint "$setup/constraints.txt" "$@"; }

wheels=("$setup"/retinafocus-*.whl)
if ((${#wheels[@]} != 1)) || [[ ! -e ${wheels[0]} ]]; then
  echo "install.sh: there must be one wheel of retinafocus beside it, not ${wheels[*]}" >&2
  exit 2
fi
case $variant in
  cpu)
    # By itself and first: what comes after finds it there and leaves it. Without what it needs, which comes after: of
    # that, this index need not have the versions that are pinned.
    pip --no-deps --index-url "$torch_index" torch torchvision
    ;;
  cuda) ;;
  *)
    echo "install.sh: $variant is neither cpu nor cuda" >&2
    exit 2
    ;;
esac
# OpenVINO on both: CPU workers, which run on the cores beside a GPU too, must all have the engine that the head chose.
pip "${wheels[0]}[cluster,openvino]"
# Again by itself, for pip leaves what has the same version, also where the wheel was built anew.
pip --force-reinstall --no-deps "${wheels[0]}"

# For the commands that start Ray, and for whoever logs in.
cat > "$home/env.sh" << 'ENV'
export PATH="$HOME/.retinafocus/bin:$PATH"
# The token is ~/.ray/auth_token, the same on every node; without this line those that join send none.
export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0
ENV
login="source ~/.retinafocus/env.sh"
grep -qxF "$login" "$HOME/.bashrc" 2> /dev/null || echo "$login" >> "$HOME/.bashrc"

"$home/bin/retinafocus" --version
