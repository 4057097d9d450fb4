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
from mistakes.base import MISTAKES
from mistakes.job import BUCKET_MISTAKES, JOB_MISTAKES, container_of, job
from mistakes.scaling import HPA_MISTAKES, KEDA_MISTAKES


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


SUBJECTS = {
    "base": MISTAKES,
    "jobs/synthesis": JOB_MISTAKES,
    "jobs/synthesis-s3": BUCKET_MISTAKES,
    "overlays/autoscale-keda": KEDA_MISTAKES,
    "overlays/autoscale-hpa": HPA_MISTAKES,
}


if __name__ == "__main__":
    sys.exit(main())
