"""What must hold of those that decide how many pods a service has: HorizontalPodAutoscalers, and KEDA's
ScaledObjects, which become such."""

import re

from manifests import HEALTH_PORT, find, is_selected, kinds, label, source, template_labels


class Autoscaler:
    """A HorizontalPodAutoscaler."""

    def __init__(self, item):
        spec = item["spec"]
        self.item, self.target = item, spec["scaleTargetRef"]["name"]
        self.least, self.most = spec.get("minReplicas", 1), spec.get("maxReplicas", 0)
        self.behavior, self.fallback = spec.get("behavior", {}), None
        metrics = spec.get("metrics", [])
        self.queries = [metric["pods"]["metric"]["name"] for metric in metrics if metric["type"] == "Pods"]
        self.thresholds = [metric["pods"]["target"].get("averageValue") for metric in metrics if metric["type"] == "Pods"]
        self.has_cpu = any(metric.get("resource", {}).get("name") == "cpu" for metric in metrics)


class ScaledObject:
    """A ScaledObject, of which KEDA makes a HorizontalPodAutoscaler. No schema of it is published with
    Kubernetes' own, so that its fields are listed here."""

    FIELDS = {
        "scaleTargetRef", "triggers", "fallback", "advanced", "minReplicaCount", "maxReplicaCount",
        "idleReplicaCount", "pollingInterval", "cooldownPeriod", "initialCooldownPeriod",
    }
    METADATA = {"prometheus": {"serverAddress", "query", "threshold", "ignoreNullValues"}, "cpu": {"value"}}

    def __init__(self, item):
        spec = item["spec"]
        self.item, self.target = item, spec["scaleTargetRef"]["name"]
        self.least, self.most = spec.get("minReplicaCount", 0), spec.get("maxReplicaCount", 100)
        self.least = min(self.least, spec.get("idleReplicaCount", self.least))
        self.behavior = spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", {}).get("behavior", {})
        self.fallback, self.triggers = spec.get("fallback", {}), spec.get("triggers", [])
        of_prometheus = [trigger["metadata"] for trigger in self.triggers if trigger["type"] == "prometheus"]
        self.queries = [metadata.get("query", "") for metadata in of_prometheus]
        self.thresholds = [metadata.get("threshold") for metadata in of_prometheus]
        self.says_when_blind = all(metadata.get("ignoreNullValues") == "false" for metadata in of_prometheus)
        self.has_cpu = any(trigger["type"] == "cpu" for trigger in self.triggers)

    def strange_fields(self):
        """Fields that KEDA does not know, and values that are no text where it wants one."""
        yield from self.item["spec"].keys() - self.FIELDS
        yield from self.fallback.keys() - {"failureThreshold", "replicas", "behavior"}
        yield from self.item["spec"].get("advanced", {}).keys() - {"horizontalPodAutoscalerConfig"}
        for trigger in self.triggers:
            yield from trigger.keys() - {"type", "metricType", "metadata"}
            known = self.METADATA.get(trigger["type"], set())
            strings = {key for key, value in trigger["metadata"].items() if isinstance(value, str)}
            yield from trigger["metadata"].keys() - (known & strings)

    def as_autoscaler(self):
        """The same wish in a kind that has a published schema."""
        target = {"apiVersion": "apps/v1", "kind": "Deployment", **self.item["spec"]["scaleTargetRef"]}
        spec = {
            "scaleTargetRef": target,
            "minReplicas": self.least,
            "maxReplicas": self.most,
            "behavior": self.behavior,
        }
        return {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": self.item["metadata"],
            "spec": spec,
        }


def scalers(objects):
    return [
        *map(Autoscaler, kinds(objects, "HorizontalPodAutoscaler")),
        *map(ScaledObject, kinds(objects, "ScaledObject")),
    ]


def scaler_of(objects, deployment):
    return next((s for s in scalers(objects) if s.target == deployment["metadata"]["name"]), None)


def check_scaling(objects, single, tally):
    """All of it; `single` are the services of which there must be one pod."""
    targets = [scaler.target for scaler in scalers(objects)]
    twice = {target for target in targets if targets.count(target) > 1}
    tally.check(not twice, f"{', '.join(sorted(twice))} has two scalers, which fight")
    for scaler in scalers(objects):
        deployment = find(objects, "Deployment", scaler.target)
        tally.check(deployment is not None, f"{label(scaler.item)} scales {scaler.target}, which is not here")
        tally.check(scaler.target not in single, f"{label(scaler.item)} scales {scaler.target}, which has jobs")
        if deployment is not None:
            check_bounds(scaler, deployment, tally)
            check_measure(scaler, deployment, objects, tally)
            check_scale_down(scaler, deployment, tally)
            if isinstance(scaler, ScaledObject):
                check_keda(scaler, tally)


def check_bounds(scaler, deployment, tally):
    who = label(scaler.item)
    tally.check("replicas" not in deployment["spec"], f"{who} and {label(deployment)} both say how many pods there are")
    tally.check(scaler.least >= 1, f"{who} goes down to 0 pods, which show no queue and never come back")
    tally.check(scaler.least <= scaler.most, f"{who} wants {scaler.least} pods or more and {scaler.most} or fewer")


def check_measure(scaler, deployment, objects, tally):
    """It reads a gauge that the sources have, of its own service, and something that moves."""
    who, target = label(scaler.item), scaler.target
    for query, threshold in zip(scaler.queries, scaler.thresholds):
        unknown = set(re.findall(r"\bdiptych_\w+", query)) - metric_names()
        tally.check(not unknown, f"{who} reads {', '.join(sorted(unknown))}, which no program shows")
        tally.check(set(re.findall(r'service="(.*?)"', query)) <= {target}, f"{who} reads the queue of another service")
        strange = set(re.findall(r'queue="(.*?)"', query)) - queues(target)
        tally.check(not strange, f"{who} reads the queue {', '.join(strange)}, which {target} does not have")
        tally.check(str(threshold).isdigit() and int(threshold) > 0, f"{who} has a threshold of {threshold!r}")
    moves = scaler.has_cpu or (scaler.queries and queues(target))
    tally.check(moves, f"{who} reads nothing that {target} shows today: it has no queue, and no CPU is asked for")
    tally.check(is_scraped(deployment, objects), f"{who}: no policy lets Prometheus reach port {HEALTH_PORT} of {target}")


def metric_names():
    text = source("crates/runtime") + source("services/*")
    return set(re.findall(r'metrics::gauge!\(\s*"(\w+)"', text))


def queues(service):
    """Names of the queues whose depth a service shows."""
    return set(re.findall(r'QueueDepth::new\(\s*crate::NAME,\s*"(\w+)"', source(f"services/{service}")))


def is_scraped(deployment, objects):
    return any(
        {"protocol": "TCP", "port": HEALTH_PORT} in rule["ports"]
        for policy in kinds(objects, "NetworkPolicy")
        if is_selected(policy["spec"]["podSelector"], template_labels(deployment))
        for rule in policy["spec"].get("ingress", [])
    )


def check_scale_down(scaler, deployment, tally):
    """Slower than a drain, and one pod at a time, so that pods do not leave faster than calls end."""
    who, down = label(scaler.item), scaler.behavior.get("scaleDown", {})
    grace = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    window = down.get("stabilizationWindowSeconds", 300)
    tally.check(window > grace, f"{who} takes pods away after {window} s, and a drain may take {grace} s")
    policies = down.get("policies", [])
    gentle = bool(policies) and all(
        p["type"] == "Pods" and p["value"] == 1 and p["periodSeconds"] >= grace for p in policies
    )
    tally.check(gentle, f"{who} takes pods away faster than one per {grace} s, the length of a drain")


def check_keda(scaler, tally):
    """What is KEDA's own: fields, and what happens while Prometheus does not answer."""
    who, replicas = label(scaler.item), scaler.fallback.get("replicas")
    strange = sorted(set(scaler.strange_fields()))
    tally.check(not strange, f"{who} has {', '.join(strange)}, which is unknown or no text")
    kind = scaler.item["apiVersion"]
    tally.check(kind == "keda.sh/v1alpha1", f"{who} is of {kind}, which KEDA does not serve")
    has_fallback = replicas is not None and scaler.least <= replicas <= scaler.most
    tally.check(has_fallback, f"{who} falls back to {replicas} pods, which is not within its bounds")
    keeps = scaler.fallback.get("behavior") == "currentReplicasIfHigher"
    tally.check(keeps, f"{who} takes pods away when Prometheus does not answer")
    tally.check(scaler.says_when_blind, f"{who} takes a failed scrape for an empty queue")
    averages = all(t.get("metricType") == "AverageValue" for t in scaler.triggers if t["type"] == "prometheus")
    tally.check(averages, f"{who} does not divide the queue by its pods")
