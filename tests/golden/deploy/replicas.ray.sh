#!/bin/sh
# cuda13.0-ray: Ray with vLLM 2.59.0, 3 engines, one a host, behind Ray Serve.
# Made by `imgbuild deploy ray`; docs/ray.md says why. Run `sh FILE PART` in this order:
#   token head worker-1 worker-2 status server stop-head stop-worker-1 stop-worker-2
# The model is in the same folder on all hosts.
#
# Ports, none of them for the internet:
#   6379         head        GCS                      asked by all nodes
#   8265         head        dashboard, jobs          asked by this host
#   10001        head        Ray Client               asked by nobody
#   44217, 44227 head        metrics of the head      asked by Prometheus
#   6380         every node  node manager             asked by all nodes
#   6381         every node  object manager           asked by all nodes
#   6382         every node  runtime environments     asked by all nodes
#   6383         every node  dashboard agent, gRPC    asked by all nodes
#   52365        every node  dashboard agent, HTTP    asked by all nodes
#   6384         every node  metrics                  asked by Prometheus
#   11000-11999  every node  processes                asked by all nodes
#   8000         every node  server                   asked by clients
set -eu

case "${1-}" in
token)
  # Once; then copy the folder to the same place on all hosts, closed as it is.
  (umask 077 && mkdir -p /etc/imgbuild-ray)
  test -z "$(find /etc/imgbuild-ray -prune -perm /0077)" || { echo '/etc/imgbuild-ray is open to others; take one for the token alone (--token-folder), or close it' >&2; exit 1; }
  test -s /etc/imgbuild-ray/token || od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n' > /etc/imgbuild-ray/token
  test -s /etc/imgbuild-ray/token
  chmod 0444 /etc/imgbuild-ray/token
  ;;
head)
  docker run --detach --name ray-head --restart unless-stopped --network host --gpus 8 \
    --shm-size 2048m --read-only --cap-drop ALL --security-opt no-new-privileges \
    --health-cmd '/opt/venv/bin/python3 -ES /opt/imgbuild/runtime/health.py 52365 /api/healthz' \
    --volume /tmp --volume /home/imgbuild \
    --mount type=bind,source=/models/mine,target=/model,readonly \
    --mount type=bind,source=/etc/imgbuild-ray/token,target=/run/secrets/ray-token,readonly \
    --env RAY_AUTH_MODE=token --env RAY_AUTH_TOKEN_PATH=/run/secrets/ray-token \
    --env PYTHONPATH=/opt/imgbuild --env 'PRICE=5$ or $(HOME)' \
    registry.example.org/llm/ray@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef \
    sh -c 'ulimit -S -n 65536 2>/dev/null || ulimit -S -n "$(ulimit -H -n)"; exec "$@"' imgbuild ray \
    start --block --head --node-ip-address 10.0.0.1 --port 6379 --dashboard-host 127.0.0.1 \
    --dashboard-port 8265 --ray-client-server-port 10001 --num-gpus 8 --object-store-memory 104857600 \
    --node-manager-port 6380 --object-manager-port 6381 --runtime-env-agent-port 6382 \
    --dashboard-agent-grpc-port 6383 --dashboard-agent-listen-port 52365 --metrics-export-port 6384 \
    --min-worker-port 11000 --max-worker-port 11999
  ;;
worker-1)
  docker run --detach --name ray-worker-1 --restart unless-stopped --network host --gpus 8 \
    --shm-size 2048m --read-only --cap-drop ALL --security-opt no-new-privileges \
    --health-cmd '/opt/venv/bin/python3 -ES /opt/imgbuild/runtime/health.py 52365 /api/healthz' \
    --volume /tmp --volume /home/imgbuild \
    --mount type=bind,source=/models/mine,target=/model,readonly \
    --mount type=bind,source=/etc/imgbuild-ray/token,target=/run/secrets/ray-token,readonly \
    --env RAY_AUTH_MODE=token --env RAY_AUTH_TOKEN_PATH=/run/secrets/ray-token \
    --env PYTHONPATH=/opt/imgbuild --env 'PRICE=5$ or $(HOME)' \
    registry.example.org/llm/ray@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef \
    sh -c 'ulimit -S -n 65536 2>/dev/null || ulimit -S -n "$(ulimit -H -n)"; exec "$@"' imgbuild ray \
    start --block --address 10.0.0.1:6379 --num-gpus 8 --object-store-memory 104857600 \
    --node-manager-port 6380 --object-manager-port 6381 --runtime-env-agent-port 6382 \
    --dashboard-agent-grpc-port 6383 --dashboard-agent-listen-port 52365 --metrics-export-port 6384 \
    --min-worker-port 11000 --max-worker-port 11999
  ;;
worker-2)
  docker run --detach --name ray-worker-2 --restart unless-stopped --network host --gpus 8 \
    --shm-size 2048m --read-only --cap-drop ALL --security-opt no-new-privileges \
    --health-cmd '/opt/venv/bin/python3 -ES /opt/imgbuild/runtime/health.py 52365 /api/healthz' \
    --volume /tmp --volume /home/imgbuild \
    --mount type=bind,source=/models/mine,target=/model,readonly \
    --mount type=bind,source=/etc/imgbuild-ray/token,target=/run/secrets/ray-token,readonly \
    --env RAY_AUTH_MODE=token --env RAY_AUTH_TOKEN_PATH=/run/secrets/ray-token \
    --env PYTHONPATH=/opt/imgbuild --env 'PRICE=5$ or $(HOME)' \
    registry.example.org/llm/ray@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef \
    sh -c 'ulimit -S -n 65536 2>/dev/null || ulimit -S -n "$(ulimit -H -n)"; exec "$@"' imgbuild ray \
    start --block --address 10.0.0.1:6379 --num-gpus 8 --object-store-memory 104857600 \
    --node-manager-port 6380 --object-manager-port 6381 --runtime-env-agent-port 6382 \
    --dashboard-agent-grpc-port 6383 --dashboard-agent-listen-port 52365 --metrics-export-port 6384 \
    --min-worker-port 11000 --max-worker-port 11999
  ;;
status)
  docker exec ray-head ray status --address auto
  ;;
server)
  docker exec ray-head serve deploy --name imgbuild servers.on_ray:application \
    'arguments=--model /model --replicas 3 --replicas-per-node 1 --tensor-parallel-size 8 --max-model-len 8192 --served-model-name '"'"'it'"'"'"'"'"'"'"'"'s'"'"''
  ;;
stop-head)
  docker rm --force --volumes ray-head
  ;;
stop-worker-1)
  docker rm --force --volumes ray-worker-1
  ;;
stop-worker-2)
  docker rm --force --volumes ray-worker-2
  ;;
*)
  echo 'one of: token head worker-1 worker-2 status server stop-head stop-worker-1 stop-worker-2' >&2
  exit 2
  ;;
esac
