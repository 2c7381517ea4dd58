"""What is wrong with a manifest for KubeRay, or one of those it stands on.

The kinds of ray.io/v1 are held against schemas of our own: those of KubeRay 1.6's fields that are used here, so
that a misspelt one is found. What lies inside, pods and the like, is held against Kubernetes' own schemas
(`kubernetes-validate`), where unknown fields are refused as well. KubeRay's own (its CRDs) are not part of the project.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from cluster.commands import command_problems

PINS = Path(__file__).parent / "constraints.txt"

KUBERNETES = "1.34"
"""Whose schemas the pods are held against."""

_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_COUNT = {"type": "integer", "minimum": 0}
_POD = {"type": "object", "required": ["spec"]}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


_METADATA = _object(["name"], name={"type": "string", "pattern": "^[a-z][a-z0-9-]{0,45}$"}, labels=_TEXTS)

CLUSTER_SPEC = _object(
    ["rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs", "enableInTreeAutoscaling", "autoscalerOptions"],
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    authOptions=_object(["mode", "secretName"], mode={"const": "token"}, secretName={"type": "string"}),
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=_object(
        ["securityContext"],
        version={"enum": ["v1", "v2"]},
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        idleTimeoutSeconds=_COUNT,
        imagePullPolicy={"enum": ["Always", "Never", "IfNotPresent"]},
        resources={"type": "object"},
        securityContext={"type": "object"},
    ),
    headGroupSpec=_object(
        ["rayStartParams", "template"], serviceType={"const": "ClusterIP"}, rayStartParams=_TEXTS, template=_POD
    ),
    workerGroupSpecs={
        "type": "array",
        "minItems": 1,
        "items": _object(
            ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
            groupName={"type": "string", "pattern": "^[a-z][a-z0-9-]*$"},
            replicas=_COUNT,
            minReplicas=_COUNT,
            maxReplicas=_COUNT,
            rayStartParams=_TEXTS,
            template=_POD,
        ),
    },
)

JOB_SPEC = _object(
    ["entrypoint", "shutdownAfterJobFinishes", "rayClusterSpec", "submitterPodTemplate"],
    entrypoint={"type": "string"},
    submissionMode={"const": "K8sJobMode"},
    shutdownAfterJobFinishes={"const": True},
    ttlSecondsAfterFinished=_COUNT,
    backoffLimit=_COUNT,
    # With 0, a log whose line breaks ends the run: KubeRay takes it for one that could not be submitted.
    submitterConfig=_object(["backoffLimit"], backoffLimit={"type": "integer", "minimum": 1}),
    submitterPodTemplate=_POD,
    rayClusterSpec=CLUSTER_SPEC,
)

_HEAD = {"apiVersion": {"const": "ray.io/v1"}, "metadata": _METADATA}
SCHEMAS = {
    "RayCluster": _object(
        ["apiVersion", "kind", "metadata", "spec"], **_HEAD, kind={"const": "RayCluster"}, spec=CLUSTER_SPEC
    ),
    "RayJob": _object(["apiVersion", "kind", "metadata", "spec"], **_HEAD, kind={"const": "RayJob"}, spec=JOB_SPEC),
}


def kuberay_problems(text: str) -> list[str]:
    """Of one file; none if KubeRay and Kubernetes will take it and it is as we want it.

    Args:
        text: YAML, of one or several manifests.
    """
    problems = []
    for manifest in yaml.safe_load_all(text):
        kind = manifest.get("kind")
        if kind not in SCHEMAS:
            problems += _kubernetes_problems(manifest, str(kind)) + _secret_problems(manifest)
            continue
        errors = list(jsonschema.Draft202012Validator(SCHEMAS[kind]).iter_errors(manifest))
        if errors:
            problems += [f"{kind}: {error.json_path}: {error.message}" for error in errors]
        elif kind == "RayJob":
            problems += _job_problems(manifest["spec"]) + _cluster_problems(manifest["spec"]["rayClusterSpec"])
        else:
            problems += _cluster_problems(manifest["spec"])
    return problems


def _kubernetes_problems(manifest: dict[str, Any], where: str) -> list[str]:
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{where}: {'.'.join(str(step) for step in error.path)}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError as error:
        return [f"{where}: {error.message}"]
    return []


def _secret_problems(manifest: dict[str, Any]) -> list[str]:
    """A secret in a file is none."""
    given = {**manifest.get("stringData", {}), **manifest.get("data", {})}
    return [f"Secret: {name} has a value; leave it empty in a file" for name, value in given.items() if value]


def _job_problems(spec: dict[str, Any]) -> list[str]:
    problems = command_problems(spec["entrypoint"])
    if not re.fullmatch(r"retinafocus detect .* --address auto", spec["entrypoint"]):
        problems.append("entrypoint: is not `retinafocus detect ... --address auto`")
    template = spec["submitterPodTemplate"]
    if template["spec"].get("restartPolicy") not in ("Never", "OnFailure"):
        problems.append("submitterPodTemplate: restartPolicy must be Never or OnFailure")
    return problems + _pod_problems(template, "submitterPodTemplate")


def _cluster_problems(spec: dict[str, Any]) -> list[str]:
    groups = [{"groupName": "head", **spec["headGroupSpec"]}, *spec["workerGroupSpecs"]]
    problems = _restricted_problems(spec["autoscalerOptions"]["securityContext"], "autoscalerOptions")
    if f"ray=={spec['rayVersion']}" not in PINS.read_text().splitlines():
        problems.append(f"rayVersion is {spec['rayVersion']}, which is not the version in {PINS.name}")
    if spec["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
        problems.append("head: must have no CPU for workers (num-cpus)")
    for group in groups:
        name = group["groupName"]
        problems += _pod_problems(group["template"], name) + _start_problems(group, name)
        least, most = group.get("minReplicas", 0), group.get("maxReplicas", 0)
        if not least <= group.get("replicas", least) <= most:
            problems.append(f"{name}: replicas is not between minReplicas and maxReplicas")
    wants_gpu = [bool(_limits(group).get("nvidia.com/gpu")) for group in spec["workerGroupSpecs"]]
    if sorted(wants_gpu) != [False, True]:
        problems.append("workerGroupSpecs: wants a group with GPUs and one without")
    problems += [
        f"{group['groupName']}: a group with GPUs has the CUDA image, another the one for CPUs"
        for group in groups
        if group["template"]["spec"]["containers"][0]["image"].endswith("-cuda")
        != bool(_limits(group).get("nvidia.com/gpu"))
    ]
    return problems


def _limits(group: dict[str, Any]) -> dict[str, str]:
    limits: dict[str, str] = group["template"]["spec"]["containers"][0].get("resources", {}).get("limits", {})
    return limits


def _start_problems(group: dict[str, Any], name: str) -> list[str]:
    """KubeRay makes options of `ray start` of these; Ray's object store has to fit into /dev/shm."""
    start = "ray start " + " ".join(f"--{key}={value}" for key, value in group["rayStartParams"].items())
    problems = [f"{name}: {problem}" for problem in command_problems(start)]
    pod = group["template"]["spec"]
    shm = {mount["name"] for mount in pod["containers"][0].get("volumeMounts", []) if mount["mountPath"] == "/dev/shm"}
    memory = [volume["emptyDir"] for volume in pod.get("volumes", []) if volume["name"] in shm and "emptyDir" in volume]
    if [volume.get("medium") for volume in memory] != ["Memory"]:
        problems.append(f"{name}: /dev/shm is not in memory")
    elif _amount(memory[0]["sizeLimit"]) < int(group["rayStartParams"].get("object-store-memory", 2**63)):
        problems.append(f"{name}: the object store does not fit into /dev/shm")
    return problems


def _amount(quantity: str | int) -> float:
    """Of processors, GPUs or bytes; 0, which is too little for a limit, of what we cannot read."""
    read = re.fullmatch(r"(\d+\.?\d*)(m|k|M|G|T|Ki|Mi|Gi|Ti)?", str(quantity))
    if read is None:
        return 0.0
    units = {None: 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    units |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    return float(read[1]) * units[read[2]]


def _pod_problems(template: dict[str, Any], name: str) -> list[str]:
    """Kubernetes' schema of a pod; what it says it needs; the "restricted" standard of pod security."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": template["spec"]}
    problems = _kubernetes_problems(pod, name)
    if problems:
        return problems
    spec = template["spec"]
    security = spec.get("securityContext", {})
    if security.get("runAsNonRoot") is not True or not security.get("runAsUser"):
        problems.append(f"{name}: may run as root")
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        problems.append(f"{name}: seccompProfile is not RuntimeDefault")
    for container in spec["containers"]:
        problems += _restricted_problems(container.get("securityContext", {}), name)
        image = f"retinafocus:{metadata.version('retinafocus')}"
        if not re.fullmatch(rf"\S+/{re.escape(image)}-(cpu|cuda)", container["image"]):
            problems.append(f"{name}: image is not .../{image}-cpu or -cuda")
        resources = container.get("resources", {})
        if not {"cpu", "memory"} <= set(resources.get("requests", {})) or "memory" not in resources.get("limits", {}):
            problems.append(f"{name}: does not say what CPU and memory it needs")
        limits = resources.get("limits", {})
        problems += [
            f"{name}: requests more {kind} than its limit, which Kubernetes refuses"
            for kind, wanted in resources.get("requests", {}).items()
            if kind in limits and _amount(wanted) > _amount(limits[kind])
        ]
    return problems


def _restricted_problems(context: dict[str, Any], name: str) -> list[str]:
    problems = []
    if context.get("allowPrivilegeEscalation") is not False:
        problems.append(f"{name}: allowPrivilegeEscalation is not false")
    if context.get("capabilities", {}).get("drop") != ["ALL"]:
        problems.append(f"{name}: capabilities are not dropped")
    return problems
