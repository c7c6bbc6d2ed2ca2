"""The hardest batch of the last steps, which comes once more."""

from metric_sub.batches import Batch, EmbedderBatches


class HardestBatch:
    """Remembers the batch with the largest loss and gives it back every `every` steps; 0: never.

    A part of the checkpoint: of the batch it keeps the step that drew it.
    """

    def __init__(self, every: int, batches: EmbedderBatches):
        self._every = every
        self._batches = batches
        self.forget(0)

    def after(self, step: int, loss: float, batch: Batch, may_replay: bool) -> Batch | None:
        """Takes note of a step's loss. Gives the batch to learn once more where it is due and `may_replay`, and forgets it."""
        if not self._every:
            return None
        if loss > self._loss:
            self._loss, self._step, self._batch = loss, step, batch
        if not may_replay or step + 1 - self._since < self._every:
            return None
        hardest = self._batch
        self.forget(step + 1)
        return hardest

    def forget(self, since: int) -> None:
        """Begins anew with step `since`: a new phase has other classes, or other weights to learn."""
        self._since, self._loss, self._step, self._batch = since, -float("inf"), None, None

    def state_dict(self) -> dict:
        return {"since": self._since, "loss": self._loss, "step": self._step}

    def load_state_dict(self, state: dict) -> None:
        self._since, self._loss, self._step = state["since"], state["loss"], state["step"]
        self._batch = None if self._step is None else self._batches[self._step]
