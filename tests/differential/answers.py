"""A program's answer as comparable facts: exit code, result or error document, key order, layout."""

import json
from typing import Any

from tests.cni import Answer
from tests.differential.normalise import Symbols


def facts(answer: Answer, symbols: Symbols) -> dict[str, Any]:
    """What is compared of an answer."""
    compared: dict[str, Any] = {"code": answer.code}
    document = parsed(answer.out)
    if document is None:
        compared["stdout"] = "nothing" if not answer.out else "not one JSON document"
    elif answer.code != 0:
        compared["error"] = _error(document)
    else:
        compared["result"] = symbols.value(document)
        compared["keys"] = _key_order(document)
        compared["layout"] = _layout(answer.out.decode(errors="replace"), document)
    if "CNI protocol versions supported:" in answer.err.decode(errors="replace"):
        compared["usage"] = "told on stderr"
    return compared


def parsed(text: bytes) -> Any:
    """The one JSON document in the text, or None."""
    try:
        return json.loads(text.decode(errors="replace"))
    except json.JSONDecodeError:
        return None


def _error(document: Any) -> dict[str, Any]:
    """Code and keys; of the texts only whether they are there."""
    if not isinstance(document, dict):
        return {"document": "not an object"}
    return {
        "code": document.get("code"),
        "cniVersion": document.get("cniVersion"),
        "msg": "said" if document.get("msg") else "missing",
        "details": "said" if document.get("details") else "missing",
        "other keys": sorted(set(document) - {"code", "cniVersion", "msg", "details"}),
    }


def _key_order(document: Any, path: str = "") -> dict[str, str]:
    """For every object in the document the order of its keys."""
    orders: dict[str, str] = {}
    if isinstance(document, dict):
        orders[path or "top"] = ",".join(document)
        for key, item in document.items():
            orders |= _key_order(item, f"{path}.{key}" if path else key)
    elif isinstance(document, list):
        for number, item in enumerate(document):
            orders |= _key_order(item, f"{path}.{number}")
    return orders


def _layout(text: str, document: Any) -> str:
    """Spaces and line ends, which scripts that grep a result depend on."""
    body, end = text.rstrip("\n"), "newline" if text.endswith("\n") else "no newline"
    if body == json.dumps(document, indent=4, ensure_ascii=False):
        return f"indent 4, {end}"
    return f"one line, {end}" if "\n" not in body else f"other, {end}"
