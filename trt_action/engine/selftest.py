"""The child that records what a measured engine answers, so that whoever serves it can see that it still does."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trt_action import arrays, engine
from trt_action.engine.backend import Loadable
from trt_action.process import Channel

INPUT, OUTPUT = "input:", "output:"


def record(channel: Channel) -> None:
    """`{loadable, feeds, out}` -> `{outputs}`: one inference; `out` gets `input:<name>` and `output:<name>`.

    Texts are left out: they have no fixed size, and no `.npy` without pickle.
    """
    while (request := channel.receive()) is not None:
        loadable = Loadable.from_json(request["loadable"])
        feeds = arrays.load_npz(Path(request["feeds"]))
        session = engine.backend(loadable.backend).load(loadable)
        try:
            session.bind(feeds)
            session.run()
            outputs = session.fetch()
        finally:
            session.close()
        named = {INPUT + name: feeds[name] for name in (one.name for one in session.inputs) if name in feeds}
        named |= {OUTPUT + name: array for name, array in outputs.items()}
        arrays.save_npz(
            Path(request["out"]), {name: np.asarray(a) for name, a in named.items() if not a.dtype.hasobject}
        )
        channel.send({"outputs": sorted(outputs)})
