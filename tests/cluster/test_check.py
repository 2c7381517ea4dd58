"""The launch files are right as they stand, and a mistake put into one of them is found."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cluster import check

CLUSTER = Path(check.__file__).parent

AWS, GCP, PREMISE = "ray_up/aws.yaml", "ray_up/gcp.yaml", "ray_up/on_premise.yaml"
RAYCLUSTER, RAYJOB = "kuberay/raycluster.yaml", "kuberay/rayjob.yaml"
SBATCH, RECIPE = "slurm/detect.sbatch", "container/Containerfile"

# Reading Ray's command line warns of what Ray itself has yet to change.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.parametrize("name", check.FILES)
def test_launch_file_is_right(name: str) -> None:
    assert check.problems(CLUSTER / name) == []


def test_no_launch_file_is_left_unchecked() -> None:
    there = {str(path.relative_to(CLUSTER)) for path in CLUSTER.glob("*/*") if path.parent.name != "__pycache__"}
    # Read together with the recipe; held against the counters by tests/pipelines/test_metrics.py.
    elsewhere = {"container/Containerfile.dockerignore", "grafana/retinafocus.json"}
    assert elsewhere <= there
    assert there - elsewhere <= set(check.FILES)
    readme = (CLUSTER / "README.md").read_text()
    assert [name for name in there - elsewhere if Path(name).name not in readme] == ["kuberay/secret.example.yaml"]


def test_a_service_account_stays_right_when_its_annotation_is_filled_in() -> None:
    name = "kuberay/serviceaccount.yaml"
    text = (CLUSTER / name).read_text()
    filled = text.replace("  #   eks.", "    eks.").replace("  #   iam.", "    iam.")
    assert len(yaml.safe_load(filled)["metadata"]["annotations"]) == 2
    assert check.problems(CLUSTER / name, filled) == []


MISTAKES = [
    # file, what stands there, what is put in its place, what is said of it
    (AWS, "head_node_type: head", "head_node_type: haed", "`head_node_type` must be one of"),
    (AWS, "idle_timeout_minutes: 5", "idle_timeout: 5", "idle_timeout"),
    (AWS, "InstanceType: c7i.4xlarge", "InstanceType: c7i.4xlarger", "is no InstanceType"),
    (AWS, "MarketType: spot", "MarketTyp: spot", "MarketTyp"),
    (AWS, "        MarketType: spot", "        MarketType: capacity-block", "is no spot capacity"),
    (AWS, "VolumeType: gp3", "VolumeType: gp33", "is no VolumeType"),
    (AWS, "VolumeSize: 120", "VolumeSize: 12", "needs a disk"),
    (AWS, "HttpTokens: required", "HttpTokens: optional", "HttpTokens"),
    (AWS, "ImageId: resolve:ssm:/aws/service/deeplearning", "ImageId: deeplearning", "Ubuntu 18.04"),
    (AWS, 'resources: {"CPU": 0}', 'resources: {"CPU": 4}', "no CPU for workers"),
    (AWS, '"~/.ray/auth_token": ~/.ray/auth_token', '"~/token": ~/.ray/auth_token', "file_mounts"),
    (AWS, '"~/retinafocus-setup": dist', '"~/retinafocus-setup": cluster', "file_mounts"),
    (AWS, "  - chmod 600 ~/.ray/auth_token\n", "", "chmod 600"),
    (AWS, "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "dashboard-host=127.0.0.1"),
    (AWS, "--object-manager-port=8076", "--object-manger-port=8076", "object-manger-port"),
    (AWS, "source ~/.retinafocus/env.sh; ulimit -n 65536;\n    ray start --head", "ray start --head", "RAY_AUTH_MODE"),
    (AWS, "bash ~/retinafocus-setup/install.sh", "if ~/retinafocus-setup/install.sh", "bash -n"),
    (AWS, "|| true\n", '|| echo "$HOME\n', "bash -n"),
    (GCP, "machineType: g2-standard-16", "machinetype: g2-standard-16", "machinetype"),
    (GCP, "provisioningModel: SPOT,", "provisioningModel: SPOTTY,", "SPOTTY"),
    (GCP, "diskSizeGb: 120", "diskSizeGb: 10", "diskSizeGb"),
    (GCP, "  - ~/.retinafocus/bin/pip", "  - rm -rf $HOME/$prefix && pip", "shellcheck"),
    (PREMISE, "  head_ip: head.example.org\n", "", "head_ip"),
    (PREMISE, "    --num-cpus=0 ", "    --num-cpus=none ", "num-cpus"),
    (PREMISE, "source ~/.retinafocus/env.sh; ray stop", "source ~/.retinafocus/env.sh; ray halt", "no `halt`"),
    (PREMISE, "export RAY_enable_autoscaler_v2=0;\n", "\n", "RAY_enable_autoscaler_v2"),
    ("ray_up/install.sh", 'cd "$(dirname "${BASH_SOURCE[0]}")"', 'cd $(dirname "$0")', "shellcheck"),
    ("ray_up/install.sh", '"$home/bin/retinafocus" --version', '"$home/bin/retinafocus" --versoin', "--versoin"),
    ("ray_up/install.sh", "pip --no-deps --index-url", "pip --index-url", "--no-deps is missing"),
    ("ray_up/install.sh", "[cluster,openvino]", "[cluster]", "every node wants"),
    (RAYCLUSTER, "apiVersion: ray.io/v1", "apiVersion: ray.io/v1alpha1", "apiVersion"),
    (RAYCLUSTER, "mode: token", "mode: disabled", "authOptions.mode"),
    (RAYCLUSTER, "minReplicas: 1", "minReplica: 1", "minReplica"),
    (RAYCLUSTER, "maxReplicas: 8", 'maxReplicas: "8"', "maxReplicas"),
    (RAYCLUSTER, "replicas: 1", "replicas: 9", "replicas is not between"),
    (RAYCLUSTER, 'rayVersion: "2.60.0"', 'rayVersion: "2.9.0"', "rayVersion"),
    (RAYCLUSTER, 'num-cpus: "0"', "num-cpus: 0", "num-cpus"),
    (RAYCLUSTER, 'num-cpus: "0"', 'num-cpu: "0"', "num-cpu"),
    (RAYCLUSTER, "object-store-memory", "object-stor-memory", "object-stor-memory"),
    (RAYCLUSTER, "sizeLimit: 1536Mi", "sizeLimit: 512Mi", "does not fit into /dev/shm"),
    (RAYCLUSTER, "medium: Memory, ", "", "/dev/shm is not in memory"),
    (RAYCLUSTER, "runAsNonRoot: true", "runAsNonRoot: false", "may run as root"),
    (RAYCLUSTER, "runAsUser: 1000", 'runAsUser: "1000"', "runAsUser"),
    (RAYCLUSTER, "seccompProfile: {type: RuntimeDefault}", "seccompProfile: {type: Unconfined}", "seccompProfile"),
    (RAYCLUSTER, "drop: [ALL]", "drop: [KILL]", "capabilities"),
    (RAYCLUSTER, "volumeMounts: &mounts", "volumeMount: &mounts", "volumeMount"),
    (RAYCLUSTER, "0.1.0-cuda", "latest", "image is not"),
    (RAYCLUSTER, "0.1.0-cuda", "0.1.0-cpu", "has the CUDA image"),
    (RAYCLUSTER, 'limits: {cpu: "4", memory: 20Gi, nvidia.com/gpu: "1"}', 'limits: {cpu: "4", memory: 20Gi}', "GPU"),
    (RAYCLUSTER, "requests: {cpu: \"2\", memory: 8Gi}", "requests: {cpu: \"2\"}", "what CPU and memory"),
    (RAYCLUSTER, "requests: {cpu: \"8\", memory: 20Gi}", "requests: {cpu: 8500m, memory: 20Gi}", "requests more cpu"),
    (RAYJOB, "--address auto", "--adress auto", "--adress"),
    (RAYJOB, "cpu=7..63", "cpu=63..7", "workers is"),
    (RAYJOB, "retinafocus detect", "python detect.py", "entrypoint"),
    (RAYJOB, "shutdownAfterJobFinishes: true", "shutdownAfterJobFinishes: false", "shutdownAfterJobFinishes"),
    (RAYJOB, "shutdownAfterJobFinishes: true", "shutDownAfterJobFinishes: true", "shutDownAfterJobFinishes"),
    (RAYJOB, "    backoffLimit: 4", "    backoffLimit: 0", "submitterConfig.backoffLimit"),
    (RAYJOB, "restartPolicy: Never", "restartPolicy: Always", "restartPolicy"),
    ("kuberay/serviceaccount.yaml", "metadata:", "metadatas:", "metadatas"),
    ("kuberay/secret.example.yaml", 'auth_token: ""', 'auth_token: "4f3c"', "auth_token has a value"),
    ("kuberay/secret.example.yaml", "kind: Secret", "kind: Secrte", "Secrte"),
    (SBATCH, "#SBATCH --requeue\n", "", "requeue is missing"),
    (SBATCH, "--signal=B:TERM@300", "--signal=TERM@300", "--signal"),
    (SBATCH, "--ntasks-per-node=1\n", "--ntasks-per-node=4\n", "ntasks-per-node"),
    (SBATCH, "#SBATCH --time", "#SBATCH --tme", "--tme"),
    (SBATCH, "set -euo pipefail\n\n", "set -euo pipefail\n#SBATCH --mem=4G\n", "behind the first command"),
    (SBATCH, "retinafocus detect \"$@\" --address auto", "retinafocus detect \"$@\" --adress auto", "--adress"),
    (SBATCH, "-o /scratch/faces", "--out-put /scratch/faces", "--out-put"),
    (SBATCH, "--min-worker-port", "--min-workers-port", "min-workers-port"),
    (SBATCH, "--min-nodes", "--min-node-count", "min-node-count"),
    (SBATCH, 'mkdir -p "$RAY_TMPDIR"', "mkdir -p $RAY_TMPDIR", "shellcheck"),
    (SBATCH, "done\n\nif [[ ! -s", "\n\nif [[ ! -s", "bash -n"),
    (RECIPE, "USER 1000", "USER root", "runs as root"),
    (RECIPE, "USER 1000\n", "", "runs as root"),
    (RECIPE, "ARG PYTHON=3.12.12-slim-bookworm", "ARG PYTHON=3-slim", "with all its parts"),
    (RECIPE, "FROM docker.io/library/python:${PYTHON} AS build", "FROM docker.io/library/python AS build", "hadolint"),
    (RECIPE, "ARG TORCH_INDEX", "ARG PIP_INDEX", "is not used"),
    (RECIPE, "pip install --constraint constraints.txt torch", "pip install torch", "not held to constraints.txt"),
    (RECIPE, "pip install --no-deps", "pip install", "--no-deps is missing"),
    (RECIPE, "[cluster,openvino]", "[cluster]", "every node wants"),
    (RECIPE, "COPY retinafocus ", "ADD https://example.org/retinafocus ", "fetch none"),
    (RECIPE, "RUN PIP", "RUN curl -sSL https://example.org/x.sh | bash && PIP", "fetches"),
    (RECIPE, "COPY tune ", "COPY tunes ", "is not there"),
    (RECIPE, "COPY tune ./tune", "COPY benchmarks ./benchmarks", ".dockerignore keeps it out"),
    (RECIPE, "retinafocus weights show", "retinafocus weights list", "weights list"),
    (RECIPE, "FROM runtime AS cuda", "FROM runtime AS gpu", "stage cuda is missing"),
    ("constraints.txt", "ray==2.60.0", "ray==2.9.0", "ray is pinned to 2.9.0"),
    ("constraints.txt", "numpy==2.5.5", "numpy==1.5.5", "numpy is pinned to 1.5.5"),  # what Python 3.12 takes
    ("constraints.txt", "openvino==", "openvino>=", "is not pinned"),
    ("constraints.txt", "obstore==", "objstore==", "obstore is not pinned"),
    ("README.md", "s3://results/2024 --quick", "s3://results/2024 --quik", "--quik"),
    ("README.md", "ray job submit --address", "ray jobs submit --address", "no `jobs`"),
    ("README.md", "-- retinafocus detect s3://archive/2024 -o", "-- retinafocus find s3://archive/2024 -o", "find"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "old", "new", "said"), MISTAKES, ids=[f"{Path(name).name}: {new.strip()}" for name, _, new, _ in MISTAKES]
)
def test_a_mistake_is_found(name: str, old: str, new: str, said: str) -> None:
    text = (CLUSTER / name).read_text()
    assert old in text
    assert any(said in problem for problem in check.problems(CLUSTER / name, text.replace(old, new, 1)))


def test_a_dockerignore_that_lets_more_in_is_found() -> None:
    ignored = (CLUSTER / "container" / "Containerfile.dockerignore").read_text()
    recipe = (CLUSTER / RECIPE).read_text()
    said = check.recipe_problems(recipe, ignored.replace("!tune\n", "!tune\n!docs\n"))
    assert said == [".dockerignore: docs is let in and not copied"]
    assert "must begin with *" in check.recipe_problems(recipe, ignored.replace("*\n!py", "!py"))[0]


def test_the_command_says_what_is_wrong_and_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "constraints.txt"
    wrong.write_text((CLUSTER / "constraints.txt").read_text().replace("ray==2.60.0", "ray==2.9.0"))
    assert check.main([str(wrong), str(CLUSTER / "kuberay" / "secret.example.yaml")]) == 1
    said = capsys.readouterr().out
    assert "ray is pinned to 2.9.0" in said
    assert "secret.example.yaml: ok" in said


# The tables of ways in benchmarks/README.md, in their order.
MEASURED = [
    ("sparse", "float32"), ("medium", "float32"), ("dense", "float32"),
    ("sparse", "int8"), ("dense", "int8"), ("plain", "float32"), ("plain", "int8"),
]  # fmt: skip


def _measured(photos: str, precision: str, mode: str) -> str:
    """Core-seconds of a photo, as they stand in the table."""
    text = (CLUSTER.parent / "benchmarks" / "README.md").read_text()
    _, *tables = text.split("| way | core-s | s |")
    table = tables[MEASURED.index((photos, precision))].split("\n\n")[0]
    way = "focus" if mode == "cascade" else mode
    (row,) = [line for line in table.splitlines() if line.startswith(f"| {way} |")]
    return row.split("|")[2].strip()


def _cost_rows() -> list[tuple[str, ...]]:
    text = (CLUSTER / "README.md").read_text()
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in text.splitlines() if line[:1] == "|"]
    return [row for row in rows if len(row) == 6 and row[3][:2] == "0."]


@pytest.mark.parametrize("row", _cost_rows(), ids=lambda row: " ".join(row[:3]))
def test_costs_are_worked_out_from_what_was_measured(row: tuple[str, ...]) -> None:
    seconds, hours, nodes = (float(cell) for cell in row[3:])
    assert row[3] == _measured(row[0].split()[0], row[1], row[2])
    # A million photos; 3,600 s; 16 cores and 24 hours.
    assert hours == round(seconds * 1e6 / 3600)
    assert nodes == round(seconds * 1e6 / 3600 / 16 / 24, 2)


def test_there_are_rows_of_costs() -> None:
    assert len(_cost_rows()) == 8
