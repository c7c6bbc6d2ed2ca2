"""What every step of an embedder's training is to do, told before the first."""

from dataclasses import dataclass

from shared.config import EmbedPhase, EmbedTrain
from shared.errors import UserError
from shared.training import warmup_cosine


@dataclass(frozen=True)
class Step:
    """One step: its phase and learning rate; whether the phase begins with it; whether the weights move at its end (else its
    gradients are kept for the next one); whether a snapshot is taken then."""

    phase: EmbedPhase
    rate: float
    begins: bool
    moves: bool
    snapshot: bool


def plan_of(settings: EmbedTrain, phase_begins: list[int]) -> list[Step]:
    """The steps of all phases; `phase_begins` has the first step of each, and the number of all steps at its end.

    A phase's rate rises from near 0 in its warm-up, then falls to 0 in as many cosines as it has cycles, each from the full
    rate (warm restarts, Loshchilov and Hutter 2017). Weights move every `accumulate` steps of a cycle and at its end. Raises
    UserError for a phase with more cycles than steps.
    """
    plan = []
    for number, phase in enumerate(settings.phases):
        first, end = phase_begins[number : number + 2]
        if phase.cycles > end - first:
            raise UserError(
                f"embed_train.phases.{number}.cycles: expected at most {end - first}, the steps of this phase, found "
                f"{phase.cycles}. Lower it, or raise the model's epochs or the phase's share."
            )
        n_warmup, is_last = round(settings.warmup * (end - first)), number == len(settings.phases) - 1
        ends = [
            round((end - first) * k / phase.cycles) for k in range(1, phase.cycles + 1)
        ]  # of cycles, within the phase
        for begin, cycle_end in zip([0, *ends], ends, strict=False):
            length, warmup = cycle_end - begin, n_warmup if begin == 0 else 0
            for step in range(begin, cycle_end):
                rate = phase.learning_rate * warmup_cosine(step - begin, length, min(warmup, length - 1))
                ends_cycle = step + 1 == cycle_end
                moves = ends_cycle or (step - begin + 1) % settings.accumulate == 0
                plan.append(
                    Step(phase, rate, step == 0, moves, ends_cycle and is_last and settings.snapshots != "last")
                )
    return plan
