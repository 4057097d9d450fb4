#!/usr/bin/env python3
"""Builds the kustomizations and checks what comes out.

Usage: validate.py [FOLDER ...]      without folders: k8s/base and every k8s/overlays/*

Each check is one thing about one object; each violation is one sentence. The last line reads
`N passed, N failed`, and the exit status is 1 when anything failed. Needs kustomize or kubectl, and
kubernetes-validate and PyYAML from PyPI. No cluster is asked: the schemas are the published ones,
and everything they cannot know is an invariant of ours below.
"""

import functools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

K8S = Path(__file__).resolve().parent
SERVICES = ("promptgen", "diffusion", "dialogue", "trainer", "eval")
# The oldest version that has every field used here switched on (the preStop sleep), and the newest known.
KUBERNETES_VERSIONS = ("1.30", kubernetes_validate.latest_version())
# Those with jobs: a job lives on the board of the one pod that took it.
SERVICES_WITH_JOBS = ("trainer", "eval")
CALLS_PORT, HEALTH_PORT = 50051, 50052
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
# Kubernetes kinds that hold a pod template.
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job")


class Tally:
    """Counts checks and prints a sentence for each one that fails."""

    def __init__(self, out=sys.stdout):
        self.passed, self.violations, self.out = 0, [], out

    def check(self, holds, sentence):
        if holds:
            self.passed += 1
        else:
            self.violations.append(sentence)
            print(f"FAILED {sentence}", file=self.out)


def main(folders):
    tally = Tally()
    for folder in folders or [K8S / "base", *sorted((K8S / "overlays").glob("*/"))]:
        objects = build(Path(folder), tally)
        if objects is not None:
            check_all(objects, tally)
    print(f"{tally.passed} passed, {len(tally.violations)} failed")
    return 1 if tally.violations else 0


def build(folder, tally):
    """The objects of a kustomization, or None when it does not build."""
    run = subprocess.run([*kustomize(), str(folder)], capture_output=True, text=True, timeout=60)
    tally.check(run.returncode == 0, f"{folder} does not build: {run.stderr.strip()}")
    return list(yaml.safe_load_all(run.stdout)) if run.returncode == 0 else None


@functools.cache
def kustomize():
    """The command that builds a kustomization: kustomize, or kubectl's own."""
    if shutil.which("kustomize"):
        return ("kustomize", "build")
    if shutil.which("kubectl"):
        return ("kubectl", "kustomize")
    sys.exit("neither kustomize nor kubectl is installed; scripts/install-tools.sh gets one")


def check_all(objects, tally):
    """Every check there is, over the objects of one kustomization."""
    for item in objects:
        check_schema(item, tally)
    check_no_insecure(objects, tally)
    check_environment_is_read(objects, tally)
    check_references(objects, tally)
    check_network(objects, tally)
    for workload in kinds(objects, *WORKLOADS):
        check_pod(workload, tally)
    for name in SERVICES:
        check_service(objects, name, tally)


# Schemas


def check_schema(item, tally):
    for version in KUBERNETES_VERSIONS:
        problem = schema_problem(json.dumps(item, sort_keys=True, default=str), version)
        tally.check(problem is None, f"{label(item)} is not valid in Kubernetes {version}: {problem}")


@functools.cache
def schema_problem(text, version):
    """What is wrong with an object, given as JSON. Kept, since overlays repeat most of the base."""
    item = json.loads(text)
    try:
        kubernetes_validate.validate(item, version, strict=True)
    except jsonschema.ValidationError as error:
        return f"{'.'.join(map(str, error.path)) or 'top level'}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError:
        return f"no schema for {item.get('apiVersion')} {item.get('kind')}"
    return None


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


def pinned(image):
    """Whether an image is named by digest, or by a tag that a release moves and a build does not."""
    if "@sha256:" in image:
        return True
    tag = image.rsplit("/", 1)[-1].partition(":")[2]
    return re.match(r"v?\d+\.\d+\.\d+", tag) is not None


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
    name, replicas = deployment["metadata"]["name"], deployment["spec"].get("replicas", 1)
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
    for workload in kinds(objects, "Deployment", "Job"):
        pod, name = workload["spec"]["template"]["spec"], workload["metadata"]["name"]
        if name in SERVICES:
            unknown = ", ".join(sorted(set(settings(objects, pod)) - variables(name)))
            tally.check(not unknown, f"{label(workload)} sets {unknown}, which {name} does not read")


@functools.cache
def variables(name):
    """What a service reads: the options of its own crate, and the blocks of the runtime among them."""
    own, runtime = source(f"services/{name}"), source("crates/runtime")
    blocks = dict(re.findall(r"^pub struct (\w+) \{\n(.*?)^\}", runtime, re.MULTILINE | re.DOTALL))
    flattened = re.findall(r"#\[command\(flatten\)\]\s+(?:pub )?\w+: (\w+)", own)
    options = own + "".join(blocks.get(block, "") for block in flattened)
    # The last three are read by the libraries below.
    return {*re.findall(r'env = "(\w+)"', options), "SSL_CERT_FILE", "SSL_CERT_DIR", "RUST_LOG"}


def source(crate):
    return "".join(path.read_text() for path in sorted(K8S.parent.glob(f"{crate}/src/**/*.rs")))


def check_references(objects, tally):
    """ConfigMaps, claims and accounts that pods name must be in the build; Secrets are the operator's."""
    present = {(item["kind"], item["metadata"]["name"]) for item in objects}
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
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                yield "ConfigMap", source["configMapRef"]["name"]


def check_network(objects, tally):
    policies = kinds(objects, "NetworkPolicy")
    denied = {
        kind
        for policy in policies
        if not policy["spec"]["podSelector"] and not {"ingress", "egress"} & policy["spec"].keys()
        for kind in policy["spec"]["policyTypes"]
    }
    for kind in ("Ingress", "Egress"):
        tally.check(kind in denied, f"{kind} is not denied by default")
    for policy in policies:
        rules = policy["spec"].get("ingress", []) + policy["spec"].get("egress", [])
        narrow = all(rule.get("ports") and (rule.get("from") or rule.get("to")) for rule in rules)
        tally.check(narrow, f"{label(policy)} has a rule without peers or without ports")


# Looking things up


def settings(objects, pod):
    """The environment of a pod's first container, as far as it is known before it runs."""
    container, values = pod["containers"][0], {}
    for source in container.get("envFrom", []):
        config = find(objects, "ConfigMap", source.get("configMapRef", {}).get("name"))
        values |= config.get("data", {}) if config else {}
    return values | {entry["name"]: entry.get("value", "") for entry in container.get("env", [])}


def kinds(objects, *wanted):
    return [item for item in objects if item["kind"] in wanted]


def find(objects, kind, name):
    return next((item for item in kinds(objects, kind) if item["metadata"]["name"] == name), None)


def label(item):
    return f"{item.get('kind')} {item.get('metadata', {}).get('name')}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
