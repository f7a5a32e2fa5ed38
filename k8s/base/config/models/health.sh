#!/bin/bash
export LC_ALL=C
# A closed connection is reported below.
trap '' PIPE
# The memory of the server, for the exporter that Compose runs beside it.
if [ -w /metrics ]; then
    kilobytes=0
    for status in /proc/[0-9]*/status; do
        while read -r key value _; do
            if [ "$key" = VmRSS: ]; then kilobytes=$((kilobytes + value)); break; fi
        done < "$status"
    done 2>/dev/null
    printf '# TYPE tensorflow_serving_resident_memory_bytes gauge\ntensorflow_serving_resident_memory_bytes %s\n' $((kilobytes * 1024)) > /metrics/memory.new
    mv /metrics/memory.new /metrics/memory.prom
fi
# `check NAME REQUEST` calls GetModelMetadata over gRPC and exits with 1 if the model isn't loaded.
# The response is binary, and `read` stops at each NUL. Metadata contains the type SignatureDefMap. An error has two
# headers with a NUL between them, grpc-status and grpc-message.
check() {
    exec 3<>/dev/tcp/127.0.0.1/8500 || exit 1
    printf "$start$2" >&3 2>/dev/null
    more=0 seconds=5
    while [ $more = 0 ]; do
        IFS= read -r -d '' -t $seconds part <&3
        more=$?
        case $part in
            *tensorflow.serving.SignatureDefMap*) return ;;
            # All threads are busy, so the server works. It opened gRPC when its models were loaded.
            *'Server Threadpool Exhausted'*) return ;;
            *grpc-message*)
                # The length, in one to three bytes, then the text.
                part=${part#*grpc-message}
                part=${part#$'\177'[$'\200'-$'\377']}
                part=${part#$'\177'}
                part=${part#?}
                echo "$1: ${part//[![:print:]]/}"
                exit 1 ;;
            # Nothing follows the message.
            *grpc-status*) seconds=0.1 ;;
        esac
    done
    echo "$1: no metadata over gRPC"
    exit 1
}
start='PRI * HTTP/2.0\015\012\015\012SM\015\012\015\012\000\000\000\004\000\000\000\000\000\000\000\234\001\004\000\000\000\001\000\007:method\004POST\000\007:scheme\004http\000\005:path6/tensorflow.serving.PredictionService/GetModelMetadata\000\012:authority\011localhost\000\002te\010trailers\000\014content-type\020application/grpc'
check 'model digits, label stable' '\000\000&\000\001\000\000\000\001\000\000\000\000!\012\020\012\006digits"\006stable\022\015signature_def'
check 'model dense, label stable' '\000\000\045\000\001\000\000\000\001\000\000\000\000 \012\017\012\005dense"\006stable\022\015signature_def'
