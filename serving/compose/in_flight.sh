# Detects whether a request is in flight in Envoy, which counts them. Envoy accepts no new connections meanwhile, and
# closes open ones after their next response. https://www.envoyproxy.io/docs/envoy/latest/operations/admin

# Sends METHOD PATH to the admin interface, and sets `lines` to the response.
call_envoy() {
    local connection
    { exec {connection}<> "/dev/tcp/127.0.0.1/$admin"; } 2> /dev/null || return 1
    printf '%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$1" "$2" >&"$connection"
    mapfile -t -u "$connection" lines
    exec {connection}>&-
}

begin_drain() {
    call_envoy POST '/drain_listeners?graceful&skip_exit'
    call_envoy POST /drain_listeners
}

in_flight() {
    local line
    call_envoy GET '/stats?filter=http.rest.downstream_rq_active' || return 1
    for line in "${lines[@]}"; do
        case $line in *downstream_rq_active:\ [1-9]*) return 0 ;; esac
    done
    return 1
}
