# PID 1 of a box with a pid namespace: launcher.sh ONSTART [SSHD SSHD_CONFIG]
# Runs sshd and the onstart text, reaps orphans, and ends everything on TERM.

terminate() {
    trap '' TERM
    kill -TERM -1 2>/dev/null
    # The simulator kills us when the grace is over; then the kernel ends what is left.
    while others; do sleep 0.05; done
    exit 143
}

others() {
    local processes=(/proc/[0-9]*)
    ((${#processes[@]} > 1))
}

trap terminate TERM
umask 022

if [[ -n ${2:-} ]]; then
    mkdir -p /run/sshd
    "$2" -D -e -f "$3" </dev/null &
fi
bash "$1" </dev/null &

# Only a wait for a living child is woken by the trap.
while :; do
    sleep 2147483647 &
    wait $!
done
