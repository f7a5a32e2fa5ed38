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
