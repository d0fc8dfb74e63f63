"""A pytest plugin: writes down what is validated while tests run, to CNI_RECORD."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

_seen: dict[str, None] = {}


def pytest_configure() -> None:
    genuine = BaseModel.model_validate.__func__  # type: ignore[attr-defined]

    def recording(cls: type[BaseModel], value: Any, **keys: Any) -> Any:
        with suppress(TypeError, ValueError, RecursionError):  # not what a runtime can send
            _seen[json.dumps([cls.__module__, cls.__qualname__, value])] = None
        return genuine(cls, value, **keys)

    BaseModel.model_validate = classmethod(recording)  # type: ignore[assignment]


@pytest.hookimpl
def pytest_unconfigure() -> None:
    Path(os.environ["CNI_RECORD"]).write_text("\n".join(_seen))
