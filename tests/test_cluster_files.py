"""The files of cluster/ against the schemas of what reads them, and against this project's own names."""

import json
import os
import re
import subprocess
import time
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema

from llambert.recipe import load_recipe
from llambert.serving.deployment import ServeOptions
from tests.fixtures.cloud_metadata import cloud_metadata

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "cluster"
RAY_SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
QUANTITY = re.compile(r"^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi|Ti|k|M|G|T)?$")


def load(name):
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml", "local.yaml"])
def test_autoscaler_files_are_what_ray_reads(name):
    (config,) = load(name)
    if config["provider"]["type"] != "local":  # a local file has no node types until Ray has made them
        jsonschema.validate(config, RAY_SCHEMA)
    validate_config(prepare_config(config))


def test_the_annotators_nodes_hold_whole_replicas_and_nobody_elses_do():
    """Four GPUs and the recipe's CPUs a replica; one kind of node for it, which no other stage's claim finds."""
    annotator = load_recipe(ROOT / "jobs/recipes/imdb-llama2-70b.yaml").annotator
    for name, num_replicas in (("aws.yaml", 2), ("gcp.yaml", 1)):
        types = load(name)[0]["available_node_types"]
        nodes = {name: node["resources"] for name, node in types.items()}
        assert nodes["annotator"]["GPU"] == num_replicas * annotator.gpus_per_replica
        assert nodes["annotator"]["CPU"] >= num_replicas * annotator.cpus_per_replica
        assert [name for name in nodes if "annotator" in nodes[name]] == ["annotator"]
        encoders = [name for name in nodes if "encoder" in nodes[name]]
        assert encoders
        assert all(nodes[name]["GPU"] == 1 for name in encoders)
        assert all("GPU" not in nodes[name] for name in set(nodes) - {"annotator", *encoders})
        assert all(node["min_workers"] == 0 for name, node in types.items() if name != "head")


def test_spot_nodes_are_those_that_hold_no_llm():
    aws = load("aws.yaml")[0]["available_node_types"]
    spot = {name for name, node in aws.items() if "InstanceMarketOptions" in node["node_config"]}
    assert spot == {"cpu", "encoder-g5", "encoder-g6"}
    assert aws["annotator"]["node_config"]["InstanceType"] == "p4de.24xlarge"
    gcp = load("gcp.yaml")[0]["available_node_types"]
    assert gcp["annotator"]["node_config"]["machineType"] == "a2-ultragpu-4g"
    assert "SPOT" in json.dumps(gcp["encoder"]["node_config"])


# The fields of KubeRay's v1 API that these manifests may use, after its types (RayClusterSpec, RayJobSpec; KubeRay is
# under the Apache License 2.0), closed so that a misspelt key is found. Pods: the few fields used, closed likewise.


def closed(required=(), **properties):
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


TEXT, WHOLE, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}


def each(schema):
    return {"type": "array", "items": schema}


AMOUNTS = {"type": "object", "additionalProperties": {"type": "string", "pattern": QUANTITY.pattern}}
RESOURCES = closed(requests=AMOUNTS, limits=AMOUNTS)
SECRET = closed(["name", "key"], name=TEXT, key=TEXT, optional=FLAG)
ENV = closed(["name"], name=TEXT, value=TEXT, valueFrom=closed(secretKeyRef=SECRET))
CONTAINER = closed(
    ["name", "image", "resources"],
    name=TEXT,
    image=TEXT,
    env=each(ENV),
    ports=each(closed(["containerPort"], name={"type": "string", "maxLength": 15}, containerPort=WHOLE)),
    lifecycle=closed(preStop=closed(exec=closed(["command"], command=each(TEXT)))),
    volumeMounts=each(closed(["name", "mountPath"], name=TEXT, mountPath=TEXT)),
    resources=RESOURCES,
)
TOLERATION = closed(
    key=TEXT, operator={"enum": ["Exists", "Equal"]}, value=TEXT, effect={"enum": ["NoSchedule", "NoExecute"]}
)
MEMORY = closed(medium={"enum": ["Memory"]}, sizeLimit={"type": "string", "pattern": QUANTITY.pattern})
POD = closed(
    ["containers"],
    containers=each(CONTAINER),
    serviceAccountName=TEXT,
    nodeSelector=TEXTS,
    tolerations=each(TOLERATION),
    terminationGracePeriodSeconds=WHOLE,
    restartPolicy={"enum": ["Never", "OnFailure"]},
    volumes=each(closed(["name"], name=TEXT, emptyDir=MEMORY)),
)
TEMPLATE = closed(["spec"], metadata=closed(labels=TEXTS, annotations=TEXTS), spec=POD)
WORKERS = closed(
    ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
    groupName=TEXT,
    replicas=WHOLE,
    minReplicas=WHOLE,
    maxReplicas=WHOLE,
    numOfHosts=WHOLE,
    rayStartParams=TEXTS,
    template=TEMPLATE,
)
RAY_CLUSTER = closed(
    ["headGroupSpec", "rayVersion"],
    rayVersion=TEXT,
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=closed(
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]}, idleTimeoutSeconds=WHOLE, resources=RESOURCES
    ),
    headGroupSpec=closed(["rayStartParams", "template"], rayStartParams=TEXTS, template=TEMPLATE),
    workerGroupSpecs=each(WORKERS),
)
RAY_JOB = closed(
    ["entrypoint"],
    entrypoint=TEXT,
    clusterSelector=TEXTS,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
    backoffLimit=WHOLE,
    runtimeEnvYAML=TEXT,
    submitterPodTemplate=TEMPLATE,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=WHOLE,
)


def manifest(name, kind):
    (found,) = [document for document in load(name) if document["kind"] == kind]
    assert found["apiVersion"] == "ray.io/v1"
    return found["spec"]


def test_kuberay_manifests_have_the_fields_of_its_api_and_no_other():
    cluster = manifest("kuberay-cluster.yaml", "RayCluster")
    jsonschema.validate(cluster, RAY_CLUSTER)
    jsonschema.validate(manifest("kuberay-job.yaml", "RayJob"), RAY_JOB)
    assert cluster["rayVersion"] == ray.__version__
    for group in cluster["workerGroupSpecs"]:
        (worker,) = group["template"]["spec"]["containers"]
        gpus = worker["resources"]["limits"].get("nvidia.com/gpu", "0")
        assert group["rayStartParams"].get("num-gpus", "0") == gpus
        mounted = {mount["name"] for mount in worker.get("volumeMounts", [])}
        assert mounted == {volume["name"] for volume in group["template"]["spec"].get("volumes", [])}


def test_a_job_of_kuberay_runs_a_recipe_that_is_there_with_settings_it_takes():
    words = manifest("kuberay-job.yaml", "RayJob")["entrypoint"].split()
    job, recipe = (word.removeprefix("/opt/llambert/") for word in words[1:3])
    assert (ROOT / job).is_file()
    settings = [setting for flag, setting in zip(words[3::2], words[4::2], strict=True) if flag == "--set"]
    found = load_recipe(ROOT / recipe, settings)
    claimed = {found.annotator.node_resource, found.classifier.node_resource, found.label.node_resource}
    groups = manifest("kuberay-cluster.yaml", "RayCluster")["workerGroupSpecs"]
    offered = [json.loads(json.loads(group["rayStartParams"].get("resources", '"{}"'))) for group in groups]
    assert claimed == {name for resources in offered for name in resources}


@pytest.mark.parametrize("path", sorted(CLUSTER.iterdir()), ids=lambda path: path.name)
def test_no_file_holds_a_secret(path):
    text = path.read_text()
    for found in re.findall(r"(?im)^.*(?:token|secret|password|access_key).*$", text):
        assert not re.search(r"(?:hf_[A-Za-z0-9]{8}|AKIA[A-Z0-9]{8}|[=:]\s*[\"']?[A-Za-z0-9/+]{30,})", found), found


def test_the_serve_file_is_what_serve_deploys():
    (config,) = load("serve.yaml")
    application = ServeDeploySchema.model_validate(config).applications[0]
    options = ServeOptions.model_validate_json(json.dumps(application.args))
    assert options.require_token
    assert config["http_options"]["request_timeout_s"] > options.limits.timeout_s


@pytest.mark.parametrize("name", ["slurm.sh", "drain-on-spot-notice.sh"])
def test_shell_scripts_parse_and_can_be_executed(name):
    assert subprocess.run(["bash", "-n", CLUSTER / name], check=False).returncode == 0
    assert (CLUSTER / name).stat().st_mode & 0o111


@pytest.mark.parametrize(("cloud", "deadline_s"), [("aws", "110"), ("gcp", "25")])
def test_a_spot_notice_drains_the_node_and_nothing_does_before(cloud, deadline_s, tmp_path):
    """The cloud is pretended, and so is `ray`, which notes its arguments; the real one drains in drill_cluster.py."""
    (tmp_path / "ray").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/arguments\n')
    (tmp_path / "ray").chmod(0o755)
    with cloud_metadata() as metadata:
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "METADATA_URL": metadata.url, "POLL_S": "0.05"}
        watcher = subprocess.Popen([CLUSTER / "drain-on-spot-notice.sh", cloud], env=environment)
        deadline = time.monotonic() + 30
        while metadata.num_asked < 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert not (tmp_path / "arguments").exists()
        metadata.notice = True
        assert watcher.wait(30) == 0
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments[:3] == ["drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    assert arguments[-1] == deadline_s


def test_dashboard_and_alerts_name_counters_that_exist():
    sources = "".join(path.read_text() for path in (ROOT / "llambert").rglob("*.py"))
    literal = set(re.findall(r'"(llambert_[a-z_]+)"', sources))
    counted = {f"llambert_{name.removeprefix('num_')}" for name in re.findall(r'"(num_[a-z_]+)"', sources)}
    known = literal | counted | {"llambert_busy_seconds", "llambert_accelerator_seconds", "llambert_busy_share"}
    known |= {"llambert_padding_waste", "llambert_finetune_"}
    dashboard = json.loads((CLUSTER / "grafana.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    (alerts,) = load("alerts.yaml")
    expressions += [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    assert len(expressions) > 15
    for expression in expressions:
        assert expression.count("(") == expression.count(")")
        for name in re.findall(r"ray_(llambert_[a-z_]+)", expression):
            assert re.sub(r"_(total|bucket|sum|count)$", "", name) in known, name
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


def test_every_job_says_how_it_is_submitted():
    for path in sorted((ROOT / "jobs").glob("*.py")):
        line = re.sub(r"\\\s+", "", path.read_text())
        assert f"ray job submit --runtime-env runtime_env.yaml --working-dir . -- python jobs/{path.name} jobs/" in line
