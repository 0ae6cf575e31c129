#!/bin/sh
# Node pools for tpu-torch-xla on TPU v5e, 1x1: one chip in one host, 2 times.
# Made by `imgbuild deploy gke-tpu`; docs/tpu.md says why. It asks for what costs money.
set -eu

# create: the nodes; a node a replica
gcloud container node-pools create torch-xla \
  --cluster=llm \
  --project=my-project \
  --location=us-east5 \
  --node-locations=us-east5-b \
  --machine-type=ct5lp-hightpu-1t \
  --num-nodes=2 \
  --spot

# status: of the nodes, with what the pods select them by
# kubectl get nodes \
#   --label-columns=cloud.google.com/gke-nodepool \
#   --label-columns=cloud.google.com/gke-tpu-accelerator \
#   --label-columns=cloud.google.com/gke-tpu-topology

# delete: the nodes; billing ends. Delete the pods first
# gcloud container node-pools delete torch-xla \
#   --cluster=llm \
#   --project=my-project \
#   --location=us-east5 \
#   --quiet
