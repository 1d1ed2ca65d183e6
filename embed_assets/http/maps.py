"""The map for `/v1/map`: drawn beside the queries, since t-SNE takes half a minute."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field

from embed_assets.api import Snapshot
from embed_assets.search.draw import MapPoints
from embed_assets.search.projection import TSNE_LEAST, TSNE_ROWS

LOG = logging.getLogger(__name__)


@dataclass
class _Drawn:
    state: object
    encoder: str
    points: MapPoints


@dataclass
class Maps:
    """The newest finished map by what its colours mean."""

    _drawn: dict[str, _Drawn] = field(default_factory=dict)
    _drawing: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def newest(self, snapshot: Snapshot, by: str) -> tuple[MapPoints, bool]:
        """The points that are known now, and whether better or newer ones are being drawn.

        `by`: `genre`, `folder`, or empty for what suits the library. A large library is drawn by
        PCA, at once. A smaller one is drawn by t-SNE in a thread; until that is done, the answer is
        the map of an earlier state of the index, or one by PCA.
        """
        if not TSNE_LEAST < len(snapshot) <= TSNE_ROWS:
            return snapshot.map_points(by, "pca"), False
        with self._lock:
            held = self._drawn.get(by)
            if held and held.state is snapshot.state:
                return held.points, False
            if by not in self._drawing:
                self._drawing.add(by)
                threading.Thread(target=self._draw, args=(snapshot, by), daemon=True).start()
        if held and held.encoder == snapshot.encoder:
            return held.points, True
        return snapshot.map_points(by, "pca"), True

    def _draw(self, snapshot: Snapshot, by: str) -> None:
        try:
            points = snapshot.map_points(by, "tsne")
            with self._lock:
                self._drawn[by] = _Drawn(snapshot.state, snapshot.encoder, points)
        except Exception:
            LOG.exception("the map could not be drawn by t-SNE")
        finally:
            with self._lock:
                self._drawing.discard(by)
