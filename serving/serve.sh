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
