"""Before the first shard on a cluster: every node is asked whether it can work on the run, and gets the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.metrics_on_ray import RunMetrics, run_name
from pipelines.node_weights import NodeWeights, node_weights
from pipelines.preflight import NodeCheck, node_check
from pipelines.stages import StageConfig
from retinafocus.errors import RetinaFocusError, RunError

# A node that says nothing for so long (a mount that hangs, say) cannot work either. Starting a process there and
# importing all that looks at photos takes seconds; on a busy machine, tens of them.
NODE_SECONDS = 180.0

# Nodes that cannot work which are named in full.
NAMED_NODES = 5


def prepare_nodes(config: StageConfig, shards: list[dict[str, Any]], note: Callable[[str], None]) -> StageConfig:
    """Make sure that every node of the joined cluster can work on the run.

    Args:
        config: for the workers.
        shards: to be done.
        note: told in a line how many nodes were asked.

    Returns:
        The same for workers on any node, also on one that comes later: they make that sure for themselves, take the
        weights from the cluster, and count for its metrics.

    Raises:
        RunError: some node cannot; names it, what it does not see, and what to do.
    """
    check = node_check(shards, output=config.output, mark=config.mark, storage=config.storage)
    weights = node_weights(config.weights, lambda data: _FromCluster(ray.put(data)))
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    problems = _ask(nodes, check, weights)
    if problems:
        named = [f"node {name}: {'; '.join(found)}" for name, found in sorted(problems.items())]
        more = [f"and {len(named) - NAMED_NODES} more nodes"] if len(named) > NAMED_NODES else []
        raise RunError(
            f"{len(problems)} of the cluster's {len(nodes)} nodes cannot work on this run. "
            + ". ".join([*named[:NAMED_NODES], *more])
            + ". No photo was looked at; run the same command again once it is mended"
        )
    counted = "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes"
    note(f"cluster  {counted} with CPUs: each sees the photos and the output, and has the weights")
    return replace(config, check=check, node_weights=weights, tell=partial(RunMetrics, run_name(config.output)))


@dataclass(frozen=True)
class _FromCluster:
    """Brings bytes from Ray's object store, which moves them once to each node that asks."""

    reference: Any

    def __call__(self) -> bytes:
        data: bytes = ray.get(self.reference)
        return data


def _ask(nodes: list[dict[str, Any]], check: NodeCheck, weights: NodeWeights) -> dict[str, list[str]]:
    """What is wrong on each node where something is."""
    ask = ray.remote(num_cpus=0, max_retries=0)(_problems)  # no CPU: a node that others have taken answers too
    asked = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[ask.options(scheduling_strategy=there).remote(check, weights)] = node
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=NODE_SECONDS) if asked else ([], [])
    problems = {}
    for answer in answered:
        try:
            found = ray.get(answer)
        except ray.exceptions.RayError as error:
            if not _is_alive(asked[answer]):
                continue  # it went meanwhile, as nodes that cost little may
            found = [_failure(error)]
        if found:
            problems[_name(asked[answer])] = found
    for answer in silent:
        ray.cancel(answer, force=True)
        if _is_alive(asked[answer]):
            problems[_name(asked[answer])] = [
                f"did not answer within {NODE_SECONDS:.0f} s; see whether a mount hangs there, or remove the node"
            ]
    return problems


def _problems(check: NodeCheck, weights: NodeWeights) -> list[str]:
    """What is wrong on the node where this runs."""
    problems = check.problems()
    try:
        weights.path()
    except RetinaFocusError as error:
        problems.append(str(error))
    return problems


def _failure(error: Exception) -> str:
    """What it means that a node could not even be asked."""
    reason = str(error).strip().splitlines()[-1]
    return f"cannot run RetinaFocus ({reason}); install it there, in the Python that Ray was started with"


def _is_alive(node: dict[str, Any]) -> bool:
    return any(now["NodeID"] == node["NodeID"] and now["Alive"] for now in ray.nodes())


def _name(node: dict[str, Any]) -> str:
    host, address = node["NodeManagerHostname"], node["NodeManagerAddress"]
    # Several nodes may live on one machine, or several machines call themselves the same.
    return f"{host} ({address}, {node['NodeID'][:8]})"
