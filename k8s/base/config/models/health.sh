#!/bin/bash
export LC_ALL=C
# A server that hangs up is reported below.
trap '' PIPE
# What the server has in memory, for the exporter that Compose runs beside it.
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
# Whether each model is loaded: `check WHAT REQUEST` calls GetModelMetadata over gRPC.
# The response is binary, and a read ends at each NUL. Metadata has the type SignatureDefMap. An error has two headers
# with a NUL between them, grpc-status and grpc-message.
check() {
    exec 3<>/dev/tcp/127.0.0.1/8500 || exit 1
    printf "$start$2" >&3 2>/dev/null
    more=0 seconds=5
    while [ $more = 0 ]; do
        IFS= read -r -d '' -t $seconds part <&3
        more=$?
        case $part in
            *tensorflow.serving.SignatureDefMap*) return ;;
            # No thread is left for this call. So the server is busy; it opened gRPC when its models were loaded.
            *'Server Threadpool Exhausted'*) return ;;
            *grpc-message*)
                # Its length, of one to three bytes, then its text.
                part=${part#*grpc-message}
                part=${part#$'\177'[$'\200'-$'\377']}
                part=${part#$'\177'}
                part=${part#?}
                echo "$1: ${part//[![:print:]]/}"
                exit 1 ;;
            # Nothing comes after the message.
            *grpc-status*) seconds=0.1 ;;
        esac
    done
    echo "$1: no metadata over gRPC"
    exit 1
}
start='PRI * HTTP/2.0\015\012\015\012SM\015\012\015\012\000\000\000\004\000\000\000\000\000\000\000\234\001\004\000\000\000\001\000\007:method\004POST\000\007:scheme\004http\000\005:path6/tensorflow.serving.PredictionService/GetModelMetadata\000\012:authority\011localhost\000\002te\010trailers\000\014content-type\020application/grpc'
check 'model digits, label stable' '\000\000&\000\001\000\000\000\001\000\000\000\000!\012\020\012\006digits"\006stable\022\015signature_def'
check 'model dense, label stable' '\000\000\045\000\001\000\000\000\001\000\000\000\000 \012\017\012\005dense"\006stable\022\015signature_def'
