# shellcheck shell=bash
# Shared by up.sh and down.sh.

# processes_of SERVICE: the processes that make up a service. Each has a folder
# of its name in DIR, with its pid in it.
processes_of() {
  case $1 in
    redis) echo redis redis-cluster ;;
    kafka | elasticsearch) echo "$1" ;;
    *) return 1 ;;
  esac
}

# pid_of DIR PROCESS: the pid of the process that up.sh started in DIR, if it still runs.
# The command line must name DIR, so a pid that the kernel has given to another process is not taken.
pid_of() {
  local pid
  pid=$(cat "$1/$2/pid" 2>/dev/null) && [ -n "$pid" ] || return 1
  { tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -qF -- "$1/$2/" || return 1
  echo "$pid"
}

# stop DIR PROCESS...: stops those that run, by pid; after 25 s the hard way.
stop() {
  local dir=$1 process pid pids=() left=() i
  shift
  for process in "$@"; do
    pid=$(pid_of "$dir" "$process") && kill "$pid" && pids+=("$pid")
  done
  for ((i = 0; i < 300; i++)); do
    left=()
    for pid in "${pids[@]}"; do kill -0 "$pid" 2>/dev/null && left+=("$pid"); done
    [ ${#left[@]} = 0 ] && break
    [ "$i" = 250 ] && kill -9 "${left[@]}"
    sleep 0.1
  done
  for process in "$@"; do rm -f "$dir/$process/pid"; done
  [ ${#left[@]} = 0 ]
}
