# The embedded server as an image: what tensorflow/serving is to its users (entry point, ports, folders, environment),
# for amd64 and arm64. Built from the repository's folder: docker build -f serving/docker/embedded.Dockerfile .
ARG PYTHON_IMAGE=python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS packages
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends binutils > /dev/null
COPY serving/docker/requirements.lock /requirements.lock
# Headers are for building against TensorFlow, and symbols for debugging it: 350 MB of 1.4 GB.
RUN python3 -m pip install --quiet --no-cache-dir --no-deps --only-binary :all: --require-hashes --target /opt/serving -r /requirements.lock \
    && rm -rf /opt/serving/tensorflow/include \
    && find /opt/serving/tensorflow -name '*.so*' -exec strip --strip-unneeded {} +

FROM ${PYTHON_IMAGE}
ENV PYTHONPATH=/opt/serving PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TF_CPP_MIN_LOG_LEVEL=1 \
    MODEL_BASE_PATH=/models MODEL_NAME=model
COPY --from=packages /opt/serving /opt/serving
# What changes most often is last, so that the packages' layer stays.
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
