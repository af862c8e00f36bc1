"""The base of every config section: frozen, no unknown fields, limits that a form can show.

A section is also what enters an artifact's key. A knob that changes no output (workers, device)
is declared with `Field(..., json_schema_extra={"key": False})` and stays out of the key.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


def _in_order(schema: dict[str, Any]) -> None:
    """Keep the fields of a form in the order of the class (Prefect sorts them otherwise)."""
    for position, field in enumerate(schema.get("properties", {}).values()):
        field["position"] = position


class Config(BaseModel):
    """A frozen config section; a string under each field is its description."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,  # no such number can be written as JSON
        use_attribute_docstrings=True,
        json_schema_extra=_in_order,
        protected_namespaces=(),
    )

    def key_dict(self) -> dict[str, Any]:
        """Return what of this config decides the output, as JSON values."""
        values: dict[str, Any] = {}
        dumped = self.model_dump(mode="json")
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and extra.get("key") is False:
                continue
            values[name] = _key_value(getattr(self, name), dumped[name])
        return values


def _key_value(value: Any, dumped: Any) -> Any:
    if isinstance(value, Config):
        return value.key_dict()
    if isinstance(value, list | tuple):
        return [_key_value(one, plain) for one, plain in zip(value, dumped, strict=True)]
    return dumped
