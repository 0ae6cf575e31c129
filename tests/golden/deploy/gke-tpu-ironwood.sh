#!/bin/sh
# Node pools for tpu-vllm-ubuntu24.04 on TPU7x (Ironwood), 2x2x2: 8 chips in 2 hosts, 1 times.
# Made by `imgbuild deploy gke-tpu`; docs/tpu.md says why. It asks for what costs money.
set -eu

# policy: TPU7x (Ironwood) is laid out by it, and not by --tpu-topology
gcloud compute resource-policies create workload-policy vllm-2x2x2 \
  --project=my-project \
  --region=us-east5 \
  --type=HIGH_THROUGHPUT \
  --accelerator-topology=2x2x2

# create: the nodes; one a replica: each is one slice
gcloud container node-pools create vllm-0 \
  --cluster=llm \
  --project=my-project \
  --location=us-east5 \
  --node-locations=us-east5-b \
  --machine-type=tpu7x-standard-4t \
  --num-nodes=2 \
  --placement-policy=vllm-2x2x2

# controller: vllm-slice is a LeaderWorkerSet: lws.sigs.k8s.io/docs/installation says how its
# controller comes into the cluster; this says whether it has
# kubectl get crd leaderworkersets.leaderworkerset.x-k8s.io

# status: of the nodes, with what the pods select them by
# kubectl get nodes \
#   --label-columns=cloud.google.com/gke-nodepool \
#   --label-columns=cloud.google.com/gke-tpu-accelerator \
#   --label-columns=cloud.google.com/gke-tpu-topology

# delete: the nodes; billing ends. Delete the pods first
# gcloud container node-pools delete vllm-0 \
#   --cluster=llm \
#   --project=my-project \
#   --location=us-east5 \
#   --quiet

# delete policy: once no pool has it
# gcloud compute resource-policies delete vllm-2x2x2 \
#   --project=my-project \
#   --region=us-east5 \
#   --quiet
