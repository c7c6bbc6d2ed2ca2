"""What the votes say of each match for its card in the report: its share of them, its rival, and whether it is unsure."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

DOUBTFUL = 0.8  # a match less probable than that is unsure
FARTHEST = 0.1  # of the matches are unsure, where no probability is known,
CLOSE = 0.05  # and so are those that another item comes as close to


@dataclass(frozen=True)
class Rival:
    """The item whose kept vote for a video is the nearest after its match's."""

    item_id: str
    distance: float


def shares(matches: pd.DataFrame, votes: pd.DataFrame) -> pd.DataFrame:
    """Of each match, row by row: item_votes and item_kept, what its item cast and kept in all, and share (0..1) of the
    weight of the kept ones that is for the match's video."""
    of_item = votes.groupby("item_id").agg(
        item_votes=("kept", "size"), item_kept=("kept", "sum"), weight=("weight", "sum")
    )
    of_pair = votes.groupby(["item_id", "video_id"]).weight.sum().rename("here").reset_index()
    rows = matches[["item_id", "video_id"]].merge(of_item, left_on="item_id", right_index=True, how="left")
    rows = rows.merge(of_pair, on=["item_id", "video_id"], how="left")
    return pd.DataFrame(
        {
            "item_votes": rows.item_votes.to_numpy(),
            "item_kept": rows.item_kept.to_numpy(),
            "share": (rows.here / rows.weight).to_numpy(),
        }
    )


def rivals(matches: pd.DataFrame, votes: pd.DataFrame) -> list[Rival | None]:
    """Of each match, row by row, the item of the nearest kept vote of another item for its video; ties: smaller item_id."""
    kept = votes.loc[votes.kept, ["video_id", "item_id", "distance"]]
    own = matches[["video_id", "item_id"]].rename(columns={"item_id": "own_id"})
    others = own.merge(kept, on="video_id")
    others = others[others.item_id != others.own_id].sort_values(["distance", "item_id"]).drop_duplicates("video_id")
    found = {row.video_id: Rival(row.item_id, float(row.distance)) for row in others.itertuples()}
    return [found.get(video_id) for video_id in matches.video_id]


def unsure(matches: pd.DataFrame, others: list[Rival | None]) -> np.ndarray:
    """(matches,) bool. With a probability: where it is below DOUBTFUL. Without: the farthest tenth (rounded down, and all
    that are as far), and those with a rival less than CLOSE farther. others: as `rivals` gives them."""
    if not matches.probability.isna().any():
        return (matches.probability < DOUBTFUL).to_numpy()
    distance = matches.distance.to_numpy(np.float64)
    n_far = int(FARTHEST * len(matches))
    far = distance >= np.sort(distance)[-n_far] if n_far else np.zeros(len(distance), bool)
    rival = np.array([other.distance if other else np.inf for other in others], np.float64)
    return far | (rival < distance + CLOSE)


def unsure_means(calibrated: bool) -> str:
    if calibrated:
        return f"a match with a probability below {DOUBTFUL:.0%}"
    return (
        f"a match among the farthest {FARTHEST:.0%}, or with a kept vote of another item that is less than {CLOSE:g} farther "
        "(or even nearer)"
    )
