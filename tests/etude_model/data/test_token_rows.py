"""Token rows: shards read as one table, targets that never cross a border."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from etude_model.data.lm import IGNORED, TokenRows, validation_batches
from etude_model.data.rows import find_shards
from etude_model.data.sft import SftRows
from storage.errors import BadInput
from storage.formats.shards import write_shard

PAD = 3


def write_tokens(folder: Path, rows, segments, *, languages=None, mask=None, tokenizer="t"):
    """Write a token shard into `folder` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = np.array(rows, dtype=np.uint16)
    columns = {"tokens": tokens}
    if mask is not None:
        columns["mask"] = np.array(mask, dtype=np.uint8)
    extra = pa.table(
        {
            "language": pa.array(languages or ["en"] * len(rows)),
            "segments": pa.array(segments, type=pa.list_(pa.int32())),
        }
    )
    metadata = {
        "format": "lm" if mask is None else "sft",
        "context_length": tokens.shape[1],
        "tokenizer": tokenizer,
        "vocab_size": 100,
        "pad_id": PAD,
    }
    write_shard(folder / "tokens.parquet", columns, extra, metadata)
    return folder / "tokens.parquet"


def test_targets_stop_at_segment_borders_and_padding(tmp_path):
    """Catches a model that is asked for the next document's first token, or for padding."""
    path = write_tokens(tmp_path / "train-0", [[1, 20, 21, 2, 1, 22, 2, PAD]], [[4, 3]])
    batch = TokenRows([path]).batch(np.array([0]))
    x = IGNORED
    assert batch.targets_BT.tolist() == [[20, 21, 2, x, 22, 2, x, x]]
    assert batch.segments_BT.tolist() == [[0, 0, 0, 0, 1, 1, 1, -1]]
    assert (batch.num_targets, batch.num_tokens) == (5, 7)


def test_token_that_looks_like_padding_inside_a_piece_is_learned(tmp_path):
    """Catches masks made from the pad id instead of the piece lengths."""
    path = write_tokens(tmp_path / "train-0", [[1, PAD, 21, 2]], [[4]])
    assert TokenRows([path]).batch(np.array([0])).targets_BT.tolist() == [[PAD, 21, 2, IGNORED]]


def test_sft_mask_is_shifted_with_the_tokens(tmp_path):
    """Catches the off-by-one of masks laid over targets: learns to stop, not to be asked."""
    rows, mask = [[1, 4, 30, 31, 5, 9, PAD]], [[0, 0, 0, 1, 1, 0, 0]]
    path = write_tokens(tmp_path / "train-0", rows, [[6]], mask=mask)
    x = IGNORED
    assert SftRows([path]).batch(np.array([0])).targets_BT.tolist() == [[x, x, 31, 5, x, x, x]]


def test_several_shards_are_one_table(tmp_path):
    """Catches rows fetched from the wrong shard, or in another order than asked for."""
    rows = [[[1, 10 + 4 * s + r, 2, PAD] for r in range(4)] for s in range(3)]
    for number, own in enumerate(rows):
        write_tokens(tmp_path / f"train-{number:05d}", own, [[3]] * 4)
    write_tokens(tmp_path / "validation-00000", [[1, 99, 2, PAD]], [[3]])
    table = TokenRows(find_shards([tmp_path], "tokens.parquet", split="train"))
    order = np.array([11, 0, 5, 4, 5])
    assert table.num_rows == 12
    assert table.batch(order).tokens_BT[:, 1].tolist() == [21, 10, 15, 14, 15]
    held_out = TokenRows(find_shards([tmp_path], "tokens.parquet", split="validation"))
    assert held_out.batch(np.array([0])).tokens_BT.tolist() == [[1, 99, 2, PAD]]


def test_validation_rows_are_shared_out_among_languages(tmp_path):
    """Catches a cap that reads the first rows and so only the first language."""
    rows = [[1, 10 + number, 2, PAD] for number in range(20)]
    path = write_tokens(tmp_path / "v", rows, [[3]] * 20, languages=["en"] * 16 + ["zh"] * 4)
    chosen = [
        (language, batch.tokens_BT[:, 1].tolist())
        for language, batch in validation_batches(TokenRows([path]), num_rows=7, batch_size=3)
    ]
    assert chosen == [("en", [10, 15, 20]), ("en", [25]), ("zh", [26, 27, 29])]


def test_micro_batches_are_the_batch_in_pieces(tmp_path):
    """Catches rows lost or repeated by the split."""
    path = write_tokens(tmp_path / "v", [[1, 10 + n, 2] for n in range(5)], [[3]] * 5)
    batch = TokenRows([path]).batch(np.arange(5))
    micros = list(batch.split(2))
    assert [len(micro.tokens_BT) for micro in micros] == [2, 2, 1]
    assert sum(micro.num_targets for micro in micros) == batch.num_targets
    assert [row for m in micros for row in m.tokens_BT.tolist()] == batch.tokens_BT.tolist()


def test_shards_that_do_not_fit_are_refused(tmp_path):
    """Catches LM shards given to SFT, missing folders and mixed tokenizers."""
    text = write_tokens(tmp_path / "a", [[1, 2]], [[2]])
    other = write_tokens(tmp_path / "b", [[1, 2]], [[2]], tokenizer="u")
    with pytest.raises(BadInput, match="format='lm', expected 'sft'"):
        SftRows([text])
    with pytest.raises(BadInput, match="different tokenizers"):
        TokenRows([text, other])
    with pytest.raises(BadInput, match="do not exist"):
        find_shards([tmp_path / "c"], "tokens.parquet", split="train")
