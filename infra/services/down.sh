#!/bin/bash
# down.sh DIR [SERVICE...]: stops the services that up.sh started in DIR, or only
# those named (kafka, elasticsearch, redis), by pid. Their data and ports stay.
set -u
here=$(dirname "$(readlink -f "$0")")
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"
[ $# -ge 1 ] || { echo "usage: $0 DIR [kafka|elasticsearch|redis]..." >&2; exit 2; }
dir=$(realpath -m "$1")
shift
[ -d "$dir" ] || exit 0
exec 8>"$dir/lock"
flock 8 # an up.sh at work comes first
if [ $# = 0 ]; then
  rm -f "$dir/env"
  set -- redis kafka elasticsearch
fi
processes=()
for service in "$@"; do
  names=$(processes_of "$service") || { echo "down.sh: no service $service" >&2; exit 2; }
  # shellcheck disable=SC2206 # names have no spaces
  processes+=($names)
done
stop "$dir" "${processes[@]}"
