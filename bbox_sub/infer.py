"""Detects the products: `python -m bbox_sub.infer --config C --data D --work W`.

Writes <work>/media and <work>/detections/{photos,videos}. What stands already is reused; what was interrupted goes on.
"""

from bbox_sub.detections import Detections, runtime_of
from shared.catalogue import COLUMNS as MEDIA
from shared.catalogue import catalogue_media, tell_skipped
from shared.cli import STRICT, config_of, parse_options, run_entry, use_threads
from shared.config import save_config
from shared.flow import Flow
from shared.lock import locked
from shared.progress import progress_bar
from shared.reader import open_reader
from shared.units import UnitEnd, due_units, read_units


def main(argv: list[str] | None = None) -> None:
    options = parse_options("Detect the products in photos and videos (stage 1).", argv, STRICT)
    config = config_of(options)
    use_threads(config.threads)
    runtime = runtime_of(config, options.weights)  # what does not fit, or cannot run here, is told before the media are looked through
    with locked(options.work), open_reader(config.data) as reader:
        save_config(options.work, config)
        catalogue = catalogue_media(options.data, options.work, config.data, options.fresh, options.strict)
        media = catalogue.table("table", MEDIA)
        detections = Detections(config, runtime, options.weights, options.work, media, options.fresh, options.strict)
        due = due_units(detections.units, detections.steps)
        total = len(detections.units)
        with progress_bar(total=total, title="detect", unit="unit", done=total - len(due)) as bar, Flow() as flow:
            read = flow.ahead(read_units(detections.jobs(due), reader, config.frames.indices))
            found = detections.detect(flow.ahead(detections.prepare(read)))
            for event in flow.ahead(found):
                if isinstance(event, UnitEnd):
                    detections.put(event)
                    bar.skip(len(event.skipped))
                    bar.update()
        detections.finish()
        tell_skipped(options.work)


if __name__ == "__main__":
    run_entry(main, lower="detect.batch_size, detect.photo_short_side or detect.video_short_side, or data.max_pixels")
