"""What is wrong with a cluster file of `ray up`."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from cluster.commands import command_problems, shell_problems

ROOT = Path(__file__).parents[1]
INSTALL = ROOT / "cluster" / "ray_up" / "install.sh"

COMMANDS = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
STARTS = ("head_start_ray_commands", "worker_start_ray_commands")

# By their place on a node: the token; the wheel, install.sh and constraints.txt.
MOUNTS = {"~/.ray/auth_token": "~/.ray/auth_token", "~/retinafocus-setup": "dist"}

# torch, Ray, OpenVINO and the system; the CUDA libraries take another 5 GB.
LEAST_DISK_GB = 50

_STRINGS = {"type": "array", "items": {"type": "string"}}
# Of Compute Engine's `instances.insert`, what is used here.
GCP_NODE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["machineType", "disks"],
    "properties": {
        "machineType": {"type": "string", "pattern": "^[a-z][a-z0-9]*-[a-z]+-[0-9]+$"},
        "disks": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["boot", "autoDelete", "initializeParams"],
                "properties": {
                    "boot": {"type": "boolean"},
                    "autoDelete": {"const": True},
                    "type": {"enum": ["PERSISTENT", "SCRATCH"]},
                    "initializeParams": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["diskSizeGb", "sourceImage"],
                        "properties": {
                            "diskSizeGb": {"type": "integer", "minimum": LEAST_DISK_GB},
                            "diskType": {"type": "string"},
                            "sourceImage": {"type": "string", "pattern": "^projects/[a-z0-9-]+/global/images/"},
                        },
                    },
                },
            },
        },
        "serviceAccounts": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["email", "scopes"],
                "properties": {"email": {"type": "string", "format": "email", "pattern": "@"}, "scopes": _STRINGS},
            },
        },
        "scheduling": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "provisioningModel": {"enum": ["SPOT", "STANDARD"]},
                "instanceTerminationAction": {"enum": ["DELETE", "STOP"]},
                "automaticRestart": {"type": "boolean"},
                "onHostMaintenance": {"enum": ["MIGRATE", "TERMINATE"]},
            },
        },
    },
}


def ray_up_problems(text: str) -> list[str]:
    """Of one file; none if Ray will take it, its machines are as we want them and its commands are right.

    Args:
        text: YAML.
    """
    given = yaml.safe_load(text)
    schema = _schema_problems(given)
    if schema:
        return schema
    problems = _node_problems(given) + _mount_problems(given) + _start_problems(given)
    script = "\n".join(command for name in (*COMMANDS, *STARTS) for command in given.get(name, []))
    return problems + shell_problems(script) + command_problems(script)


def _schema_problems(given: dict[str, Any]) -> list[str]:
    """What Ray's launcher says before it starts anything."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        # Raw files fail the second for want of what the first fills in.
        validate_config(prepare_config(given))
    except Exception as error:  # of many kinds, some of them of Ray's own
        return [f"Ray: {getattr(error, 'message', error)}"]
    return []


def _node_problems(given: dict[str, Any]) -> list[str]:
    """The machines of a cloud: as its interface takes them, the head small and kept, the others spare capacity."""
    kind = given["provider"]["type"]
    if kind == "local":
        return []
    problems = []
    for name, node in given["available_node_types"].items():
        config = node["node_config"]
        said = _amazon_problems(config) if kind == "aws" else _schema_says(config, GCP_NODE)
        problems += [f"{name}: {problem}" for problem in said]
        is_head = name == given["head_node_type"]
        if is_head and node["resources"].get("CPU") != 0:
            problems.append(f"{name}: the head must have no CPU for workers")
        if is_head == _is_spot(config):
            problems.append(
                f"{name}: the head must not be spot capacity" if is_head else f"{name}: is no spot capacity"
            )
    return problems


def _is_spot(config: dict[str, Any]) -> bool:
    options, scheduling = config.get("InstanceMarketOptions", {}), config.get("scheduling", {})
    return "spot" in (options.get("MarketType"), scheduling.get("provisioningModel", "").lower())


def _schema_says(value: Any, schema: dict[str, Any]) -> list[str]:
    return [
        f"{error.json_path}: {error.message}" for error in jsonschema.Draft202012Validator(schema).iter_errors(value)
    ]


def _amazon_problems(config: dict[str, Any]) -> list[str]:
    """What Amazon's model of its interface says of a request for such a machine, and what it leaves open."""
    from botocore.validate import ParamValidator

    shape = _run_instances()
    report = ParamValidator().validate({**config, "MinCount": 1, "MaxCount": 1}, shape)
    problems = [report.generate_report()] if report.has_errors() else _values_problems(config, shape)
    disks = [disk.get("Ebs", {}) for disk in config.get("BlockDeviceMappings", [])]
    if not any(disk.get("VolumeSize", 0) >= LEAST_DISK_GB for disk in disks):
        problems.append(f"needs a disk of {LEAST_DISK_GB} GB or more")
    if config.get("MetadataOptions", {}).get("HttpTokens") != "required":
        problems.append("MetadataOptions.HttpTokens is not required: whoever can make a request has the machine's keys")
    if not re.fullmatch(r"resolve:ssm:/aws/service/\S+|ami-[0-9a-f]{8,}", config.get("ImageId", "")):
        problems.append("ImageId is neither ami-... nor resolve:ssm:/aws/service/...; Ray would take Ubuntu 18.04")
    return problems


@functools.cache
def _run_instances() -> Any:
    import botocore.session

    return botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape


def _values_problems(value: Any, shape: Any) -> list[str]:
    """Words that the model does not list; botocore itself leaves that to Amazon."""
    if shape.type_name == "structure":
        return [problem for name in value for problem in _values_problems(value[name], shape.members[name])]
    if shape.type_name == "list":
        return [problem for item in value for problem in _values_problems(item, shape.member)]
    listed = getattr(shape, "enum", [])
    return [f"{value!r} is no {shape.name}"] if listed and value not in listed else []


def _mount_problems(given: dict[str, Any]) -> list[str]:
    """What is sent to each node: the token, readable to its owner alone, and what `install.sh` looks for."""
    problems = []
    for there, here in MOUNTS.items():
        if given.get("file_mounts", {}).get(there) != here:
            problems.append(f"file_mounts: {here} does not go to {there}")
    for command in ("chmod 600 ~/.ray/auth_token", "bash ~/retinafocus-setup/install.sh"):
        if command not in given["setup_commands"]:
            problems.append(f"setup_commands: `{command}` is missing")
    return problems


def _start_problems(given: dict[str, Any]) -> list[str]:
    """Ray starts with the token asked for, its dashboard for the head alone, and no word to anybody."""
    problems = []
    for name in STARTS:
        starts = [command for command in given.get(name, []) if "ray start" in command]
        if len(starts) != 1:
            return [f"{name}: starts Ray {len(starts)} times"]
        (start,) = starts
        if not start.startswith("source ~/.retinafocus/env.sh;") or "RAY_AUTH_MODE=token" not in INSTALL.read_text():
            problems.append(f"{name}: RAY_AUTH_MODE=token is not set")
        wanted = ["--disable-usage-stats", "--object-store-memory="]
        if name.startswith("head"):
            wanted += ["--head", "--dashboard-host=127.0.0.1", "--autoscaling-config=~/ray_bootstrap_config.yaml"]
            # Seen with Ray 2.60: the second version of its autoscaler starts no worker on such machines.
            wanted += ["export RAY_enable_autoscaler_v2=0;"] if given["provider"]["type"] == "local" else []
        else:
            wanted += ['--address="$RAY_HEAD_IP:6379"']
        problems += [f"{name}: {json.dumps(word)} is missing" for word in wanted if word not in start]
    return problems
