#!/bin/sh
# tpu-vllm-ubuntu24.04: vLLM 0.32.0 on TPU v6e (Trillium), 2x4: 8 chips in one host.
# Made by `imgbuild deploy tpu-vm`; docs/tpu.md says why. It asks for what costs money.
# The chips of such a host hang on both of its NUMA nodes: nothing is bound to one.
# shellcheck disable=SC2016 # the worker's shell is to expand it, not this one
set -eu

# create: a place in the queue for capacity; the VMs come when it is there
if ! gcloud compute tpus queued-resources describe vllm --project=my-project --zone=us-east5-b > /dev/null 2>&1; then
  gcloud compute tpus queued-resources create vllm \
    --node-id=vllm \
    --project=my-project \
    --zone=us-east5-b \
    --accelerator-type=v6e-8 \
    --scopes=https://www.googleapis.com/auth/cloud-platform \
    --runtime-version=v2-alpha-tpuv6e
fi

# wait: until the queue has given them; this may take days
state=
missed=0
while [ "$state" != ACTIVE ]; do
  if state=$(gcloud compute tpus queued-resources describe vllm --project=my-project --zone=us-east5-b '--format=value(state.state)'); then
    missed=0
  else
    missed=$((missed + 1))
    [ "$missed" -lt 20 ] || exit 1
  fi
  case "$state" in
    ACTIVE) ;;
    FAILED|SUSPENDED)
      echo "it is $state" >&2
      exit 1
      ;;
    *) sleep 30 ;;
  esac
done

# pull: the image, on each host, before any of them starts
gcloud compute tpus tpu-vm ssh vllm \
  --project=my-project \
  --zone=us-east5-b \
  --worker=all '--command=sudo docker pull registry.example.org/llm/vllm@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef'

# run: --privileged: the TPU's device files; memlock: VFIO locks memory, and the image's user is
# not root; --net=host: hosts of a slice find one another by the VMs' addresses; vLLM listens at
# 127.0.0.1:8000
gcloud compute tpus tpu-vm ssh vllm \
  --project=my-project \
  --zone=us-east5-b \
  --worker=0 '--command=HF_TOKEN=$(gcloud secrets versions access latest --secret=hub --project=my-project) && export HF_TOKEN && sudo --preserve-env=HF_TOKEN docker run --detach --name=vllm --privileged --net=host --ulimit=memlock=-1:-1 --shm-size=536870912b --restart=unless-stopped --health-start-period=1800s --volume=vllm-home:/home/imgbuild --env=HF_TOKEN registry.example.org/llm/vllm@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef --model org/model --host 127.0.0.1 --port 8000 --tensor-parallel-size 8 --dtype bfloat16'

# status: of the request, of each host's container, and of the server
# gcloud compute tpus queued-resources describe vllm --project=my-project --zone=us-east5-b
# gcloud compute tpus tpu-vm ssh vllm \
#   --project=my-project \
#   --zone=us-east5-b \
#   --worker=all '--command=sudo docker ps --all'
# gcloud compute tpus tpu-vm ssh vllm \
#   --project=my-project \
#   --zone=us-east5-b \
#   --worker=0 '--command=curl -fsS http://127.0.0.1:8000/health'

# logs: of all hosts
# gcloud compute tpus tpu-vm ssh vllm \
#   --project=my-project \
#   --zone=us-east5-b \
#   --worker=all '--command=sudo docker logs --tail=100 vllm'

# reach: the server from here, at http://127.0.0.1:8000; it has no login
# gcloud compute tpus tpu-vm ssh vllm \
#   --project=my-project \
#   --zone=us-east5-b \
#   --worker=0 \
#   -- -N -L8000:127.0.0.1:8000

# stop: the server on each host; caches stay in its volume
# gcloud compute tpus tpu-vm ssh vllm \
#   --project=my-project \
#   --zone=us-east5-b \
#   --worker=all '--command=sudo docker rm --force vllm'

# delete: the request and its VMs, with what is on their disks; billing ends
# gcloud compute tpus queued-resources delete vllm \
#   --project=my-project \
#   --zone=us-east5-b \
#   --force \
#   --quiet
