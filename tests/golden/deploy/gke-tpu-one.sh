#!/bin/sh
# Node pools for tpu-vllm-ubuntu24.04 on TPU v6e (Trillium), 2x4: 8 chips in one host, 1 times.
# Made by `imgbuild deploy gke-tpu`; docs/tpu.md says why. It asks for what costs money.
set -eu

# create: the nodes; a node a replica
gcloud container node-pools create vllm \
  --cluster=llm \
  --project=my-project \
  --location=us-east5 \
  --node-locations=us-east5-b \
  --machine-type=ct6e-standard-8t \
  --num-nodes=1

# status: of the nodes, with what the pods select them by
# kubectl get nodes \
#   --label-columns=cloud.google.com/gke-nodepool \
#   --label-columns=cloud.google.com/gke-tpu-accelerator \
#   --label-columns=cloud.google.com/gke-tpu-topology

# delete: the nodes; billing ends. Delete the pods first
# gcloud container node-pools delete vllm \
#   --cluster=llm \
#   --project=my-project \
#   --location=us-east5 \
#   --quiet
