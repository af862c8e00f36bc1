"""events.jsonl: whole lines, whatever happened to the writer."""

import json

from etude_model.training.events import EventLog, read_events


def events_of(path):
    """Return the events of a file."""
    return [event for _, event in read_events(path)]


def test_half_line_is_left_alone_then_cut(tmp_path):
    """Catches a reader that fails on a killed writer's last line, and lines glued to it."""
    path = tmp_path / "logs" / "events.jsonl"
    log = EventLog(path, clock=lambda: 5.0)
    log.write({"kind": "step", "step": 1})
    log.close()
    with path.open("ab") as file:
        file.write(b'{"kind": "st')
    assert events_of(path) == [{"kind": "step", "time": 5.0, "step": 1}]
    log = EventLog(path, clock=lambda: 6.0)
    log.write({"kind": "end", "step": 2})
    log.close()
    assert [event["kind"] for event in events_of(path)] == ["step", "end"]


def test_following_reads_each_event_once(tmp_path):
    """Catches points that are doubled or lost between two looks at a growing file."""
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    seen, offset = [], 0
    for step in range(4):
        log.write({"kind": "step", "step": step, "text": "城"})
        for after, event in read_events(path, offset=offset):
            seen.append(event["step"])
            offset = after
    assert seen == [0, 1, 2, 3]
    log.close()


def test_every_line_is_strict_json(tmp_path):
    """Catches NaN, which other languages' JSON readers refuse."""
    log = EventLog(tmp_path / "events.jsonl")
    log.write({"kind": "step", "loss": float("nan"), "metrics": {"a": float("inf"), "b": [1.5]}})
    log.close()

    def refuse(name):
        raise AssertionError(name)

    line = (tmp_path / "events.jsonl").read_text()
    event = json.loads(line, parse_constant=refuse)
    assert event["loss"] is None and event["metrics"] == {"a": None, "b": [1.5]}


def test_missing_file_has_no_events(tmp_path):
    """Catches a follower that is faster than the run it follows."""
    assert events_of(tmp_path / "none.jsonl") == []
