"""Recipes: everything is checked before any work, and a wrong value is named with its path."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from flows.recipe import check_recipe, load_recipe, merge, recipe_names
from storage.errors import BadInput

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["demo", "simplewiki", "zhwiki-small"])
def test_the_recipes_that_ship_are_whole(name: str) -> None:
    """Catches a recipe broken by a renamed field."""
    assert name in recipe_names()
    recipe = load_recipe(name)
    assert recipe.shard.context_length <= recipe.pretrain.build_model(4096).context_length


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("clean.min_char=500", r"clean\.min_char: Extra inputs.*; did you mean min_chars\?"),
        ("fetch.0.distributon=x", r"fetch\.0\..*distributon: .*; did you mean distribution\?"),
        ("format_lora.max_derive=5", r"format_lora\.max_derive: .*; did you mean max_derived\?"),
        ("xyz.a=1", r"xyz: Extra inputs are not permitted \(given: {'a': 1}\)$"),
        ("fetch.5.wiki=x", r"fetch\.5 is not there: fetch has 2 entries, counted from 0"),
        ("pretrain.num_steps=-1", r"pretrain\.num_steps: Input should be greater"),
        (
            "pretrain.model.num_heads=5",
            r"^pretrain\.model\.num_heads=5 is not a multiple",
        ),
        ("pretrain.model.hidden_size=0", r"^pretrain\.model\.hidden_size: Input should be greater"),
        ("pretrain.device=tpu", r"pretrain\.device: String should match"),
        ("evaluate.device=cuda:x", r"evaluate\.device: String should match"),
        ("semantic.temperature=.inf", r"semantic\.temperature: Input should be a finite number"),
        ("shard.context_length=4096", r"shard\.context_length=4096 is more than the model's 256"),
        ("pretrain.preset=giant", "preset='giant' is unknown"),
        ("semantic.warmup_steps=1000", r"^semantic\.warmup_steps=1000 is more than num_steps"),
        ("format_sft.max_answer_chars=4000", r"context_length=256 is less than the 262 tokens"),
        ("fetch=[]", "fetch is empty; name at least one dump"),
        ("clean", "write section.field=value"),
        ("clean.min_chars=[", "the value is not YAML"),
        ("train_tokenizer.vocab_size=70000", r"^train_tokenizer\.vocab_size: .* equal to 65536"),
    ],
)
def test_a_wrong_setting_is_refused_in_words(override: str, words: str) -> None:
    """Catches a typo or an impossible value that would only fail after an hour of work."""
    with pytest.raises(BadInput, match=words) as caught:
        load_recipe("demo", [override])
    assert "\n" not in str(caught.value)


def test_overrides_reach_their_field_and_nothing_else() -> None:
    """Catches an override that resets its siblings to the defaults."""
    plain = load_recipe("demo")
    changed = load_recipe("demo", ["clean.min_chars=500", "fetch.1.wiki=testwiki"])
    assert changed.clean.min_chars == 500
    assert changed.fetch[1].wiki == "testwiki" and changed.fetch[0] == plain.fetch[0]
    assert changed.pretrain == plain.pretrain


def test_a_changed_kind_drops_the_old_variants_settings() -> None:
    """Catches AdamW's learning rate leaking into Muon: settings belong to their kind."""
    below = {"fetch": {"kind": "url", "url": "http://x", "sha1": "y"}}
    above = {"fetch": {"kind": "file", "path": "z"}}
    assert merge(below, above) == above


def test_a_recipe_stands_on_its_base_wherever_it_is_read(tmp_path: Path) -> None:
    """Catches a deployment's `{base: demo}` that would run the defaults instead of the demo."""
    demo = load_recipe("demo")
    given = check_recipe({"base": "demo", "clean": {"min_chars": 500}})
    assert given.pretrain == demo.pretrain and given.clean.min_chars == 500
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: demo\nlora: {num_steps: 7, warmup_steps: 1}\n")
    assert load_recipe(str(mine)).lora.num_steps == 7
    assert load_recipe(str(mine)).fetch == demo.fetch


def test_unknown_and_broken_recipes_are_refused(tmp_path: Path) -> None:
    """Catches a traceback where the file is missing, no YAML, or no mapping."""
    with pytest.raises(BadInput, match="give a YAML file or one of demo"):
        load_recipe("nothing")
    for text in ("a: [", "- a\n- b\n"):
        path = tmp_path / "bad.yaml"
        path.write_text(text)
        with pytest.raises(BadInput, match=r"bad\.yaml"):
            load_recipe(str(path))


def test_every_deployment_has_parameters_its_flow_takes() -> None:
    """Catches a deployment that would be refused, or run something else, when it is started."""
    from prefect.utilities.callables import parameter_schema
    from prefect.utilities.schema_tools.validation import validate

    import flows.etude as module

    deployments = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    names = {deployment["name"] for deployment in deployments}
    stages = {"pretrain", "semantic", "sft", "lora"}
    assert names == {"end-to-end", "refresh", "corpus", "train"} | stages
    for deployment in deployments:
        flow = getattr(module, deployment["entrypoint"].split(":")[1])
        schema = parameter_schema(flow).model_dump_for_openapi()
        validate(deployment["parameters"], schema, raise_on_error=True, ignore_required=False)
        recipe = flow.validate_parameters(deployment["parameters"])["recipe"]
        assert recipe.pretrain == load_recipe("demo").pretrain


def test_every_setting_is_described() -> None:
    """Catches a field that the Prefect form would show without a word."""
    schema = type(load_recipe("demo")).model_json_schema()
    silent = [
        f"{name}.{field}"
        for name, section in [("Recipe", schema), *schema["$defs"].items()]
        for field, values in section.get("properties", {}).items()
        if not values.get("description") and field != "kind"
    ]
    assert silent == []
