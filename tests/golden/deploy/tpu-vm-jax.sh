#!/bin/sh
# tpu-jax: JAX on TPU 0.10.2 on TPU v5p, 2x2x1: 4 chips in one host.
# Made by `imgbuild deploy tpu-vm`; docs/tpu.md says why. It asks for what costs money.
# Where a host has several NUMA nodes the image's start binds itself to the one that its chips
# hang on, as `numactl --cpunodebind=0 --membind=0` would (memory: only with --privileged or
# SYS_NICE); IMGBUILD_TUNE=explain says what was done.
set -eu

# create: the VMs at once, or an error where there is no capacity
if ! gcloud compute tpus tpu-vm describe llama --project=my-project --zone=us-east5-b > /dev/null 2>&1; then
  gcloud compute tpus tpu-vm create llama \
    --project=my-project \
    --zone=us-east5-b \
    --accelerator-type=v5p-8 \
    --reserved \
    --network=net \
    --subnetwork=sub \
    --service-account=a@p.iam.gserviceaccount.com \
    --scopes=https://www.googleapis.com/auth/cloud-platform \
    --version=v2-alpha-tpuv5
fi

# pull: the image, on each host, before any of them starts
gcloud compute tpus tpu-vm ssh llama \
  --project=my-project \
  --zone=us-east5-b \
  --worker=all '--command=sudo docker pull registry.example.org/llm/vllm@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef'

# run: --privileged: the TPU's device files; memlock: VFIO locks memory, and the image's user is
# not root; --net=host: hosts of a slice find one another by the VMs' addresses; JAX on TPU
# listens at 0.0.0.0:8000
gcloud compute tpus tpu-vm ssh llama \
  --project=my-project \
  --zone=us-east5-b \
  --worker=0 '--command=sudo docker run --detach --name=llama --privileged --net=host --ulimit=memlock=-1:-1 --shm-size=67108864b --restart=unless-stopped --health-start-period=600s --volume=llama-home:/home/imgbuild --volume=/models/mine:/model:ro --env=HF_HUB_OFFLINE=1 registry.example.org/llm/vllm@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef --model /model --host 0.0.0.0 --port 8000 --dtype bfloat16'

# status: of the request, of each host's container, and of the server
# gcloud compute tpus tpu-vm describe llama --project=my-project --zone=us-east5-b
# gcloud compute tpus tpu-vm ssh llama \
#   --project=my-project \
#   --zone=us-east5-b \
#   --worker=all '--command=sudo docker ps --all'
# gcloud compute tpus tpu-vm ssh llama \
#   --project=my-project \
#   --zone=us-east5-b \
#   --worker=0 '--command=curl -fsS http://127.0.0.1:8000/health'

# logs: of all hosts
# gcloud compute tpus tpu-vm ssh llama \
#   --project=my-project \
#   --zone=us-east5-b \
#   --worker=all '--command=sudo docker logs --tail=100 llama'

# reach: the server from here, at http://127.0.0.1:8000; it has no login
# gcloud compute tpus tpu-vm ssh llama \
#   --project=my-project \
#   --zone=us-east5-b \
#   --worker=0 \
#   -- -N -L8000:127.0.0.1:8000

# stop: the server on each host; caches stay in its volume
# gcloud compute tpus tpu-vm ssh llama \
#   --project=my-project \
#   --zone=us-east5-b \
#   --worker=all '--command=sudo docker rm --force llama'

# delete: the VMs, with what is on their disks; billing ends
# gcloud compute tpus tpu-vm delete llama --project=my-project --zone=us-east5-b --quiet
