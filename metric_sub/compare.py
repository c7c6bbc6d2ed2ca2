"""Two scores of the same data side by side: which videos changed, and how sure the difference is."""

from metric_sub.bootstrap import FIGURES, LEVELS, Bootstrap


def compare_scores(score_a: dict, score_b: dict, bootstrap: Bootstrap | None) -> dict:
    """What changed from a to b, two answers of `score.score_result` made with one truth and the same settings.

    A video is right at a level where the level holds, or where it was rightly left out. A video that the data does not have
    is rightly left out by the result that does not name it.

    Gives {rules, frame_policy, min_iou, weights, confidence and resamples (None without `bootstrap`), a, b, difference,
    interval, by_kind (where kinds are known), changed, videos}.
    a, b: each score without its per_video. difference: b - a of S1, S2, S3, final (None where there is nothing to find);
    interval: the difference's, from resampled pairs; by_kind: {kind: {difference, interval}}. changed: {level: {to_wrong,
    to_right}}, lists of video ids, rising; videos: every video that changed at some level, with its kind, the item
    expected, and for a and b the item declared, S1, S2, S3 and why.
    """
    settings = ("rules", "frame_policy", "min_iou", "weights", "confidence", "resamples")
    rows_a, rows_b = _same_videos(score_a["per_video"], score_b["per_video"])
    pairs = list(zip(rows_a, rows_b, strict=True))
    changed = {
        level: {
            "to_wrong": [a["video_id"] for a, b in pairs if _right(a, level) and not _right(b, level)],
            "to_right": [a["video_id"] for a, b in pairs if _right(b, level) and not _right(a, level)],
        }
        for level in LEVELS
    }
    moved = {video_id for ids in changed.values() for video_id in (*ids["to_wrong"], *ids["to_right"])}
    answer = {name: score_a[name] for name in settings}
    answer |= {"a": _without_videos(score_a), "b": _without_videos(score_b)}
    answer |= _difference(score_a, score_b, pairs, score_a["weights"], bootstrap)
    if "by_kind" in score_a:
        kinds = sorted({row["kind"] for row in rows_a})
        answer["by_kind"] = {
            kind: _difference(
                score_a["by_kind"].get(kind, {}),
                score_b["by_kind"].get(kind, {}),
                [(a, b) for a, b in pairs if a["kind"] == kind],
                score_a["weights"],
                bootstrap,
            )
            for kind in kinds
        }
    said = ("item_id", *LEVELS, "why")
    answer["changed"] = changed
    answer["videos"] = [
        {
            **{key: a[key] for key in ("video_id", "kind", "expected")},
            "a": {key: a[key] for key in said},
            "b": {key: b[key] for key in said},
        }
        for a, b in pairs
        if a["video_id"] in moved
    ]
    return answer


def _same_videos(rows_a: list[dict], rows_b: list[dict]) -> tuple[list[dict], list[dict]]:
    """Both tables with a row for each video of either, by rising video_id."""
    of_a, of_b = ({row["video_id"]: row for row in rows} for rows in (rows_a, rows_b))
    left_out = {"item_id": None, **dict.fromkeys(LEVELS, False), "judged_frame": None, "right": True}
    left_out["why"] = "rightly left out"
    ids = sorted(of_a.keys() | of_b.keys())
    return [of_a.get(key) or of_b[key] | left_out for key in ids], [
        of_b.get(key) or of_a[key] | left_out for key in ids
    ]


def _right(row: dict, level: str) -> bool:
    return row[level] or (row["item_id"] is None and row["expected"] is None)


def _without_videos(score: dict) -> dict:
    return {key: value for key, value in score.items() if key != "per_video"}


def _difference(
    a: dict, b: dict, pairs: list[tuple[dict, dict]], weights: list[float], bootstrap: Bootstrap | None
) -> dict:
    answer = {
        "difference": {
            name: None if a.get(name) is None or b.get(name) is None else b[name] - a[name] for name in FIGURES
        }
    }
    if bootstrap:
        answer["interval"] = bootstrap.differences([a for a, _ in pairs], [b for _, b in pairs], weights)
    return answer


def compare_table(comparison: dict) -> str:
    """The comparison as lines of text: a row per kind with a, b and the difference, and the videos that changed."""
    intervals = "interval" in comparison
    share = f"{comparison['confidence']:.0%}" if intervals else ""
    lines = [
        f"rules {comparison['rules']}, frame policy {comparison['frame_policy']}, IoU > {comparison['min_iou']}, "
        f"weights {comparison['weights']}"
        + (f"; {share} intervals from {comparison['resamples']} resamples of pairs" if intervals else ""),
        f"{'kind':<12}{'':<7}{'a':>7}{'b':>7}{'b - a':>8}" + (f"{share + ' of b - a':>18}" if intervals else ""),
    ]
    a, b = comparison["a"], comparison["b"]
    for kind, row in [*comparison.get("by_kind", {}).items(), ("all", comparison)]:
        for name in FIGURES:
            if row["difference"][name] is None:
                continue
            of_a, of_b = ((score if kind == "all" else score["by_kind"][kind])[name] for score in (a, b))
            line = f"{kind:<12}{name:<7}{of_a:>7.3f}{of_b:>7.3f}{row['difference'][name]:>+8.3f}"
            if intervals:
                low, high = row["interval"][name]
                line += f"{f'{low:+.3f} to {high:+.3f}':>18}"
            lines.append(line)
    for level, ids in comparison["changed"].items():
        for change, words in (("to_wrong", "right to wrong"), ("to_right", "wrong to right")):
            lines.append(f"{level} {words}: {len(ids[change])} {' '.join(ids[change])}".rstrip())
    return "\n".join(lines)
