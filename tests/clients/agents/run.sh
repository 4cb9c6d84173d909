#!/usr/bin/env bash
# Runs real clients from npm and PyPI against the service, without any network:
#
#   tests/clients/agents/run.sh [--quick] PROGRAM MODEL [NAME...]
#
# PROGRAM is v4-run, and MODEL the tests' tiny model as GGUF, whose output is steered (steer.py).
# Each client is set up with the output of `v4-run client-config`. The checks are a first turn, a
# tool call and its result, a second turn whose prompt is 95% cached, a prompt that is too long,
# and one that takes longer to read than the client waits.
#
# --quick   only the light clients, for the gate: at most 10 minutes including installation;
#           clients that there is no time for are skipped
# --keep    FOLDER for the exchanges and outputs of each client [default: discarded]
#
# Clients are installed into ${XDG_CACHE_HOME:-~/.cache}/v4-clients, in the versions of
# versions.toml (3.4 GB in total, 1 GB for the light ones). Clients that cannot be installed are
# skipped by name. The last line is `N passed, N failed, N skipped`.
set -euo pipefail
until=$(($(date +%s) + 570))
quick='' keep=''
while (($#)); do
    case $1 in
        --quick) quick=--quick && shift ;;
        --keep) keep=$2 && shift 2 ;;
        -*) echo "run.sh: unknown option $1; see the head of the script" >&2 && exit 2 ;;
        *) break ;;
    esac
done
(($# >= 2)) || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
program=$(realpath "$1") model=$(realpath "$2")
shift 2
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONDONTWRITEBYTECODE=1
cache=${XDG_CACHE_HOME:-$HOME/.cache}/v4-clients
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [[ -n $keep ]]; then
    mkdir -p "$keep"
    keep=$(realpath "$keep")
fi

python3 "$here/judge.py" --names $quick "$@" | sort -u >"$work/wanted"
mapfile -t wanted <"$work/wanted"
python3 "$here/install.py" "$cache" "${wanted[@]}" >"$work/missing"

as_root=()
((EUID == 0)) || as_root=(--map-root-user)
if ! unshare "${as_root[@]}" --net --mount --pid --fork true 2>"$work/why"; then
    echo "agents: skipped, this machine makes no empty network: $(cat "$work/why")"
    echo '0 passed, 0 failed, 1 skipped'
    exit 0
fi
echo 'nameserver 127.0.0.1' >"$work/resolv.conf"
# A process namespace of its own: daemons that clients leave behind end with it.
unshare "${as_root[@]}" --net --mount --pid --fork --mount-proc bash -c '
    set -euo pipefail
    work=$1 && shift
    mount --bind "$work/resolv.conf" "$(realpath -m /etc/resolv.conf)"
    exec "$@"
' - "$work" python3 "$here/judge.py" ${quick:+--quick --until "$until"} --program "$program" --model "$model" \
    --cache "$cache" --missing "$work/missing" --work "$work" ${keep:+--keep "$keep"} "$@"
