#!/usr/bin/env python3
"""Breaks the manifests one way at a time: validate.py must see each, and nothing when none is broken.

Prints one line per mistake that went unseen, and `N passed, N failed` last.
"""

import copy
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

import validate

SVC = "diffusion"


def main():
    tally = validate.Tally()
    for folder, mistakes in SUBJECTS.items():
        check_mistakes(folder, mistakes, tally)
    check_one_number(tally)
    check_dev_secrets(tally)
    print(f"{tally.passed} passed, {len(tally.violations)} failed")
    return 1 if tally.violations else 0


def check_mistakes(folder, mistakes, tally):
    good = validate.build(validate.K8S / folder, tally)
    tally.check(not sentences(good), f"{folder} as it is has violations")
    for mistake, (words, break_it) in mistakes.items():
        objects = copy.deepcopy(good)
        break_it(objects)
        seen = [sentence for sentence in sentences(objects) if words in sentence]
        tally.check(seen, f"nobody noticed in {folder}: {mistake}")


def check_one_number(tally):
    """Another number of shards is one word in one file."""
    with tempfile.TemporaryDirectory() as parent:
        shutil.copytree(validate.K8S, Path(parent) / "k8s")
        run = Path(parent) / "k8s/jobs/synthesis/run.yaml"
        run.write_text(run.read_text().replace('shards: "4"', 'shards: "7"'))
        for name in ("synthesis", "synthesis-s3"):
            objects = validate.build(Path(parent) / "k8s/jobs" / name, tally)
            tally.check(not sentences(objects), f"{name} with seven shards has violations")
            spec, words = job(objects)["spec"], container_of(job(objects))["args"]
            said = [spec["completions"], spec["parallelism"], words[-1]]
            tally.check(said == [7, 7, "--shard-count=7"], f"{name} was told seven shards and says {said}")


def check_dev_secrets(tally):
    """make-dev-secrets.sh makes every key of every Secret that a pod names, and valid ones."""
    objects = [item for folder in ("base", "jobs/synthesis") for item in validate.build(validate.K8S / folder, tally)]
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "secrets"
        subprocess.run(
            [validate.K8S / "make-dev-secrets.sh", folder], check=True, capture_output=True, timeout=60
        )
        made = [item for item in yaml.safe_load_all((folder / "secrets.yaml").read_text()) if item]
    for item in made:
        validate.check_schema(item, tally)
    keys = {(item["metadata"]["name"], key) for item in made for key in item["data"]}
    for workload in validate.kinds(objects, "Deployment", "Job"):
        for needed in secret_keys(workload["spec"]["template"]["spec"]):
            tally.check(needed in keys, f"no Secret {needed[0]} with {needed[1]} for {validate.label(workload)}")


def secret_keys(pod):
    """(Secret, key) for all that a pod takes from Secrets."""
    files = {"tls": ("tls.crt", "tls.key", "ca.crt"), "token": ("token",)}
    for volume in pod["volumes"]:
        if "secret" in volume:
            listed = [item["key"] for item in volume["secret"].get("items", [])]
            for key in listed or files[volume["name"]]:
                yield volume["secret"]["secretName"], key
    for entry in pod["containers"][0].get("env", []):
        if "valueFrom" in entry:
            reference = entry["valueFrom"]["secretKeyRef"]
            yield reference["name"], reference["key"]


def sentences(objects):
    quiet = validate.Tally(out=io.StringIO())
    validate.check_all(objects, quiet, validate.surroundings(objects))
    return quiet.violations


def deployment(objects, name=SVC):
    return validate.find(objects, "Deployment", name)


def pod(objects, name=SVC):
    return deployment(objects, name)["spec"]["template"]["spec"]


def container(objects, name=SVC):
    return pod(objects, name)["containers"][0]


def container_of(workload):
    return workload["spec"]["template"]["spec"]["containers"][0]


def job(objects):
    return next(iter(validate.kinds(objects, "Job")))


def failures(objects):
    return job(objects)["spec"]["podFailurePolicy"]["rules"]


def variable(objects, name):
    return next(entry for entry in container_of(job(objects))["env"] if entry["name"] == name)


def recipe(objects):
    return next(iter(validate.kinds(objects, "ConfigMap")))["data"]


def way_out(objects):
    return validate.find(objects, "NetworkPolicy", "allow-synthesis-calls")["spec"]["egress"][0]


def scaler(objects, name=SVC):
    wanted = validate.kinds(objects, "ScaledObject", "HorizontalPodAutoscaler")
    return next(item["spec"] for item in wanted if item["metadata"]["name"] == name)


def trigger(objects, name=SVC):
    return scaler(objects, name)["triggers"][0]


def with_word(old, new):
    """Puts another word on the Job's command line, or none."""

    def break_it(objects):
        words = container_of(job(objects))["args"]
        place = next(i for i, word in enumerate(words) if word.startswith(old))
        words[place : place + 1] = [new] if new else []

    return break_it


def with_text(config, old, new):
    assert old in config["recipe.toml"]
    config["recipe.toml"] = config["recipe.toml"].replace(old, new)


def twice_scaled(objects):
    wanted = validate.kinds(objects, "ScaledObject", "HorizontalPodAutoscaler")
    objects.append(copy.deepcopy(next(item for item in wanted if item["metadata"]["name"] == SVC)))


def service(objects):
    return validate.find(objects, "Service", SVC)["spec"]


def config(objects):
    return next(c for c in validate.kinds(objects, "ConfigMap") if c["metadata"]["name"].startswith("settings"))


def mount(objects, name):
    return next(m for m in container(objects)["volumeMounts"] if m["name"] == name)


def without_default_deny(objects):
    policy = validate.find(objects, "NetworkPolicy", "default-deny")
    policy["spec"]["policyTypes"] = ["Ingress"]


def with_artefacts_for_dialogue(objects):
    claim = {"name": "artefacts", "persistentVolumeClaim": {"claimName": "artefacts"}}
    pod(objects, "dialogue")["volumes"].append(claim)
    container(objects, "dialogue")["volumeMounts"].append({"name": "artefacts", "mountPath": "/artefacts"})


# What goes wrong: (words of the sentence that must come, how to do it).
MISTAKES = {
    "a misspelt field": ("not valid", lambda o: deployment(o)["spec"].update(replcas=2)),
    "a number for a string": ("not valid", lambda o: container(o)["env"][0].update(value=25)),
    "an unknown kind": ("no schema", lambda o: deployment(o).update(kind="Deploymint")),
    "plaintext by flag": ("--insecure", lambda o: container(o).update(args=["--insecure"])),
    "plaintext by environment": ("--insecure", lambda o: config(o)["data"].update(DIPTYCH_INSECURE="true")),
    "no TLS": ("TLS_CERT_FILE", lambda o: config(o)["data"].pop("DIPTYCH_TLS_CERT_FILE")),
    "no client certificates": ("CLIENT_CA_FILE", lambda o: config(o)["data"].pop("DIPTYCH_TLS_CLIENT_CA_FILE")),
    "a token from the image": (
        "no mounted Secret",
        lambda o: config(o)["data"].update(DIPTYCH_TOKEN_FILE="/usr/share/diptych/token"),
    ),
    "a misspelt variable": ("does not read", lambda o: config(o)["data"].update(DIPTYCH_LISTN="x")),
    "a variable of another program": (
        "dialogue sets REDIS_URL, which dialogue does not read",
        lambda o: container(o, "dialogue")["env"].append({"name": "REDIS_URL", "value": "x"}),
    ),
    "artefacts where nobody asked for them": ("mounts artefacts", with_artefacts_for_dialogue),
    "two boards of jobs": ("eval has jobs", lambda o: deployment(o, "eval")["spec"].update(replicas=2)),
    "two boards during a rollout": (
        "trainer has jobs",
        lambda o: deployment(o, "trainer")["spec"].update(strategy={"type": "RollingUpdate"}),
    ),
    "a writable Secret": ("writable", lambda o: mount(o, "tls").pop("readOnly")),
    "root": ("as root", lambda o: pod(o)["securityContext"].pop("runAsNonRoot")),
    "no seccomp profile": ("seccomp", lambda o: pod(o)["securityContext"].pop("seccompProfile")),
    "a writable root": (
        "write its root",
        lambda o: container(o)["securityContext"].update(readOnlyRootFilesystem=False),
    ),
    "privilege escalation": (
        "escalation",
        lambda o: container(o, "redis")["securityContext"].pop("allowPrivilegeEscalation"),
    ),
    "a capability": (
        "adds capabilities",
        lambda o: container(o)["securityContext"]["capabilities"].update(add=["SYS_ADMIN"]),
    ),
    "a service account token": ("account token", lambda o: pod(o).pop("automountServiceAccountToken")),
    "a host path": ("kind hostPath", lambda o: pod(o)["volumes"].append({"name": "x", "hostPath": {"path": "/"}})),
    "an unbounded emptyDir": ("sizeLimit", lambda o: pod(o)["volumes"].append({"name": "x", "emptyDir": {}})),
    "no memory limit": ("limits for memory", lambda o: container(o)["resources"]["limits"].pop("memory")),
    "the latest image": ("not pinned", lambda o: container(o).update(image="diptych:latest")),
    "an image without tag": ("not pinned", lambda o: container(o).update(image="diptych")),
    "a port that says h2c": (
        "speaks TLS",
        lambda o: service(o)["ports"][0].update(appProtocol="kubernetes.io/h2c"),
    ),
    "a cluster address": ("not headless", lambda o: service(o).pop("clusterIP")),
    "a Service that selects others": ("selects other", lambda o: service(o)["selector"].update(x="y")),
    "a probe on the port of calls": (
        "readinessProbe",
        lambda o: container(o)["readinessProbe"]["grpc"].update(port=50051),
    ),
    "no metrics": (
        "not scraped",
        lambda o: deployment(o)["spec"]["template"]["metadata"]["annotations"].clear(),
    ),
    "a kill before the drain": ("is killed after", lambda o: pod(o).update(terminationGracePeriodSeconds=20)),
    "no budget": ("no PodDisruptionBudget", lambda o: o.remove(validate.find(o, "PodDisruptionBudget", SVC))),
    "a service that is gone": ("has no Deployment", lambda o: o.remove(deployment(o))),
    "a claim that is not there": ("not here", lambda o: o.remove(validate.find(o, "PersistentVolumeClaim", "artefacts"))),
    "an open way out": ("Egress is not denied", without_default_deny),
    "a rule for everyone": (
        "without peers",
        lambda o: validate.find(o, "NetworkPolicy", "allow-dns")["spec"]["egress"][0].pop("to"),
    ),
}

JOB_MISTAKES = {
    "a misspelt field": ("not valid", lambda o: job(o)["spec"].update(completion=4)),
    "shards and completions apart": ("deals out 5 shards", with_word("--shard-count", "--shard-count=5")),
    "all completions, half at a time": ("at a time", lambda o: job(o)["spec"].update(parallelism=2)),
    "the same share for all": ("not from its index", with_word("--shard-index", "--shard-index=0")),
    "no share named": ("not from its index", with_word("--shard-index", None)),
    "a Job without indexes": ("not Indexed", lambda o: job(o)["spec"].update(completionMode="NonIndexed")),
    "an option that synth lacks": ("synth does not know", with_word("--json", "--jsn")),
    "another command": ("does not run", lambda o: container_of(job(o)).update(command=["/usr/local/bin/diptych", "run"])),
    "a variable that synth does not read": (
        "synth does not read",
        lambda o: variable(o, "DIPTYCH_ENDPOINTS").update(name="DIPTYCH_ENDPOINT"),
    ),
    "bad input tried again": ("bad input", lambda o: failures(o).pop(1)),
    "every failure called bad input": (
        "bad input",
        lambda o: failures(o)[1]["onExitCodes"].update(values=[1, 2]),
    ),
    "the exit code of nobody": ("does not have", lambda o: failures(o)[1]["onExitCodes"].update(containerName="x")),
    "a drain that counts": ("drained node", lambda o: failures(o).pop(0)),
    "one failure for all": ("cost its index", lambda o: job(o)["spec"].pop("backoffLimitPerIndex")),
    "failed indexes without end": ("every index has failed", lambda o: job(o)["spec"].pop("maxFailedIndexes")),
    "a Job without end": ("no end in time", lambda o: job(o)["spec"].pop("activeDeadlineSeconds")),
    "a Job that stays": ("stays for ever", lambda o: job(o)["spec"].pop("ttlSecondsAfterFinished")),
    "a recipe that is not mounted": (
        "no mounted ConfigMap",
        lambda o: container_of(job(o))["args"].__setitem__(0, "/etc/diptych/other.toml"),
    ),
    "an ability that is not there": (
        "no ability file describes",
        lambda o: with_text(recipe(o), "animal = 640", "anmal = 640"),
    ),
    "more indexes than partitions": ("indexes for", lambda o: with_text(recipe(o), " = 640", " = 0")),
    "a dataset in the container": ("not on the claim", with_word("--out", "--out=/tmp/dataset")),
    "a dataset beside the claim": ("not on the claim", with_word("--out", "--out=/var/lib/diptych/artefactsx/d")),
    "a service that would start in the pod": (
        "names endpoints for",
        lambda o: variable(o, "DIPTYCH_ENDPOINTS").update(value="diffusion=https://diffusion.diptych.svc:50051"),
    ),
    "plaintext": (
        "calls promptgen at",
        lambda o: variable(o, "DIPTYCH_ENDPOINTS").update(
            value=variable(o, "DIPTYCH_ENDPOINTS")["value"].replace("https:", "http:")
        ),
    ),
    "no client certificate": ("CLIENT_CERT_FILE", lambda o: container_of(job(o))["env"].remove(variable(o, "DIPTYCH_CLIENT_CERT_FILE"))),
    "a token from elsewhere": (
        "CLIENT_TOKEN_FILE",
        lambda o: variable(o, "DIPTYCH_CLIENT_TOKEN_FILE").update(value="/tmp/token"),
    ),
    "a pod that is no client": (
        "does not let",
        lambda o: job(o)["spec"]["template"]["metadata"]["labels"].pop("app.kubernetes.io/component"),
    ),
    "a client like any other": (
        "can reach trainer",
        lambda o: job(o)["spec"]["template"]["metadata"]["labels"].update({"app.kubernetes.io/name": "x"}),
    ),
    "a way to all services": (
        "can reach eval",
        lambda o: way_out(o)["to"][0].update(podSelector={"matchLabels": {"app.kubernetes.io/component": "service"}}),
    ),
    "a service out of reach": (
        "cannot reach dialogue",
        lambda o: way_out(o)["to"][0]["podSelector"]["matchExpressions"][0]["values"].remove("dialogue"),
    ),
    "a way to other namespaces": ("can leave the namespace", lambda o: way_out(o)["to"].append({"namespaceSelector": {}})),
    "a way to the internet": (
        "can leave the cluster",
        lambda o: way_out(o)["to"].append({"ipBlock": {"cidr": "0.0.0.0/0"}}),
    ),
    "root": ("as root", lambda o: job(o)["spec"]["template"]["spec"]["securityContext"].pop("runAsNonRoot")),
    "an account that is not there": ("not here", lambda o: o.remove(validate.find(o, "ServiceAccount", "synthesis"))),
    "another namespace": ("is in namespace", lambda o: job(o)["metadata"].update(namespace="default")),
}

BUCKET_MISTAKES = {
    "a key in the open": (
        "does not come from a Secret",
        lambda o: (variable(o, "AWS_SECRET_ACCESS_KEY").pop("valueFrom"), variable(o, "AWS_SECRET_ACCESS_KEY").update(value="x")),
    ),
    "no region": ("does not come from a Secret", lambda o: container_of(job(o))["env"].remove(variable(o, "AWS_REGION"))),
    "a folder, and keys of a bucket": ("keys of a bucket", with_word("--out", "--out=/tmp/dataset")),
    "a bucket out of reach": (
        "cannot leave the cluster",
        lambda o: job(o)["spec"]["template"]["metadata"]["labels"].pop("diptych-dataset"),
    ),
}

# What KEDA's objects and HorizontalPodAutoscalers have in common.
SCALER_MISTAKES = {
    "two who say how many": ("both say how many", lambda o: deployment(o)["spec"].update(replicas=2)),
    "a scaler of nothing": ("which is not here", lambda o: scaler(o)["scaleTargetRef"].update(name="difusion")),
    "a scaler of jobs": ("which has jobs", lambda o: scaler(o)["scaleTargetRef"].update(name="trainer")),
    "two scalers": ("which fight", twice_scaled),
    "a misspelt behaviour": ("not valid", lambda o: behaviour(o).update(stabilisationWindowSeconds=300)),
    "a scale-down within a drain": ("a drain may take", lambda o: behaviour(o).update(stabilizationWindowSeconds=30)),
    "all pods at once": ("faster than one", lambda o: behaviour(o).pop("policies")),
    "the next before the drain is over": ("faster than one", lambda o: behaviour(o)["policies"][0].update(periodSeconds=15)),
    "metrics that nobody may read": (
        "lets Prometheus reach",
        lambda o: o.remove(validate.find(o, "NetworkPolicy", "allow-metrics-scrape")),
    ),
    "no budget for what it keeps": (
        "no PodDisruptionBudget",
        lambda o: o.remove(validate.find(o, "PodDisruptionBudget", SVC)),
    ),
}


def behaviour(objects):
    spec = scaler(objects)
    return spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", spec)["behavior"]["scaleDown"]


KEDA_MISTAKES = SCALER_MISTAKES | {
    "a misspelt field": ("unknown", lambda o: scaler(o).update(minReplicas=2)),
    "a number for a text": ("no text", lambda o: trigger(o)["metadata"].update(threshold=64)),
    "a misspelt setting": ("unknown", lambda o: trigger(o)["metadata"].update(treshold="64")),
    "least over most": ("pods or more", lambda o: scaler(o).update(minReplicaCount=9)),
    "down to none": ("never come back", lambda o: scaler(o).update(minReplicaCount=0)),
    "none while idle": ("never come back", lambda o: scaler(o).update(idleReplicaCount=0)),
    "a metric of nobody": (
        "no program shows",
        lambda o: trigger(o)["metadata"].update(query="sum(diptych_queue_length)"),
    ),
    "another service's queue": (
        "another service",
        lambda o: trigger(o)["metadata"].update(query='sum(diptych_queue_depth{service="trainer"})'),
    ),
    "a queue that is not there": (
        "does not have",
        lambda o: trigger(o)["metadata"].update(query='sum(diptych_queue_depth{service="diffusion",queue="gpu"})'),
    ),
    "a threshold of none": ("threshold", lambda o: trigger(o)["metadata"].update(threshold="0")),
    "the queue that dialogue lacks, alone": ("today", lambda o: scaler(o, "dialogue")["triggers"].pop(1)),
    "the queue undivided": ("divide the queue", lambda o: trigger(o).update(metricType="Value")),
    "an outage taken for rest": ("failed scrape", lambda o: trigger(o)["metadata"].pop("ignoreNullValues")),
    "no fallback": ("falls back", lambda o: scaler(o).pop("fallback")),
    "a fallback out of bounds": ("falls back", lambda o: scaler(o)["fallback"].update(replicas=9)),
    "a fallback that shrinks": ("takes pods away when", lambda o: scaler(o)["fallback"].pop("behavior")),
}

HPA_MISTAKES = SCALER_MISTAKES | {
    "a misspelt field": ("not valid", lambda o: scaler(o).update(minReplicaCount=2)),
    "least over most": ("pods or more", lambda o: scaler(o).update(minReplicas=9)),
    "down to none": ("never come back", lambda o: scaler(o).update(minReplicas=0)),
    "a metric of nobody": (
        "no program shows",
        lambda o: scaler(o)["metrics"][0]["pods"]["metric"].update(name="diptych_queue_length"),
    ),
    "the queue that dialogue lacks, alone": ("today", lambda o: scaler(o, "dialogue")["metrics"].pop(1)),
}

SUBJECTS = {
    "base": MISTAKES,
    "jobs/synthesis": JOB_MISTAKES,
    "jobs/synthesis-s3": BUCKET_MISTAKES,
    "overlays/autoscale-keda": KEDA_MISTAKES,
    "overlays/autoscale-hpa": HPA_MISTAKES,
}


if __name__ == "__main__":
    sys.exit(main())
