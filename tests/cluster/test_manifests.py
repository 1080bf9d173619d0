"""The deploy files against the schemas of those who read them, against each other, and against what must stay closed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from importlib import metadata
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from dockerfile_parse import DockerfileParser
from kuberay_schema import SCHEMAS
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from schemas.job import Job

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
MANIFESTS = sorted((CLUSTER / "kubernetes").glob("*.yaml"))
KUBERNETES = "1.37"
PRIVATE_ADDRESSES = ("127.0.0.1", "localhost")


@cache
def _parsed(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def documents(path: Path) -> list[dict[str, Any]]:
    return deepcopy(_parsed(path))  # a test may change its own


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


def autoscaler() -> dict[str, Any]:
    """What the RayCluster says of the container that KubeRay adds to the head."""
    return dict(manifest("RayCluster")["spec"]["autoscalerOptions"])


def service_accounts() -> list[dict[str, Any]]:
    return documents(CLUSTER / "kubernetes" / "service-account.yaml")


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


def test_nothing_is_reached_but_what_ray_needs() -> None:
    for policy in policies():
        assert policy["metadata"]["namespace"] == manifest("RayJob")["metadata"]["namespace"]
    (closed,) = (policy["spec"] for policy in policies() if not policy["spec"]["podSelector"])
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}, "every pod of the namespace"
    nodes = ["head", "teach", "decode"]
    own = {name: Peer(labels=pod["metadata"]["labels"]) for name, pod in every_pod()}
    operator = Peer(labels={"app.kubernetes.io/name": "kuberay-operator"}, namespace="kuberay-system")
    assert own.keys() == {*nodes, "submitter"}
    for to, pod in own.items():
        for name, peer in own.items():
            for port in (6379, 8265, 8080, 31234):  # GCS, dashboard, metrics, a worker
                both = to in nodes and name in nodes
                submits = (name, to, port) == ("submitter", "head", 8265)
                assert passes("ingress", pod, peer, port) == passes("egress", peer, pod, port) == (both or submits)
        assert [port for port in (22, 443, 6379, 8265, 8080) if passes("ingress", pod, operator, port)] == (
            [8265] if to == "head" else []
        )
        for stranger in (Peer(labels={"app": "other"}), Peer(labels=pod.labels, namespace="other"), Peer("10.0.0.7")):
            assert not any(passes("ingress", pod, stranger, port) for port in (6379, 8265, 8080, 443))


@pytest.mark.parametrize("metadata", ["169.254.169.254", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23", "fe80::1"])
def test_no_pod_reaches_the_machine_s_metadata_service(metadata: str) -> None:
    for name, pod in every_pod():
        for port in (53, 80, 443, 988, 6443, 8265):
            assert not passes("egress", Peer(labels=pod["metadata"]["labels"]), Peer(metadata), port), (name, port)


@pytest.mark.parametrize(
    ("name", "ports"), [("head", [443, 6443]), ("teach", [443]), ("decode", [443]), ("submitter", [])], ids=str
)
def test_pods_reach_s3_and_names_and_the_autoscaler_kubernetes(name: str, ports: list[int]) -> None:
    pod = Peer(labels=dict(every_pod())[name]["metadata"]["labels"])
    for address in ("52.216.0.1", "2600:1f18::1", "10.100.0.1"):
        assert [port for port in (22, 80, 443, 6443, 10250) if passes("egress", pod, Peer(address), port)] == ports
    assert passes("egress", pod, Peer(labels={"k8s-app": "kube-dns"}, namespace="kube-system"), 53)


@dataclass(frozen=True)
class Peer:
    """A pod, or an address outside the cluster."""

    address: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = "p4d-cache"


def policies() -> list[dict[str, Any]]:
    return _parsed(CLUSTER / "kubernetes" / "network-policy.yaml")


def passes(direction: str, pod: Peer, peer: Peer, port: int) -> bool:
    """Whether the policies let this through: all, if none is for the pod and the direction, or what a rule of one says."""
    specs = [
        policy["spec"]
        for policy in policies()
        if direction.title() in policy["spec"]["policyTypes"] and is_selected(policy["spec"]["podSelector"], pod.labels)
    ]
    side = {"ingress": "from", "egress": "to"}[direction]
    return not specs or any(
        port in {p["port"] for p in rule.get("ports", [{"port": port}])} and any(is_peer(one, peer) for one in rule[side])
        for spec in specs
        for rule in spec.get(direction, [])
    )


def is_peer(rule: dict[str, Any], peer: Peer) -> bool:
    if "ipBlock" in rule:
        if peer.address is None:
            return False
        address = ip_address(peer.address)
        inside, *without = (ip_network(net) for net in (rule["ipBlock"]["cidr"], *rule["ipBlock"].get("except", [])))
        return address in inside and not any(address in net for net in without)
    of = rule.get("namespaceSelector", {"matchLabels": {"kubernetes.io/metadata.name": "p4d-cache"}})
    return (
        peer.address is None
        and is_selected(of, {"kubernetes.io/metadata.name": peer.namespace})
        and is_selected(rule["podSelector"], peer.labels)
    )


def is_selected(selector: dict[str, Any], labels: Mapping[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels", "matchExpressions"}
    assert all(e["operator"] == "In" for e in selector.get("matchExpressions", []))
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", [])
    )


def test_no_pod_is_root_or_may_become_it() -> None:
    (namespace,) = documents(CLUSTER / "kubernetes" / "namespace.yaml")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, pod in every_pod():
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, "init containers too"
        for container in (*pod["spec"]["containers"], autoscaler()):
            context = pod["spec"]["securityContext"] | container["securityContext"]
            assert context["runAsNonRoot"] is True, name
            assert context["runAsUser"] == int(image_user()), name
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert "privileged" not in context, name


GIB = {"Mi": 2**-10, "Gi": 1.0}


def gib(quantity: str) -> float:
    return float(quantity[:-2]) * GIB[quantity[-2:]]


def test_all_that_a_pod_writes_is_bounded_and_asked_for() -> None:
    for name, pod in every_pod():
        volumes = {v["name"]: v for v in pod["spec"]["volumes"]}
        for volume in volumes.values():
            assert volume.keys() - {"name"} <= {"emptyDir", "configMap", "projected"}, name
        limits = {v["name"]: gib(v["emptyDir"]["sizeLimit"]) for v in volumes.values() if "emptyDir" in v}
        on_disk = {volume: limit for volume, limit in limits.items() if "medium" not in volumes[volume]["emptyDir"]}
        (container,) = pod["spec"]["containers"]
        written = {m["mountPath"]: m["name"] for m in container["volumeMounts"] if not m.get("readOnly")}
        assert written.keys() >= ({"/tmp"} if name == "submitter" else {"/tmp", "/dev/shm", "/cache"}), name
        assert set(written.values()) == limits.keys(), name
        for resources in (container["resources"], autoscaler()["resources"]):
            assert resources["requests"]["ephemeral-storage"] == resources["limits"]["ephemeral-storage"], name
        assert gib(container["resources"]["limits"]["ephemeral-storage"]) >= sum(on_disk.values()) + 0.5, "and its logs"
        assert gib(container["resources"]["limits"]["ephemeral-storage"]) < disk_of_an_aws_node(), name
    (head,) = (pod for name, pod in pod_templates(manifest("RayCluster")).items() if name == "head")
    by_path = {m["mountPath"]: m["name"] for m in head["spec"]["containers"][0]["volumeMounts"]}
    assert by_path["/tmp/ray"] == "ray-logs", "KubeRay adds a volume of this name, without a limit, where it finds none"


def disk_of_an_aws_node() -> float:
    (size,) = {
        node["node_config"]["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] for node in aws()["available_node_types"].values()
    }
    return float(size)


TOKENS = "/var/run/secrets/kubernetes.io/serviceaccount"


def test_the_autoscaler_alone_has_a_token_for_kubernetes() -> None:
    for account in service_accounts():
        assert account["automountServiceAccountToken"] is False, account["metadata"]["name"]
    for name, pod in every_pod():
        assert pod["spec"]["automountServiceAccountToken"] is False, name
        tokens = {v["name"] for v in pod["spec"]["volumes"] if "serviceAccountToken" in str(v)}
        mounted = {m["name"] for c in pod["spec"]["containers"] for m in c["volumeMounts"]}
        assert not tokens & mounted, name
        assert len(tokens) == (name == "head"), name
    (mount,) = (m for m in autoscaler()["volumeMounts"] if m["mountPath"] == TOKENS)
    head = pod_templates(manifest("RayCluster"))["head"]
    (volume,) = (v for v in head["spec"]["volumes"] if v["name"] == mount["name"])
    given = {path for source in volume["projected"]["sources"] for path in re.findall(r"'path': '([\w.]+)'", str(source))}
    from ray.autoscaler._private.kuberay import node_provider

    for path in (node_provider.IN_CLUSTER_TOKEN_PATH, node_provider.IN_CLUSTER_CA_CERT_PATH):
        assert path.removeprefix(f"{TOKENS}/") in given
    assert {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}.isdisjoint(
        {document["kind"] for path in MANIFESTS for document in documents(path)}
    ), "KubeRay gives the head's account what its autoscaler needs: to read pods, and to change RayClusters"


def test_each_group_has_an_account_of_its_own() -> None:
    accounts = {a["metadata"]["name"]: a["metadata"].get("annotations", {}) for a in service_accounts()}
    for name, pod in every_pod():
        assert pod["spec"]["serviceAccountName"] == f"p4d-{name}"
    role = "arn:aws:iam::ACCOUNT:role/p4d-kubernetes-{}"
    assert accounts == {
        f"p4d-{group}": {"eks.amazonaws.com/role-arn": role.format(group)} for group in ("head", "teach", "decode")
    } | {"p4d-submitter": {}}
    secrets = {n: [s["secretRef"]["name"] for s in c.get("envFrom", [])] for n, c in containers()}
    assert secrets == {group: [f"p4d-s3-{group}"] for group in ("head", "teach", "decode")} | {"submitter": []}
    skipped = {n: pod["metadata"].get("annotations", {}).get("eks.amazonaws.com/skip-containers") for n, pod in every_pod()}
    assert skipped == {"head": "autoscaler", "teach": "wait-gcs-ready", "decode": "wait-gcs-ready", "submitter": None}


def test_a_pod_that_asks_for_no_gpu_sees_none() -> None:
    """The image asks its runtime for all of them; a device plugin says which, to those containers that request some."""
    for name, container in (*containers(), ("autoscaler", autoscaler())):
        asks = "nvidia.com/gpu" in container["resources"]["limits"]
        assert container.get("env", []) == ([] if asks else [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]), name


def test_on_ec2_the_machine_s_role_is_one_hop_away_by_tokens_alone() -> None:
    for name, node in aws()["available_node_types"].items():
        options = node["node_config"]["MetadataOptions"]
        assert options == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}, name
        assert node["node_config"]["IamInstanceProfile"] == {"Name": f"p4d-{name}"}, "a role for each kind of node"
    from ray.autoscaler._private.docker import docker_start_cmds

    started = docker_start_cmds("ubuntu", "image", {}, "name", aws()["docker"]["run_options"], "cluster", "/home/p4d", "docker")
    assert "--net=host" in started, "a hop fewer than through Docker's bridge"
    assert "--cap-drop=ALL" in started
    assert "--security-opt=no-new-privileges" in started


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
        assert all(source.keys() == {"secretRef"} for source in container.get("envFrom", [])), name


# --- The files agree with each other


def test_the_job_s_cluster_and_the_standing_one_are_the_same() -> None:
    assert manifest("RayJob")["spec"]["rayClusterSpec"] == manifest("RayCluster")["spec"]


def test_one_image_and_one_ray_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    images = {container["image"] for _, container in containers()} | {aws()["docker"]["image"]}
    assert images == {"REGISTRY/p4d-cache@sha256:FILL_IN"}, "by digest: what a tag names can change"
    page = (ROOT / "docs" / "guides" / "deploy.md").read_text()
    assert set(re.findall(r"p4d-cache:(\d[\w.]*)", page)) == {project["version"]}
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
    assert job().engine.kind == "ray"
    for name, pod in every_pod():
        beside = autoscaler()["volumeMounts"] if name == "head" else []
        mounted = {m["name"] for mounts in (*(c["volumeMounts"] for c in pod["spec"]["containers"]), beside) for m in mounts}
        assert mounted == {v["name"] for v in pod["spec"]["volumes"]}, name


def test_the_nodes_keep_weights_and_what_compilers_make_where_their_volume_is() -> None:
    kept = [path for name, path in image_environment().items() if "CACHE" in name]
    assert len(kept) == 4
    for name, container in containers():
        if name != "submitter":
            mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
            assert all(path.startswith(f"{mounts['cache']}/") for path in kept), "in folders of the user's own"


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
    assert json.loads(next(s["value"] for s in steps if s["instruction"] == "ENTRYPOINT"))[0] == "tini"


def test_the_base_image_is_named_by_a_digest_that_has_no_default() -> None:
    """With an empty digest, the name ends in ``@``, which no builder takes for a name."""
    steps = instructions()
    bases = [step["value"].partition(" AS ")[0] for step in steps if step["instruction"] == "FROM"]
    assert set(bases) == {"docker.io/library/python:${PYTHON_VERSION}-slim-bookworm@${PYTHON_DIGEST}"}
    assert [step["value"] for step in steps if step["instruction"] == "ARG"] == ["PYTHON_VERSION=3.11.14", "PYTHON_DIGEST"]
    commands = "\n".join(step["value"] for step in steps)
    assert not re.search(r"curl|https?://|\bADD\b", commands)


def test_every_package_of_the_image_is_named_by_its_hash_and_comes_from_one_index() -> None:
    installs = [re.split(r"\s+", step["value"]) for step in instructions() if "pip install" in step["value"]]
    locked, own = (set(words) for words in installs)
    assert {"--require-hashes", "requirements.lock", "--only-binary"} <= locked
    assert {"--no-index", "--no-deps", "--no-build-isolation", "."} <= own, "the project itself, by the lock's setuptools"
    words = (CLUSTER / "Containerfile").read_text() + LOCK.read_text()
    assert not re.search(r"index-url|find-links|trusted-host|://(?!…)", words)


LOCK = CLUSTER / "requirements.lock"


def locked() -> dict[str, tuple[Version, Marker | None, int]]:
    """Package → (version, marker, how many hashes), of the image's lock."""
    found = {}
    for entry in re.split(r"\n(?=\w)", re.sub(r"^\s*#.*\n?", "", LOCK.read_text(), flags=re.MULTILINE)):
        requirement = Requirement(entry.partition(" \\\n")[0])
        (pin,) = requirement.specifier
        assert pin.operator == "==", entry
        hashes = re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry)
        assert len(hashes) == entry.count("--hash"), entry
        found[canonicalize_name(requirement.name)] = Version(pin.version), requirement.marker, len(hashes)
    return found


def test_the_lock_has_all_that_the_image_needs_in_the_versions_of_the_tests() -> None:
    lock = locked()
    assert all(hashes for _, _, hashes in lock.values())
    tested = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    for name, version in ((canonicalize_name(name), Version(version)) for name, version in tested.items()):
        assert lock.get(name, (version,))[0] == version, name
    wanted = [Requirement("p4d-cache[cluster]")]
    seen: set[str] = set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        if name != "p4d-cache":
            assert name in lock, f"{requirement} is not in the lock; the deploy page says how to make it anew"
            assert requirement.specifier.contains(lock[name][0], prereleases=True), requirement
        wanted += _needs(requirement)


def _needs(requirement: Requirement) -> list[Requirement]:
    """What it needs on the image's machines, where it is installed here; the project's own, by its file."""
    if canonicalize_name(requirement.name) == "p4d-cache":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = [need for extra in requirement.extras for need in project["optional-dependencies"][extra]]
        return list(map(Requirement, project["dependencies"] + extras))
    try:
        found = [Requirement(need) for need in metadata.requires(requirement.name) or []]
    except metadata.PackageNotFoundError:
        return []
    on_image = {"sys_platform": "linux", "platform_system": "Linux", "python_version": "3.11", "python_full_version": "3.11.14"}
    extras = requirement.extras or {""}
    return [n for n in found if n.marker is None or any(n.marker.evaluate(on_image | {"extra": e}) for e in extras)]


def test_every_module_and_every_family_of_teachers_works_with_what_the_lock_installs(tmp_path: Path) -> None:
    """Here, where more is installed, in a process that does not find it."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "in_the_image.py", json.dumps([*locked(), "p4d-cache"]), tmp_path],
        capture_output=True, text=True, cwd=ROOT, check=False,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["wrong"] == {}
    assert {*tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["teacher_cache.teachers"]} <= {
        *found["families"]
    }


def test_a_gpu_s_decoder_and_compiler_are_in_the_image() -> None:
    environment = image_environment()
    assert environment["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert set(environment["NVIDIA_DRIVER_CAPABILITIES"].split(",")) == {"compute", "utility", "video"}
    last_stage = [n for n, step in enumerate(instructions()) if step["instruction"] == "FROM"][-1]
    installed = next(s["value"] for s in instructions()[last_stage:] if "apt-get install" in s["value"]).split()
    assert {"g++", "procps", "rsync", "tini", "wget"} <= set(installed)


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
    assert {resource.rsplit("/", 1)[1] for resource in passed["Resource"]} == workers
    (head,) = (
        s for s in json.loads((CLUSTER / "iam" / "launcher.json").read_text())["Statement"] if s["Action"] == "iam:PassRole"
    )
    assert (
        head["Resource"].rsplit("/", 1)[1] == aws()["available_node_types"]["head"]["node_config"]["IamInstanceProfile"]["Name"]
    )


def test_the_trust_names_one_group_s_account() -> None:
    (statement,) = json.loads((CLUSTER / "iam" / "trust-kubernetes.json").read_text())["Statement"]
    conditions = statement["Condition"]["StringEquals"]
    assert conditions["OIDC_PROVIDER:aud"] == "sts.amazonaws.com"
    subjects = {conditions["OIDC_PROVIDER:sub"].replace("GROUP", group) for group in ("head", "teach", "decode")}
    names = {f"system:serviceaccount:{a['metadata']['namespace']}:{a['metadata']['name']}" for a in service_accounts()}
    assert names - subjects == {"system:serviceaccount:p4d-cache:p4d-submitter"}


def test_who_may_overwrite_is_the_operator_alone() -> None:
    """Without the condition, a right to put is one to overwrite; only arrays' lengths need it of a run."""
    free = {
        (name, resource.partition(":::BUCKET/")[2])
        for name in ("reader", "teacher", "writer")
        for s in json.loads((CLUSTER / "iam" / f"{name}.json").read_text())["Statement"]
        if "s3:PutObject" in s["Action"] and "Condition" not in s
        for resource in ([s["Resource"]] if isinstance(s["Resource"], str) else s["Resource"])
    }
    pilots = "PREFIX.pilot-*"  # beside the store, and nothing that is committed
    assert free == {("writer", "PREFIX/*/zarr.json"), ("writer", pilots), ("teacher", pilots)}
    for name in ("reader", "teacher", "writer"):
        for statement in json.loads((CLUSTER / "iam" / f"{name}.json").read_text())["Statement"]:
            assert "Delete" not in str(statement["Action"]) or statement["Resource"].endswith(f"/{pilots}")
