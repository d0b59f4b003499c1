# A server of trained runs: not root, and nothing of it is written to disk.
#
#   docker build --tag medlip .
#   docker run --read-only --cap-drop ALL --security-opt no-new-privileges --pids-limit 256 --memory 8g \
#       --env MEDLIP_TOKEN --volume "$PWD/demo/run:/models/run:ro" --publish 127.0.0.1:8000:8000 medlip

FROM python:3.11-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN python -m venv /opt/medlip \
    && /opt/medlip/bin/pip install --no-cache-dir --constraint constraints.txt '.[server]'

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="MedLIP" \
      org.opencontainers.image.description="Reads chest X-rays with trained models. Research software. Not a medical device." \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --system --gid 10001 medlip \
    && useradd --system --uid 10001 --gid medlip --no-create-home --shell /usr/sbin/nologin medlip
COPY --from=build /opt/medlip /opt/medlip
ENV PATH=/opt/medlip/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/ready', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["medlip", "serve", "--host", "0.0.0.0"]
CMD ["/models/run"]
