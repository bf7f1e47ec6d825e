# kopt on a GPU machine:
#   docker build -t kopt . && docker run --rm --gpus all -v "$PWD/runs:/runs" kopt run fp8_gemm --workspace /runs
FROM nvidia/cuda:12.8.1-base-ubuntu24.04

RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv python3-dev gcc \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/kopt
COPY . .
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir -c constraints/torch-2.13.txt '.[gpu]'

ENV PATH=/opt/venv/bin:$PATH
WORKDIR /runs
ENTRYPOINT ["kopt"]
CMD ["--help"]
