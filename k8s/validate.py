#!/usr/bin/env python3
"""Builds the kustomizations and checks what comes out.

Usage: validate.py [FOLDER ...]      without folders: k8s/base, every k8s/overlays/* and every k8s/jobs/*

Each check is one thing about one object; each violation is one sentence. The last line reads
`N passed, N failed`, and the exit status is 1 when anything failed. Needs kustomize or kubectl, and
kubernetes-validate and PyYAML from PyPI. No cluster is asked: the schemas are the published ones,
and everything they cannot know is an invariant of ours below.
"""

import functools
import json
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

from manifests import (
    CALLS_PORT, HEALTH_PORT, K8S, NAMESPACE, WORKLOADS, Tally,
    build, find, kinds, label, pinned, settings, source, variables,
)
from scaling import ScaledObject, check_scaling, scaler_of
from synthesis_job import check_job

SERVICES = ("promptgen", "diffusion", "dialogue", "trainer", "eval")
# The oldest version that has every field used here switched on (the preStop sleep), and the newest known.
KUBERNETES_VERSIONS = ("1.30", kubernetes_validate.latest_version())
# Those with jobs: a job lives on the board of the one pod that took it.
SERVICES_WITH_JOBS = ("trainer", "eval")
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def main(folders):
    tally = Tally()
    everything = [K8S / "base", *sorted((K8S / "overlays").glob("*/")), *sorted((K8S / "jobs").glob("*/"))]
    for folder in folders or everything:
        objects = build(Path(folder), tally)
        if objects is not None:
            check_all(objects, tally, surroundings(objects))
    print(f"{tally.passed} passed, {len(tally.violations)} failed")
    return 1 if tally.violations else 0


def surroundings(objects):
    """What stands in the cluster beside the objects: for a Job that comes alone, the base."""
    return () if kinds(objects, "Deployment") else build(K8S / "base", Tally())


def check_all(objects, tally, around=()):
    """Every check there is, over the objects of one kustomization. What is `around` counts as there."""
    present = [*objects, *around]
    for item in objects:
        check_schema(item, tally)
        check_namespace(item, tally)
    check_no_insecure(objects, tally)
    check_references(objects, present, tally)
    check_network(objects, present, tally)
    for workload in kinds(objects, *WORKLOADS):
        check_pod(workload, tally)
    for job in kinds(objects, "Job"):
        check_job(job, present, tally)
    if not around:
        check_environment_is_read(objects, tally)
        for name in SERVICES:
            check_service(objects, name, tally)
    check_scaling(objects, SERVICES_WITH_JOBS, tally)


# Schemas


def check_schema(item, tally):
    for version in KUBERNETES_VERSIONS:
        problem = schema_problem(json.dumps(item, sort_keys=True, default=str), version)
        tally.check(problem is None, f"{label(item)} is not valid in Kubernetes {version}: {problem}")


@functools.cache
def schema_problem(text, version):
    """What is wrong with an object, given as JSON. Kept, since overlays repeat most of the base."""
    item = json.loads(text)
    if item["kind"] == "ScaledObject":
        return schema_problem(json.dumps(ScaledObject(item).as_autoscaler(), sort_keys=True), version)
    try:
        kubernetes_validate.validate(item, version, strict=True)
    except jsonschema.ValidationError as error:
        return f"{'.'.join(map(str, error.path)) or 'top level'}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError:
        return f"no schema for {item.get('apiVersion')} {item.get('kind')}"
    return None


def check_namespace(item, tally):
    if item["kind"] != "Namespace":
        where = item["metadata"].get("namespace")
        tally.check(where == NAMESPACE, f"{label(item)} is in namespace {where}, not {NAMESPACE}")


# Every pod


def check_pod(workload, tally):
    who, pod = label(workload), workload["spec"]["template"]["spec"]
    security = pod.get("securityContext", {})
    tally.check(security.get("runAsNonRoot") is True, f"{who} may run as root")
    tally.check(security.get("runAsUser", 0) > 0, f"{who} names no user above 0")
    tally.check(
        security.get("seccompProfile", {}).get("type") == "RuntimeDefault",
        f"{who} does not ask for the RuntimeDefault seccomp profile",
    )
    tally.check(
        pod.get("automountServiceAccountToken") is False, f"{who} mounts a service account token"
    )
    tally.check(
        pod.get("enableServiceLinks") is False, f"{who} takes environment variables from Services"
    )
    shared = [key for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    tally.check(not shared, f"{who} shares the node's {', '.join(shared)}")
    kinds_of_volumes = {kind for volume in pod.get("volumes", []) for kind in volume if kind != "name"}
    allowed = {"emptyDir", "secret", "configMap", "persistentVolumeClaim", "projected"}
    strange = ", ".join(kinds_of_volumes - allowed)
    tally.check(not strange, f"{who} mounts a volume of kind {strange}")
    unbounded = [v["name"] for v in pod.get("volumes", []) if not bounded(v)]
    tally.check(not unbounded, f"{who} has an emptyDir without sizeLimit: {', '.join(unbounded)}")
    for container in pod.get("initContainers", []) + pod["containers"]:
        check_container(who, pod, container, tally)


def bounded(volume):
    return "emptyDir" not in volume or "sizeLimit" in (volume["emptyDir"] or {})


def check_container(who, pod, container, tally):
    who = f"{who}, container {container['name']},"
    security = container.get("securityContext", {})
    tally.check(
        security.get("allowPrivilegeEscalation") is False, f"{who} allows privilege escalation"
    )
    tally.check(security.get("readOnlyRootFilesystem") is True, f"{who} can write its root")
    tally.check(not security.get("privileged"), f"{who} is privileged")
    capabilities = security.get("capabilities", {})
    tally.check(capabilities.get("drop") == ["ALL"], f"{who} does not drop ALL capabilities")
    tally.check(not capabilities.get("add"), f"{who} adds capabilities")
    tally.check(pinned(container["image"]), f"{who} runs {container['image']}, which is not pinned")
    resources = container.get("resources", {})
    for bound in ("requests", "limits"):
        missing = [what for what in ("cpu", "memory") if what not in resources.get(bound, {})]
        tally.check(not missing, f"{who} has no {bound} for {' and '.join(missing)}")
    secret_volumes = {v["name"] for v in pod.get("volumes", []) if "secret" in v}
    for mount in container.get("volumeMounts", []):
        if mount["name"] in secret_volumes:
            tally.check(
                mount.get("readOnly") is True, f"{who} mounts Secret {mount['name']} writable"
            )


# The five services


def check_service(objects, name, tally):
    deployment = find(objects, "Deployment", name)
    service = find(objects, "Service", name)
    account = find(objects, "ServiceAccount", name)
    for kind, item in (("Deployment", deployment), ("Service", service), ("ServiceAccount", account)):
        tally.check(item is not None, f"{name} has no {kind}")
    if deployment is None or service is None or account is None:
        return
    pod = deployment["spec"]["template"]["spec"]
    tally.check(account.get("automountServiceAccountToken") is False, f"{label(account)} hands out its token")
    tally.check(pod.get("serviceAccountName") == name, f"{name} does not run under its own account")
    check_headless(service, deployment, tally)
    check_probes(name, pod["containers"][0], tally)
    check_scrape(name, deployment["spec"]["template"]["metadata"], tally)
    check_stop(name, pod, settings(objects, pod), tally)
    check_guards(name, pod, settings(objects, pod), tally)
    check_budget(objects, deployment, tally)
    check_artefacts(name, pod, settings(objects, pod), tally)
    if name in SERVICES_WITH_JOBS:
        check_single(name, deployment["spec"], tally)


def check_headless(service, deployment, tally):
    name, spec = label(service), service["spec"]
    tally.check(spec.get("clusterIP") == "None", f"{name} is not headless: clients would stick to one pod")
    selected = spec.get("selector", {}).items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    tally.check(selected, f"{name} selects other pods than those of its Deployment")
    for port in spec["ports"]:
        tally.check(port["port"] == CALLS_PORT, f"{name} shows port {port['port']}, which is not that of calls")
        tally.check(port.get("appProtocol") == "https", f"{name} does not say that its port speaks TLS")


def check_probes(name, container, tally):
    for kind in PROBES:
        port = container.get(kind, {}).get("grpc", {}).get("port")
        tally.check(port == HEALTH_PORT, f"{name} has no gRPC {kind} on port {HEALTH_PORT}")


def check_scrape(name, metadata, tally):
    annotations = metadata.get("annotations", {})
    wanted = {"prometheus.io/scrape": "true", "prometheus.io/port": str(HEALTH_PORT)}
    tally.check(wanted.items() <= annotations.items(), f"{name} is not scraped on port {HEALTH_PORT}")


def check_stop(name, pod, environment, tally):
    pre_stop = pod["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    drain = int(environment.get("DIPTYCH_DRAIN_TIMEOUT_SECONDS", 25))
    grace = pod.get("terminationGracePeriodSeconds", 30)
    tally.check(pre_stop > 0, f"{name} stops before its address has left the Service")
    tally.check(
        grace > pre_stop + drain,
        f"{name} is killed after {grace} s, before {pre_stop} s of preStop and {drain} s of drain are over",
    )


def check_guards(name, pod, environment, tally):
    """TLS with client certificates, and a token, each from a mounted Secret."""
    secrets = {volume["name"] for volume in pod["volumes"] if "secret" in volume}
    folders = [
        mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"] if mount["name"] in secrets
    ]
    for kind in ("TLS_CERT", "TLS_KEY", "TLS_CLIENT_CA", "TOKEN"):
        variable = f"DIPTYCH_{kind}_FILE"
        path = environment.get(variable, "")
        from_secret = any(path.startswith(folder + "/") for folder in folders)
        tally.check(from_secret, f"{name}: {variable} is {path!r}, which is in no mounted Secret")
    for variable, port in (("DIPTYCH_LISTEN", CALLS_PORT), ("DIPTYCH_HEALTH_LISTEN", HEALTH_PORT)):
        address = environment.get(variable)
        tally.check(address == f"0.0.0.0:{port}", f"{name}: {variable} is {address!r}, not 0.0.0.0:{port}")


def check_budget(objects, deployment, tally):
    name, scaler = deployment["metadata"]["name"], scaler_of(objects, deployment)
    replicas = scaler.least if scaler else deployment["spec"].get("replicas", 1)
    has_budget = find(objects, "PodDisruptionBudget", name) is not None
    text = f"{name} has {replicas} replica(s) and {'a' if has_budget else 'no'} PodDisruptionBudget"
    tally.check(has_budget == (replicas > 1), text)


def check_artefacts(name, pod, environment, tally):
    """Whoever is told of the artefact root mounts it, and nobody else does."""
    volumes = {v["name"] for v in pod["volumes"] if v.get("persistentVolumeClaim", {}).get("claimName") == "artefacts"}
    mounted = [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"] if mount["name"] in volumes]
    told = [root for root in [environment.get("DIPTYCH_ARTEFACT_ROOTS")] if root]
    tally.check(mounted == told, f"{name} mounts artefacts at {mounted} and is told of them at {told}")


def check_single(name, spec, tally):
    """A second pod, also one that a rollout brings for a moment, knows nothing of the first one's jobs."""
    replicas, strategy = spec.get("replicas", 1), spec.get("strategy", {}).get("type", "RollingUpdate")
    tally.check(replicas == 1, f"{name} has jobs and {replicas} replicas")
    tally.check(strategy == "Recreate", f"{name} has jobs and is replaced by {strategy}")


# The whole


def check_no_insecure(objects, tally):
    for item in objects:
        text = yaml.safe_dump(item).lower()
        said = "--insecure" in text or "diptych_insecure" in text
        tally.check(not said, f"{label(item)} says --insecure")


def check_environment_is_read(objects, tally):
    """A variable that nobody reads is silence; so each must stand in the options of its own program."""
    for workload in kinds(objects, "Deployment"):
        pod, name = workload["spec"]["template"]["spec"], workload["metadata"]["name"]
        if name in SERVICES:
            unknown = ", ".join(sorted(set(settings(objects, pod)) - variables(source(f"services/{name}"))))
            tally.check(not unknown, f"{label(workload)} sets {unknown}, which {name} does not read")


def check_references(objects, present, tally):
    """ConfigMaps, claims and accounts that pods name must be there; Secrets are the operator's."""
    present = {(item["kind"], item["metadata"]["name"]) for item in present}
    for workload in kinds(objects, *WORKLOADS):
        for reference in references(workload["spec"]["template"]["spec"]):
            tally.check(reference in present, f"{label(workload)} names {' '.join(reference)}, which is not here")


def references(pod):
    yield "ServiceAccount", pod.get("serviceAccountName", "default")
    for volume in pod.get("volumes", []):
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
    for container in pod["containers"]:
        for taken in container.get("envFrom", []):
            if "configMapRef" in taken:
                yield "ConfigMap", taken["configMapRef"]["name"]


def check_network(objects, present, tally):
    denied = {
        kind
        for policy in kinds(present, "NetworkPolicy")
        if not policy["spec"]["podSelector"] and not {"ingress", "egress"} & policy["spec"].keys()
        for kind in policy["spec"]["policyTypes"]
    }
    for kind in ("Ingress", "Egress"):
        tally.check(kind in denied, f"{kind} is not denied by default")
    for policy in kinds(objects, "NetworkPolicy"):
        rules = policy["spec"].get("ingress", []) + policy["spec"].get("egress", [])
        narrow = all(rule.get("ports") and (rule.get("from") or rule.get("to")) for rule in rules)
        tally.check(narrow, f"{label(policy)} has a rule without peers or without ports")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
