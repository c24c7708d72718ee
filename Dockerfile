# MedKD in a container. Data and runs live in the folder that is mounted at /data; --user is whoever
# owns that folder.
#
#   docker build --build-arg VERSION=0.2.0 -t medkd .
#   docker run --rm --user "$(id -u)" -v "$PWD:/data" medkd demo
#   docker build --build-arg BASE=nvidia/cuda:12.8.1-runtime-ubuntu24.04 -t medkd-cuda .
#   docker run --rm --user "$(id -u)" --gpus all -v "$PWD:/data" -e DEEPSEEK_API_KEY medkd-cuda \
#     run qwen2.5-7b --collect.input cases.json
#   docker run --rm --user "$(id -u)" -p 127.0.0.1:7860:7860 -v "$PWD:/data" medkd studio --host 0.0.0.0
#
# BASE is any Debian or Ubuntu image; where it has Python 3.11 to 3.13, that is used. On a CPU base
# PIP_ARGS="--extra-index-url ADDRESS" takes a CPU build of torch, which is smaller by gigabytes.
ARG BASE=python:3.12-slim-bookworm
FROM ${BASE}

ARG EXTRAS=train,studio,gguf
ARG PIP_ARGS=""
# What `medkd --version` says; the image has no git to ask.
ARG VERSION=0.2.0.dev0

# hadolint ignore=DL3008
RUN if ! command -v python3 >/dev/null; then \
        apt-get update \
        && apt-get install -y --no-install-recommends python3 python3-venv \
        && rm -rf /var/lib/apt/lists/*; \
    fi

COPY . /tmp/medkd
RUN python3 -m venv /opt/medkd \
    && SETUPTOOLS_SCM_PRETEND_VERSION=${VERSION} \
        /opt/medkd/bin/pip install --no-cache-dir --disable-pip-version-check ${PIP_ARGS} \
        -c /tmp/medkd/constraints.txt "/tmp/medkd[${EXTRAS}]" \
    && rm -rf /tmp/medkd \
    && ln -s /opt/medkd/bin/medkd /usr/local/bin/medkd

RUN mkdir -p /data && chown 10001 /data
USER 10001
WORKDIR /data
ENV HOME=/data USER=medkd PYTHONUNBUFFERED=1
EXPOSE 7860
ENTRYPOINT ["medkd"]
CMD ["--help"]
