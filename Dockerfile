# cachesync as a sidecar, or with a mount: docs/containers.md says how to run it.

# Any image with Python 3.11 or newer, venv and pip, as python3. A tag moves: build with python:3.13-slim@sha256:DIGEST, with
# the digest that your registry shows for it.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
# "mcp" adds the MCP server.
ARG EXTRAS=""
WORKDIR /src
# What is installed is known by its hash, also what builds the wheel (make requirements).
COPY deploy/requirements.txt deploy/requirements-mcp.txt deploy/requirements-build.txt deploy/
RUN python3 -m venv --without-pip /build && python3 -m venv --without-pip /opt/cachesync \
 && python3 -m pip --python /build/bin/python3 install --no-cache-dir --require-hashes -r deploy/requirements-build.txt \
 && python3 -m pip --python /opt/cachesync/bin/python3 install --no-cache-dir --require-hashes \
    -r "deploy/requirements${EXTRAS:+-${EXTRAS}}.txt"
COPY pyproject.toml README.md LICENSE ./
COPY cachesync cachesync
RUN python3 -m pip --python /build/bin/python3 wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
 && python3 -m pip --python /opt/cachesync/bin/python3 install --no-cache-dir --no-deps /wheels/cachesync-*.whl
COPY deploy/probe.py /opt/cachesync/lib/probe.py
RUN printf '#!/bin/sh\nexec /opt/cachesync/bin/python3 /opt/cachesync/lib/probe.py "$@"\n' > /opt/cachesync/bin/cachesync-probe \
 && chmod 755 /opt/cachesync/bin/cachesync-probe

FROM ${BASE}
# A user of its own, in the agents' group: a process of the daemon's user has what the daemon has.
ARG UID=1001
ARG GID=1000
COPY --from=build /opt/cachesync /opt/cachesync
# In the root each agent makes sessions of the group, and removes nobody else's, nor the state folder.
RUN install -d -o "${UID}" -g "${GID}" -m 3775 /sessions && install -d -o "${UID}" -g "${GID}" /run/cachesync && install -d /files
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
