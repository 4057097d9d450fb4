"""What can go wrong in the Job of a synthesis, on the claim and into a bucket."""

from manifests import find, kinds


def container_of(workload):
    return workload["spec"]["template"]["spec"]["containers"][0]


def job(objects):
    return next(iter(kinds(objects, "Job")))


def failures(objects):
    return job(objects)["spec"]["podFailurePolicy"]["rules"]


def variable(objects, name):
    return next(entry for entry in container_of(job(objects))["env"] if entry["name"] == name)


def recipe(objects):
    return next(iter(kinds(objects, "ConfigMap")))["data"]


def way_out(objects):
    return find(objects, "NetworkPolicy", "allow-synthesis-calls")["spec"]["egress"][0]


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
    "an account that is not there": ("not here", lambda o: o.remove(find(o, "ServiceAccount", "synthesis"))),
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
