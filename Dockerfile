# One device of a flockmq mesh, on x86_64 and aarch64. Needs nothing of BuildKit.
FROM python:3.11-slim-bookworm AS builder

WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore \
    PIP_CONSTRAINT=/src/constraints.txt

# What others wrote comes before our own code, so that a change to the code fetches nothing again.
COPY pyproject.toml constraints.txt ./
RUN python3 -m venv /build \
 && python3 -m venv --without-pip /opt/flockmq \
 && python3 -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb')); \
      print(*project['build-system']['requires'], sep='\n', file=open('/build/requires', 'w')); \
      print(*project['project']['dependencies'], sep='\n', file=open('/build/dependencies', 'w'))" \
 && /build/bin/pip install -q -r /build/requires \
 && /build/bin/pip --python /opt/flockmq/bin/python install -q -r /build/dependencies

# Our own code: one wheel.
COPY README.md LICENSE ./
COPY broker broker
COPY agent agent
RUN /build/bin/pip wheel -q --no-deps --no-build-isolation -w /dist . \
 && /build/bin/pip --python /opt/flockmq/bin/python install -q --no-deps /dist/*.whl


FROM python:3.11-slim-bookworm

# mosquitto_sub and mosquitto_pub look inside with `docker compose exec`, since no port is published; and they make a
# health check of 5 ms of processor time, where `flockmq status` takes 500 ms, most of it to start Python.
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mosquitto-clients \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
 && useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/flockmq --shell /usr/sbin/nologin flockmq \
 && install -d -o flockmq -g flockmq -m 700 /var/lib/flockmq

COPY --from=builder /opt/flockmq /opt/flockmq
ENV PATH=/opt/flockmq/bin:$PATH PYTHONUNBUFFERED=1

USER flockmq
EXPOSE 8883
# Every command ends by it. SIGTERM passes by a container's first process unless that has a handler, as only devices have.
STOPSIGNAL SIGINT

# Healthy: the device has said something of itself within the last seconds (it does so every second; -R passes over
# what it said before). So broker, event loop and agent all live. Prints the length of the report. To enter the
# container costs the engine another 0.1 s, hence no more often than this.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["mosquitto_sub", "-R", "-C", "1", "-W", "4", "-F", "%l", "-t", "local/flockmq/status"]

ENTRYPOINT ["flockmq"]
CMD ["run", "--config", "/etc/flockmq/device.toml"]
