#!/bin/bash
# Seconds.
longest=${DRAIN_SECONDS:-30}
# The gRPC and REST ports in the format of /proc/net/tcp.
ports=" 2134 2135 "
# In hundredths of a second: how long a server without requests is quiet, and the CPU time that it may use meanwhile.
quiet=100
background=2

# Detects whether a request is in flight in TensorFlow Serving, which has no count of them. No request is in flight if
# the kernel shows that no connection to its ports is open, or that no connection has bytes to read or send and the
# server has used no CPU time for a while. The server still accepts new requests meanwhile. (TensorFlow Serving ends at
# once on SIGTERM, and as process 1 of a container it ignores SIGTERM.)

# Sets `used`, the CPU time of the server in hundredths of a second; fails when the server has ended.
look_at_cpu() {
    local stat
    { read -r stat < "/proc/$server/stat"; } 2> /dev/null || return 1
    # The name of the program, in parentheses, may contain spaces. https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
    set -- ${stat##*) }
    used=$((${12} + ${13}))
}

# Sets `open`, the number of connections to the server, and `waiting`, those with bytes that are not read yet.
# https://docs.kernel.org/networking/proc_net_tcp.html
look_at_connections() {
    local table line lines
    open=0 waiting=0
    for table in /proc/net/tcp /proc/net/tcp6; do
        [ -r "$table" ] || continue
        mapfile -t lines < "$table"
        for line in "${lines[@]}"; do
            # Number, local address, remote address, state, bytes to send:bytes to read.
            set -- $line
            case $ports in *" ${2##*:} "*) ;; *) continue ;; esac
            # Established, half-closed by the client, or closed by the server with bytes to send.
            case $4 in 01 | 08 | 04 | 09) ;; *) continue ;; esac
            open=$((open + 1))
            [ "$5" = 00000000:00000000 ] || waiting=$((waiting + 1))
        done
    done
}

begin_drain() {
    look_at_cpu
    since=$now used_before=$used
}

in_flight() {
    look_at_connections
    look_at_cpu && [ "$open" -gt 0 ] || return 1
    if [ "$waiting" -gt 0 ] || [ $((used - used_before)) -gt "$background" ]; then
        since=$now used_before=$used
    fi
    [ $((now - since)) -lt "$quiet" ]
}

# Runs a server, `serve.sh PROGRAM FLAG…`, and ends it when no request is in flight.
#
#     RUNNING ── SIGTERM, SIGINT ──► DRAINING ── idle, time over, another signal ──► SIGTERM to the server ──► ENDED
#        └────── SIGHUP: the process that started it has ended ─────────────────────────────┘
#
# It needs only bash. The exit code is the server's; 0 for a server that ended by SIGTERM after a complete drain, since
# that is no failure. `return` and `exit` have explicit codes: in a trap their default is the code of the interrupted
# command.
set -f

server=
# Set by a drain, and cleared when it cuts off requests.
drained=

# Sets `now`, in hundredths of a second since the machine started.
look_at_clock() {
    read -r now _ < /proc/uptime
    now=$((10#${now/./}))
}

drain() {
    local hurry= reported= end never
    trap 'hurry=yes' TERM INT HUP
    server=${server:-$!}
    # The signal came before the server was started.
    [ "$server" ] || exit 0
    # Nothing is written to this pipe, so reading it with a timeout is a pause.
    exec {never}<> <(:)
    look_at_clock
    end=$((now + 100 * longest))
    drained=yes
    begin_drain
    while in_flight; do
        if [ -z "$reported" ]; then
            echo "Draining: waiting for requests in flight, at most $longest s …" >&2
            reported=yes
        fi
        if [ "$hurry" ]; then
            echo "Draining: received another signal. Requests in flight are cut off." >&2
            drained=
            break
        fi
        if [ "$now" -ge "$end" ]; then
            echo "Draining: $longest s are over. Requests in flight are cut off." >&2
            drained=
            break
        fi
        read -r -t 0.1 -u "$never"
        look_at_clock
    done
    end_server
}

end_server() {
    server=${server:-$!}
    kill -TERM "$server" 2> /dev/null
    await_end
}

# A signal interrupts `wait`. bash keeps the code of a server that has ended.
await_end() {
    local code
    while
        wait "$server" 2> /dev/null
        kill -0 "$server" 2> /dev/null
    do :; done
    wait "$server" 2> /dev/null
    code=$?
    if [ "$drained" ] && [ "$code" = 143 ]; then code=0; fi
    exit "$code"
}

case $longest in
    '' | *[!0-9]* | ???????*)
        echo "Error: DRAIN_SECONDS: got '$longest', expected a whole number of seconds, such as 60." >&2
        exit 2
        ;;
esac
longest=$((10#$longest))
trap drain TERM INT
trap end_server HUP
"$@" &
server=$!
await_end
