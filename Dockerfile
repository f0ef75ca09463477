# Kakitome's image: the gateway in a virtual environment on a slim Python; docs/deployment-compose.md tells how to use it.
#
#   docker build --tag kakitome .
#
# BASE may be any Debian-based Python from 3.11 on. Both stages start from it, so that the virtual environment finds its
# Python again.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build

# Whatever compiler the base's Debian has is right: it makes the extensions, and stays in this stage.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*

# Where a build finds its packages, for networks with an index or a certificate authority of their own. Arguments of this
# stage leave no trace in the image.
ARG PIP_INDEX_URL
ARG PIP_CERT
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore

WORKDIR /build
COPY requirements.lock requirements-build.lock ./
RUN python -m venv --without-pip /opt/kakitome \
 && pip --python /opt/kakitome/bin/python install --no-compile --require-hashes --only-binary :all: -r requirements.lock \
 && pip install --require-hashes --only-binary :all: -r requirements-build.lock

COPY pyproject.toml setup.py README.md LICENSE kakitome.py ./
COPY gateway gateway
# All that can be compiled is, or the build fails: an image without it would be slow and nobody would know why.
RUN KAKITOME_COMPILE=1 pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
 && pip --python /opt/kakitome/bin/python install --no-compile --no-deps --no-index dist/*.whl \
 && /opt/kakitome/bin/python -I -c 'from gateway.protocol import build; assert build.CODEC == build.DATA_PATH == "compiled"' \
 && mkdir -p state/tls \
# The same sources make the same bytes: compiled by what the files hold, not by when they were written.
 && find /opt/kakitome -name __pycache__ -prune -exec rm -r {} + \
 && /opt/kakitome/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/kakitome/lib

FROM ${BASE}

COPY --from=build /opt/kakitome /opt/kakitome
# A volume mounted here is the gateway's own to write: its certificates, its Unix sockets.
COPY --from=build --chown=65532:65532 /build/state /var/lib/kakitome

ARG BASE
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown
ARG BASE_DIGEST=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="Kakitome" \
      org.opencontainers.image.description="A WebSocket gateway that knows how far every message got" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}" \
      org.opencontainers.image.base.name="${BASE}"

# The root file system may be read-only: no bytecode is written, and nothing else is.
ENV PATH=/opt/kakitome/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    KAKITOME_CONFIG=/etc/kakitome/kakitome.yaml
WORKDIR /etc/kakitome
USER 65532:65532
EXPOSE 8080 8443 9090

# Liveness, as /healthz means it. KAKITOME_ADMIN tells where, if not at the admin listener's default, 127.0.0.1:9090.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["kakitome", "probe"]

ENTRYPOINT ["kakitome"]
CMD ["serve"]
