"""JSON Schemas of the parts of KubeRay's RayCluster and RayJob that are Ray's own, for KubeRay 1.6 and newer.

Written by hand after the fields, types and enumerations of KubeRay's API reference (``ray.io/v1``); it is not KubeRay's CRD.
Pod templates are left open here: Kubernetes' own schemas check them.
"""

from __future__ import annotations

from typing import Any

TEXT = {"type": "string"}
FLAG = {"type": "boolean"}
COUNT = {"type": "integer", "minimum": 0}
OBJECT = {"type": "object"}
TEXTS = {"type": "object", "additionalProperties": TEXT}


def _closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


def _choice(*values: str) -> dict[str, Any]:
    return {"enum": list(values)}


AUTOSCALER_OPTIONS = _closed(
    [],
    resources=OBJECT,
    image=TEXT,
    imagePullPolicy=_choice("Always", "IfNotPresent", "Never"),
    securityContext=OBJECT,
    idleTimeoutSeconds=COUNT,
    upscalingMode=_choice("Default", "Aggressive", "Conservative"),
    version=_choice("v1", "v2"),
    env={"type": "array"},
    envFrom={"type": "array"},
    volumeMounts={"type": "array"},
)

HEAD_GROUP = _closed(
    ["template"],
    template=OBJECT,
    headService=OBJECT,
    enableIngress=FLAG,
    rayStartParams=TEXTS,
    serviceType=_choice("ClusterIP", "NodePort", "LoadBalancer"),
)

WORKER_GROUP = _closed(
    ["groupName", "template", "minReplicas", "maxReplicas"],
    suspend=FLAG,
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    idleTimeoutSeconds=COUNT,
    rayStartParams=TEXTS,
    template=OBJECT,
    scaleStrategy=OBJECT,
    numOfHosts=COUNT,
)

CLUSTER_SPEC = _closed(
    ["headGroupSpec"],
    suspend=FLAG,
    managedBy=TEXT,
    authOptions=_closed([], mode=_choice("disabled", "token")),
    autoscalerOptions=AUTOSCALER_OPTIONS,
    headServiceAnnotations=TEXTS,
    enableInTreeAutoscaling=FLAG,
    gcsFaultToleranceOptions=OBJECT,
    headGroupSpec=HEAD_GROUP,
    rayVersion=TEXT,
    workerGroupSpecs={"type": "array", "items": WORKER_GROUP},
)

JOB_SPEC = _closed(
    [],
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    backoffLimit=COUNT,
    rayClusterSpec=CLUSTER_SPEC,
    submitterPodTemplate=OBJECT,
    metadata=TEXTS,
    clusterSelector=TEXTS,
    submitterConfig=_closed([], backoffLimit=COUNT),
    managedBy=TEXT,
    deletionStrategy=OBJECT,
    entrypoint=TEXT,
    runtimeEnvYAML=TEXT,
    jobId=TEXT,
    submissionMode=_choice("K8sJobMode", "HTTPMode", "InteractiveMode"),
    entrypointResources=TEXT,
    entrypointNumCpus={"type": "number", "minimum": 0},
    entrypointNumGpus={"type": "number", "minimum": 0},
    ttlSecondsAfterFinished=COUNT,
    shutdownAfterJobFinishes=FLAG,
    suspend=FLAG,
)


def _resource(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return _closed(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata=OBJECT,
        spec=spec,
    )


SCHEMAS = {"RayCluster": _resource("RayCluster", CLUSTER_SPEC), "RayJob": _resource("RayJob", JOB_SPEC)}
