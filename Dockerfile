# One image, two long-running commands: `web` (the default) and `worker`; `manage migrate` once before either.

FROM python:3.13-slim AS packages
WORKDIR /build
COPY requirements-server.lock ./
# The lock has hashes: what is installed here is, byte for byte, what was tested.
RUN python -m venv /opt/venv \
    && /opt/venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes \
        -r requirements-server.lock

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin service
COPY --from=packages /opt/venv /opt/venv
WORKDIR /app
COPY manage.py LICENSE ./
COPY async_migrations ./async_migrations
COPY api ./api
# Compiled now: the user that runs it cannot write here.
RUN /opt/venv/bin/python -m compileall -q api async_migrations
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001
EXPOSE 8000
# Only the web command answers there; compose.yaml turns it off for the worker.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["python", "-m", "api", "ready"]
ENTRYPOINT ["python", "-m", "api"]
CMD ["web", "--host", "0.0.0.0"]
