# dglrec on CPUs:
#   docker build -t dglrec . && docker run --rm -v "$PWD:/data" dglrec doctor
FROM python:3.11-slim
WORKDIR /opt/dglrec
COPY . .
# PyTorch's own index has a build without CUDA, a tenth of the size.
RUN pip install --no-cache-dir -c scripts/constraints.txt \
        --index-url https://download.pytorch.org/whl/cpu torch \
    && pip install --no-cache-dir -c scripts/constraints.txt ".[text]"
WORKDIR /data
ENTRYPOINT ["dglrec"]
