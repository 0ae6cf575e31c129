"""A Helm chart, lifted out of the very objects that the plain YAML has.

One source of truth: the objects are made as for the other formats, and here some of their places
become values. With the values that come with it a chart renders to the plain objects, which tests
ask Helm itself. The kind of workload, and where the weights come from, are the chart's; everything
else that a site changes is a value, and values.schema.json refuses what is none.
"""

from __future__ import annotations

import json
import re

from builder import __version__
from builder.deploy import rows, template, yamltext
from builder.deploy.lift import Lift
from builder.deploy.served import Served
from builder.deploy.values import Values

# What the manifests ask for that older API servers do not have by default: the retention of claims
# (stable with 1.32), the sleep before a stop (on since 1.30).
_KUBERNETES = ">=1.32.0-0"
_VERSION = re.compile(r"^([0-9]+(?:\.[0-9]+){0,2})[.+-]?(.*)")


def chart(served: Served, values: Values) -> dict[str, str]:
    """File of the chart -> text."""
    lift = Lift(served, values)
    files = {
        "Chart.yaml": _about(served, values),
        "values.yaml": rows.values_text(lift.rows),
        "values.schema.json": json.dumps(rows.schema(lift.rows), indent=2) + "\n",
        "templates/_helpers.tpl": _helpers(values.name, served.framework),
        "templates/NOTES.txt": _notes(served, values),
    }
    for stem, lifted in lift.objects.items():
        files[f"templates/{stem}.yaml"] = template.file(lifted, lift.conditions.get(stem, ""))
    return files


def _about(served: Served, values: Values) -> str:
    about = {
        "apiVersion": "v2",
        "name": values.name,
        "description": f"{served.title} {served.version} as an OpenAI-compatible server "
        f"(image {served.cell_id})",
        "type": "application",
        "version": _semver(__version__),
        "appVersion": served.version,
        "kubeVersion": _KUBERNETES,
    }
    return yamltext.text(about)


def _semver(version: str) -> str:
    """Python's version as Helm demands one: 0.1.0.dev1 is 0.1.0-dev1."""
    found = _VERSION.match(version)
    assert found, version  # noqa: S101 - it is our own
    made = ".".join([*found[1].split("."), "0", "0"][:3])
    return f"{made}-{found[2]}" if found[2] else made


def _helpers(name: str, framework: str) -> str:
    return f"""\
{{{{- /* As long as a StatefulSet's name may be, and what a Service may be called. */ -}}}}
{{{{- define "{name}.fullname" -}}}}
{{{{- $name := .Values.fullnameOverride | default .Release.Name | trunc 52 | trimSuffix "-" -}}}}
{{{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}}}
{{{{- fail (printf "%q is no Service's name: set fullnameOverride" $name) -}}}}
{{{{- end -}}}}
{{{{- $name -}}}}
{{{{- end -}}}}

{{{{- /* They never change: selectors are immutable. */ -}}}}
{{{{- define "{name}.selectorLabels" -}}}}
app.kubernetes.io/name: {framework}
app.kubernetes.io/instance: {{{{ include "{name}.fullname" . | quote }}}}
{{{{- end -}}}}

{{{{- define "{name}.podLabels" -}}}}
{{{{ include "{name}.selectorLabels" . }}}}
app.kubernetes.io/component: inference-server
app.kubernetes.io/version: {{{{ .Chart.AppVersion | quote }}}}
{{{{- end -}}}}

{{{{- define "{name}.labels" -}}}}
{{{{ include "{name}.podLabels" . }}}}
app.kubernetes.io/managed-by: {{{{ .Release.Service }}}}
{{{{- $chart := printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}}}
helm.sh/chart: {{{{ $chart | trunc 63 | trimAll "-._" }}}}
{{{{- end -}}}}
"""


def _notes(served: Served, values: Values) -> str:
    name = f'{{{{ include "{values.name}.fullname" . }}}}'
    kind = "statefulset" if values.stateful else "deployment"
    where, port = "--namespace {{ .Release.Namespace }}", served.port
    return f"""\
{served.title} {served.version} starts in minutes:
  kubectl {where} rollout status {kind}/{name}
Then ask it:
  kubectl {where} port-forward service/{name} {port}:{port}
  curl http://localhost:{port}/v1/models
"""
