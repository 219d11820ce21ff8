"""The files of cluster/ against the schemas of what reads them, and against this project's own names."""

import copy
import gzip
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
from tests.fixtures.pretended_machine import image_environment

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "cluster"
RAY_SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
CUSTOM_RESOURCES = ROOT.parent / "shared" / "data" / "kuberay"


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


def closed(schema):
    """A CRD's schema that knows no field but its own, as `kubectl apply --validate=strict` reads it."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    return schema


def custom_resource(plural):
    """The validator of KubeRay's v1 API; its definitions lie beside the repository."""
    file = CUSTOM_RESOURCES / f"ray.io_{plural}.yaml.gz"
    if not file.is_file():
        pytest.skip(f"{file} is not there: KubeRay's definitions are not part of the repository")
    (version,) = [
        v for v in yaml.load(gzip.decompress(file.read_bytes()), yaml.CSafeLoader)["spec"]["versions"] if v["storage"]
    ]
    assert version["name"] == "v1"
    return jsonschema.Draft202012Validator(closed(version["schema"]["openAPIV3Schema"]))


def document(name, kind):
    (found,) = [document for document in load(name) if document["kind"] == kind]
    assert found["apiVersion"] == "ray.io/v1"
    return found


def manifest(name, kind):
    return document(name, kind)["spec"]


@pytest.mark.parametrize(
    ("name", "kind", "pod"),
    [
        ("kuberay-cluster.yaml", "RayCluster", lambda spec: spec["headGroupSpec"]["template"]),
        ("kuberay-job.yaml", "RayJob", lambda spec: spec["submitterPodTemplate"]),
    ],
)
def test_kuberay_manifests_have_the_fields_of_its_definitions_and_no_other(name, kind, pod):
    validator = custom_resource(f"{kind.lower()}s")
    found = document(name, kind)
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(found)] == []
    for misspell in (lambda spec: spec, pod, lambda spec: pod(spec)["spec"]["containers"][0]["resources"]):
        wrong = copy.deepcopy(found)
        misspell(wrong["spec"])["misspelt"] = {}
        assert not validator.is_valid(wrong)


def test_kuberay_gives_the_token_to_every_container_and_the_manifests_do_not():
    """Set by hand in the Ray containers alone, it is missing in the autoscaler beside the head and in the operator."""
    cluster, job = manifest("kuberay-cluster.yaml", "RayCluster"), manifest("kuberay-job.yaml", "RayJob")
    assert cluster["authOptions"] == {"mode": "token"}
    assert "RAY_AUTH" not in json.dumps([cluster, job])
    secrets = set(re.findall(r'"secretKeyRef": {"name": "([^"]+)"', json.dumps([cluster, job])))
    assert secrets == {"llambert-tokens"}
    # KubeRay's own secret has the cluster's name; one that is there already it takes as it is, without a token in it.
    assert document("kuberay-cluster.yaml", "RayCluster")["metadata"]["name"] not in secrets


def test_a_job_on_a_cluster_that_is_there_has_no_backoff_limit():
    """KubeRay 1.6 and newer refuse the two together, in the operator: the definition allows them."""
    job = manifest("kuberay-job.yaml", "RayJob")
    assert job["clusterSelector"] == {
        "ray.io/cluster": document("kuberay-cluster.yaml", "RayCluster")["metadata"]["name"]
    }
    assert "backoffLimit" not in job


def test_every_group_of_kuberay_starts_ray_with_what_its_pods_have():
    cluster = manifest("kuberay-cluster.yaml", "RayCluster")
    assert cluster["rayVersion"] == ray.__version__
    for group in cluster["workerGroupSpecs"]:
        (worker,) = group["template"]["spec"]["containers"]
        gpus = worker["resources"]["limits"].get("nvidia.com/gpu", "0")
        assert group["rayStartParams"].get("num-gpus", "0") == gpus
        assert worker["image"].endswith("-gpu") == (gpus != "0")
        mounted = {mount["name"] for mount in worker.get("volumeMounts", [])}
        assert mounted == {volume["name"] for volume in group["template"]["spec"].get("volumes", [])}


def instructions(dockerfile):
    """(instruction, arguments) in order; a backslash joins lines, comments are dropped."""
    text = re.sub(r"(?m)^#.*\n", "", (CLUSTER / dockerfile).read_text())
    return [tuple(line.split(None, 1)) for line in re.sub(r"\\\n", " ", text).splitlines() if line]


DOCKERFILES = ("Dockerfile", "Dockerfile.gpu")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_runs_as_a_user_whose_home_ray_up_finds(name):
    """`ray up` reads HOME from the image's variables, and /root without it; Kubernetes wants the user as a number."""
    found = instructions(name)
    assert found[-1] == ("USER", "${UID}")
    assert ("ARG", "UID=1000") in found
    assert image_environment(CLUSTER / name)["HOME"] == "/home/ray"
    pods = [manifest("kuberay-cluster.yaml", "RayCluster")["headGroupSpec"]["template"]["spec"]]
    pods += [group["template"]["spec"] for group in manifest("kuberay-cluster.yaml", "RayCluster")["workerGroupSpecs"]]
    pods += [manifest("kuberay-job.yaml", "RayJob")["submitterPodTemplate"]["spec"]]
    assert all(pod["securityContext"] == {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000} for pod in pods)
    for cloud in ("aws.yaml", "gcp.yaml"):
        assert set(load(cloud)[0]["file_mounts"]) == {"/home/ray/.ray/auth_token"}


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_copies_what_is_there_and_its_base_is_an_argument(name):
    found = instructions(name)
    assert found[0][0] == "ARG"
    assert found[0][1].startswith("BASE=")
    assert found[1] == ("FROM", "${BASE}")
    sources = [source for word, arguments in found if word == "COPY" for source in arguments.split()[:-1]]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    installed = next(arguments for word, arguments in found if word == "RUN" and "apt-get" in arguments)
    assert {"openssh-client", "rsync", "curl"} <= set(installed.split())  # Ray's head starts workers by ssh and rsync


def test_the_gpu_image_sees_gpus():
    environment = image_environment(CLUSTER / "Dockerfile.gpu")
    assert environment["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert set(environment["NVIDIA_DRIVER_CAPABILITIES"].split(",")) == {"compute", "utility"}


@pytest.mark.parametrize("cloud", ["aws.yaml", "gcp.yaml"])
def test_gpus_are_given_to_the_containers_of_gpu_nodes_alone(cloud):
    (config,) = load(cloud)
    docker = config["docker"]
    assert docker["disable_automatic_runtime_detection"] is True
    assert "--ulimit core=0" in docker["run_options"]
    assert not any("gpu" in option or "shm" in option for option in docker["run_options"])  # Ray sizes /dev/shm itself
    for node in config["available_node_types"].values():
        has_gpu = "GPU" in node["resources"]
        assert node.get("docker", {}).get("worker_run_options", []) == (["--gpus all"] if has_gpu else [])
        assert ("nvidia-smi" in " ".join(node.get("initialization_commands", []))) == has_gpu


def run_commands(commands, tmp_path, **scripts):
    """The commands one after the other, with scripts for programs of the cloud's machine; (exit status, stderr)."""
    (tmp_path / "bin").mkdir()
    for name, body in scripts.items():
        script = tmp_path / "bin" / name.replace("_", "-")
        script.write_text(f"#!/bin/sh\ncd {tmp_path}\n{body}\n")
        script.chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", f"true && ({command})"], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            break
    return done.returncode, done.stderr


@pytest.mark.parametrize("cloud", ["aws.yaml", "gcp.yaml"])
@pytest.mark.parametrize(
    ("driver", "uid", "message"),
    [
        ("580.105.08", 1000, None),
        ("570.86", 1000, "needs 580 or newer"),
        ("", 1000, "needs 580"),
        ("590.1", 1001, "UID=1001"),
    ],
)
def test_a_gpu_machine_waits_for_its_driver_and_refuses_an_old_one_or_another_user(
    cloud, driver, uid, message, tmp_path
):
    """The driver is there at the third look; an empty version is a driver that never comes."""
    commands = load(cloud)[0]["available_node_types"]["annotator"]["initialization_commands"]
    nvidia_smi = f"""echo >>looks; [ -n "{driver}" ] && [ "$(wc -l <looks)" -ge 3 ] || exit 9
[ $# -eq 0 ] || for gpu in 1 2; do echo "{driver}"; done"""
    login = "cat >/dev/null; echo $0 >>logins"
    status, error = run_commands(
        commands,
        tmp_path,
        nvidia_smi=nvidia_smi,
        sleep="true",
        id=f'[ "$1" = -u ] && echo {uid} || echo ubuntu',
        aws="echo password",
        docker=login,
        gcloud="echo >>logins",
    )
    assert (status == 0) == (message is None), error
    assert (tmp_path / "logins").exists() == (message is None)
    if message is not None:
        assert message in error
        assert len(error.splitlines()) == 1


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
    assert config["proxy_location"] == "Disabled"  # its limits would not be ours
    assert application.route_prefix is None
    head = load("kuberay-cluster.yaml")[1]["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert options.endpoint_resource == "node:__internal_head__"
    assert {"name": "serve", "containerPort": options.listen[1]} in head["ports"]


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
