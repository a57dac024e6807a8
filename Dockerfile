# cachesync as a sidecar, or with a mount: docs/containers.md says how to run it.

# Any image with Python 3.11 or newer, venv and pip, as python3.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
# Further parts of the package, as "mcp".
ARG EXTRAS=""
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY cachesync cachesync
RUN python3 -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
 && python3 -m venv --without-pip /opt/cachesync \
 && wheel="$(echo /wheels/cachesync-*.whl)" \
 && python3 -m pip --python /opt/cachesync/bin/python3 install --no-cache-dir "${wheel}${EXTRAS:+[${EXTRAS}]}"
COPY deploy/probe.py /opt/cachesync/lib/probe.py
RUN printf '#!/bin/sh\nexec /opt/cachesync/bin/python3 /opt/cachesync/lib/probe.py "$@"\n' > /opt/cachesync/bin/cachesync-probe \
 && chmod 755 /opt/cachesync/bin/cachesync-probe

FROM ${BASE}
# Whose files the agent's are: a sidecar reads them, so it best runs as the agent's user.
ARG UID=1000
ARG GID=1000
COPY --from=build /opt/cachesync /opt/cachesync
RUN install -d -o "${UID}" -g "${GID}" /sessions /run/cachesync && install -d /files
# Without a bucket it does not start. With CACHESYNC_REQUIRE_REMOTE=false the store is a folder in the volume: enough for a
# look, and no more durable than that.
ENV PATH=/opt/cachesync/bin:/usr/local/bin:/usr/bin:/bin \
    CACHESYNC_ROOT=/sessions \
    CACHESYNC_REQUIRE_REMOTE=true \
    XDG_DATA_HOME=/sessions/.cachesync
USER ${UID}:${GID}
# Not the volume: a cachesync.toml in the working directory is read, and the volume is the agent's to write.
WORKDIR /
VOLUME /sessions
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["cachesync-probe"]
ENTRYPOINT ["cachesync"]
CMD ["run"]
