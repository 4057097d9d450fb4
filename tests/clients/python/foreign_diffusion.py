#!/usr/bin/env python3
"""A diffusion stage of somebody else's making: the `diffusers` library behind Diptych's schema.

Usage: foreign_diffusion.py --model models/nano/nano-sd [--listen 127.0.0.1:9000]

It serves `diptych.diffusion.v1.DiffusionService` for one checkpoint folder in diffusers layout,
and nothing else: no scoring, so the suite brings that itself. Stubs are made from proto/ when it
starts. One thread owns the model and renders one picture at a time, so that a picture does not
depend on the company; a bounded number of calls waits for it, and the next is refused. Read it
from `Stage` downwards to see what an implementation has to do, and hold your own against

    diptych conformance --service diffusion --endpoint http://127.0.0.1:9000
"""

import argparse
import hashlib
import importlib
import io
import math
import queue
import signal
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import diffusers
import grpc
import torch
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_status import rpc_status
from grpc_tools import protoc
from PIL import PngImagePlugin

ROOT = Path(__file__).resolve().parents[3]
SERVICE = "diptych.diffusion.v1.DiffusionService"
VERSION = "1"
MAX_ITEMS = 64
MAX_CALLS = 16  # rendering and waiting; the next is refused
MAX_SIDE_PX = 2048
MAX_MESSAGE_BYTES = 16 << 20
MAX_IMAGE_BYTES = 4 << 20  # of the schema
HEX = set("0123456789abcdef")
# Samplers by the schema's names; what is not here is refused.
SAMPLERS = {
    "SCHEDULER_DDIM": (diffusers.DDIMScheduler, {}),
    "SCHEDULER_DDPM": (diffusers.DDPMScheduler, {}),
    "SCHEDULER_PNDM": (diffusers.PNDMScheduler, {}),
    "SCHEDULER_EULER": (diffusers.EulerDiscreteScheduler, {}),
    "SCHEDULER_EULER_A": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "SCHEDULER_HEUN": (diffusers.HeunDiscreteScheduler, {}),
    "SCHEDULER_DPMPP_2M": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "SCHEDULER_DPMPP_2M_SDE": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "SCHEDULER_UNIPC": (diffusers.UniPCMultistepScheduler, {}),
    "SCHEDULER_LCM": (diffusers.LCMScheduler, {}),
}


def make_stubs(out):
    """Compiles the schemas and gives the modules that this file speaks."""
    well_known = Path(protoc.__file__).parent / "_proto"
    schemas = sorted(str(path) for path in (ROOT / "proto").rglob("*.proto"))
    flags = [f"-I{ROOT / 'proto'}", f"-I{well_known}", f"--python_out={out}", f"--grpc_python_out={out}"]
    if protoc.main(["protoc", *flags, *schemas]) != 0:
        sys.exit("the schemas do not compile for Python")
    sys.path.insert(0, out)
    names = ("dataset.v1.capabilities_pb2", "dataset.v1.prompt_pb2", "diffusion.v1.diffusion_service_pb2", "diffusion.v1.diffusion_service_pb2_grpc")
    return [importlib.import_module(f"diptych.{name}") for name in names]


with tempfile.TemporaryDirectory() as stubs:
    capabilities_pb, prompt_pb, pb, pb_grpc = make_stubs(stubs)


class Refused(Exception):
    """A request that cannot be served: the code, the field that is wrong, and why."""

    def __init__(self, code, field, why):
        super().__init__(f"{field} {why}" if field else why)
        self.code, self.field, self.why = code, field, why

    def status(self):
        details = []
        if self.field:
            violation = error_details_pb2.BadRequest.FieldViolation(field=self.field, description=self.why)
            details.append(any_pb2.Any())
            details[0].Pack(error_details_pb2.BadRequest(field_violations=[violation]))
        return rpc_status.to_status(status_pb2.Status(code=self.code, message=str(self), details=details))


class Left(Exception):
    """The caller has gone, or its deadline has passed."""


@dataclass
class Settings:
    """Sampling settings after they were checked: nothing is optional, and 0 means 0."""

    steps: int
    guidance: float
    width_px: int
    height_px: int
    sampler: str
    webui: bool
    guidance_rescale: float
    eta: float


class Stage(pb_grpc.DiffusionServiceServicer):
    """The service. The three calls come first, then what they check, then the device's work."""

    def __init__(self, name, folder):
        self.name, self.sha256 = name, hash_of(folder)
        self.pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        self.pipe.set_progress_bar_config(disable=True)
        self.multiple_px = self.pipe.vae_scale_factor
        self.side_px = self.pipe.unet.config.sample_size * self.multiple_px
        self.own_scheduler = self.pipe.scheduler
        self.device = ThreadPoolExecutor(max_workers=1)
        self.room = threading.Semaphore(MAX_CALLS)

    def GetCapabilities(self, request, context):
        reply = pb.GetCapabilitiesResponse()
        told = reply.capabilities
        told.service, told.version, told.backend = SERVICE, VERSION, f"diffusers {diffusers.__version__}"
        told.models.append(self.info())
        told.features.extend(["negative_prompts", "webui_prompts", "progress", "sizes", "guidance_rescale"])
        told.max_items_per_request = MAX_ITEMS
        return reply

    def ListModels(self, request, context):
        if request.page_token or request.page_size > 100:
            field = "page_token" if request.page_token else "page_size"
            context.abort_with_status(invalid(field, "is none that this call takes").status())
        own = next((name for name, (kind, _) in SAMPLERS.items() if type(self.own_scheduler) is kind), "SCHEDULER_UNSPECIFIED")
        model = pb.DiffusionModel(info=self.info(), default_width_px=self.side_px, default_height_px=self.side_px)
        model.size_multiple_px, model.default_scheduler = self.multiple_px, pb.Scheduler.Value(own)
        return pb.ListModelsResponse(models=[model])

    def GenerateImages(self, request, context):
        """Renders on the device's thread, and hands on what comes from there as it comes."""
        try:
            settings = self.check(request)
        except Refused as refused:
            context.abort_with_status(refused.status())
        if not self.room.acquire(blocking=False):
            full = Refused(code_pb2.RESOURCE_EXHAUSTED, "", f"{MAX_CALLS} calls are waiting already")
            context.abort_with_status(full.status())
        # As long as the request makes it: a few words per step, and a picture per item.
        replies, left = queue.Queue(), threading.Event()
        # Called at the end of the call, however it ends: cancelled, too late, or done.
        if not context.add_callback(left.set):
            left.set()
        done = self.device.submit(self.render_all, request, settings, replies.put, left)
        done.add_done_callback(lambda _: (self.room.release(), replies.put(None)))
        yield from iter(replies.get, None)

    def info(self):
        info = capabilities_pb.ModelInfo(name=self.name, sha256=self.sha256, architecture=type(self.pipe).__name__)
        parts = (self.pipe.unet, self.pipe.vae, self.pipe.text_encoder)
        info.parameter_count = sum(weight.numel() for part in parts for weight in part.parameters())
        return info

    def check(self, request):
        """Refuses what cannot be served, before any work; gives the settings."""
        if request.model not in ("", self.name):
            raise Refused(code_pb2.NOT_FOUND, "", f"no model {request.model!r} here, only {self.name!r}")
        if not 1 <= len(request.items) <= MAX_ITEMS:
            raise invalid("items", f"must be 1 to {MAX_ITEMS}")
        seen = set()
        for index, item in enumerate(request.items):
            place = f"items[{index}]"
            if len(item.sample_id) != 32 or not HEX.issuperset(item.sample_id):
                raise invalid(f"{place}.sample_id", "must be 32 lower-case hexadecimal digits")
            if item.sample_id in seen:
                raise invalid(f"{place}.sample_id", "stands there twice")
            seen.add(item.sample_id)
            if item.HasField("init_image") or item.HasField("mask_image"):
                raise invalid(f"{place}.init_image", "is not offered here")
            if item.image_count > 1:
                raise invalid(f"{place}.image_count", "is not offered here")
            if item.strength != 0:
                raise invalid(f"{place}.strength", "must be 0 without init_image")
        return self.check_settings(request.settings)

    def check_settings(self, asked):
        settings = Settings(
            steps=asked.step_count or 25,
            guidance=asked.guidance_scale if asked.HasField("guidance_scale") else 7.5,
            width_px=asked.width_px or self.side_px,
            height_px=asked.height_px or self.side_px,
            sampler=name_of(pb.Scheduler, asked.scheduler, "settings.scheduler"),
            webui=name_of(prompt_pb.PromptSyntax, asked.prompt_syntax, "settings.prompt_syntax") == "PROMPT_SYNTAX_WEBUI",
            guidance_rescale=asked.guidance_rescale,
            eta=asked.eta,
        )
        if settings.steps > 1000:
            raise invalid("settings.step_count", "must be 1 to 1000")
        bounds = (("guidance_scale", settings.guidance, 100), ("guidance_rescale", asked.guidance_rescale, 1), ("eta", asked.eta, 1))
        for field, value, most in bounds:
            if not 0 <= value <= most:  # also refuses what is no number
                raise invalid(f"settings.{field}", f"must be 0 to {most}")
        for field, side_px in (("width_px", settings.width_px), ("height_px", settings.height_px)):
            if side_px % self.multiple_px or side_px > min(4 * self.side_px, MAX_SIDE_PX):
                raise invalid(f"settings.{field}", f"must be a multiple of {self.multiple_px}, at most {min(4 * self.side_px, MAX_SIDE_PX)}")
        if asked.clip_skip:
            raise invalid("settings.clip_skip", "is not offered here; leave it 0")
        if settings.sampler not in SAMPLERS and settings.sampler != "SCHEDULER_UNSPECIFIED":
            raise invalid("settings.scheduler", f"{settings.sampler} is not offered here")
        return settings

    def render_all(self, request, settings, send, left):
        """One item after the other; one that fails does not take the others along."""
        for item in request.items:
            on_step = send if request.report_progress else (lambda step: None)
            reply = pb.GenerateImagesResponse(sample_id=item.sample_id)
            try:
                reply.image.CopyFrom(self.render(item, settings, on_step, left))
            except Left:
                return
            except Exception as error:  # whatever the library throws concerns this picture alone
                print(f"{item.sample_id}: {error!r}", file=sys.stderr, flush=True)
                reply.failure.reason, reply.failure.message = "RENDERING_FAILED", f"{type(error).__name__}: {error}"
            send(reply)

    def render(self, item, settings, on_step, left):
        if settings.sampler == "SCHEDULER_UNSPECIFIED":
            self.pipe.scheduler = type(self.own_scheduler).from_config(self.own_scheduler.config)
        else:
            kind, options = SAMPLERS[settings.sampler]
            self.pipe.scheduler = kind.from_config(self.own_scheduler.config, **options)

        def after_step(pipe, index, timestep, tensors):
            if left.is_set():
                raise Left
            # Some samplers take more evaluations than steps.
            done = math.ceil((index + 1) * settings.steps / pipe.num_timesteps)
            progress = pb.StepProgress(done_step_count=done, step_count=settings.steps)
            on_step(pb.GenerateImagesResponse(sample_id=item.sample_id, progress=progress))
            return tensors

        if left.is_set():
            raise Left
        states, negative_states, truncated = self.encode(item, settings)
        output = self.pipe(
            prompt_embeds=states,
            negative_prompt_embeds=negative_states,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            guidance_rescale=settings.guidance_rescale,
            eta=settings.eta,
            width=settings.width_px,
            height=settings.height_px,
            generator=torch.Generator("cpu").manual_seed(item.seed),
            callback_on_step_end=after_step,
        )
        checker = self.pipe.safety_checker
        flagged = bool(checker and output.nsfw_content_detected[0])
        verdict = "NOT_CHECKED" if checker is None else "UNSAFE" if flagged else "SAFE"
        reply = pb.GeneratedImage(prompt_truncated=truncated, seed=item.seed, safety=pb.SafetyVerdict.Value(f"SAFETY_VERDICT_{verdict}"))
        self.fill(reply.image, output.images[0], item, settings)
        return reply

    @torch.no_grad()
    def encode(self, item, settings):
        """States of both texts, equally long, and whether the prompt was cut."""
        read = weighted_parts if settings.webui else (lambda text: [(text, 1.0)])
        texts = [self.tokens(read(text)) for text in (item.prompt, item.negative_prompt)]
        room = self.pipe.tokenizer.model_max_length - 2
        chunk_count = max(1, *(math.ceil(len(tokens) / room) for tokens, _ in texts)) if settings.webui else 1
        truncated = len(texts[0][0]) > room * chunk_count
        states = [self.states(tokens, weights, room, chunk_count) for tokens, weights in texts]
        return *states, truncated

    def tokens(self, parts):
        tokens, weights = [], []
        for text, weight in parts:
            ids = self.pipe.tokenizer(text, add_special_tokens=False, truncation=False).input_ids
            tokens += ids
            weights += [weight] * len(ids)
        return tokens, weights

    def states(self, tokens, weights, room, chunk_count):
        """Chunks of 75 tokens, scaled by their weights; the mean is restored, chunk by chunk."""
        tokenizer, chunks = self.pipe.tokenizer, []
        for first in range(0, chunk_count * room, room):
            ids, scales = tokens[first : first + room], weights[first : first + room]
            fill = room - len(ids)
            padded = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * fill]
            states = self.pipe.text_encoder(torch.tensor([padded])).last_hidden_state  # (1, 77, dim)
            scaled = states * torch.tensor([1.0, *scales, *[1.0] * (fill + 1)])[None, :, None]
            if any(scale != 1 for scale in scales):
                scaled *= states.mean() / scaled.mean()
            chunks.append(scaled)
        return torch.cat(chunks, dim=1)  # (1, 77 · chunks, dim)

    def fill(self, image, picture, item, settings):
        """Encodes the picture with the mark that a model made it, and says of what it was made."""
        mark = PngImagePlugin.PngInfo()
        mark.add_text("ai_generated", "true")
        mark.add_text("model", self.name)
        file = io.BytesIO()
        picture.save(file, "PNG", pnginfo=mark)
        if file.tell() >= MAX_IMAGE_BYTES:
            raise ValueError(f"the PNG has {file.tell()} bytes, and a message takes {MAX_IMAGE_BYTES}")
        image.sample_id, image.data, image.media_type = item.sample_id, file.getvalue(), "image/png"
        image.width_px, image.height_px = picture.size
        image.sha256, image.ai_generated = hashlib.sha256(image.data).hexdigest(), True
        made = image.provenance
        made.producer, made.code_version = "foreign_diffusion/diffusers", f"{VERSION}, diffusers {diffusers.__version__}"
        made.model, made.model_sha256 = self.name, self.sha256
        made.seed, made.seeded = item.seed, True
        for name, value in vars(settings).items():
            made.parameters[name] = str(value)
        made.parent_sha256.append(hashlib.sha256(item.prompt.encode()).hexdigest())


def invalid(field, why):
    return Refused(code_pb2.INVALID_ARGUMENT, field, why)


def name_of(enum, value, field):
    try:
        return enum.Name(value)
    except ValueError:
        raise invalid(field, f"{value} is none that the schema knows") from None


def weighted_parts(text):
    """Reads `(x)` as times 1.1, `[x]` as divided by 1.1 and `(x:1.3)` as said; `\\(` is a character."""
    parts, stack, words = [], [], ""

    def flush():
        nonlocal words
        if words:
            parts.append([words, 1.0])
        words = ""

    def scale(first, factor):
        for part in parts[first:]:
            part[1] *= factor

    characters = iter(text)
    for character in characters:
        if character == "\\":
            words += next(characters, "\\")
        elif character in "([":
            flush()
            stack.append((character, len(parts)))
        elif character in ")]" and stack and stack[-1][0] == {")": "(", "]": "["}[character]:
            factor = 1.1 if character == ")" else 1 / 1.1
            head, colon, number = words.rpartition(":")
            if character == ")" and colon and is_number(number):
                words, factor = head, float(number)
            flush()
            scale(stack.pop()[1], factor)
        else:
            words += character
    flush()
    return [(words, weight) for words, weight in parts]


def is_number(text):
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def hash_of(folder):
    """SHA-256 over the names and bytes of a checkpoint's weights and configuration."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and path.suffix in (".json", ".safetensors", ".txt"):
            digest.update(f"{path.relative_to(folder)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def with_reflection(server):
    """The library knows v1alpha; v1 has the same messages under another name."""
    names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME, "grpc.reflection.v1.ServerReflection")
    reflection.enable_server_reflection(names, server)
    answer = reflection.ReflectionServicer(names).ServerReflectionInfo
    handler = grpc.stream_stream_rpc_method_handler(
        answer, reflection_pb2.ServerReflectionRequest.FromString, reflection_pb2.ServerReflectionResponse.SerializeToString
    )
    handlers = {"ServerReflectionInfo": handler}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(names[3], handlers),))


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", required=True, type=Path, help="checkpoint folder in diffusers layout")
    arguments.add_argument("--listen", default="127.0.0.1:9000", help="address; port 0 takes a free one")
    arguments = arguments.parse_args()
    stage = Stage(arguments.model.name, arguments.model)
    # Every call that renders or waits holds a thread; a few more answer the short ones.
    server = grpc.server(ThreadPoolExecutor(MAX_CALLS + 8), options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)])
    pb_grpc.add_DiffusionServiceServicer_to_server(stage, server)
    states = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(states, server)
    with_reflection(server)
    port = server.add_insecure_port(arguments.listen)
    server.start()
    for name in ("", SERVICE):
        states.set(name, health_pb2.HealthCheckResponse.SERVING)
    print(f"listening on http://{arguments.listen.rpartition(':')[0]}:{port}", flush=True)
    stopped = threading.Event()
    for asked in (signal.SIGTERM, signal.SIGINT):
        signal.signal(asked, lambda *_: stopped.set())
    stopped.wait()
    states.enter_graceful_shutdown()
    server.stop(grace=5).wait()


if __name__ == "__main__":
    main()
