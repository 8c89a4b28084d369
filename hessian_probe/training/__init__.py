"""Hooks for training loops: `Monitor` on the host, `escape_saddles` in compiled steps; no extra is needed.

Read plateau_statistics (does the loss still fall) and plateau (the same on the host), then backoff (when
to search), then the hooks: escape_hook with escape_state (the search is `points.sphere_search`); monitor
with monitor_state and probe (with aux_inputs); events and adapters come last.
"""

from hessian_probe.optimizers.adjust_moments import adjust_moments as adjust_moments
from hessian_probe.training.adapters import EquinoxMonitor as EquinoxMonitor
from hessian_probe.training.adapters import NNXMonitor as NNXMonitor
from hessian_probe.training.adapters import keras_callback as keras_callback
from hessian_probe.training.adapters import update_train_state as update_train_state
from hessian_probe.training.aux_inputs import WithAux as WithAux
from hessian_probe.training.aux_inputs import with_aux as with_aux
from hessian_probe.training.escape_hook import escape_saddles as escape_saddles
from hessian_probe.training.escape_state import EscapeState as EscapeState
from hessian_probe.training.events import Event as Event
from hessian_probe.training.events import escape_events as escape_events
from hessian_probe.training.events import read_events as read_events
from hessian_probe.training.events import write_events as write_events
from hessian_probe.training.monitor import Monitor as Monitor
from hessian_probe.training.monitor_state import MonitorState as MonitorState
from hessian_probe.training.plateau import PlateauTest as PlateauTest
