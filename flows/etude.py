"""The flows: what happens, in order. Each stage is a task; what is there already is reused.

    end_to_end = corpus, then train        refresh = has the dump changed? then end_to_end
    pretrain, semantic, sft, lora = the way to one training stage, for a pool of its own

A flow's body starts anew on every retry; the store makes that cheap.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tasks.environment import prepare

prepare()

from prefect import Flow, flow, get_run_logger  # noqa: E402
from prefect.artifacts import create_link_artifact  # noqa: E402
from prefect.events import emit_event  # noqa: E402
from prefect.runtime import flow_run as this_run  # noqa: E402

from flows.inputs import check_inputs  # noqa: E402
from flows.recipe import Recipe, Stage  # noqa: E402
from storage.artifact import canonical_json  # noqa: E402
from storage.files import read_json, write_json  # noqa: E402
from storage.hashing import stable_hash  # noqa: E402
from storage.store import etude_home  # noqa: E402
from tasks import tracking  # noqa: E402
from tasks.clean.task import clean  # noqa: E402
from tasks.cut.task import cut  # noqa: E402
from tasks.dedup.task import dedup  # noqa: E402
from tasks.evaluate.task import evaluate  # noqa: E402
from tasks.extract.task import extract  # noqa: E402
from tasks.fetch.sources import identity as source_identity  # noqa: E402
from tasks.fetch.task import fetch  # noqa: E402
from tasks.format_sft.task import format_sft  # noqa: E402
from tasks.pair.task import pair  # noqa: E402
from tasks.publish.task import publish  # noqa: E402
from tasks.shard.task import shard_lm, shard_pairs, shard_sft  # noqa: E402
from tasks.train.task import lora, pretrain, semantic, sft  # noqa: E402
from tasks.train_tokenizer.task import train_tokenizer  # noqa: E402


@contextmanager
def _recorded(name: str, recipe: Recipe) -> Iterator[None]:
    """Open the flow run's parent run in MLflow and link it from the Prefect page."""
    run_id = str(this_run.id)
    tags = {"prefect.url": this_run.ui_url or "", "etude.flow": name}
    params = recipe.model_dump(mode="json")
    with tracking.flow_run(run_id, f"{name} {this_run.name}", params, tags) as mlflow_id:
        link = tracking.run_url(mlflow_id)
        if link:
            create_link_artifact(link, link_text="MLflow run", key=f"{name}-mlflow")
        yield


def way(recipe: Recipe) -> Iterator[str]:
    """Walk the whole way; yield the name of each stage before it runs.

    Whoever iterates decides how far to go: a stage runs when the next name is asked for.
    """
    wikis = [source.wiki or "" for source in recipe.fetch]
    yield "fetch"
    dumps = [fetch(config=source, label=source.wiki or "") for source in recipe.fetch]
    yield "extract"
    pages = [
        extract(dump=dump, config=recipe.extract, label=wiki)
        for dump, wiki in zip(dumps, wikis, strict=True)
    ]
    yield "clean"
    documents = [
        clean(pages=page, config=recipe.clean, label=wiki)
        for page, wiki in zip(pages, wikis, strict=True)
    ]
    yield "dedup"
    corpus = dedup(documents=documents, config=recipe.dedup)
    yield "cut"
    passages = cut(corpus=corpus, config=recipe.cut)
    yield "pair"
    pairs = pair(corpus=corpus, config=recipe.pair)
    yield "format_sft"
    sft_dialogues = format_sft(corpus=corpus, config=recipe.format_sft, label="sft")
    lora_config = recipe.format_lora or recipe.format_sft
    lora_dialogues = format_sft(corpus=corpus, config=lora_config, label="lora")
    yield "train_tokenizer"
    tokenizer = train_tokenizer(passages=passages, config=recipe.train_tokenizer)
    yield "shard"
    shape = recipe.shard
    text = shard_lm(passages=passages, tokenizer=tokenizer, config=shape)
    pair_shards = shard_pairs(pairs=pairs, tokenizer=tokenizer, config=shape)
    answers = shard_sft(dialogues=sft_dialogues, tokenizer=tokenizer, config=shape, label="sft")
    manners = shard_sft(dialogues=lora_dialogues, tokenizer=tokenizer, config=shape, label="lora")
    yield "pretrain"
    base = pretrain(shards=text, tokenizer=tokenizer, config=recipe.pretrain)
    yield "semantic"
    embedding = semantic(
        parent=base,
        shards=text,
        pair_shards=pair_shards,
        tokenizer=tokenizer,
        config=recipe.semantic,
    )
    yield "sft"
    chat = sft(parent=embedding, shards=answers, tokenizer=tokenizer, config=recipe.sft)
    yield "lora"
    adapted = lora(parent=chat, shards=manners, tokenizer=tokenizer, config=recipe.lora)
    yield "evaluate"
    report = evaluate(
        checkpoints=[base, embedding, chat, adapted],
        lm_shards=text,
        sft_shards=answers,
        pair_shards=pair_shards,
        tokenizer=tokenizer,
        config=recipe.evaluate,
    )
    yield "publish"
    publish(checkpoint=adapted, report=report, config=recipe.publish)


def _walk(flow_name: str, recipe: Recipe, last: str) -> None:
    """Walk the way up to and with the stage `last`, once what it needs is seen to be there."""
    check_inputs(recipe, last)
    with _recorded(flow_name, recipe):
        is_last = False
        for stage in way(recipe):
            if is_last:
                return
            is_last = stage == last


@flow(name="etude", description="The whole way: dumps to a published model.")
def end_to_end(recipe: Recipe) -> None:
    """Run all twelve stages."""
    _walk("etude", recipe, "publish")


@flow(name="corpus", description="Stages 1 to 9: dumps to token shards.")
def corpus(recipe: Recipe) -> None:
    """Run the stages of the corpus."""
    _walk("corpus", recipe, "shard")


@flow(name="train", description="Stages 10 to 12: train, evaluate, publish.")
def train(recipe: Recipe) -> None:
    """Train, evaluate and publish; the corpus is reused where it is there."""
    _walk("train", recipe, "publish")


def _flow_to(stage: str, description: str) -> Flow[[Recipe], None]:
    """Return the flow that runs what a stage needs, and it: a deployment for a pool of its own."""

    @flow(name=stage, description=description)
    def flow_to_stage(recipe: Recipe) -> None:
        _walk(stage, recipe, stage)

    return flow_to_stage


pretrain_flow = _flow_to("pretrain", "The way to a pretrained checkpoint.")
semantic_flow = _flow_to("semantic", "The way to a checkpoint that embeds.")
sft_flow = _flow_to("sft", "The way to a checkpoint that answers.")
lora_flow = _flow_to("lora", "The way to a checkpoint with adapters.")


@flow(name="stage", description="The way to any one stage.")
def stage_flow(recipe: Recipe, stage: Stage) -> None:
    """Run what a stage needs, and it; `train` means all four trainings."""
    last = "lora" if stage == "train" else stage
    _walk(f"stage-{stage}".replace("_", "-"), recipe, last)


@flow(name="refresh", description="Look at the dump source; tell when it has changed.")
def refresh(recipe: Recipe) -> bool:
    """Emit `etude.dump.refreshed` if a source's identity is not the one seen last; return whether.

    The deployment etude/end-to-end listens to that event. An event too many costs nothing: the
    whole way is reused as long as the bytes are the same.
    """
    logger = get_run_logger()
    sources = [source.model_dump(mode="json") for source in recipe.fetch]
    slug = f"{stable_hash(canonical_json(sources)):016x}"
    seen_file = etude_home() / "records" / f"refresh-{slug}.json"
    seen = read_json(seen_file)["identities"] if seen_file.exists() else None
    identities = [source_identity(source) for source in recipe.fetch]
    if identities == seen:
        logger.info("nothing new: %s", ", ".join(identities))
        return False
    wikis = "-".join(source.wiki or "dump" for source in recipe.fetch)
    emit_event(
        "etude.dump.refreshed",
        resource={"prefect.resource.id": f"etude.dump.{wikis}"},
        payload={"identities": identities, "recipe": recipe.model_dump(mode="json")},
    )
    seen_file.parent.mkdir(parents=True, exist_ok=True)
    write_json(seen_file, {"identities": identities})
    logger.info("new dump: %s", ", ".join(identities))
    return True
