"""Where does the time go, in which precision, and what is different from base? From the backend's own profiler.

After `measure`, because it needs its engines and inputs and must never touch its times; a room of its own, because it
reads graphs and vendors' reports, of which `measure` knows nothing.
"""

from trt_action.layer_records import LayerReport
from trt_action.layers.looking import Side, look

__all__ = ["LayerReport", "Side", "look"]
