"""One way through the package, without flow or store: train, stop, resume, export, embed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import numpy as np

from etude_model.export.huggingface import export_huggingface
from etude_model.export.import_huggingface import import_huggingface
from etude_model.inference.embed import embed_ids
from etude_model.inference.load import load_checkpoint
from etude_model.training.events import read_events
from etude_model.training.run import EVENTS_FILE
from storage.errors import EXIT_STOPPED


def test_train_stop_resume_export_embed(write_run, tmp_path):
    """Catches parts that work alone and do not fit: what training leaves must go all the way."""
    knobs = {"num_steps": 80, "checkpoint_every": 1000, "evaluate_every": 80}
    run_dir = write_run(tmp_path / "run", "semantic", **knobs)
    command = [sys.executable, "-m", "etude_model.training", str(run_dir)]
    child = subprocess.Popen(command)
    deadline = time.monotonic() + 120
    while not any(event["kind"] == "step" for _, event in read_events(run_dir / EVENTS_FILE)):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == EXIT_STOPPED
    assert not (run_dir / "model.safetensors").exists()
    subprocess.run(command, check=True, timeout=120)
    events = [event for _, event in read_events(run_dir / EVENTS_FILE)]
    first, second = (event["step"] for event in events if event["kind"] == "start")
    assert first == 0 < second < knobs["num_steps"] and events[-1]["kind"] == "end"

    exported = export_huggingface(run_dir, tmp_path / "exported")
    came_back = import_huggingface(exported, tmp_path / "imported")
    texts = ("river bridge old north city people.", "old north", "大桥古老建立河山。")
    vectors = []
    for folder in (run_dir, came_back):
        loaded = load_checkpoint(folder)
        rows = [loaded.tokenizer.encode_whole(text) for text in texts]
        vectors.append(embed_ids(loaded.model, rows))
    assert np.array_equal(*vectors)
    near, far = vectors[0][0] @ vectors[0][1:].T
    assert near > far
