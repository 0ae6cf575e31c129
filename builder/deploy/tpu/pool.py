"""The node pools of GKE that a server on TPUs needs, and how they go again.

cloud.google.com/kubernetes-engine/docs: concepts/plan-tpus, how-to/tpus, concepts/tpu-ironwood.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from builder.deploy import checked
from builder.deploy.checked import given
from builder.deploy.served import Served
from builder.deploy.tpu import group
from builder.deploy.tpu.slices import Slice
from builder.deploy.tpu.steps import Command, Kind, Step
from builder.deploy.values import Values
from builder.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Where node pools are made, checked."""

    cluster: str
    project: str
    location: str  # of the cluster: a zone or a region
    zone: str  # of the nodes
    reservation: str | None = None


def pool(
    *,
    cluster: str | None,
    project: str | None,
    location: str | None = None,
    zone: str | None = None,
    reservation: str | None = None,
    spot: bool = False,
    replicas: int = 1,
) -> Pool | None:
    """Check where a user wants them; None where he says nothing of it."""
    if cluster is None or project is None or zone is None:
        said = {"--cluster": cluster, "--project": project, "--zone": zone}
        missing = [option for option, text in said.items() if text is None]
        if len(missing) == len(said) and location is None and reservation is None:
            return None
        raise UserError(f"a node pool needs {', '.join(missing)}, too")
    if spot and reservation is not None:
        raise UserError("--spot with --reservation", hint="capacity is one or the other")
    if not replicas:
        raise UserError("--cluster with --replicas 0, which needs no nodes", hint="leave it out")
    where = checked.zone(zone)
    around = given(location, checked.location, "--location") or where
    region = where.rpartition("-")[0]
    if region not in (around, around.rpartition("-")[0]):
        raise UserError(
            f"--location: a cluster in {around} has no nodes in {where}", hint=f"as {region}"
        )
    return Pool(
        cluster=checked.name(cluster, "--cluster"),
        project=checked.project(project),
        location=around,
        zone=where,
        reservation=given(reservation, checked.resource, "--reservation"),
    )


def says(served: Served, values: Values) -> list[str]:
    """What stands above the commands."""
    return [
        f"Node pools for {served.cell_id} on {values.tpus}, {values.replicas} times.",
        "Made by `imgbuild deploy gke-tpu`; docs/tpu.md says why. It asks for what costs money.",
    ]


def steps(values: Values, wanted: Pool) -> tuple[Step, ...]:
    """A pool for all replicas of one host; a pool a replica where each is several hosts."""
    tpus = values.tpus
    assert tpus  # noqa: S101 - values of TPUs
    # A pool of several hosts is one slice, and GKE neither adds to it nor takes from it.
    names = list(_names(values))
    nodes = tpus.hosts if values.grouped else values.replicas
    made = []
    policy = f"{values.name}-{tpus.topology}" if tpus.generation.policy and values.grouped else None
    if policy:
        made.append(
            Step(
                name="policy",
                why=f"{tpus.generation.title} is laid out by it, and not by --tpu-topology",
                commands=(_policy(policy, wanted, tpus),),
            )
        )
    create = tuple(_create(name, nodes, values, wanted, policy) for name in names)
    what = "one a replica: each is one slice" if values.grouped else "a node a replica"
    made.append(Step(name="create", why=f"the nodes; {what}", commands=create))
    if values.grouped:
        made.append(_controller(values))
    made.append(
        Step(
            name="status",
            why="of the nodes, with what the pods select them by",
            commands=(
                (
                    "kubectl",
                    "get",
                    "nodes",
                    "--label-columns=cloud.google.com/gke-nodepool",
                    "--label-columns=cloud.google.com/gke-tpu-accelerator",
                    "--label-columns=cloud.google.com/gke-tpu-topology",
                ),
            ),
            kind=Kind.LOOK,
        )
    )
    return (*made, *_undo(names, policy, wanted))


def _names(values: Values) -> Iterator[str]:
    if not values.grouped:
        yield values.name
        return
    yield from (f"{values.name}-{number}" for number in range(values.replicas))


def _of(wanted: Pool) -> Command:
    return (
        f"--cluster={wanted.cluster}",
        f"--project={wanted.project}",
        f"--location={wanted.location}",
    )


def _create(name: str, nodes: int, values: Values, wanted: Pool, policy: str | None) -> Command:
    tpus = values.tpus
    assert tpus  # noqa: S101
    made = ["gcloud", "container", "node-pools", "create", name, *_of(wanted)]
    made += [f"--node-locations={wanted.zone}", f"--machine-type={tpus.machine_name}"]
    made.append(f"--num-nodes={nodes}")
    if policy:
        made.append(f"--placement-policy={policy}")
    elif values.grouped:
        made.append(f"--tpu-topology={tpus.topology}")
    made += ["--spot"] if values.spot else []
    if wanted.reservation:
        made += ["--reservation-affinity=specific", f"--reservation={wanted.reservation}"]
    return tuple(made)


def _policy(name: str, wanted: Pool, tpus: Slice) -> Command:
    region = wanted.zone.rpartition("-")[0]
    where = (f"--project={wanted.project}", f"--region={region}")
    asked = ("--type=HIGH_THROUGHPUT", f"--accelerator-topology={tpus.topology}")
    create = ("gcloud", "compute", "resource-policies", "create", "workload-policy", name)
    return (*create, *where, *asked)


def _controller(values: Values) -> Step:
    return Step(
        name="controller",
        why=f"{group.name(values)} is a LeaderWorkerSet: lws.sigs.k8s.io/docs/installation says "
        "how its controller comes into the cluster; this says whether it has",
        commands=(("kubectl", "get", "crd", "leaderworkersets.leaderworkerset.x-k8s.io"),),
        kind=Kind.LOOK,
    )


def _undo(names: list[str], policy: str | None, wanted: Pool) -> list[Step]:
    delete = ("gcloud", "container", "node-pools", "delete")
    made = [
        Step(
            name="delete",
            why="the nodes; billing ends. Delete the pods first",
            commands=tuple((*delete, name, *_of(wanted), "--quiet") for name in names),
            kind=Kind.UNDO,
        )
    ]
    if policy:
        region = wanted.zone.rpartition("-")[0]
        where = (f"--project={wanted.project}", f"--region={region}", "--quiet")
        command = ("gcloud", "compute", "resource-policies", "delete", policy, *where)
        made.append(
            Step(
                name="delete policy", why="once no pool has it", commands=(command,), kind=Kind.UNDO
            )
        )
    return made
