"""What can go wrong in the base: the words of the sentence that must come, and how to do it."""

from manifests import find, kinds

SVC = "diffusion"


def deployment(objects, name=SVC):
    return find(objects, "Deployment", name)


def pod(objects, name=SVC):
    return deployment(objects, name)["spec"]["template"]["spec"]


def container(objects, name=SVC):
    return pod(objects, name)["containers"][0]


def service(objects):
    return find(objects, "Service", SVC)["spec"]


def config(objects):
    return next(c for c in kinds(objects, "ConfigMap") if c["metadata"]["name"].startswith("settings"))


def mount(objects, name):
    return next(m for m in container(objects)["volumeMounts"] if m["name"] == name)


def without_default_deny(objects):
    policy = find(objects, "NetworkPolicy", "default-deny")
    policy["spec"]["policyTypes"] = ["Ingress"]


def with_artefacts_for_dialogue(objects):
    claim = {"name": "artefacts", "persistentVolumeClaim": {"claimName": "artefacts"}}
    pod(objects, "dialogue")["volumes"].append(claim)
    container(objects, "dialogue")["volumeMounts"].append({"name": "artefacts", "mountPath": "/artefacts"})


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
    "no budget": ("no PodDisruptionBudget", lambda o: o.remove(find(o, "PodDisruptionBudget", SVC))),
    "a service that is gone": ("has no Deployment", lambda o: o.remove(deployment(o))),
    "a claim that is not there": ("not here", lambda o: o.remove(find(o, "PersistentVolumeClaim", "artefacts"))),
    "an open way out": ("Egress is not denied", without_default_deny),
    "a rule for everyone": (
        "without peers",
        lambda o: find(o, "NetworkPolicy", "allow-dns")["spec"]["egress"][0].pop("to"),
    ),
}
