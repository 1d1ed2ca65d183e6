"""The asset `library_map`: the whole library as a picture in the UI and a page in EMBED_HOME."""

import base64

import dagster as dg

from embed_assets.defs.milvus_index import milvus_index
from embed_assets.defs.resources import (
    EncoderResource,
    MilvusResource,
    StateResource,
    wanted_spec,
)
from embed_assets.identity import IndexSpec
from embed_assets.storage import collection_registry
from embed_assets.storage.tables import Tables


@dg.asset(
    deps=[milvus_index],
    group_name="music",
    kinds={"python", "html"},
    description=(
        "A map of the library in two dimensions: similar tracks are close, coloured by genre or"
        " folder. The page `map.html` in EMBED_HOME shows titles on hover and similar tracks on"
        " click; it works offline. Drawn daily, and whenever this asset is materialized."
    ),
)
def library_map(
    state: StateResource, encoder: EncoderResource, milvus: MilvusResource
) -> dg.MaterializeResult:  # type: ignore[type-arg]  # Dagster wants the bare class
    """Draw what is indexed; reads the tables and the pooled vectors, not Milvus."""
    from embed_assets.search.map_page import page, write_file
    from embed_assets.search.projection import draw, picture
    from embed_assets.search.searcher import Searcher

    spec = drawn_spec(state.tables(), wanted_spec(encoder, milvus), milvus.uri)
    searcher = Searcher(state.tables(), state.store(), spec, spec.collection_key(milvus.uri))
    if not len(searcher):
        return dg.MaterializeResult(metadata={"dagster/row_count": 0})
    drawing = draw(searcher)
    file = state.store().home / "map.html"
    write_file(file, page(searcher, drawing))
    image = base64.b64encode(picture(drawing)).decode()
    return dg.MaterializeResult(
        metadata={
            "map": dg.MetadataValue.md(f"![the library](data:image/png;base64,{image})"),
            "page": dg.MetadataValue.path(str(file)),
            "dagster/row_count": len(drawing.positions),
            "coloured_by": drawing.by,
            "method": drawing.method,
            "groups": ", ".join(drawing.groups),
        }
    )


def drawn_spec(tables: Tables, wanted: IndexSpec, uri: str) -> IndexSpec:
    """The spec of the served collection by the tables, as a run may be using the index."""
    served = collection_registry.last_served(tables, uri)
    known = collection_registry.spec_of(tables, uri, served) if served else None
    return known or wanted


MAP_JOB = dg.define_asset_job(
    "draw_map",
    selection=dg.AssetSelection.assets("library_map"),
    description="Draw the map of the library",
)

MAP_SCHEDULE = dg.ScheduleDefinition(
    name="daily_map",
    job=MAP_JOB,
    cron_schedule="41 4 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
