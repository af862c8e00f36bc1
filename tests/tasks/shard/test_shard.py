"""passages / pairs / dialogues + tokenizer -> shards: what is in the rows, and that it stays so."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etude_model.data.lm import IGNORED
from etude_model.data.sft import SftRows
from etude_model.tokenizer import Tokenizer
from storage.artifact import ArtifactRef, Counts
from storage.errors import BadInput
from storage.formats.shards import Shard, open_shard
from storage.formats.table import read_rows
from storage.workspace import Workspace
from tasks.format_sft.readers import detect_format, messages_of, read_file
from tasks.format_sft.validate import language_of
from tasks.shard.config import ShardConfig
from tasks.shard.rows import token_dtype
from tasks.shard.sft import check_mask, fit_dialogue
from tasks.shard.task import shard_lm, shard_pairs, shard_sft
from tasks.train_tokenizer.train import train_model

MakeRef = Callable[..., ArtifactRef]

TEXTS = {
    "en": "The old river ran north. People built a bridge there. ",
    "zh": "古老的河流向北方。人们建了桥。",
}


@pytest.fixture(scope="module")
def tokenizer_ref(tmp_path_factory: pytest.TempPathFactory) -> ArtifactRef:
    """A tokenizer of 380 tokens, as an artifact."""
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = [
        TEXTS["en"] * 3,
        TEXTS["zh"] * 3,
        "user system assistant question answer 0123456789",
    ] * 3
    model = train_model(texts, vocab_size=380, character_coverage=1.0, field="x")
    (folder / "tokenizer.model").write_bytes(model)
    return ArtifactRef("tokenizer", "t", "t", folder)


@pytest.fixture
def tokenizer(tokenizer_ref: ArtifactRef) -> Tokenizer:
    """The same, opened."""
    return Tokenizer(tokenizer_ref.path)


def passage(page_id: int, *, split: str = "train") -> dict:
    """Return a passage of one to twenty sentences."""
    language = ("en", "zh")[page_id % 3 == 0]
    repeats = random.Random(page_id).randint(1, 10)
    return {
        "wiki": f"{language}wiki",
        "language": language,
        "page_id": page_id,
        "title": "",
        "split": split,
        "index": 0,
        "heading": "",
        "text": f"{page_id}. {TEXTS[language] * repeats}".strip(),
    }


def shards(folder: Path, name: str = "tokens.parquet") -> dict[str, Shard]:
    """Return the shards of an artifact by part."""
    return {path.parent.name: open_shard(path) for path in sorted(folder.rglob(name))}


def pieces(shard: Shard, column: str = "tokens") -> list[tuple[str, list[int]]]:
    """Return (language, values) of every piece of a shard."""
    found = []
    languages, segments = shard.extra("language").to_pylist(), shard.extra("segments").to_pylist()
    for row, language, lengths in zip(shard.columns[column], languages, segments, strict=True):
        borders = np.cumsum([0, *lengths])
        found += [(language, row[a:b].tolist()) for a, b in pairwise(borders)]
    return found


@pytest.fixture
def passages(make_artifact: MakeRef) -> ArtifactRef:
    """Two files of passages, one in eleven for validation."""
    rows = [passage(n, split="validation" if n % 11 == 0 else "train") for n in range(200)]
    return make_artifact("passages", rows[:120], rows[120:])


CONFIG = ShardConfig(context_length=64, shard_rows=40)


def test_every_passage_is_in_the_shards(
    tmp_path: Path, passages: ArtifactRef, tokenizer_ref: ArtifactRef, tokenizer: Tokenizer
) -> None:
    """Would catch a token lost or moved, a side or a language crossed, an unmarked border."""
    workspace = Workspace.scratch(tmp_path / "w")
    counts = shard_lm.run(
        passages=passages, tokenizer=tokenizer_ref, config=CONFIG, workspace=workspace
    )
    found = shards(workspace.path)
    assert sum(name.startswith("train-") for name in found) > 2 and "validation-00000" in found
    rows = list(read_rows(passages.files("passages.parquet")))
    for split in ("train", "validation"):
        own = [shard for name, shard in found.items() if name.startswith(split)]
        for language in ("en", "zh"):
            expected = [
                row["text"] for row in rows if (row["split"], row["language"]) == (split, language)
            ]
            tokens = [
                one
                for shard in own
                for of, piece in pieces(shard)
                if of == language
                for one in piece
            ]
            whole = [one for text in expected for one in tokenizer.encode_whole(text)]
            assert np.array_equal(np.sort(tokens), np.sort(whole))
            starts = [
                piece
                for shard in own
                for of, piece in pieces(shard)
                if of == language and piece[0] == 1
            ]
            assert len(starts) == len(expected)
    for shard in found.values():
        assert shard.zero_copy and shard.columns["tokens"].dtype == np.uint16
        assert shard.metadata == {
            "format": "lm",
            "context_length": 64,
            "tokenizer": tokenizer.digest,
            "vocab_size": 380,
            "pad_id": 3,
        }
        lengths = [sum(one) for one in shard.extra("segments").to_pylist()]
        for row, length in zip(shard.columns["tokens"], lengths, strict=True):
            assert (row[length:] == 3).all() and not (row[:length] == 3).any()
    assert counts.seen == counts.kept == 200
    assert counts.rows == sum(shard.num_rows for shard in found.values())
    used = sum((shard.columns["tokens"] != 3).sum() for shard in found.values())
    assert counts.metrics["tokens"] == used
    assert counts.metrics["fill_share"] == pytest.approx(used / (counts.rows * 64))
    assert counts.metrics["fill_share"] > 0.9
    assert counts.metrics["bytes"] == sum(len(row["text"].encode()) for row in rows)


def test_whole_passages_stay_whole_where_they_fit(
    tmp_path: Path,
    make_artifact: MakeRef,
    tokenizer_ref: ArtifactRef,
    tokenizer: Tokenizer,
) -> None:
    """Would catch a packer that cuts short texts for a little less padding."""
    rows = [passage(n) | {"text": TEXTS["en"].strip()} for n in range(1, 40)]
    workspace = Workspace.scratch(tmp_path / "w")
    config = ShardConfig(context_length=256)
    ref = make_artifact("passages", rows)
    shard_lm.run(passages=ref, tokenizer=tokenizer_ref, config=config, workspace=workspace)
    (shard,) = shards(workspace.path).values()
    whole = tokenizer.encode_whole(TEXTS["en"].strip())
    assert sum(piece == whole for _, piece in pieces(shard)) > 30


def test_a_lost_shard_is_rebuilt_alone_and_equal(
    tmp_path: Path,
    passages: ArtifactRef,
    tokenizer_ref: ArtifactRef,
    file_bytes: Callable[[Path], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Would catch shards that depend on one another, on chance, or on who builds them."""
    inputs = {"passages": passages, "tokenizer": tokenizer_ref, "config": CONFIG}
    shard_lm.run(**inputs, workspace=Workspace.scratch(tmp_path / "w"))
    before = file_bytes(tmp_path / "w")
    shutil.rmtree(tmp_path / "w" / "train-00001")
    built: list[str] = []
    part = Workspace.part

    def watched(self: Workspace, name: str, build: Callable[[Path], Counts]) -> Counts:
        def build_and_tell(folder: Path) -> Counts:
            built.append(name)
            return build(folder)

        return part(self, name, build_and_tell)

    monkeypatch.setattr(Workspace, "part", watched)
    shard_lm.run(**inputs, workspace=Workspace.scratch(tmp_path / "w"))
    assert built == ["train-00001"]
    assert file_bytes(tmp_path / "w") == before
    shard_lm.run(**inputs, workspace=Workspace.scratch(tmp_path / "again"))
    assert file_bytes(tmp_path / "again") == before


def dialogue(
    number: int, turns: int, words: int, *, split: str = "train", system: str = ""
) -> dict:
    """Return a dialogue of `turns` questions and answers, `words` long each."""
    messages = [{"role": "system", "content": system}] if system else []
    for turn in range(turns):
        messages.append({"role": "user", "content": f"question {number}.{turn}"})
        messages.append({"role": "assistant", "content": "answer " * words + f"{number}.{turn}"})
    return {
        "id": f"d{number}",
        "messages": messages,
        "source": "x",
        "language": "en",
        "license": None,
        "split": split,
        "page_id": None,
    }


def answers(tokens: list[int], mask: list[int], tokenizer: Tokenizer) -> list[str]:
    """Return the texts that are learned, told apart by `<|im_end|>`."""
    learned = [one for one, on in zip(tokens, mask, strict=True) if on]
    texts: list[str] = []
    current: list[int] = []
    for one in learned:
        if one == tokenizer.im_end_id:
            texts.append(tokenizer.decode(current))
            current = []
        else:
            current.append(one)
    assert not current
    return texts


def test_sft_masks_are_the_answers(
    tmp_path: Path,
    make_artifact: MakeRef,
    tokenizer_ref: ArtifactRef,
    tokenizer: Tokenizer,
) -> None:
    """Would catch a mask that slips by one in packing, or learns questions or padding."""
    rows = [dialogue(n, n % 3 + 1, n % 5) for n in range(60)]
    rows += [dialogue(60 + n, 1, 1, split="validation") for n in range(5)]
    rows[7]["messages"][-1]["content"] = "<|im_end|> is \u2581 harmless"
    workspace = Workspace.scratch(tmp_path / "w")
    counts = shard_sft.run(
        dialogues=make_artifact("dialogues", rows),
        tokenizer=tokenizer_ref,
        config=ShardConfig(context_length=256),
        workspace=workspace,
    )
    found = shards(workspace.path)
    assert list(found) == ["train-00000", "validation-00000"]
    learned = []
    for shard in found.values():
        assert shard.metadata["format"] == "sft"
        assert shard.columns["mask"].dtype == np.uint8
        for (_, tokens), (_, mask) in zip(pieces(shard), pieces(shard, "mask"), strict=True):
            assert tokens[0] == tokenizer.bos_id and sum(mask) > 0
            learned += answers(tokens, mask, tokenizer)
        assert not shard.columns["mask"][shard.columns["tokens"] == 3].any()
    expected = [
        one["content"] for row in rows for one in row["messages"] if one["role"] == "assistant"
    ]
    assert sorted(learned) == sorted(text.replace("\u2581", " ") for text in expected)
    assert counts.metrics["targets"] == sum(shard.columns["mask"].sum() for shard in found.values())


def test_long_dialogues_lose_their_oldest_turns(tokenizer: Tokenizer) -> None:
    """Would catch a cut answer, a lost system message, a question without its answer."""
    row = dialogue(1, 6, 3, system="Be brief.")
    whole = tokenizer.encode_dialogue(row["messages"])[0]
    fitted = fit_dialogue(row["messages"], tokenizer, len(whole) - 1)
    assert not isinstance(fitted, str)
    messages = row["messages"]
    assert fitted[:2] == tokenizer.encode_dialogue([messages[0], *messages[3:]])
    assert fitted[2] == [1.0] * sum(one["role"] == "assistant" for one in messages[3:])
    last = [messages[0], *messages[-2:]]
    width = len(tokenizer.encode_dialogue(last)[0])
    assert fit_dialogue(messages, tokenizer, width)[:2] == tokenizer.encode_dialogue(last)
    assert fit_dialogue(messages, tokenizer, width - 1) == "question_too_long"
    assert fit_dialogue(messages, tokenizer, 12) == "answer_too_long"


def test_weights_go_with_their_answers(
    tmp_path: Path, make_artifact: MakeRef, tokenizer_ref: ArtifactRef, tokenizer: Tokenizer
) -> None:
    """Would catch a weight one answer too early, on the question, or lost with an older turn."""
    rows = [dialogue(number, 6, 2) for number in range(12)]
    for number, row in enumerate(rows):
        answers = [one for one in row["messages"] if one["role"] == "assistant"]
        for place, answer in enumerate(answers):
            answer["weight"] = (0, 0.5, None, number + 2.0)[(number + place) % 4]
    workspace = Workspace.scratch(tmp_path / "w")
    ref = make_artifact("dialogues", rows)
    config = ShardConfig(context_length=512)
    counts = shard_sft.run(
        dialogues=ref, tokenizer=tokenizer_ref, config=config, workspace=workspace
    )
    assert counts.kept == 12
    batches = SftRows(sorted(workspace.path.rglob("tokens.parquet")))
    batch = batches.batch(np.arange(batches.num_rows))
    assert batch.weights_BT is not None
    found: dict[str, float] = {}
    for targets, weights in zip(batch.targets_BT, batch.weights_BT, strict=True):
        answer: list[int] = []
        for target, weight in zip(targets.tolist(), weights.tolist(), strict=True):
            if target == IGNORED:
                assert weight == 1
                continue
            answer.append(target)
            if target == tokenizer.im_end_id:
                found[f"{tokenizer.decode(answer)}@{weight}"] = weight
                answer = []
    expected = {
        f"{one['content']}@{1.0 if one['weight'] is None else one['weight']}"
        for row in rows
        for one in row["messages"]
        if one["role"] == "assistant" and one["weight"] != 0
    }
    assert found.keys() == expected
    silent = [one | {"weight": 0.0} for one in dialogue(1, 2, 2)["messages"]]
    assert fit_dialogue(silent, tokenizer, 128) == "nothing_to_learn"


REAL_DIALOGUES = (
    "llamafactory/alpaca_en_demo.json", "llamafactory/alpaca_zh_demo.json",
    "llamafactory/glaive_toolcall_en_demo.json", "llamafactory/glaive_toolcall_zh_demo.json",
    "llamafactory/reason_tool_use_demo_50.jsonl", "llamafactory/dpo_zh_demo.json",
)  # fmt: skip


def test_real_dialogues_are_learned_answer_by_answer(
    tmp_path: Path,
    shared_data: Path,
    make_artifact: MakeRef,
    tokenizer_ref: ArtifactRef,
    tokenizer: Tokenizer,
) -> None:
    """Would catch a role header learned, an end token not learned, an answer cut or off by one.

    What is learned is read back from the packed shards: every run of targets is one whole answer
    and its end token, in Chinese and in English, and every dialogue has at least one.
    """
    rows = []
    for name in REAL_DIALOGUES:
        path = shared_data / "sft" / name
        format = detect_format(path)
        for one in islice(read_file(path), 25):
            messages = messages_of(one.value, format)
            language = language_of(messages)
            row = dialogue(len(rows), 2, 1) | {"messages": messages, "language": language}
            rows.append(row | {"id": f"real:{len(rows)}", "split": "train"})
    workspace = Workspace.scratch(tmp_path / "w")
    ref = make_artifact("dialogues", rows)
    config = ShardConfig(context_length=4096)
    counts = shard_sft.run(
        dialogues=ref, tokenizer=tokenizer_ref, config=config, workspace=workspace
    )
    assert counts.seen == len(rows) == counts.kept + sum(counts.dropped.values())
    assert counts.kept > 0.6 * len(rows) and counts.metrics["shortened_dialogues"] > 0
    answers = {
        one["content"] for row in rows for one in row["messages"] if one["role"] == "assistant"
    }
    found = SftRows(sorted(workspace.path.rglob("tokens.parquet")))
    batch = found.batch(np.arange(found.num_rows))
    num_pieces = 0
    for tokens, targets, segments in zip(
        batch.tokens_BT.numpy(), batch.targets_BT.numpy(), batch.segments_BT.numpy(), strict=True
    ):
        for piece in range(segments.max() + 1):
            own = np.flatnonzero(segments == piece)
            learned = [int(one) for one in targets[own] if one != IGNORED]
            assert learned and learned[-1] == tokenizer.im_end_id
            assert tokenizer.im_end_id in tokens[own[-4:]]  # the end, then a line break
            ends = [n for n, one in enumerate(learned) if one == tokenizer.im_end_id]
            for start, end in pairwise([-1, *ends]):
                assert tokenizer.decode(learned[start + 1 : end]) in answers
            num_pieces += 1
    assert num_pieces == counts.kept
    assert set(found.languages) == {"en", "zh"}


def test_a_wrong_mask_is_noticed(tokenizer: Tokenizer) -> None:
    """Would catch an assertion that asserts nothing."""
    messages = dialogue(1, 2, 1)["messages"]
    ids, mask = tokenizer.encode_dialogue(messages)
    check_mask(ids, mask, messages, tokenizer)
    for position in range(len(mask)):
        wrong = [*mask[:position], 1 - mask[position], *mask[position + 1 :]]
        with pytest.raises(AssertionError, match="mask is wrong"):
            check_mask(ids, wrong, messages, tokenizer)


def test_what_does_not_fit_is_counted_or_refused(
    tmp_path: Path, make_artifact: MakeRef, tokenizer_ref: ArtifactRef
) -> None:
    """Would catch dialogues that vanish, and a run that would train on nothing."""
    rows = [dialogue(1, 1, 1), dialogue(2, 1, 400)]
    config = ShardConfig(context_length=64)
    workspace = Workspace.scratch(tmp_path / "w")
    ref = make_artifact("dialogues", rows)
    counts = shard_sft.run(
        dialogues=ref, tokenizer=tokenizer_ref, config=config, workspace=workspace
    )
    assert (counts.kept, dict(counts.dropped)) == (1, {"answer_too_long": 1})
    ledger = list(read_rows(sorted(workspace.path.rglob("ledger.parquet"))))
    assert [(row["id"], row["reason"]) for row in ledger] == [("d2", "answer_too_long")]
    only_long = make_artifact("dialogues", rows[1:])
    with pytest.raises(BadInput, match=r"shard\.context_length=64 is too short for all of the 1"):
        shard_sft.run(
            dialogues=only_long,
            tokenizer=tokenizer_ref,
            config=config,
            workspace=Workspace.scratch(tmp_path / "x"),
        )


def test_pairs_are_rows(
    tmp_path: Path,
    make_artifact: MakeRef,
    tokenizer_ref: ArtifactRef,
    tokenizer: Tokenizer,
) -> None:
    """Would catch a query beside another's positive, a cut that loses `</s>`, a crossed side."""
    rows = [
        {
            "wiki": "enwiki",
            "language": "en",
            "page_id": number,
            "split": "validation" if number % 10 == 0 else "train",
            "source": "title-lead",
            "query_page_id": number + number % 2,
            "query": f"question {number}",
            "positive": TEXTS["en"] * (number % 4 + 1),
        }
        for number in range(50)
    ]
    workspace = Workspace.scratch(tmp_path / "w")
    counts = shard_pairs.run(
        pairs=make_artifact("pairs", rows[:20], rows[20:]),
        tokenizer=tokenizer_ref,
        config=ShardConfig(query_length=16, positive_length=10, shard_rows=20),
        workspace=workspace,
    )
    found = shards(workspace.path, "pairs.parquet")
    assert {name: shard.num_rows for name, shard in found.items()} == {
        "train-00000": 20,
        "train-00001": 20,
        "train-00002": 5,
        "validation-00000": 5,
    }
    assert (counts.seen, counts.kept) == (50, 50)
    assert counts.metrics["shortened_positives"] == 50 and not counts.metrics["shortened_queries"]
    for shard in found.values():
        assert shard.metadata["format"] == "pairs" and shard.metadata["pad_id"] == 3
        articles = shard.extra("article").to_pylist()
        numbers = [int(article.removeprefix("enwiki:")) for article in articles]
        found_on = [f"enwiki:{number + number % 2}" for number in numbers]
        assert shard.extra("query_article").to_pylist() == found_on
        queries, positives = shard.columns["query"], shard.columns["positive"]
        for article, query, positive in zip(articles, queries, positives, strict=True):
            assert tokenizer.decode(query) == f"question {article.removeprefix('enwiki:')}"
            assert query[0] == 1 and 2 in query and positive[0] == 1 and positive[-1] == 2
            assert TEXTS["en"].startswith(tokenizer.decode(positive))


def test_empty_input_gives_no_shards(
    tmp_path: Path, make_artifact: MakeRef, tokenizer_ref: ArtifactRef
) -> None:
    """Would catch a crash on a corpus without pairs."""
    for kind, stage in (("passages", shard_lm), ("pairs", shard_pairs), ("dialogues", shard_sft)):
        workspace = Workspace.scratch(tmp_path / kind)
        inputs = {kind: make_artifact(kind, []), "tokenizer": tokenizer_ref}
        counts = stage.run(**inputs, config=ShardConfig(), workspace=workspace)
        assert counts.seen == 0 and not list(workspace.path.iterdir())


def test_the_token_type() -> None:
    """Would catch ids that wrap around in two bytes."""
    assert token_dtype(65_536) == np.uint16 and token_dtype(65_537) == np.uint32
