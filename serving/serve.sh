# Runs a server, `serve.sh PROGRAM FLAG…`, and ends it when no request is in flight any more.
#
#     RUNNING ── SIGTERM, SIGINT ──► DRAINING ── idle, time over, another signal ──► SIGTERM to the server ──► ENDED
#        └────── SIGHUP: whoever started it is gone ────────────────────────────────────────┘
#
# Nothing but bash is needed. The exit code is the server's. `return` and `exit` have codes of their own: in a trap they
# would take that of what the signal interrupted.
set -f

server=

# Sets `now`, in hundredths of a second since the machine started.
look_at_clock() {
    read -r now _ < /proc/uptime
    now=$((10#${now/./}))
}

drain() {
    local hurry= said= end never
    trap 'hurry=yes' TERM INT HUP
    server=${server:-$!}
    # It came before the server was started.
    [ "$server" ] || exit 143
    # Nothing ever comes from this pipe, so that reading it takes a pause.
    exec {never}<> <(:)
    look_at_clock
    end=$((now + 100 * longest))
    begin_drain
    while in_flight; do
        if [ -z "$said" ]; then
            echo "Draining: waiting for requests in flight, at most $longest s …" >&2
            said=yes
        fi
        if [ "$hurry" ]; then
            echo "Draining: another signal came; requests in flight are cut off." >&2
            break
        fi
        if [ "$now" -ge "$end" ]; then
            echo "Draining: $longest s are over; requests that are still in flight are cut off." >&2
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

# A signal interrupts `wait`; the code of a server that has ended is kept.
await_end() {
    while
        wait "$server" 2> /dev/null
        kill -0 "$server" 2> /dev/null
    do :; done
    wait "$server" 2> /dev/null
    exit $?
}

case $longest in
    '' | *[!0-9]* | ???????*)
        echo "Error: DRAIN_SECONDS is '$longest'; it must be a whole number of seconds, such as 60." >&2
        exit 2
        ;;
esac
longest=$((10#$longest))
trap drain TERM INT
trap end_server HUP
"$@" &
server=$!
await_end
