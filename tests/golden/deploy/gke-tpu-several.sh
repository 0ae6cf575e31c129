#!/bin/sh
# Node pools for tpu-vllm-ubuntu24.04 on TPU v6e (Trillium), 4x4: 16 chips in 4 hosts, 2 times.
# Made by `imgbuild deploy gke-tpu`; docs/tpu.md says why. It asks for what costs money.
set -eu

# create: the nodes; one a replica: each is one slice
gcloud container node-pools create llama-0 \
  --cluster=llm \
  --project=my-project \
  --location=us-east5 \
  --node-locations=us-east5-b \
  --machine-type=ct6e-standard-4t \
  --num-nodes=4 \
  --tpu-topology=4x4 \
  --reservation-affinity=specific \
  --reservation=mine
gcloud container node-pools create llama-1 \
  --cluster=llm \
  --project=my-project \
  --location=us-east5 \
  --node-locations=us-east5-b \
  --machine-type=ct6e-standard-4t \
  --num-nodes=4 \
  --tpu-topology=4x4 \
  --reservation-affinity=specific \
  --reservation=mine

# controller: llama-slice is a LeaderWorkerSet: lws.sigs.k8s.io/docs/installation says how its
# controller comes into the cluster; this says whether it has
# kubectl get crd leaderworkersets.leaderworkerset.x-k8s.io

# status: of the nodes, with what the pods select them by
# kubectl get nodes \
#   --label-columns=cloud.google.com/gke-nodepool \
#   --label-columns=cloud.google.com/gke-tpu-accelerator \
#   --label-columns=cloud.google.com/gke-tpu-topology

# delete: the nodes; billing ends. Delete the pods first
# gcloud container node-pools delete llama-0 \
#   --cluster=llm \
#   --project=my-project \
#   --location=us-east5 \
#   --quiet
# gcloud container node-pools delete llama-1 \
#   --cluster=llm \
#   --project=my-project \
#   --location=us-east5 \
#   --quiet
