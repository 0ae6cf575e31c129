#!/bin/sh
# tpu-vllm-ubuntu24.04: vLLM 0.32.0 on TPU v5e, 4x4: 16 chips in 4 hosts.
# Made by `imgbuild deploy tpu-vm`; docs/tpu.md says why. It asks for what costs money.
# vLLM over several hosts runs below Ray: nothing is bound to a NUMA node, and the image's
# preflight does not look.
# Ray has no login here: who reaches its ports from the VMs' network runs code on them.
# --ray-token-secret gives it one.
# gcloud asks several hosts at once, and then wants its key in an agent: `ssh-add
# ~/.ssh/google_compute_engine` first.
# shellcheck disable=SC2016 # the worker's shell is to expand it, not this one
set -eu

# create: a place in the queue for capacity; the VMs come when it is there; Spot: they may be
# taken back at any time, and do not come again by themselves
if ! gcloud compute tpus queued-resources describe vllm --project=my-project --zone=us-east5-b > /dev/null 2>&1; then
  gcloud compute tpus queued-resources create vllm \
    --node-id=vllm \
    --project=my-project \
    --zone=us-east5-b \
    --accelerator-type=v5litepod-16 \
    --spot \
    --runtime-version=v2-alpha-tpuv5-lite
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

# login: the image is in Artifact Registry: Docker asks with the VM's service account
gcloud compute tpus tpu-vm ssh vllm \
  --project=my-project \
  --zone=us-east5-b \
  --worker=all '--command=sudo gcloud auth configure-docker us-docker.pkg.dev --quiet'

# pull: the image, on each host, before any of them starts
gcloud compute tpus tpu-vm ssh vllm \
  --project=my-project \
  --zone=us-east5-b \
  --worker=all '--command=sudo docker pull us-docker.pkg.dev/my-project/llm/vllm:0.32.0-tpu'

# run: --privileged: the TPU's device files; memlock: VFIO locks memory, and the image's user is
# not root; --net=host: hosts of a slice find one another by the VMs' addresses; vLLM listens at
# 127.0.0.1:8000; on worker 0 Ray's head, which serves once all hosts have joined it
gcloud compute tpus tpu-vm ssh vllm \
  --project=my-project \
  --zone=us-east5-b \
  --worker=0 '--command=sudo docker run --detach --name=vllm --privileged --net=host --ulimit=memlock=-1:-1 --shm-size=17179869184b --restart=unless-stopped --health-start-period=600s --volume=vllm-home:/home/imgbuild --volume=/models/mine:/model:ro --env=TPU_MULTIHOST_BACKEND=ray --env=JAX_PLATFORMS= --env=HF_HUB_OFFLINE=1 '"'"'--env=PRICE=5$ or $(HOME)'"'"' us-docker.pkg.dev/my-project/llm/vllm:0.32.0-tpu sh -c '"'"'ray start --object-store-memory=8589934592 --head --port=6379 && python3 -c "$1" "$2" && shift 2 && exec "$@"'"'"' imgbuild '"'"'import ray, sys, time
ray.init(address="auto")
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[1]):
    time.sleep(2)
'"'"' 4 vllm serve --model /model --host 127.0.0.1 --port 8000 --tensor-parallel-size 16 --dtype bfloat16 --served-model-name '"'"'it'"'"'"'"'"'"'"'"'s $HOME'"'"''

# join: the other hosts; they ask until the head is there
gcloud compute tpus tpu-vm ssh vllm \
  --project=my-project \
  --zone=us-east5-b \
  --worker=1-3 '--command=head=$(curl -fsS -H '"'"'Metadata-Flavor: Google'"'"' http://metadata.google.internal/computeMetadata/v1/instance/attributes/worker-network-endpoints | cut -d, -f1 | cut -d: -f3) && sudo docker run --detach --name=vllm --privileged --net=host --ulimit=memlock=-1:-1 --shm-size=17179869184b --restart=unless-stopped --no-healthcheck --volume=vllm-home:/home/imgbuild --volume=/models/mine:/model:ro --env=TPU_MULTIHOST_BACKEND=ray --env=JAX_PLATFORMS= --env=HF_HUB_OFFLINE=1 '"'"'--env=PRICE=5$ or $(HOME)'"'"' us-docker.pkg.dev/my-project/llm/vllm:0.32.0-tpu sh -c '"'"'until ray health-check --address "$1:6379"; do sleep 5; done; exec ray start --object-store-memory=8589934592 --address "$1:6379" --block'"'"' imgbuild "$head"'

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
