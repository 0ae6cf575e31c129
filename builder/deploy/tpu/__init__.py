"""Servers on Google's TPUs: slices, the commands that get one, and pods that fill one.

`vm.vm(...)` checks a user's wishes for TPU VMs, `outputs.script` writes the commands. For GKE
`deploy.values(..., tpus=slices.by_topology(...))` has the wishes, `outputs.stream` and `files`
write objects and, with a `pool.pool(...)`, what makes the nodes. Nothing is imported here, since
`deploy.values` asks `slices`.
"""
