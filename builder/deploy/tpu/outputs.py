"""What is written for TPUs: scripts, YAML, or data for other programs."""

from __future__ import annotations

from typing import Any

from builder.deploy import yamltext
from builder.deploy.manifests import in_namespace, manifests
from builder.deploy.served import Served
from builder.deploy.tpu import hosts, slices, steps
from builder.deploy.tpu import pool as pools
from builder.deploy.tpu import vm as vms
from builder.deploy.tpu.pool import Pool
from builder.deploy.tpu.slices import Slice
from builder.deploy.tpu.vm import Vm
from builder.deploy.values import Values

Object = dict[str, Any]


def script(served: Served, wanted: Vm) -> str:
    """A shell script of a server on TPU VMs."""
    return steps.script(vms.steps(served, wanted), vms.says(served, wanted))


def data_of_vm(served: Served, wanted: Vm) -> Object:
    """The same as data."""
    return {
        **_facts(served, wanted.tpus),
        "accelerator": wanted.tpus.accelerator,
        "runtime_version": wanted.runtime,
        "caution": wanted.tpus.generation.caution,
        "steps": steps.data(vms.steps(served, wanted)),
    }


def stream(served: Served, values: Values) -> str:
    """All objects as one YAML stream, for `kubectl apply -f -`."""
    says = [
        f"{served.cell_id}: {served.title} {served.version} on {values.tpus}.",
        "Made by `imgbuild deploy gke-tpu`; docs/tpu.md says why.",
    ]
    return yamltext.documents(_objects(served, values), says=says)


def files(served: Served, values: Values, pool: Pool | None) -> dict[str, str]:
    """Path -> text, of the objects and, where the cluster is named, of what makes its nodes."""
    made = {f"{values.name}.yaml": stream(served, values)}
    if pool:
        commands = steps.script(pools.steps(values, pool), pools.says(served, values))
        made["node-pools.sh"] = commands
    return made


def data_of_gke(served: Served, values: Values, pool: Pool | None) -> Object:
    """The same as data."""
    assert values.tpus  # noqa: S101 - values of TPUs
    return {
        **_facts(served, values.tpus),
        "machine_type": values.tpus.machine_name,
        "objects": _objects(served, values),
        "steps": steps.data(pools.steps(values, pool)) if pool else [],
    }


def _objects(served: Served, values: Values) -> list[Object]:
    return [in_namespace(one, values.namespace) for one in manifests(served, values).values()]


def _facts(served: Served, tpus: Slice) -> Object:
    return {
        "cell": served.cell_id,
        "generation": tpus.generation.title,
        "topology": tpus.topology,
        "chips": tpus.chips,
        "hosts": tpus.hosts,
        "devices": tpus.devices,
        "notes": hosts.notes(served, tpus),
        "source": tpus.generation.source,
        "as_of": slices.table().as_of.isoformat(),
    }
