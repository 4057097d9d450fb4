"""What is built, and how things are found in it. Shared by the checks; knows no rule itself."""

import functools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

K8S = Path(__file__).resolve().parent
NAMESPACE = "diptych"
CALLS_PORT, HEALTH_PORT = 50051, 50052
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


def settings(objects, pod):
    """The environment of a pod's first container, as far as it is known before it runs."""
    container, values = pod["containers"][0], {}
    for taken in container.get("envFrom", []):
        config = find(objects, "ConfigMap", taken.get("configMapRef", {}).get("name"))
        values |= config.get("data", {}) if config else {}
    return values | {entry["name"]: entry.get("value", "") for entry in container.get("env", [])}


def kinds(objects, *wanted):
    return [item for item in objects if item["kind"] in wanted]


def find(objects, kind, name):
    return next((item for item in kinds(objects, kind) if item["metadata"]["name"] == name), None)


def label(item):
    return f"{item.get('kind')} {item.get('metadata', {}).get('name')}"


def template_labels(workload):
    return workload["spec"]["template"]["metadata"]["labels"]


def mounted_secrets(pod):
    """Folder of each Secret that the pod's first container mounts, by the Secret's name."""
    names = {v["name"]: v["secret"]["secretName"] for v in pod.get("volumes", []) if "secret" in v}
    mounts = pod["containers"][0].get("volumeMounts", [])
    return {names[mount["name"]]: mount["mountPath"] for mount in mounts if mount["name"] in names}


def is_selected(selector, labels):
    """Whether a label selector takes labels; an empty one takes all."""
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        matches(rule, labels.get(rule["key"])) for rule in selector.get("matchExpressions", [])
    )


def matches(rule, value):
    answers = {
        "In": value in rule.get("values", []),
        "NotIn": value not in rule.get("values", []),
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }
    return answers[rule["operator"]]


def pinned(image):
    """Whether an image is named by digest, or by a tag that a release moves and a build does not."""
    if "@sha256:" in image:
        return True
    tag = image.rsplit("/", 1)[-1].partition(":")[2]
    return re.match(r"v?\d+\.\d+\.\d+", tag) is not None


# What the sources say


@functools.cache
def source(crate):
    return "".join(path.read_text() for path in sorted(K8S.parent.glob(f"{crate}/src/**/*.rs")))


@functools.cache
def slots_per_partition():
    return int(re.search(r"PARTITION_SLOT_COUNT: u64 = (\d+)", source("crates/dataset"))[1])


def variables(options):
    """What a program reads, given the source of its options: its own, and the runtime's blocks in them."""
    blocks = structs(source("crates/runtime"))
    flattened = re.findall(r"#\[command\(flatten\)\]\s+(?:pub )?\w+: (\w+)", options)
    options += "".join(blocks.get(block, "") for block in flattened)
    # The last three are read by the libraries below.
    return {*re.findall(r'env = "(\w+)"', options), "SSL_CERT_FILE", "SSL_CERT_DIR", "RUST_LOG"}


def structs(text):
    """The body of each public struct of a Rust source, by its name."""
    return dict(re.findall(r"^pub struct (\w+) \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL))
