"""`ray up` and the workers after it: against moto's EC2, answers like Google's, and a pretended machine behind ssh."""

import contextlib
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.fixtures.cloud_metadata import cloud_metadata
from tests.fixtures.pretended_machine import PretendedMachine

CLUSTER = Path(__file__).parents[1] / "cluster"
SERVICES = ("EC2", "IAM", "SECRETS_MANAGER", "STS")


@contextlib.contextmanager
def moto_server():
    """moto's own server; the environment that leads boto3 to it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 60
            while True:
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{url}/moto-api/data.json", timeout=10).close()
                    break
                assert time.monotonic() < deadline
                assert server.poll() is None
                time.sleep(0.1)
            yield {f"AWS_ENDPOINT_URL_{service}": url for service in SERVICES} | {
                "AWS_ACCESS_KEY_ID": "key",
                "AWS_SECRET_ACCESS_KEY": "secret",
            }
        finally:
            server.terminate()


def up(config: dict, machine: PretendedMachine, **environment: str) -> None:
    """`ray up`, to its end."""
    file = machine.folder / "cluster.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "ray.scripts.scripts", "up", "--yes", "--no-config-cache", str(file)]
    done = subprocess.run(
        command, env=machine.environment(**environment), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def aws(tmp_path_factory):
    """The file as a user fills it in, brought up; then a worker of each type, started as the head's autoscaler does."""
    (config,) = yaml.safe_load_all((CLUSTER / "aws.yaml").read_text())
    machine = PretendedMachine(tmp_path_factory.mktemp("aws"), CLUSTER / "Dockerfile")
    with moto_server() as environment, pytest.MonkeyPatch.context() as patched:
        for name, value in machine.environment(**environment).items():
            patched.setenv(name, value)
        import boto3

        ec2 = boto3.client("ec2", "us-west-2")
        images = ec2.describe_images(Filters=[{"Name": "root-device-type", "Values": ["ebs"]}])["Images"]
        image = next(image for image in images if image.get("RootDeviceName") == "/dev/sda1")
        boto3.client("iam", "us-west-2").create_instance_profile(InstanceProfileName="llambert-node")
        for node in config["available_node_types"].values():
            node["node_config"]["ImageId"] = image["ImageId"]
        up(config, machine, **environment)
        head_home = machine.copied("/tmp/ray_tmp_mount/llambert/~")
        patched.setenv("HOME", str(head_home))
        launch_workers(head_home / "ray_bootstrap_config.yaml", set(config["available_node_types"]) - {"head"})
        reservations = ec2.describe_instances()["Reservations"]
        instances = {
            next(tag["Value"] for tag in instance["Tags"] if tag["Key"] == "ray-user-node-type"): instance
            for reservation in reservations
            for instance in reservation["Instances"]
        }
        yield SimpleNamespace(
            instances=instances,
            machine=machine,
            ec2=ec2,
            image=image["ImageId"],
            secrets=boto3.client("secretsmanager", "us-west-2"),
            environment=machine.environment(**environment),
        )


def launch_workers(file: Path, node_types: set[str]) -> None:
    """What the head's autoscaler does with the configuration that `ray up` left there: one worker of each type."""
    from ray.autoscaler._private.providers import _get_node_provider
    from ray.autoscaler.v2.instance_manager.config import FileConfigReader
    from ray.autoscaler.v2.instance_manager.node_provider import NodeProviderAdapter

    reader = FileConfigReader(str(file))
    config = reader.get_cached_autoscaling_config()
    provider = _get_node_provider(config.get_config("provider"), config.get_config("cluster_name"))
    adapter = NodeProviderAdapter(provider, reader)
    adapter.launch(dict.fromkeys(node_types, 1), "request")
    deadline = time.monotonic() + 60
    while len(provider.non_terminated_nodes({})) < len(node_types) + 1:
        assert adapter.poll_errors() == []
        assert time.monotonic() < deadline
        time.sleep(0.2)


ON_DEMAND = {"head": "m7i.2xlarge", "annotator": "p4de.24xlarge"}
SPOT = {"cpu": "m7i.4xlarge", "encoder-g5": "g5.2xlarge", "encoder-g6": "g6.2xlarge"}


@pytest.mark.slow
def test_aws_is_asked_for_the_instances_meant(aws):
    instances, ec2 = aws.instances, aws.ec2
    asked = {
        name: (instance["InstanceType"], instance.get("InstanceLifecycle")) for name, instance in instances.items()
    }
    wanted = {name: (size, None) for name, size in ON_DEMAND.items()} | {
        name: (size, "spot") for name, size in SPOT.items()
    }
    assert asked == wanted
    volumes = {volume["VolumeId"]: volume for volume in ec2.describe_volumes()["Volumes"]}
    for name, instance in instances.items():
        assert instance["ImageId"] == aws.image
        assert instance["IamInstanceProfile"]["Arn"].endswith("/llambert-node")
        assert instance["PublicIpAddress"]
        assert instance["Placement"]["AvailabilityZone"] in {"us-west-2a", "us-west-2b", "us-west-2c"}
        (device,) = instance["BlockDeviceMappings"]
        assert device["DeviceName"] == instance["RootDeviceName"]
        assert device["Ebs"]["DeleteOnTermination"]
        volume = volumes[device["Ebs"]["VolumeId"]]
        assert (volume["Size"], volume["VolumeType"]) == (500 if name == "annotator" else 200, "gp3")
        tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
        assert tags["ray-cluster-name"] == "llambert"
        assert tags["ray-node-type"] == ("head" if name == "head" else "worker")


@pytest.mark.slow
def test_aws_opens_ssh_to_the_world_and_everything_among_the_nodes(aws):
    """So the dashboard, the metrics and the endpoint are reached through ssh alone."""
    (group,) = {group["GroupId"] for instance in aws.instances.values() for group in instance["SecurityGroups"]}
    found = aws.ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]
    assert found["GroupName"] == "ray-autoscaler-llambert"
    rules = {
        (
            rule["IpProtocol"],
            rule.get("FromPort"),
            *(allowed["CidrIp"] for allowed in rule["IpRanges"]),
            *(pair["GroupId"] for pair in rule["UserIdGroupPairs"]),
        )
        for rule in found["IpPermissions"]
    }
    assert rules == {("tcp", 22, "0.0.0.0/0"), ("-1", None, group)}


def check_head(machine: PretendedMachine, image: str) -> None:
    """The head's container has the image's user and home, the token and no GPU; nothing is installed into it."""
    (run,) = [command for command in machine.commands if "docker run" in command]
    assert image in run
    assert ":/home/ray/.ray/auth_token " in run
    for option in (
        "--ulimit nofile=65536:65536",
        "--ulimit core=0",
        "-e RAY_AUTH_MODE=token",
        "--shm-size=",
        "--net=host",
    ):
        assert option in run
    assert "--gpus" not in run
    assert "--runtime" not in run
    commands = "\n".join(machine.commands)
    assert "/root" not in commands
    assert "pip install" not in commands
    for file in ("ray_bootstrap_config.yaml", "ray_bootstrap_key.pem"):
        assert f"llambert:/home/ray/{file}" in commands
    assert "--autoscaling-config=/home/ray/ray_bootstrap_config.yaml" in machine.commands[-1]
    assert machine.copied("/tmp/ray_tmp_mount/llambert/home/ray/.ray/auth_token").read_text() == "0" * 64


@pytest.mark.slow
def test_the_head_on_aws_starts_ray_as_the_images_user(aws):
    check_head(aws.machine, "123456789012.dkr.ecr.us-west-2.amazonaws.com/llambert:0.1.0 bash")


@pytest.mark.slow
def test_the_hub_token_comes_from_amazons_secret_store(aws):
    """What both start commands export, run as they are."""
    (config,) = yaml.safe_load_all((CLUSTER / "aws.yaml").read_text())
    aws.secrets.create_secret(Name="llambert/hf-token", SecretString="hf_of_the_store")
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert exported(config[commands][1], aws.environment) == "hf_of_the_store"


def exported(command: str, environment: dict[str, str]) -> str:
    """The HF_TOKEN that a start command has exported when it starts Ray."""
    exports, starts = command.split("ulimit -n 65536;")
    assert starts.strip().startswith("ray start")
    path = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-c", f'{exports} printf %s "$HF_TOKEN"'],
        env=environment | {"PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.fixture(scope="module")
def google(tmp_path_factory):
    """`ray up` of gcp.yaml against answers of Google's; then a worker of each type."""
    import httplib2
    from ray.autoscaler._private.commands import create_or_update_cluster

    from tests.fixtures.google_cloud import GoogleCloud

    (config,) = yaml.safe_load_all((CLUSTER / "gcp.yaml").read_text())
    config["provider"]["gcp_credentials"] = {"type": "credentials_token", "credentials": "a-token"}
    machine = PretendedMachine(tmp_path_factory.mktemp("google"), CLUSTER / "Dockerfile")
    (file := machine.folder / "cluster.yaml").write_text(yaml.safe_dump(config))
    cloud = GoogleCloud()
    with pytest.MonkeyPatch.context() as patched:
        for name, value in machine.environment().items():
            patched.setenv(name, value)
        patched.setattr(httplib2.Http, "request", lambda *arguments, **named: cloud.request(*arguments, **named))
        create_or_update_cluster(str(file), None, None, False, False, True, no_config_cache=True)
        home = machine.copied("/tmp/ray_tmp_mount/llambert/~")
        patched.setenv("HOME", str(home))
        launch_workers(home / "ray_bootstrap_config.yaml", set(config["available_node_types"]) - {"head"})
    return SimpleNamespace(cloud=cloud, machine=machine)


@pytest.mark.slow
def test_google_is_asked_for_the_instances_meant(google):
    """In fields that Google's own description of its API has, and no other."""
    assert google.cloud.complaints == []
    assert google.cloud.tokens == {"Bearer a-token"}
    instances = {body["labels"]["ray-user-node-type"]: body for body in google.cloud.instances.values()}
    zone = "zones/us-central1-a/machineTypes"
    assert {name: body["machineType"] for name, body in instances.items()} == {
        "head": f"{zone}/n2-standard-8",
        "annotator": f"{zone}/a2-ultragpu-4g",
        "encoder": f"{zone}/g2-standard-8",
    }
    for name, body in instances.items():
        scheduling = body.get("scheduling", {})
        assert (scheduling.get("provisioningModel") == "SPOT") == (name == "encoder")
        # A machine with GPUs cannot move; its image is told to install the driver.
        assert (scheduling.get("onHostMaintenance") == "TERMINATE") == (name != "head")
        items = body.get("metadata", {}).get("items", [])
        assert items == ([] if name == "head" else [{"key": "install-nvidia-driver", "value": "True"}])
        (disk,) = body["disks"]
        assert disk["boot"]
        assert disk["autoDelete"]
        assert disk["initializeParams"]["diskSizeGb"] == (500 if name == "annotator" else 200)
        assert disk["initializeParams"]["sourceImage"].endswith("/family/common-cu129-ubuntu-2204-nvidia-580")
        (account,) = body["serviceAccounts"]
        assert account["email"].startswith("llambert-node@")


@pytest.mark.slow
def test_the_head_on_google_starts_ray_as_the_images_user(google):
    check_head(google.machine, "us-central1-docker.pkg.dev/my-project/llambert/llambert:0.1.0 bash")


# Answers for Google's Secret Manager, in the process that asks: its address is https and not to be moved.
SECRET_MANAGER = """
import json, requests
send = requests.adapters.HTTPAdapter.send
def answer(self, request, **named):
    if not request.url.startswith("https://secretmanager.googleapis.com/"):
        return send(self, request, **named)
    response = requests.Response()
    response.request, response.url = request, request.url
    known = request.url.endswith("/v1/projects/my-project/secrets/llambert-hf-token/versions/latest:access")
    response.status_code = 200 if known and request.headers["authorization"] == "Bearer of-the-node" else 403
    response._content = json.dumps({"payload": {"data": "aGZfb2ZfdGhlX3N0b3Jl"}}).encode()
    return response
requests.adapters.HTTPAdapter.send = answer
"""


def test_the_hub_token_comes_from_googles_secret_store(tmp_path):
    """The node's own account asks, in its own project."""
    (config,) = yaml.safe_load_all((CLUSTER / "gcp.yaml").read_text())
    (tmp_path / "sitecustomize.py").write_text(SECRET_MANAGER)
    machine = PretendedMachine(tmp_path / "machine", CLUSTER / "Dockerfile")
    with cloud_metadata() as metadata:
        address = metadata.url.removeprefix("http://")
        environment = machine.environment(
            GCE_METADATA_HOST=address, GCE_METADATA_IP=address, PYTHONPATH=str(tmp_path), NO_PROXY="127.0.0.1"
        )
        for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
            assert exported(config[commands][1], environment) == "hf_of_the_store"
