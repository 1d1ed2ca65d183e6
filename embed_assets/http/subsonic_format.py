"""Answers in the formats of the Subsonic API: JSON, JSONP and XML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from starlette.responses import JSONResponse, Response


def response(parameters: Mapping[str, str], body: dict[str, Any]) -> Response:
    """An answer in the format that the parameters `f` and `callback` ask for; XML by default."""
    kind = parameters.get("f", "xml")
    if kind in ("json", "jsonp"):
        whole = JSONResponse({"subsonic-response": body})
        callback = parameters.get("callback", "")
        if kind == "json" or not re.fullmatch(r"[A-Za-z_$][\w$.]{0,99}", callback):
            return whole
        text = f"{callback}({bytes(whole.body).decode()});"
        return Response(text, media_type="application/javascript")
    root = _element("subsonic-response", body)
    root.set("xmlns", "http://subsonic.org/restapi")
    text = ElementTree.tostring(root, "unicode", xml_declaration=True)
    return Response(text, media_type="text/xml")


def _element(name: str, value: Any) -> ElementTree.Element:
    """A value of Subsonic's JSON as it is in its XML: scalars are attributes."""
    made = ElementTree.Element(name)
    if not isinstance(value, dict):
        made.text = _scalar(value)
        return made
    for key, one in value.items():
        if isinstance(one, list):
            made.extend(_element(key, each) for each in one)
        elif isinstance(one, dict):
            made.append(_element(key, one))
        elif one is not None:
            made.set(key, _scalar(one))
    return made


def _scalar(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    # XML takes no control characters.
    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "", text)
