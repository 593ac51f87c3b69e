#!/bin/sh
# quick.sh: judges this node by the quick profile, within GPUGATE_SECONDS. Where GPUGATE_MAY_DRAIN is yes and something is
# red, the gate decides by that report as it does on the controller: a FAIL of a check that may evict drains the node.
# What could not be measured, a time-out, or an error of this script itself never does.
#
# Exit status: 10 when the gate drained the node, else 0. slurmd gives a HealthCheckProgram its node's name, and no PATH.
set -u
PATH=/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C.UTF-8 # Ansible starts with no other
DRAINED=10
# shellcheck disable=SC1091 # it lies beside this file, wherever that is
. "$(dirname "$0")/gpugate.env"
export PATH LC_ALL
bin=$GPUGATE_PROJECT/.venv/bin
until=$(($(date +%s) + GPUGATE_SECONDS))

say() { logger -t gpugate -- "$GPUGATE_HOST: $*" 2>/dev/null || echo "gpugate: $GPUGATE_HOST: $*" >&2; }
bounded() { # bounded COMMAND...: what is left of the time
  left=$((until - $(date +%s)))
  [ "$left" -gt 0 ] || return 124
  timeout --kill-after=2 "$left" "$@"
}

umask 077
mkdir -p "$GPUGATE_STATE" || exit 0
cd "$GPUGATE_PROJECT" || exit 0
exec 9>"$GPUGATE_STATE/lock"
flock --nonblock 9 || exit 0 # another one is judging this node
log=$GPUGATE_STATE/last.txt

bounded "$bin/pytest" --hosts="$GPUGATE_HOST" --ansible-inventory="$GPUGATE_INVENTORY" --profile=quick \
  --reports="$GPUGATE_STATE/reports" -o cache_dir="$GPUGATE_STATE/cache" </dev/null >"$log" 2>&1 9>&-
judged=$?
case $judged in
  0) exit 0 ;;
  1) say "not green by the quick profile: see $log" ;;
  *) say "was not judged (exit status $judged of pytest): see $log" && exit 0 ;;
esac
[ "$GPUGATE_MAY_DRAIN" = yes ] || exit 0

PATH=$bin:$PATH bounded "$bin/ansible-playbook" playbooks/admit.yml -i "$GPUGATE_INVENTORY" -e "$(
  printf '{"gpugate_hosts": "%s", "ansible_become": false, "gpugate_admission_backend": "slurm",' "$GPUGATE_HOST"
  printf ' "gpugate_report": "%s/reports/latest/junit.xml",' "$GPUGATE_STATE"
  printf ' "gpugate_admission_state": "%s/admission.json",' "$GPUGATE_STATE"
  printf ' "gpugate_state_file": "%s/gpugate.sqlite"}' "$GPUGATE_STATE"
)" </dev/null >>"$log" 2>&1 9>&- || say "the gate could not carry out what it decided: see $log"
if scontrol show node "${SLURMD_NODENAME:-$GPUGATE_HOST}" 2>/dev/null | grep -q '^   Reason=gpugate: .* FAIL'; then
  say "drained by the gate: see $log"
  exit "$DRAINED"
fi
exit 0
