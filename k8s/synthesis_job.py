"""What must hold of the Job that deals a synthesis out to its indexes."""

import math
import re
import tomllib

from manifests import (
    CALLS_PORT, K8S, NAMESPACE,
    find, is_selected, kinds, label, mounted_secrets, settings, slots_per_partition, source, structs,
    template_labels, variables,
)

# Without an endpoint for each of them, synth would start that service inside the Job's pod.
CALLED = ("promptgen", "diffusion", "dialogue")
BAD_INPUT = 2
# What the bucket's library reads, by AWS's own names.
AWS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"}
DNS_PORT, TRACES_PORT = 53, 4317


def check_job(job, present, tally):
    """All of it, for one Job; `present` is what it finds in its cluster."""
    pod = job["spec"]["template"]["spec"]
    command = [*pod["containers"][0].get("command", []), *pod["containers"][0].get("args", [])]
    tally.check(command[:2] == ["/usr/local/bin/diptych", "synth"], f"{label(job)} does not run diptych synth")
    options = dict(word.removeprefix("--").split("=", 1) for word in command if re.match("--.*=", word))
    check_options(job, command, tally)
    check_shards(job, options, tally)
    check_failures(job, tally)
    check_recipe(job, command, present, tally)
    check_dataset(job, options.get("out", ""), settings(present, pod), tally)
    check_endpoints(job, settings(present, pod), present, tally)
    check_credentials(job, settings(present, pod), tally)
    check_ways(job, options.get("out", ""), present, tally)


def check_options(job, command, tally):
    """Every option and every variable is one that synth has."""
    blocks = structs(source("orchestrator"))
    text = blocks["Global"] + blocks["SynthArgs"]
    known = {name.replace("_", "-") for name in re.findall(r"^    pub (\w+):", text, re.MULTILINE)}
    given = {word[2:].partition("=")[0] for word in command if word.startswith("--")}
    tally.check(given <= known, f"{label(job)} gives {', '.join(sorted(given - known))}, which synth does not know")
    names = {entry["name"] for entry in job["spec"]["template"]["spec"]["containers"][0].get("env", [])}
    unread = names - variables(text) - AWS
    tally.check(not unread, f"{label(job)} sets {', '.join(sorted(unread))}, which synth does not read")


def check_shards(job, options, tally):
    who, spec = label(job), job["spec"]
    tally.check(spec.get("completionMode") == "Indexed", f"{who} is not Indexed: every pod would make the same share")
    count, index = options.get("shard-count"), options.get("shard-index")
    completions = str(spec.get("completions"))
    tally.check(count == completions, f"{who} has {completions} completions and deals out {count} shards")
    tally.check(str(spec.get("parallelism")) == completions, f"{who} runs {spec.get('parallelism')} of {completions} at a time")
    tally.check(index == "$(JOB_COMPLETION_INDEX)", f"{who} takes its share from {index}, not from its index")


def check_failures(job, tally):
    who, spec = label(job), job["spec"]
    pod = spec["template"]["spec"]
    rules = spec.get("podFailurePolicy", {}).get("rules", [])
    ends = [rule["onExitCodes"] for rule in rules if rule["action"] == "FailJob" and "onExitCodes" in rule]
    is_bad_input = any(rule["operator"] == "In" and rule["values"] == [BAD_INPUT] for rule in ends)
    tally.check(is_bad_input, f"{who} is not failed at once, and only, by exit code {BAD_INPUT}, bad input")
    ignored = [c["type"] for rule in rules if rule["action"] == "Ignore" for c in rule.get("onPodConditions", [])]
    tally.check("DisruptionTarget" in ignored, f"{who} counts a drained node as a failure")
    names = {container["name"] for container in pod["containers"]}
    strange = {rule.get("containerName") for rule in ends} - names - {None}
    tally.check(not strange, f"{who} watches container {', '.join(strange)}, which it does not have")
    tally.check(spec.get("backoffLimitPerIndex", 0) > 0, f"{who} lets one failed pod cost its index, or the Job")
    most = spec.get("maxFailedIndexes", spec["completions"])
    tally.check(most < spec["completions"] or most <= 1, f"{who} goes on when every index has failed")
    tally.check("activeDeadlineSeconds" in spec, f"{who} has no end in time")
    tally.check("ttlSecondsAfterFinished" in spec, f"{who} stays for ever when it is done")
    tally.check(pod.get("restartPolicy") == "Never", f"{who} restarts containers past its failure policy")


def check_recipe(job, command, present, tally):
    """The recipe is a mounted file, of abilities that there are, with work for every index."""
    who, pod = label(job), job["spec"]["template"]["spec"]
    text = recipe_text(pod, command[2] if len(command) > 2 else "", present)
    tally.check(text is not None, f"{who}: its recipe is in no mounted ConfigMap")
    if text is None:
        return
    counts = tomllib.loads(text)["synth"]["abilities"]
    known = {path.stem for path in (K8S.parent / "abilities").glob("*.toml")}
    unknown = ", ".join(sorted(counts.keys() - known))
    tally.check(not unknown, f"{who}: its recipe asks for {unknown}, which no ability file describes")
    partitions = sum(math.ceil(count / slots_per_partition()) for count in counts.values())
    completions = job["spec"]["completions"]
    tally.check(completions <= partitions, f"{who} has {completions} indexes for {partitions} partitions")


def recipe_text(pod, path, present):
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in pod["containers"][0]["volumeMounts"]:
        if mount["mountPath"] == path and "configMap" in volumes[mount["name"]]:
            config = find(present, "ConfigMap", volumes[mount["name"]]["configMap"]["name"])
            return (config or {}).get("data", {}).get(mount.get("subPath"))
    return None


def check_dataset(job, place, environment, tally):
    """A dataset lies on the claim, or in a bucket whose keys come from a Secret; not in the container."""
    who, pod = label(job), job["spec"]["template"]["spec"]
    claims = {v["name"] for v in pod["volumes"] if v.get("persistentVolumeClaim", {}).get("claimName") == "artefacts"}
    mounts = [m["mountPath"] for m in pod["containers"][0]["volumeMounts"] if m["name"] in claims]
    secret = {e["name"] for e in pod["containers"][0]["env"] if "secretKeyRef" in e.get("valueFrom", {})}
    if place.startswith("s3://"):
        tally.check(not mounts, f"{who} writes to a bucket and mounts the claim")
        tally.check(AWS <= secret, f"{who}: {', '.join(sorted(AWS - secret))} does not come from a Secret")
    else:
        kept = any(place.startswith(mount + "/") for mount in mounts)
        tally.check(kept, f"{who} leaves its dataset in {place!r}, which is not on the claim artefacts")
        tally.check(not AWS & environment.keys(), f"{who} has keys of a bucket that it does not write to")


def check_endpoints(job, environment, present, tally):
    endpoints = dict(entry.split("=", 1) for entry in environment.get("DIPTYCH_ENDPOINTS", "").split(",") if entry)
    tally.check(set(endpoints) == set(CALLED), f"{label(job)} names endpoints for {', '.join(endpoints)}, not for {', '.join(CALLED)}")
    for name, url in endpoints.items():
        tally.check(url == f"https://{name}.{NAMESPACE}.svc:{CALLS_PORT}", f"{label(job)} calls {name} at {url}")
        tally.check(find(present, "Service", name) is not None, f"{label(job)} calls {name}, and there is no such Service")


def check_credentials(job, environment, tally):
    """Authority, certificate, key and token, each from the Secret that is for callers."""
    folders = mounted_secrets(job["spec"]["template"]["spec"])
    wanted = {"CA": "client-tls", "CLIENT_CERT": "client-tls", "CLIENT_KEY": "client-tls", "CLIENT_TOKEN": "service-token"}
    for kind, secret in wanted.items():
        path = environment.get(f"DIPTYCH_{kind}_FILE", "")
        tally.check(
            path.startswith(folders.get(secret, "nowhere") + "/"),
            f"{label(job)}: DIPTYCH_{kind}_FILE is {path!r}, which is not in Secret {secret}",
        )


def check_ways(job, place, present, tally):
    """Whom its pods may reach, by all policies together: the services it calls, names, traces, its bucket."""
    who, labels = label(job), template_labels(job)
    selected = [p["spec"] for p in kinds(present, "NetworkPolicy") if is_selected(p["spec"]["podSelector"], labels)]
    ways = [(peer, rule["ports"]) for spec in selected for rule in spec.get("egress", []) for peer in rule["to"]]
    for deployment in kinds(present, "Deployment"):
        name = deployment["metadata"]["name"]
        is_open = any(is_selected(peer["podSelector"], template_labels(deployment)) for peer, _ in ways if inside(peer))
        tally.check(is_open == (name in CALLED), f"{who} can{'' if is_open else 'not'} reach {name}")
        tally.check((name not in CALLED) or lets_in(deployment, labels, present), f"{name} does not let {who} in")
    outside = {port["port"] for peer, ports in ways if "namespaceSelector" in peer for port in ports}
    tally.check(outside <= {DNS_PORT, TRACES_PORT}, f"{who} can leave the namespace by ports {sorted(outside)}")
    to_bucket = any("ipBlock" in peer for peer, _ in ways)
    tally.check(to_bucket == place.startswith("s3://"), f"{who} can{'' if to_bucket else 'not'} leave the cluster, and its dataset is {place}")


def inside(peer):
    return "podSelector" in peer and "namespaceSelector" not in peer


def lets_in(deployment, labels, present):
    return any(
        inside(peer) and is_selected(peer["podSelector"], labels)
        for policy in kinds(present, "NetworkPolicy")
        if is_selected(policy["spec"]["podSelector"], template_labels(deployment))
        for rule in policy["spec"].get("ingress", [])
        if {"protocol": "TCP", "port": CALLS_PORT} in rule["ports"]
        for peer in rule["from"]
    )
