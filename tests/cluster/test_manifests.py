"""The deploy files against the schemas of those who read them, against each other, and against what must stay closed."""

from __future__ import annotations

import json
import re
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from dockerfile_parse import DockerfileParser
from kuberay_schema import SCHEMAS

from schemas.job import Job

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
MANIFESTS = sorted((CLUSTER / "kubernetes").glob("*.yaml"))
KUBERNETES = "1.37"
PRIVATE_ADDRESSES = ("127.0.0.1", "localhost")


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def manifest(kind: str) -> dict[str, Any]:
    (found,) = (document for path in MANIFESTS for document in documents(path) if document["kind"] == kind)
    return found


def aws() -> dict[str, Any]:
    return dict(yaml.safe_load((CLUSTER / "aws.yaml").read_text()))


def job() -> Job:
    return Job.model_validate(yaml.safe_load(manifest("ConfigMap")["data"]["job.yaml"]))


def pod_templates(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Component → pod template, of a RayCluster or a RayJob."""
    spec = document["spec"]
    cluster = spec.get("rayClusterSpec", spec)
    templates = {"head": cluster["headGroupSpec"]["template"]}
    templates |= {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return templates | ({"submitter": spec["submitterPodTemplate"]} if "submitterPodTemplate" in spec else {})


def every_pod() -> list[tuple[str, dict[str, Any]]]:
    return [pair for kind in SCHEMAS for pair in pod_templates(manifest(kind)).items()]


def containers() -> list[tuple[str, dict[str, Any]]]:
    return [(name, container) for name, pod in every_pod() for container in pod["spec"]["containers"]]


# --- Schemas


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_every_manifest_is_what_its_schema_asks(path: Path) -> None:
    for document in documents(path):
        if document["kind"] in SCHEMAS:
            jsonschema.validate(document, SCHEMAS[document["kind"]])
            for template in pod_templates(document).values():
                kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod"} | template, KUBERNETES, strict=True)
        else:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_a_misspelt_field_is_found() -> None:
    document = manifest("RayJob")
    document["spec"]["backOffLimit"] = 3
    with pytest.raises(jsonschema.ValidationError, match="backOffLimit"):
        jsonschema.validate(document, SCHEMAS["RayJob"])
    pod = pod_templates(manifest("RayCluster"))["head"]
    pod["spec"]["containers"][0]["imagePullPolice"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError, match="imagePullPolice"):
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod"} | pod, KUBERNETES, strict=True)


def test_the_launcher_takes_the_aws_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(aws())
    validate_config(prepared)
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        validate_config(prepared | {"max_worker": 3})


def test_ec2_takes_every_node_of_the_aws_file() -> None:
    """By the service's own model, as its client checks a request before it is sent."""
    from botocore.session import get_session
    from botocore.validate import ParamValidator

    asked = get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for name, node in aws()["available_node_types"].items():
        report = ParamValidator().validate(node["node_config"] | {"MinCount": 1, "MaxCount": 1}, asked)
        assert not report.has_errors(), (name, report.generate_report())
        assert node["node_config"]["IamInstanceProfile"].keys() == {"Name"}


@pytest.fixture(scope="module")
def derived() -> dict[str, Any]:
    """What Ray's own autoscaler makes of the RayCluster: node type → resources and counts."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
    from ray.autoscaler._private.util import validate_config

    config = _derive_autoscaling_config_from_ray_cr(manifest("RayCluster"))
    validate_config(config)
    return dict(config["available_node_types"])


# --- The job fits the machines


def nodes(of: str, derived: dict[str, Any]) -> dict[str, Any]:
    """head, teach and decode → ``resources`` and ``max_workers``."""
    if of == "aws":
        return dict(aws()["available_node_types"])
    return {"head" if name == "headgroup" else name: node for name, node in derived.items()}


@pytest.mark.parametrize("of", ["aws", "kubernetes"])
def test_the_job_fits_the_nodes(of: str, derived: dict[str, Any]) -> None:
    engine, found = job().engine, nodes(of, derived)
    head, teach, decode = found["head"], found["teach"], found["decode"]
    assert head["resources"]["CPU"] == 0, "the driver's node must stay free for it"
    assert head["resources"].get("GPU", 0) == 0
    assert teach["max_workers"] * teach["resources"]["GPU"] >= engine.teachers * engine.gpus_per_teacher
    per_node = teach["resources"]["GPU"] / engine.gpus_per_teacher
    assert teach["resources"]["CPU"] >= per_node * engine.cpus_per_teacher
    decoders = engine.teachers * engine.decoders
    assert decode["max_workers"] * decode["resources"]["CPU"] >= decoders
    for resource, amount in engine.decoder_resources.items():
        assert decode["max_workers"] * decode["resources"][resource] >= decoders * amount
        assert resource not in teach["resources"], "decoding must not take the teachers' cores"
    assert {node["min_workers"] for node in found.values()} == {0}, "a cluster without work must cost its head alone"


def test_shared_memory_holds_the_object_store() -> None:
    gib = 2**30
    starts = [
        line for key in ("head_start_ray_commands", "worker_start_ray_commands") for line in aws()[key] if "start" in line
    ]
    (size,) = (re.fullmatch(r"--shm-size=(\d+)g", option)[1] for option in aws()["docker"]["run_options"] if "shm" in option)
    for line in starts:
        assert int(re.search(r"--object-store-memory=(\d+)", line)[1]) < int(size) * gib
    cluster = manifest("RayCluster")["spec"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        (shm,) = (volume for volume in group["template"]["spec"]["volumes"] if volume["name"] == "shm")
        assert shm["emptyDir"]["medium"] == "Memory"
        limit = int(shm["emptyDir"]["sizeLimit"].removesuffix("Gi")) * gib
        assert int(group["rayStartParams"]["object-store-memory"]) < limit
        memory = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"].removesuffix("Gi")) * gib
        assert limit < memory, "what lies in /dev/shm counts against the container"


def test_a_run_has_its_grace_before_it_is_killed() -> None:
    grace = job().engine.grace_seconds
    for name, pod in every_pod():
        if name == "submitter":
            continue
        (container,) = pod["spec"]["containers"]
        waits = [
            int(n) for n in re.findall(r"(?:timeout|sleep) (\d\d+)", container["lifecycle"]["preStop"]["exec"]["command"][-1])
        ]
        assert waits, name
        assert grace <= max(waits) < pod["spec"]["terminationGracePeriodSeconds"], name
    assert grace < float(image_environment()["RAY_JOB_STOP_WAIT_TIME_S"]), "`ray job stop` kills after that"


# --- Closed to the outside


def test_the_dashboard_and_every_port_are_closed_to_the_outside() -> None:
    head = aws()["head_start_ray_commands"][-1]
    assert re.search(r"--dashboard-host=(\S+)", head)[1] in PRIVATE_ADDRESSES
    assert all("SecurityGroupIds" in node["node_config"] for node in aws()["available_node_types"].values()), (
        "the group that Ray makes by itself lets 0.0.0.0/0 at SSH"
    )
    assert "security_group" not in aws()["provider"]
    assert not any(re.search(r"-p\b|--publish", option) for option in aws()["docker"]["run_options"])

    for kind in SCHEMAS:
        spec = manifest(kind)["spec"]
        head_group = spec.get("rayClusterSpec", spec)["headGroupSpec"]
        assert (head_group["serviceType"], head_group["enableIngress"]) == ("ClusterIP", False)
    assert {d["kind"] for path in MANIFESTS for d in documents(path)}.isdisjoint({"Ingress", "Service", "Gateway", "HTTPRoute"})
    for _, pod in every_pod():
        assert not pod["spec"].keys() & {"hostNetwork", "hostPID", "hostIPC"}
        assert not any("hostPort" in port for c in pod["spec"]["containers"] for port in c.get("ports", []))
        assert not any("hostPath" in volume for volume in pod["spec"].get("volumes", []))


def test_ray_serves_nobody_without_its_token() -> None:
    assert "--env RAY_AUTH_MODE=token" in aws()["docker"]["run_options"]
    user = re.search(r"useradd .* (\w+)", (CLUSTER / "Containerfile").read_text())[1]
    home = f"/home/{user}"
    assert aws()["file_mounts"][f"{home}/.ray/auth_token"] == "~/.ray/auth_token", "where Ray looks for it"
    assert manifest("RayCluster")["spec"]["authOptions"] == {"mode": "token"}


def test_only_the_cluster_and_the_operator_reach_the_pods() -> None:
    policy = manifest("NetworkPolicy")
    assert policy["metadata"]["namespace"] == manifest("RayJob")["metadata"]["namespace"]
    assert policy["spec"]["podSelector"] == {}, "every pod of the namespace"
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    own, operator = policy["spec"]["ingress"]
    (label,) = own["from"][0]["podSelector"]["matchLabels"].items()
    assert own["from"][0].keys() == {"podSelector"}, "of this namespace alone"
    assert all(label in pod["metadata"]["labels"].items() for _, pod in every_pod())
    assert all(
        source["namespaceSelector"]["matchLabels"] and source["podSelector"]["matchLabels"] for source in operator["from"]
    )
    dashboard = {port["containerPort"] for _, c in containers() for port in c.get("ports", []) if port["name"] == "dashboard"}
    assert {port["port"] for port in operator["ports"]} == dashboard


def test_no_pod_is_root_or_may_become_it() -> None:
    (namespace,) = documents(CLUSTER / "kubernetes" / "namespace.yaml")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    sidecar = manifest("RayCluster")["spec"]["autoscalerOptions"]["securityContext"]
    for name, pod in every_pod():
        for container in pod["spec"]["containers"]:
            context = pod["spec"]["securityContext"] | container["securityContext"]
            assert context["runAsNonRoot"] is True, name
            assert context["runAsUser"] == sidecar["runAsUser"] == int(image_user()), name
            assert context["allowPrivilegeEscalation"] is sidecar["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == sidecar["capabilities"] == {"drop": ["ALL"]}, name
            assert context["seccompProfile"] == sidecar["seccompProfile"] == {"type": "RuntimeDefault"}, name
            assert container["resources"].keys() == {"requests", "limits"}, name


CREDENTIAL = re.compile(
    r"\b(AKIA|ASIA)[A-Z0-9]{16}\b|-----BEGIN|(?i:secret_access_key|session_token|password)['\"]?\s*[:=]\s*['\"]?[^\s,'\"]{4,}"
)


@pytest.mark.parametrize(
    "secret", ["AKIAABCDEFGHIJKLMNOP", "AWS_SECRET_ACCESS_KEY: abcdef", "password=hunter22", "-----BEGIN KEY"]
)
def test_a_credential_would_be_found(secret: str) -> None:
    assert CREDENTIAL.search(secret)


def test_no_file_holds_a_credential() -> None:
    files = [path for path in CLUSTER.rglob("*") if path.is_file() and path.suffix in {".yaml", ".json"}]
    assert len(files) > 10
    for path in [*files, CLUSTER / "Containerfile", ROOT / "docs" / "guides" / "deploy.md"]:
        assert not CREDENTIAL.search(path.read_text()), path
    for name, container in containers():
        assert not container.get("env"), name
        assert all(source.keys() == {"secretRef"} for source in container.get("envFrom", [])), name


# --- The files agree with each other


def test_the_job_s_cluster_and_the_standing_one_are_the_same() -> None:
    assert manifest("RayJob")["spec"]["rayClusterSpec"] == manifest("RayCluster")["spec"]


def test_one_image_and_one_ray_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    images = {container["image"] for _, container in containers()} | {aws()["docker"]["image"]}
    assert images == {f"REGISTRY/p4d-cache:{project['version']}"}
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert manifest("RayCluster")["spec"]["rayVersion"] == pinned[1]


def test_the_run_s_command_finds_its_job_where_the_pods_have_it() -> None:
    words = manifest("RayJob")["spec"]["entrypoint"].split()
    assert words[:2] == ["teacher-cache", "run"]
    head = pod_templates(manifest("RayJob"))["head"]["spec"]
    (mount,) = (m for m in head["containers"][0]["volumeMounts"] if m["name"] == "job")
    (volume,) = (v for v in head["volumes"] if v["name"] == "job")
    assert volume["configMap"]["name"] == manifest("ConfigMap")["metadata"]["name"]
    assert words[2:] == [f"{mount['mountPath']}/{name}" for name in manifest("ConfigMap")["data"]]
    accounts = {d["metadata"]["name"] for d in documents(CLUSTER / "kubernetes" / "service-account.yaml")}
    assert {pod["spec"]["serviceAccountName"] for _, pod in every_pod()} == accounts
    assert job().engine.kind == "ray"
    for name, pod in every_pod():
        mounted = {m["name"] for c in pod["spec"]["containers"] for m in c.get("volumeMounts", [])}
        assert mounted == {v["name"] for v in pod["spec"].get("volumes", [])}, name


def test_the_nodes_keep_weights_where_their_volume_is() -> None:
    for name, container in containers():
        if name != "submitter":
            mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
            assert mounts["cache"] == image_environment()["P4D_CACHE_DIR"]


# --- The container file


def instructions() -> list[dict[str, Any]]:
    from io import BytesIO

    return list(DockerfileParser(fileobj=BytesIO((CLUSTER / "Containerfile").read_bytes())).structure)


def image_environment() -> dict[str, str]:
    (line,) = (step["value"] for step in instructions() if step["instruction"] == "ENV")
    return dict(pair.split("=", 1) for pair in line.split())


def image_user() -> str:
    return [step["value"] for step in instructions() if step["instruction"] == "USER"][-1].split(":")[0]


def test_the_container_file_copies_what_there_is_and_ends_without_root() -> None:
    steps = instructions()
    for step in steps:
        if step["instruction"] == "COPY" and "--from" not in step["value"]:
            *sources, _ = step["value"].split()
            assert all((ROOT / source).exists() for source in sources), step["value"]
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    copied = {word for step in steps if step["instruction"] == "COPY" for word in step["value"].split()}
    assert {package.rstrip("*") for package in packages} <= copied
    user = [n for n, step in enumerate(steps) if step["instruction"] == "USER"]
    assert int(image_user()) > 0
    assert not any(step["instruction"] in {"RUN", "COPY", "ADD"} for step in steps[user[-1] :])
    for step in steps:
        if step["instruction"] == "FROM":
            assert re.match(r"\S+:\$\{PYTHON_VERSION\}-slim-\w+", step["value"]), "pinned by version"
    assert json.loads(next(s["value"] for s in steps if s["instruction"] == "ENTRYPOINT"))[0] == "tini"


def test_every_file_of_cluster_is_in_the_package() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["cluster"]
    for path in CLUSTER.rglob("*"):
        name = str(path.relative_to(CLUSTER))
        if path.is_file() and path.suffix not in {".py", ".pyc"}:
            assert any(fnmatchcase(name, pattern) for pattern in patterns), name


# --- Rights


POLICIES = sorted((CLUSTER / "iam").glob("*.json"))


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_every_policy_names_its_actions_and_what_they_are_for(path: Path) -> None:
    policy = json.loads(path.read_text())
    assert policy["Version"] == "2012-10-17"
    for statement in policy["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert not any("*" in action for action in actions), statement["Sid"]
        if path.stem.startswith("trust-"):
            assert "*" not in json.dumps(statement["Principal"]), statement["Sid"]
            continue
        resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        if "*" in resources:
            assert all(action.startswith("ec2:Describe") for action in actions), "EC2 describes have no resources to name"
            assert statement["Condition"]["StringEquals"]["aws:RequestedRegion"], statement["Sid"]
        else:
            assert all(resource.split(":", 5)[5].split("/")[0] not in {"", "*"} for resource in resources), statement["Sid"]


def test_the_autoscaler_starts_and_ends_only_its_own_cluster() -> None:
    statements = json.loads((CLUSTER / "iam" / "autoscaler.json").read_text())["Statement"]
    changing = [s for s in statements if not str(s["Action"]).startswith("['ec2:Describe")]
    for statement in changing:
        on_instances = "instance/*" in json.dumps(statement["Resource"]).replace("spot-instances-request", "")
        if on_instances:
            keys = " ".join(statement["Condition"]["StringEquals"])
            assert re.search(r"aws:(Request|Resource)Tag/ray-cluster-name", keys), statement["Sid"]
    (passed,) = (s for s in statements if s["Action"] == "iam:PassRole")
    workers = {
        node["node_config"]["IamInstanceProfile"]["Name"] for n, node in aws()["available_node_types"].items() if n != "head"
    }
    assert {passed["Resource"].rsplit("/", 1)[1]} == workers
    (head,) = (
        s for s in json.loads((CLUSTER / "iam" / "launcher.json").read_text())["Statement"] if s["Action"] == "iam:PassRole"
    )
    assert (
        head["Resource"].rsplit("/", 1)[1] == aws()["available_node_types"]["head"]["node_config"]["IamInstanceProfile"]["Name"]
    )


def test_the_trust_names_the_pods_accounts() -> None:
    (statement,) = json.loads((CLUSTER / "iam" / "trust-kubernetes.json").read_text())["Statement"]
    subjects = statement["Condition"]["StringEquals"]["OIDC_PROVIDER:sub"]
    accounts = documents(CLUSTER / "kubernetes" / "service-account.yaml")
    assert subjects == [f"system:serviceaccount:{a['metadata']['namespace']}:{a['metadata']['name']}" for a in accounts]
