#!/bin/bash
# What the server has in memory, for the exporter that Compose runs beside it.
if [ -w /metrics ]; then
    kilobytes=0
    for status in /proc/[0-9]*/status; do
        while read -r key value _; do
            if [ "$key" = VmRSS: ]; then kilobytes=$((kilobytes + value)); fi
        done < "$status"
    done 2>/dev/null
    printf '# TYPE tensorflow_serving_resident_memory_bytes gauge\ntensorflow_serving_resident_memory_bytes %s\n' $((kilobytes * 1024)) > /metrics/memory.new
    mv /metrics/memory.new /metrics/memory.prom
fi
# Whether every model is available: asks the REST port for the metadata of each.
for path in /v1/models/digits/labels/stable/metadata /v1/models/dense/labels/stable/metadata; do
    exec 3<>/dev/tcp/127.0.0.1/8501 || exit 1
    printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$path" >&3
    read -r -t 5 line <&3 || exit 1
    exec 3<&-
    case $line in
        *" 200 "*) ;;
        *) echo "$path: $line"; exit 1 ;;
    esac
done
