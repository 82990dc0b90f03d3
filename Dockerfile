# `hybrid serve` in a container; docs/serve.md says how it is run.
#
#   docker build -t hybrid .                                       # PyPI's torch, which brings CUDA along: CPU and GPU
#   docker build -t hybrid:cpu --build-arg PIP_EXTRA_INDEX_URL=URL .   # URL: PyTorch's index of CPU wheels
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/runs/default:/data/run" hybrid      # a GPU: --gpus all before hybrid
FROM python:3.12-slim

# pip reads it.
ARG PIP_EXTRA_INDEX_URL=""
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY prompts prompts
COPY hybrid hybrid
RUN pip install --no-cache-dir '.[serve]'

# Nobody inside has rights outside; the run that is mounted must be writable for this user (or give --user).
RUN useradd --uid 1000 --create-home hybrid && mkdir -p /data /cache && chown hybrid:hybrid /data /cache
USER hybrid
WORKDIR /data
# Weights that are named and not in the run are kept in /cache: mount it to have them once.
ENV HF_HOME=/cache \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
VOLUME ["/data", "/cache"]
EXPOSE 8000
# Needs no token.
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["hybrid"]
# Another address than this machine's own needs a token: HYBRID_TOKEN, or one is made and printed into the log.
CMD ["serve", "--run", "/data/run", "--host", "0.0.0.0", "--port", "8000"]
