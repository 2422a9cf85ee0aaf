# ERNIE-M on a CPU: docker build -t ernie-m . && docker run -it -v "$PWD":/work ernie-m predict --help
# On NVIDIA GPUs, CUDA 12.6, which comes with Paddle:
#   docker build --build-arg PADDLE=requirements-gpu.txt -t ernie-m-gpu .
#   docker run --gpus all -it -v "$PWD":/work ernie-m-gpu predict --help
FROM python:3.12-slim
ARG PADDLE=requirements.txt
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN pip install --no-cache-dir -r "/src/$PADDLE" "/src[search,export,serve,hub]"
WORKDIR /work
ENTRYPOINT ["ernie-m"]
