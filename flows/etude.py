"""The flows: what happens, in order. Each stage is a task; what is there already is reused.

    end_to_end = corpus, then train        refresh = has the dump changed? then end_to_end
    pretrain, semantic, sft, lora = the way to one training stage, for a pool of its own

A flow's body starts anew on every retry; the store makes that cheap.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tasks.environment import prepare

prepare()

from prefect import flow, get_run_logger  # noqa: E402
from prefect.artifacts import create_link_artifact  # noqa: E402
from prefect.events import emit_event  # noqa: E402
from prefect.runtime import flow_run as this_run  # noqa: E402

from flows.recipe import Recipe  # noqa: E402
from storage.artifact import ArtifactRef, canonical_json  # noqa: E402
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


@dataclass(frozen=True, slots=True)
class Corpus:
    """All that the training stages read."""

    tokenizer: ArtifactRef
    text: ArtifactRef
    pairs: ArtifactRef
    dialogues: ArtifactRef
    lora_dialogues: ArtifactRef


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


def prepare_corpus(recipe: Recipe) -> Corpus:
    """Run stages 1 to 9: from the dumps to what a model reads."""
    documents = []
    for source in recipe.fetch:
        wiki = source.wiki or ""
        dump = fetch(config=source, label=wiki)
        pages = extract(dump=dump, config=recipe.extract, label=wiki)
        documents.append(clean(pages=pages, config=recipe.clean, label=wiki))
    corpus = dedup(documents=documents, config=recipe.dedup)
    passages = cut(corpus=corpus, config=recipe.cut)
    pairs = pair(corpus=corpus, config=recipe.pair)
    dialogues = format_sft(corpus=corpus, config=recipe.format_sft, label="sft")
    lora_config = recipe.format_lora or recipe.format_sft
    lora_dialogues = format_sft(corpus=corpus, config=lora_config, label="lora")
    tokenizer = train_tokenizer(passages=passages, config=recipe.train_tokenizer)
    return Corpus(
        tokenizer=tokenizer,
        text=shard_lm(passages=passages, tokenizer=tokenizer, config=recipe.shard),
        pairs=shard_pairs(pairs=pairs, tokenizer=tokenizer, config=recipe.shard),
        dialogues=shard_sft(
            dialogues=dialogues, tokenizer=tokenizer, config=recipe.shard, label="sft"
        ),
        lora_dialogues=shard_sft(
            dialogues=lora_dialogues, tokenizer=tokenizer, config=recipe.shard, label="lora"
        ),
    )


STAGES = ("pretrain", "semantic", "sft", "lora")


def train_model(recipe: Recipe, data: Corpus, until: str = "lora") -> list[ArtifactRef]:
    """Run the training stages up to `until`; return their checkpoints in order."""
    made = [pretrain(shards=data.text, config=recipe.pretrain, tokenizer=data.tokenizer)]
    if until == "pretrain":
        return made
    made.append(
        semantic(
            parent=made[-1],
            shards=data.text,
            pair_shards=data.pairs,
            config=recipe.semantic,
            tokenizer=data.tokenizer,
        )
    )
    if until == "semantic":
        return made
    made.append(
        sft(parent=made[-1], shards=data.dialogues, config=recipe.sft, tokenizer=data.tokenizer)
    )
    if until == "sft":
        return made
    made.append(
        lora(
            parent=made[-1],
            shards=data.lora_dialogues,
            config=recipe.lora,
            tokenizer=data.tokenizer,
        )
    )
    return made


def judge_and_publish(recipe: Recipe, data: Corpus, checkpoints: list[ArtifactRef]) -> ArtifactRef:
    """Run the last two stages: the report, and the release that it decides on."""
    report = evaluate(
        checkpoints=checkpoints,
        lm_shards=data.text,
        sft_shards=data.dialogues,
        pair_shards=data.pairs,
        tokenizer=data.tokenizer,
        config=recipe.evaluate,
    )
    return publish(checkpoint=checkpoints[-1], report=report, config=recipe.publish)


@flow(name="etude", description="The whole way: dumps to a published model.")
def end_to_end(recipe: Recipe) -> str:
    """Run all twelve stages; return the release."""
    with _recorded("etude", recipe):
        data = prepare_corpus(recipe)
        checkpoints = train_model(recipe, data)
        return str(judge_and_publish(recipe, data, checkpoints))


@flow(name="corpus", description="Stages 1 to 9: dumps to token shards.")
def corpus(recipe: Recipe) -> str:
    """Run the stages of the corpus; return the text shards."""
    with _recorded("corpus", recipe):
        return str(prepare_corpus(recipe).text)


@flow(name="train", description="Stages 10 to 12 on a finished corpus.")
def train(recipe: Recipe) -> str:
    """Train, evaluate and publish; the corpus is reused where it is there."""
    with _recorded("train", recipe):
        data = prepare_corpus(recipe)
        return str(judge_and_publish(recipe, data, train_model(recipe, data)))


def _until(stage: str, recipe: Recipe) -> str:
    with _recorded(stage, recipe):
        return str(train_model(recipe, prepare_corpus(recipe), until=stage)[-1])


@flow(name="pretrain", description="The way to a pretrained checkpoint.")
def pretrain_flow(recipe: Recipe) -> str:
    """Run what the pretrain stage needs, and it."""
    return _until("pretrain", recipe)


@flow(name="semantic", description="The way to a checkpoint that embeds.")
def semantic_flow(recipe: Recipe) -> str:
    """Run what the semantic stage needs, and it."""
    return _until("semantic", recipe)


@flow(name="sft", description="The way to a checkpoint that answers.")
def sft_flow(recipe: Recipe) -> str:
    """Run what the sft stage needs, and it."""
    return _until("sft", recipe)


@flow(name="lora", description="The way to a checkpoint with adapters.")
def lora_flow(recipe: Recipe) -> str:
    """Run what the lora stage needs, and it."""
    return _until("lora", recipe)


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
