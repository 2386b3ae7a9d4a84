# The image of the GitHub Action; the same container runs as a GitLab job or by hand (`docker run … trt-action run …`).
# Valid for BuildKit and for the classic builder. What changes rarely comes first: system, libraries, then our own code.
ARG BASE_IMAGE=python:3.12-slim-bookworm

# What every stage has. `git` and `git-lfs` read the base model; without recommended packages they are small.
FROM ${BASE_IMAGE} AS system
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
# Debian's own versions are wanted: they get its security updates.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates git git-lfs \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /usr/share/doc/* /usr/share/man/*

# Which libraries: a stage of its own, so that a change elsewhere in pyproject.toml does not install them again.
FROM system AS requirements
ARG VARIANT=onnxruntime
WORKDIR /build
COPY pyproject.toml image/requirements.py ./
RUN python3 requirements.py onnxruntime action publish sbom serve > common.txt \
    && python3 requirements.py "${VARIANT}" > variant.txt

# The libraries that every variant has: built once for all of them, and not touched by our own code.
FROM system AS common
WORKDIR /build
RUN python3 -m venv /opt/trt-action
ENV PATH=/opt/trt-action/bin:$PATH
COPY constraints.txt ./
COPY --from=requirements /build/common.txt ./
RUN python3 -m pip install --compile --constraint constraints.txt --requirement common.txt

# Our own code as an installed package, in a prefix of its own.
FROM common AS package
RUN python3 -m pip install --constraint constraints.txt "hatchling>=1.25,<2"
COPY pyproject.toml README.md LICENSE ./
COPY trt_action ./trt_action
RUN python3 -m pip install --compile --no-deps --no-build-isolation --ignore-installed --prefix=/package .

# The variant's own libraries beside them.
FROM common AS libraries
COPY --from=requirements /build/variant.txt ./
RUN python3 -m pip install --compile --constraint constraints.txt --requirement variant.txt

# What ships: no builder, no package cache.
FROM system AS action
ARG VARIANT=onnxruntime
ARG VERSION=0.0.0
ARG REVISION=unknown
COPY --from=libraries /opt/trt-action /opt/trt-action
COPY --from=package /package /opt/trt-action
COPY entrypoint.py /entrypoint.py
ENV PATH=/opt/trt-action/bin:$PATH \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
LABEL org.opencontainers.image.title="trt-action" \
      org.opencontainers.image.description="Latency and accuracy gates for ONNX models on pull requests" \
      org.opencontainers.image.source="https://github.com/ORG/trt-action" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      io.github.trt-action.variant="${VARIANT}"
# Exec form: signals of a cancelled job reach Python itself. Root, because the runner's workspace belongs to whoever.
ENTRYPOINT ["/opt/trt-action/bin/python3", "/entrypoint.py"]
