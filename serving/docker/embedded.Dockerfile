# The embedded server as an image with the entry point, ports, folders and environment of tensorflow/serving: for CPUs on amd64
# and arm64, and with DEVICE=gpu for NVIDIA's GPUs on amd64. Build it from the repository's folder:
#   docker build --file serving/docker/embedded.Dockerfile .
# docs/docker.md describes the build arguments.
ARG PYTHON_IMAGE=python:3.13.15-slim-bookworm@sha256:2325bb286ec344af3e5898cc224b5844e2707ac6e26b1632516fd3edc84a5e26
ARG DEVICE=cpu

FROM ${PYTHON_IMAGE} AS packages
RUN command -v strip > /dev/null \
    || (apt-get update -qq && apt-get install -qq -y --no-install-recommends binutils > /dev/null)
ARG DEVICE
# TensorFlow's package for arm64 has no CUDA.
RUN [ "${DEVICE}" != gpu ] || [ "$(uname -m)" = x86_64 ] \
    || { echo "DEVICE=gpu needs amd64, and this is $(uname -m). Build with --platform linux/amd64." >&2; exit 1; }
# pip reads it from the environment.
ARG PIP_INDEX_URL
# The certificate is optional: a pattern may match no file.
COPY serving/docker/requirements-${DEVICE}.lock serving/docker/sbom.lock extra-ca.cr[t] /build/
# Headers are for building against TensorFlow, and symbols for debugging it: 350 MB of 1.4 GB. CUDA's headers stay, since
# cuDNN compiles some of its kernels when they are first used.
RUN if [ -f /build/extra-ca.crt ]; then \
        cat "${PIP_CERT:-$(python3 -c 'from pip._vendor.certifi import where; print(where())')}" /build/extra-ca.crt > /build/ca.crt \
        && export PIP_CERT=/build/ca.crt; \
    fi \
    && python3 -m pip install --quiet --no-cache-dir --no-deps --only-binary :all: --require-hashes --target /opt/serving \
        --report /build/report.json -r /build/requirements-${DEVICE}.lock \
    && python3 -m pip install --quiet --no-cache-dir --no-deps --only-binary :all: --require-hashes --target /opt/sbom -r /build/sbom.lock \
    && rm -rf /opt/serving/tensorflow/include \
    && find /opt/serving/tensorflow -name '*.so*' -exec strip --strip-unneeded {} +

FROM ${PYTHON_IMAGE} AS cpu

FROM ${PYTHON_IMAGE} AS gpu
# NVIDIA's container runtime mounts the driver's libraries and these GPUs. The libraries of CUDA are among the packages, where
# TensorFlow finds them by its own search path.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# Only the packages are copied: this stage has neither the arguments nor the certificate.
FROM ${DEVICE} AS runtime
ENV PYTHONPATH=/opt/serving PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TF_CPP_MIN_LOG_LEVEL=1 \
    MODEL_BASE_PATH=/models MODEL_NAME=model
COPY --from=packages /opt/serving /opt/serving

# What runtime contains, as CycloneDX. Nothing else of this stage is copied.
FROM runtime AS sbom
ARG PYTHON_IMAGE
ARG SOURCE_DATE_EPOCH
COPY --from=packages /opt/sbom /opt/sbom
COPY --from=packages /build/report.json /build/
COPY tfserving/__init__.py /build/tfserving/
COPY serving/__init__.py /build/tfserving/serving/
COPY serving/docker /build/tfserving/serving/docker
RUN PYTHONPATH=/build:/opt/sbom python3 -m tfserving.serving.docker.sbom_of_packages --name serving-embedded --base "${PYTHON_IMAGE}" \
    --path "${PYTHONPATH}" --report /build/report.json --output /usr/local/share/sbom/serving-embedded.cdx.json

FROM runtime
COPY --from=sbom /usr/local/share/sbom /usr/local/share/sbom
# The code changes most often, so it comes last and the layer of packages is reused.
COPY tfserving/__init__.py /opt/serving/tfserving/
COPY tfserving/foundation /opt/serving/tfserving/foundation
COPY serving/__init__.py serving/config_messages.py /opt/serving/tfserving/serving/
COPY serving/embedded /opt/serving/tfserving/serving/embedded
RUN python3 -m compileall -q /opt/serving/tfserving
COPY serving/docker/tensorflow_model_server serving/docker/tf_serving_entrypoint.sh /usr/bin/
EXPOSE 8500 8501
USER 10001:10001
WORKDIR /models
ENTRYPOINT ["/usr/bin/tf_serving_entrypoint.sh"]
