# ERNIE-M on a CPU: docker build -t ernie-m . && docker run -it -v "$PWD":/work ernie-m predict --help
FROM python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN pip install --no-cache-dir "/src[cpu,search,export,serve]"
WORKDIR /work
ENTRYPOINT ["ernie-m"]
