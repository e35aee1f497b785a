"""What a user sees while a run goes on: a live display on a terminal, a few plain lines everywhere else."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from alflow.campaign.model import Closed, Ending, Event, Failed, Finished, StageDone, Verb
from alflow.errors import JournalError
from alflow.monitor.history import History, all_lost, read_header
from alflow.monitor.status import Status, duration, errors_text, summary

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

T = TypeVar("T")
logger = logging.getLogger(__name__)

_HEARTBEAT_S: Final = 60.0
_REFRESH_HZ: Final = 2.0
_LEAST_S: Final = 0.4
"""The figures are added up again at most so often."""
_BAR: Final = 28
_STYLE: Final[dict[str, Any]] = {"complete_style": "cyan", "finished_style": "green"}


class Progress:
    """Shows a run while the coordinator drives it; a `coordinator.Watcher` and a context manager.

    It can only look: whatever goes wrong in here is logged once and the display stops, never the run; but a damaged
    journal is said at the beginning, before anything of the run is.

    Args:
        run_dir: the run; what its journal already holds is counted in.
        console: where to draw; by default standard output.
        heartbeat_s: without a terminal, a line at most so often (news is told at once).
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        run_dir: Path,
        console: Console | None = None,
        heartbeat_s: float = _HEARTBEAT_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._run_dir, self._console, self._clock = run_dir, console, clock
        self._heartbeat_s, self._said = heartbeat_s, clock()
        self._lock = RLock()  # the display draws from a thread of its own
        self._history = History(whole=False)
        self._live: Live | None = None
        self._broken = False
        self._status: Status | None = None
        self._added_up = 0.0

    def __enter__(self) -> Progress:
        self._safely(self._open, passed=(JournalError,))  # nothing has been started yet
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._safely(self._close)

    def on_events(self, t: float, events: Sequence[Event]) -> None:
        """Take in one decision of the coordinator."""
        self._safely(lambda: self._take_in(t, events))

    # ---- inside -------------------------------------------------------------------------------------------------

    def _safely(self, act: Callable[[], T], passed: tuple[type[Exception], ...] = ()) -> T | None:
        if self._broken:
            return None
        try:
            return act()
        except passed:
            raise
        except Exception:  # the border: a display must never stop a campaign
            self._broken = True
            logger.exception("the progress display failed; the run goes on without it")
            return None

    def _open(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._history = History.read(self._run_dir, whole=False)
        self._console = self._console or Console()
        if self._console.is_terminal:
            self._live = Live(
                console=self._console,
                get_renderable=self._draw,
                refresh_per_second=_REFRESH_HZ,
                transient=False,
                vertical_overflow="crop",
            )
            self._live.start()

    def _close(self) -> None:
        self._added_up = 0.0
        if self._live is not None:
            self._live.stop()
        elif self._history.tasks:
            self._say(self._line())

    def _take_in(self, t: float, events: Sequence[Event]) -> None:
        with self._lock:
            self._history.header = self._history.header or read_header(self._run_dir)
            self._history.add(t, events)
        for event in events:
            shown = self._live is not None and not isinstance(event, Failed | Ending | StageDone)
            if news := _lost(self._history, event) or (not shown and _news(self._history, event)):
                self._say(news)
        if self._live is None and self._clock() - self._said >= self._heartbeat_s:
            self._say(self._line())

    def _say(self, words: str) -> None:
        self._said = self._clock()
        if self._console is not None:
            self._console.print(words, markup=False, highlight=False, soft_wrap=True)

    def _now(self) -> Status:
        with self._lock:
            now = self._clock()
            if self._status is None or now - self._added_up >= _LEAST_S:
                self._status = summary(self._history, self._run_dir, running=True, now=now)
                self._added_up = now
            return self._status

    def _line(self) -> str:
        s = self._now()
        running = ", ".join(f"{c['open']} {verb}" for verb, c in s.tasks.items() if c.get("open"))
        words = [duration(s.elapsed_s), _labels(s), f"{s.models} models"]
        if s.errors:
            words.append(errors_text(s.errors))
        return "; ".join([*words, f"running: {running or 'nothing'}"])

    def _draw(self) -> RenderableType:
        return self._safely(lambda: picture(self._now())) or ""


def picture(s: Status) -> RenderableType:
    """The live display of a run that stands like this."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    head = Text.assemble((s.name, "bold"), f"  stage {s.stage}  ", (duration(s.elapsed_s), "cyan"))
    if s.why:
        head.append(f"  {s.why}", "dim")
    bars = Table.grid(padding=(0, 2))
    for verb in Verb:
        if counts := s.tasks.get(verb):
            done = sum(n for outcome, n in counts.items() if outcome != "open")
            bar = ProgressBar(total=done + counts.get("open", 0), completed=done, width=_BAR, **_STYLE)
            bars.add_row(str(verb), bar, _counts(counts))
    if s.labels_target:
        done = min(s.labels_bought, s.labels_target)
        bar = ProgressBar(total=s.labels_target, completed=done, width=_BAR, **_STYLE)
        bars.add_row(Text("labels", "bold"), bar, _labels(s))
    lines = [Text(line) for line in _news_lines(s)]
    return Group(head, bars, *lines)


def _counts(counts: Any) -> str:
    words = [f"{counts[outcome]} {name}" for outcome, name in _NAMES.items() if counts.get(outcome)]
    return ", ".join(words)


_NAMES: Final = {"finished": "done", "open": "open", "failed": "failed", "cancelled": "cancelled"}


def _labels(s: Status) -> str:
    target = f"/{s.labels_target}" if s.labels_target else ""
    words = f"{s.labels_bought}{target} labels"
    if s.labels_failed:
        words += f" ({s.labels_failed} failed)"
    return words + (f", {s.labels_per_hour:.0f}/h" if s.labels_per_hour is not None else "")


def _news_lines(s: Status) -> list[str]:
    lines = []
    if not s.labels_target:
        lines.append(_labels(s))
    if s.models:
        known = f": {errors_text(s.errors)} on held-out frames" if s.errors else ""
        lines.append(f"model {s.models}, fitted to {s.model_frames} frames{known}")
    if s.median_length is not None:
        lines.append(f"trajectories reach {s.median_length:.3g} {s.length_unit} (median)")
    return lines


def _lost(history: History, event: Event) -> str:
    """Sampling that came to nothing."""
    if isinstance(event, Finished) and (task := history.tasks.get(event.task_id)) and (why := all_lost(task)):
        return f"{event.task_id} {why}"
    return ""


def _news(history: History, event: Event) -> str:
    """What is worth a line at once."""
    match event:
        case Finished(task_id) if (task := history.tasks.get(task_id)) and task.verb is Verb.CALIBRATE:
            model = history.models[-1]
            known = f": {errors_text(model.errors)} on held-out frames" if model.errors else ""
            return f"model {model.version} of stage {model.stage}, fitted to {model.n} frames{known}"
        case Failed(task_id, kind, detail, log):
            return f"{task_id} failed ({kind}): {detail}" + (f"; log: {log}" if log else "")
        case Ending(reason):
            return f"goal reached: {reason}"
        case StageDone(stage, reason):
            return f"stage {stage} done: {reason}"
        case Closed(reason, failed):
            return f"{'failed' if failed else 'finished'}: {reason}"
    return ""
