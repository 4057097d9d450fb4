"""What can go wrong with those that decide how many pods there are."""

import copy

from manifests import find, kinds
from mistakes.base import SVC, deployment


def scaler(objects, name=SVC):
    wanted = kinds(objects, "ScaledObject", "HorizontalPodAutoscaler")
    return next(item["spec"] for item in wanted if item["metadata"]["name"] == name)


def trigger(objects, name=SVC):
    return scaler(objects, name)["triggers"][0]


def twice_scaled(objects):
    wanted = kinds(objects, "ScaledObject", "HorizontalPodAutoscaler")
    objects.append(copy.deepcopy(next(item for item in wanted if item["metadata"]["name"] == SVC)))


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
        lambda o: o.remove(find(o, "NetworkPolicy", "allow-metrics-scrape")),
    ),
    "no budget for what it keeps": (
        "no PodDisruptionBudget",
        lambda o: o.remove(find(o, "PodDisruptionBudget", SVC)),
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
