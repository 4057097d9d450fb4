#!/usr/bin/env python3
"""A caller in another language: makes stubs from proto/, starts the suite, calls all five services.

Usage: journey.py PATH-OF-DIPTYCH

Starts `diptych up` on free ports with a Redis of its own, walks one sample through promptgen,
diffusion and dialogue, trains on it, asks the model about its picture, and is refused where it
should be. Then Redis is killed, and the same calls to all five must give the same results. Prints
a line per check and `N passed, N failed` last. Needs redis-server, grpcio, grpcio-tools,
grpcio-health-checking and grpcio-status.
"""

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[3]
SERVICES = ("promptgen", "diffusion", "dialogue", "trainer", "eval")
START_SECONDS = 120
OPTIONS = [("grpc.max_receive_message_length", 16 << 20)]


class Tally:
    """Counts checks and prints one line for each."""

    def __init__(self):
        self.passed = self.failed = 0

    def check(self, holds, sentence):
        print(f"{'ok    ' if holds else 'FAILED'} {sentence}", flush=True)
        if holds:
            self.passed += 1
        else:
            self.failed += 1


def main():
    diptych = sys.argv[1]
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make_stubs(folder / "stubs")
        with redis() as server, suite(diptych, folder / "shared", server["url"]) as endpoints:
            calls = Calls(endpoints, folder / "shared")
            check_health(tally, endpoints)
            first = walk(tally, calls, "with Redis")
            trained = train_and_ask(tally, calls, first, "with Redis")
            check_refusals(tally, calls)
            server["process"].kill()
            server["process"].wait()
            second = walk(tally, calls, "after Redis was killed")
            tally.check(first == second, "the same calls gave the same prompt, picture and dialogue")
            trained_again = train_and_ask(tally, calls, second, "after Redis was killed")
            tally.check(trained == trained_again, "the same training gave the same loss and the same answer")
    print(f"{tally.passed} passed, {tally.failed} failed")
    return 0 if tally.failed == 0 and tally.passed else 1


def make_stubs(out):
    """Compiles every schema, as a caller would."""
    out.mkdir(parents=True)
    schemas = sorted(str(path) for path in (ROOT / "proto").rglob("*.proto"))
    well_known = Path(protoc.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{ROOT / 'proto'}", f"-I{well_known}", f"--python_out={out}", f"--grpc_python_out={out}"]
    if protoc.main(arguments + schemas) != 0:
        sys.exit("the schemas do not compile for Python")
    sys.path.insert(0, str(out))


def stub(name):
    """The module of one schema: `stub("diffusion.v1.diffusion_service")`."""
    return importlib.import_module(f"diptych.{name}_pb2")


class Calls:
    """Stubs of the five services."""

    def __init__(self, endpoints, shared):
        self.shared = shared
        for name in SERVICES:
            channel = grpc.insecure_channel(endpoints[name], options=OPTIONS)
            module = importlib.import_module(f"diptych.{name}.v1.{name}_service_pb2_grpc")
            setattr(self, name, getattr(module, f"{name.capitalize()}ServiceStub")(channel))


@contextlib.contextmanager
def redis():
    """A real Redis on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if time.monotonic() > deadline:
                sys.exit("redis-server does not answer")
        yield {"url": f"redis://127.0.0.1:{port}", "process": process}
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def suite(diptych, shared, redis_url):
    """`diptych up` on free ports; gives `host:port` by service."""
    shared.mkdir()
    process = subprocess.Popen(
        [diptych, "up", "--listen", "127.0.0.1:0", "--json", "--artefact-root", str(shared)],
        stdout=subprocess.PIPE,
        env={**os.environ, "REDIS_URL": redis_url, "DIPTYCH_ASSETS": str(assets(shared))},
        text=True,
    )
    try:
        yield {entry["service"]: entry["endpoint"].removeprefix("http://") for entry in read_json(process.stdout)}
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=60)
        if code != 0:
            sys.exit(f"diptych up ended with {code}")


def assets(shared):
    """Assets with the small random models of the models' own tests, in the layouts of the real ones."""
    folder, fixtures = shared.parent / "assets", ROOT / "crates/models/tests/fixtures"
    (folder / "models/nano").mkdir(parents=True)
    (folder / "abilities").symlink_to(ROOT / "abilities")
    for name, fixture in (("nano-sd", "sd/tiny"), ("nano-clip", "sd/clip"), ("nano-llava", "llava")):
        (folder / "models/nano" / name).symlink_to(fixtures / fixture)
    return folder


def read_json(stream):
    """Reads lines until they are one JSON document."""
    text = ""
    for line in stream:
        text += line
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(text)
    sys.exit("diptych up ended before it said where it listens")


def check_health(tally, endpoints):
    for name, address in endpoints.items():
        health = health_pb2_grpc.HealthStub(grpc.insecure_channel(address))
        service = f"diptych.{name}.v1.{name.capitalize()}Service"
        reply = health.Check(health_pb2.HealthCheckRequest(service=service))
        tally.check(reply.status == health_pb2.HealthCheckResponse.SERVING, f"{service} is SERVING")


def walk(tally, calls, when):
    """One sample's way: a prompt, its picture, its dialogue."""
    promptgen = stub("promptgen.v1.promptgen_service")
    diffusion = stub("diffusion.v1.diffusion_service")
    dialogue = stub("dialogue.v1.dialogue_service")
    identity = "0123456789abcdef" * 2

    item = promptgen.PromptItem(sample_id=identity, slot=0)
    request = promptgen.GeneratePromptsRequest(ability="animal", items=[item], seed=5, slot_count=1)
    prompt = list(calls.promptgen.GeneratePrompts(request))[0].prompt
    tally.check(prompt.facts.subjects[0].name == prompt.keyword, f"{when}: promptgen wrote “{prompt.text}” with its facts")

    item = diffusion.ImageItem(sample_id=identity, prompt=prompt.text, seed=5)
    settings = diffusion.SamplingSettings(step_count=4, guidance_scale=3.0)
    request = diffusion.GenerateImagesRequest(items=[item], settings=settings, report_progress=True)
    replies = list(calls.diffusion.GenerateImages(request))
    steps = [reply.progress.done_step_count for reply in replies if reply.HasField("progress")]
    image = replies[-1].image.image
    tally.check(steps and steps[-1] == 4, f"{when}: diffusion told its steps {steps}")
    tally.check(image.data.startswith(b"\x89PNG") and image.ai_generated, f"{when}: diffusion rendered {len(image.data)} bytes")

    item = dialogue.DialogueItem(sample_id=identity, prompts=[prompt])
    request = dialogue.WriteDialoguesRequest(items=[item], seed=5, round_count=3)
    conversation = list(calls.dialogue.WriteDialogues(request))[0].conversation
    tally.check(len(conversation.turns) == 6, f"{when}: dialogue wrote “{conversation.turns[0].text}” and so on")
    return prompt, image, conversation


def train_and_ask(tally, calls, sample, when):
    """Two training steps on the walked sample, as LLaVA JSON, then a question to the trained model."""
    folder = calls.shared / when.replace(" ", "-")
    folder.mkdir()
    prompt, image, conversation = sample
    training = stub("trainer.v1.training")
    trainer = stub("trainer.v1.trainer_service")
    evaluation = stub("eval.v1.evaluation")
    eval_service = stub("eval.v1.eval_service")
    artefact = stub("dataset.v1.artefact").Artefact
    job = stub("job.v1.job")

    (folder / "fox.png").write_bytes(image.data)
    question, answer = conversation.turns[0].text, conversation.turns[1].text
    rows = [
        {
            "id": str(number),
            "image": "fox.png",
            "conversations": [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}],
        }
        for number in range(4)
    ]
    data = folder / "data.json"
    data.write_text(json.dumps(rows))
    stage = training.TrainingStage(
        name="instruct",
        kind=training.STAGE_KIND_INSTRUCTION,
        data=[training.DataSource(name="walk", llava_json=artefact(uri=data.as_uri()))],
        step_count=2,
        batch_size=2,
        optimizer=training.OptimizerSettings(learning_rate=1e-3),
    )
    spec = training.TrainingSpec(
        base_model="builtin:nano-llava",
        stages=[stage],
        seed=1,
        output=artefact(uri=(folder / "trained").as_uri() + "/"),
    )
    request = trainer.CreateTrainingJobRequest(request_id=f"journey-{folder.name}", spec=spec)
    created = calls.trainer.CreateTrainingJob(request).job
    again = calls.trainer.CreateTrainingJob(request).job
    tally.check(created.job.id == again.job.id, f"{when}: creating a job twice gave one")
    watched = list(calls.trainer.WatchTrainingJob(trainer.WatchTrainingJobRequest(id=created.job.id)))
    last = watched[-1].job
    tally.check(
        last.job.state == job.JOB_STATE_SUCCEEDED and last.result.final_loss > 0,
        f"{when}: trainer took {last.progress.done_step_count} steps, last loss {last.result.final_loss:.3f} {last.job.error}",
    )
    item = eval_service.QuestionItem(question_id="q", images=[image], text=question)
    model = evaluation.Candidate(checkpoint=last.result.model)
    request = eval_service.AnswerQuestionsRequest(model=model, items=[item], max_new_token_count=8)
    reply = list(calls.eval.AnswerQuestions(request))[0]
    tally.check(reply.WhichOneof("result") == "answer", f"{when}: eval had the trained model say “{reply.answer.text}”")
    return last.result.final_loss, reply.answer.text


def check_refusals(tally, calls):
    promptgen = stub("promptgen.v1.promptgen_service")
    diffusion = stub("diffusion.v1.diffusion_service")
    item = promptgen.PromptItem(sample_id="0" * 32)
    refused(
        tally,
        grpc.StatusCode.NOT_FOUND,
        lambda: list(calls.promptgen.GeneratePrompts(promptgen.GeneratePromptsRequest(ability="levitation", items=[item]))),
        "an unknown ability",
    )
    picture = diffusion.ImageItem(sample_id="0" * 32, prompt="fox")
    settings = diffusion.SamplingSettings(width_px=63)
    status = refused(
        tally,
        grpc.StatusCode.INVALID_ARGUMENT,
        lambda: list(calls.diffusion.GenerateImages(diffusion.GenerateImagesRequest(items=[picture], settings=settings))),
        "a width of 63 pixels",
    )
    fields = []
    for detail in status.details if status else []:
        violations = error_details_pb2.BadRequest()
        if detail.Unpack(violations):
            fields += [violation.field for violation in violations.field_violations]
    tally.check(any("width_px" in field for field in fields), f"the details name the field: {fields}")


def refused(tally, code, call, what):
    """Checks that a call is refused with a code; gives its rich status."""
    try:
        call()
    except grpc.RpcError as error:
        tally.check(error.code() == code, f"{what} is refused with {error.code().name}: {error.details()}")
        return rpc_status.from_call(error)
    tally.check(False, f"{what} was not refused")
    return None


if __name__ == "__main__":
    sys.exit(main())
