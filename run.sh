#!/usr/bin/env bash
# The only door to vid2shop. Usage: bash run.sh VERB [options] [section.key=value ...]; `bash run.sh` lists the verbs.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="$root/.venv/bin/python"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1 PYTHONSAFEPATH=1  # safe: no package of the caller's folder hides one of ours
export VID2SHOP_DOOR=$$  # what runs for this script ends when this script is killed
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"  # threads that spin while they wait starve the data workers on few cores
export GLIBC_TUNABLES="${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}"  # huge pages: handing over small ones takes longer than filling them

usage() {
    cat <<'END'
vid2shop: which item of the catalogue does a video show, in which frame, in which box?

usage: bash run.sh VERB [options] [section.key=value ...]

  setup           make .venv and install the locked requirements (every verb does it when it is due)
  sample          draw a data set:                 sample DIR [--items 40] [--seed 0]
  check           look through a data set:         check --data DIR
  preview         draw what training would see:    preview --config FILE --data DIR [--stage detect|match]
  train           train detector and embedders:    train --config FILE --data DIR --work DIR
  infer           match items and videos:          infer --data DIR --work DIR > result.json
  find            one video or item in a run:      find --work DIR --video FILE | --photos DIR [--top 5] [--json]
  score           judge a result by annotations:   score --data DIR --result FILE
  calibrate       fit cut-offs and probabilities:  calibrate --data VALIDATION --work DIR
  evaluate        judge the models by labels:      evaluate --data DIR --work DIR > figures.json
  quantize        make INT8 weights:               quantize --config FILE --data DIR --work DIR
  export-coco     write detections for others:     export-coco --work DIR --out FILE [--data FILE]
  import-weights  read detectron2's detector:      import-weights FILE --out DIR [--config FILE]
  export-weights  write one for detectron2:        export-weights --out FILE.pth [--weights DIR]
  report          write a page to look at:         report --data DIR --work DIR
  status          what is done, running, left:     status --work DIR [--json]
  demo            draw, train, infer, score, report: demo [--work DIR]
  test            run the tests:                   test [pytest options]
  bench           run a benchmark:                 bench [NAME]
  kills           kill train and infer at random:  kills [--rounds 200]
  fuzz            try mutated files on all readers: fuzz [--minutes 1] [PARSER ...]

`bash run.sh VERB -h` tells a verb's options.
END
}

common_options='options:
  --config FILE        the pipeline'"'"'s YAML (default: the one the weights were trained with, else configs/cpu.yaml)
  --data DIR           the data set: a folder, or a COCO .json file (default: data)
  --work DIR           where steps keep their files (default: work)
  --weights DIR        the trained models (default: <work>/weights)
  --fresh              rebuild what is already there
  section.key=value    change one key of the config, for example match.keep_quantile=0.3'
stage_options='  --stage detect|match run this stage alone: the detector, or the embedders and the matching
RUNNER=docker runs each stage in its container; the default runs here.'

help_of() {
    case "$1" in
        setup) echo "usage: bash run.sh setup"; echo "Makes .venv beside run.sh and installs requirements.lock, unless that is done. PYTHON names the interpreter (default: python3, 3.11 or newer)." ;;
        sample) echo "usage: bash run.sh sample DIR [--items 40] [--seed 0] [--frames 200] [--workers 1]"; echo "Draws a data set in the Watch-and-Buy layout: DIR/{train,validation,test} and DIR/items.json. The same seed draws the same pictures." ;;
        check) echo "usage: bash run.sh check --data DIR [--config FILE]"; echo "Prints a table of what the data set holds and what is wrong with it; exits 1 if something is: all that training would refuse." ;;
        train) echo "usage: bash run.sh train [options] [section.key=value ...]"; echo "Trains the detector, then every embedder, into <work>/weights. Goes on where it was interrupted."; echo "$common_options"; echo "$stage_options"; echo "PROCESSES=N trains in N processes, each on a GPU of its own or all on the CPU; they share every batch." ;;
        preview) echo "usage: bash run.sh preview [options] [--stage detect|match] [--out FILE.png] [section.key=value ...]"; echo "Draws pictures of some photos and videos with their boxes, as the detector would train on them first (<work>/preview_detector.png), and crops of some products as each embedder would that trains otherwise than the ones before it, for each augmentation that a phase uses, and whole batches (<work>/preview.png); prints the sheets' paths. --stage draws one of them, --out FILE names it. Needs annotations, no weights."; echo "$common_options" ;;
        infer) echo "usage: bash run.sh infer [options] [section.key=value ...] > result.json"; echo "Detects, embeds, matches; prints result.json. Goes on where it was interrupted, reuses what is there."; echo "With --stage detect it leaves <work>/detections and prints nothing."; echo "$common_options"; echo "  --strict             stop at the first file that cannot be used, with exit 1; without it such files are listed in <work>/skipped.json"; echo "$stage_options" ;;
        evaluate) echo "usage: bash run.sh evaluate [options] [--part NAME ...] [--precision 0.9] [section.key=value ...] > figures.json"; echo "Judges the models by labelled pictures; all is in <work>/evaluation."; echo "The detector: mAP, AP50, AR, precision and recall, by kind, class and size; a sweep of thresholds; what it missed and where it raised false alarms."; echo "The embedders: recall@1, 5, 10 and mAP@R of video crops against photo crops, by kind of item, and S1, S2, S3 on the labelled boxes, each beside the colour histogram's; a cut-off; the worst confusions."; echo "Prints the figures of one stage, or both as {\"detector\": ..., \"embedders\": ...}."; echo "$common_options"
            echo "  --part NAME          judge by this part of the data (again for more; default: all)"; echo "  --precision SHARE    the precision to propose the detector's thresholds for (default: 0.9)"; echo "  --stage detect|match judge the detector alone, or the embedders" ;;
        quantize) echo "usage: bash run.sh quantize [options] [section.key=value ...]"; echo "Makes INT8 weights of the detector and of every embedder beside their float weights, for runtime.precision=int8 (on CPUs)."; echo "Calibrates by the training parts of --data; measures mAP and recall@1 on the labelled validation parts, in float and in INT8;"; echo "keeps nothing where the loss is past quantize.max_map_loss or quantize.max_recall_loss."; echo "$common_options"; echo "  --stage detect|match the detector alone, or the embedders" ;;
        find) echo "usage: bash run.sh find --video FILE | --photos DIR [--work DIR] [--top 5] [--json] [options] [section.key=value ...]"; echo "Looks for the items that a video shows, or the videos that show the item of a folder of photos, in the finished run of the work folder. Prints the nearest candidates, the distance of their nearest boxes and how many of their boxes are near (within match.max_distance); writes a sheet of pictures into <work>/find."
            echo "options:"; echo "  --work DIR           a work folder that infer has finished (default: work)"; echo "  --weights DIR        the models (default: <work>/weights)"; echo "  --config FILE        the pipeline's YAML (default: <work>/config.yaml)"; echo "  --top N              how many candidates (default: 5)"; echo "  --json               print JSON: distances, frames, photos and boxes" ;;
        export-coco) echo "usage: bash run.sh export-coco --work DIR --out FILE [--data FILE]"; echo "Writes <work>/detections as COCO results. --data names a COCO file, whose ids are then taken; without it ids are made, and FILE's pictures are listed beside it in <name>.images.json." ;;
        score) echo "usage: bash run.sh score --data DIR [--result FILE | --compare A.json B.json] [--out FILE] [--config FILE] [score.key=value ...]"; echo "Prints S1, S2, S3 and the final score with bootstrap intervals as JSON, by kind of item where items.json tells kinds."; echo "With --compare: both scores, the interval of the difference, and which videos changed from right to wrong and back." ;;
        calibrate) echo "usage: bash run.sh calibrate [options] [--part NAME ...] [--precision SHARE] [--out FILE] [section.key=value ...] > calibration.yaml"; echo "Fits match.max_distance, match.min_share and the detector's thresholds for the best F1 of S1, and the probability that a match is right, on validation data that infer was run on, and prints the YAML to put into a config."; echo "The figures, the precision-recall curve and the same as section.key=value (overrides.txt) are in <work>/calibration."; echo "$common_options"
            echo "  --part NAME          calibrate on this part of the data (again for more; default: all)"; echo "  --precision SHARE    the wanted share of right matches among the declared ones, in the place of the best F1"; echo "  --out FILE           where the YAML goes (default: <work>/calibration/calibration.yaml)" ;;
        report) echo "usage: bash run.sh report --data DIR --work DIR [--picture FILE]"; echo "Writes <work>/report.html: scores, charts, and a card per video with its pictures, its votes and, where it is wrong, why. --picture also writes a PNG of the nearest matches." ;;
        status) echo "usage: bash run.sh status [--work DIR] [--weights DIR] [--json]"; echo "Tells from another terminal what a work folder's run has done, does now (with rate and time left), and has left, and what was skipped. Reads only." ;;
        kills) echo "usage: bash run.sh kills [--rounds 200] [--seed 0] [--door N] [--folder DIR] [--json FILE] [section.key=value ...]"; echo "Kills train and infer on a small drawn set at so many random moments by SIGKILL, SIGTERM and SIGINT, goes on each time, and compares every file that they end with to an undisturbed run's. Prints a summary as JSON; exits 1 where something differed."; echo "--door N sends every Nth round through run.sh; the others are forks, which start at once." ;;
        import-weights) echo "usage: bash run.sh import-weights FILE --out DIR [--config FILE] [section.key=value ...]"; echo "Makes the detector's folder DIR of a detectron2 checkpoint (.pth, .pkl, .safetensors): a VoVNet alone or a whole detector." ;;
        export-weights) echo "usage: bash run.sh export-weights --out FILE.pth [--weights DIR]"; echo "Writes the detector of DIR (default: work/weights) as a detectron2 checkpoint." ;;
        demo) echo "usage: bash run.sh demo [--work DIR]"; echo "Draws a data set, trains on it, infers, scores and reports, all in DIR (default: demo). About a quarter of an hour on two cores." ;;
        test) echo "usage: bash run.sh test [--stage detect|match] [pytest options]"; echo "Runs the tests. --stage runs those of one stage in .venv-detect or .venv-match, which is made anew with that stage's requirements and the tests' alone; --stage detect has those of shared/ too." ;;
        bench) echo "usage: bash run.sh bench [NAME] [options]"; echo "Runs benchmarks/NAME.py; without a name lists them. \`bash run.sh bench NAME -h\` tells its options." ;;
        fuzz) echo "usage: bash run.sh fuzz [--minutes 1] [--seed N] [--seconds 20] [--videos DIR] [--out DIR] [PARSER ...]"; echo "Tries mutated files on every reader of what comes from outside, or on those named, for so many minutes each. Prints how many inputs each was given and what failed, and exits 1 where something did."
            echo "  --minutes N          for each parser (default: 1)"; echo "  --seed N             of the inputs; the same seed draws the same (default: drawn, and printed)"; echo "  --seconds N          that one input may take (default: 20)"; echo "  --videos DIR         mutate the videos of a folder in the place of drawn ones; wants --out"; echo "  --out DIR            where inputs that fail go (default: tests/fuzz/corpus, which the tests try again)" ;;
    esac
}

setup() {
    local want
    want="$(cksum < "$root/requirements.lock")"
    [ -x "$python" ] && [ "$(cat "$root/.venv/.installed" 2>/dev/null)" = "$want" ] && return
    echo "vid2shop: installing into $root/.venv (about 5 GB with torch's CUDA libraries; once)" >&2
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        { echo "error: ${PYTHON:-python3} is older than Python 3.11; name a newer one with PYTHON=..." >&2; exit 1; }
    "${PYTHON:-python3}" -m venv "$root/.venv" >&2
    "$python" -m pip install --disable-pip-version-check --quiet --no-compile --require-hashes -r "$root/requirements.lock" >&2
    "$python" -W ignore -m compileall -qq -j 0 "$root/.venv/lib" || true  # on all cores, which pip does not; some libraries ship what is no Python
    echo "$want" > "$root/.venv/.installed"
}

option() {  # option NAME DEFAULT ARGS...: the value of --NAME in ARGS, else DEFAULT
    local name="$1" value="$2"
    shift 2
    while [ $# -gt 0 ]; do
        case "$1" in
            "--$name") value="${2:?error: --$name wants a value}" ;;
            "--$name="*) value="${1#*=}" ;;
        esac
        shift
    done
    printf '%s' "$value"
}

run() {  # run MODULE ARGS...: an entry
    "$python" -m shared.start "$@"
}

stage() {  # stage PACKAGE VERB ARGS...: one stage of train or infer, here or in its container; nothing on stdout
    local package="$1" verb="$2" module
    shift 2
    module=("$package.$verb")
    if [ "$verb" = train ] && [ "${PROCESSES:-1}" != 1 ]; then
        [[ "$PROCESSES" =~ ^[1-9][0-9]*$ ]] || { echo "error: PROCESSES: expected a number from 1, found '$PROCESSES'" >&2; exit 2; }
        module=(shared.processes "$PROCESSES" "$package.$verb")
    fi
    case "${RUNNER:-local}" in
        local) run "${module[@]}" "$@" >&2 || ended_by "$?" "$@" ;;
        docker) in_container "$package" "$verb" "$@" >&2 ;;
        *) echo "error: RUNNER: expected local or docker, found '$RUNNER'" >&2; exit 2 ;;
    esac
}

ended_by() {  # ended_by CODE ARGS...: gives the exit code on; who is killed for want of memory cannot say so
    local code="$1" word again="the same command"
    shift
    for word in "$@"; do [ "$word" != --fresh ] || again="the same command without --fresh"; done
    [ "$code" != 137 ] || echo "error: the process was killed (SIGKILL), as the system does where memory runs out. Lower the batch size, the workers or the size of the pictures; $again goes on from what was finished." >&2
    return "$code"
}

in_container() {  # in_container PACKAGE VERB ARGS...: one stage by compose.yaml, which has what a container may and may not
    local package="$1" verb="$2" data work weights config service inside=/data pass=()
    shift 2
    data="$(option data data "$@")"
    [ -e "$data" ] || { echo "error: $data: no such folder; --data wants one that holds image/<item>/ and video/, or a COCO .json file" >&2; exit 1; }
    data="$(realpath -- "$data")"
    if [ -f "$data" ]; then inside="/data/$(basename -- "$data")"; data="$(dirname -- "$data")"; fi  # a COCO file: its pictures are beside it
    work="$(option work work "$@")"; mkdir -p -- "$work"; work="$(realpath -- "$work")"
    weights="$(option weights "$work/weights" "$@")"; mkdir -p -- "$weights"; weights="$(realpath -- "$weights")"
    config="$(option config "" "$@")"
    if [ -z "$config" ]; then config="$weights/config.yaml"; [ -f "$config" ] || config="$root/configs/cpu.yaml"; fi
    config="$(realpath -- "$config")"
    while [ $# -gt 0 ]; do  # paths are mounted, everything else is passed on
        case "$1" in
            --data|--work|--weights|--config) shift ;;
            --data=*|--work=*|--weights=*|--config=*) ;;
            *) pass+=("$1") ;;
        esac
        shift
    done
    case "$package" in bbox_sub) service="$verb-detect" ;; *) service="$verb-match" ;; esac
    [[ "$(docker info 2>/dev/null)" != *Runtimes:*nvidia* ]] || service="$service-cuda"
    local compose=(docker compose --file "$root/compose.yaml")
    export PROCESSES="${PROCESSES:-1}" VID2SHOP_DATA="$data" VID2SHOP_WORK="$work" VID2SHOP_WEIGHTS="$weights" VID2SHOP_CONFIG="$config"
    export VID2SHOP_USER="${VID2SHOP_USER:-$(id -u):$(id -g)}" VID2SHOP_COMMIT="${VID2SHOP_COMMIT:-$(commit)}"
    "${compose[@]}" build --quiet "$service" > /dev/null
    "${compose[@]}" run --rm --no-deps --no-TTY "$service" --data "$inside" ${pass[@]+"${pass[@]}"}
}

commit() {  # the checkout's, with -dirty where files differ from it; nothing where it is none
    git -C "$root" describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null || true
}

without() {  # without NAME ARGS...: puts ARGS without --NAME and its value into `kept`
    local name="$1"
    shift
    kept=()
    while [ $# -gt 0 ]; do
        case "$1" in
            "--$name") shift ;;
            "--$name="*) ;;
            *) kept+=("$1") ;;
        esac
        shift
    done
}

chosen_stage() {  # chosen_stage ARGS...: what --stage names, else both
    local chosen
    chosen="$(option stage both "$@")" || exit  # set -e does not reach in here
    case "$chosen" in both|detect|match) ;; *) echo "error: --stage: expected detect or match, found '$chosen'" >&2; exit 2 ;; esac
    printf '%s' "$chosen"
}

stages() {  # stages VERB ARGS...: both stages of train, infer or judge, or the one that --stage names
    local verb="$1" chosen kept
    shift
    chosen="$(chosen_stage "$@")"
    without stage "$@"
    [ "$chosen" = match ] || stage bbox_sub "$verb" ${kept[@]+"${kept[@]}"}
    [ "$verb" != judge ] || without precision ${kept[@]+"${kept[@]}"}  # which is of the detector's thresholds
    [ "$chosen" = detect ] || stage metric_sub "$verb" ${kept[@]+"${kept[@]}"}
}

train() {
    local chosen kept
    chosen="$(chosen_stage "$@")"
    if [ "$chosen" = both ]; then  # what stage 2 must refuse is refused before stage 1 trains for hours
        without stage "$@"
        stage metric_sub train --check ${kept[@]+"${kept[@]}"}
    fi
    stages train "$@"
}

infer() {
    local kept
    if [ "${RUNNER:-local}" = local ] && [ "$(option stage both "$@")" = both ]; then  # each file is read once for both
        without stage "$@"
        run infer ${kept[@]+"${kept[@]}"} >&2 || ended_by "$?" "$@"
    else
        stages infer "$@"
    fi
    [ "$(option stage both "$@")" = detect ] || cat -- "$(option work work "$@")/result.json"
}

find_in_run() {  # find_in_run ARGS...: both stages on a folder of one video or item, the second against a finished run
    local video photos work weights config name kept kind detect=()
    video="$(option video "" "$@")"
    photos="$(option photos "" "$@")"
    work="$(option work work "$@")"
    weights="$(option weights "$work/weights" "$@")"
    config="$(option config "$work/config.yaml" "$@")"
    if [ -n "$video" ] && [ -n "$photos" ] || [ -z "$video$photos" ]; then echo "error: find wants either --video FILE or --photos DIR" >&2; exit 2; fi
    [ -z "$video" ] || [ -f "$video" ] || { echo "error: --video $video: no such file" >&2; exit 1; }
    [ -z "$photos" ] || [ -d "$photos" ] || { echo "error: --photos $photos: no such folder; it wants one that holds an item's photos" >&2; exit 1; }
    for kind in photos videos; do
        [ -f "$work/embeddings/$kind/manifest.json" ] ||
            { echo "error: $work: holds no finished run (no embeddings/$kind). Run infer into it first, or name another with --work" >&2; exit 1; }
    done
    scratch="$(mktemp -d)"  # global: the trap runs after this function
    trap 'rm -rf "$scratch"' EXIT
    if [ -n "$video" ]; then
        mkdir -p "$scratch/data/video"
        ln -s "$(realpath -- "$video")" "$scratch/data/video/$(basename -- "$video")"
    else
        mkdir -p "$scratch/data/image"
        ln -s "$(realpath -- "$photos")" "$scratch/data/image/$(basename -- "$(realpath -- "$photos")")"
    fi
    kept=("$@")
    for name in video photos data work weights config; do without "$name" ${kept[@]+"${kept[@]}"}; done
    set -- ${kept[@]+"${kept[@]}"}
    without top "$@"
    for name in ${kept[@]+"${kept[@]}"}; do [ "$name" = --json ] || detect+=("$name"); done
    kept=(--config "$config" --data "$scratch/data" --work "$scratch/work" --weights "$weights")
    RUNNER=local stage bbox_sub infer "${kept[@]}" ${detect[@]+"${detect[@]}"}
    run metric_sub.find "${kept[@]}" --among "$work" "$@"
}

preview() {
    local chosen kept
    chosen="$(chosen_stage "$@")"
    [ "$chosen" != both ] || [ -z "$(option out "" "$@")" ] || { echo "error: --out names one sheet: give --stage detect or --stage match with it" >&2; exit 2; }
    without stage "$@"
    [ "$chosen" = match ] || run bbox_sub.preview ${kept[@]+"${kept[@]}"}
    [ "$chosen" = detect ] || run metric_sub.preview ${kept[@]+"${kept[@]}"}
}

evaluate() {
    local folder
    RUNNER=local stages judge "$@"
    folder="$(option work work "$@")/evaluation"
    case "$(option stage both "$@")" in
        detect) cat -- "$folder/detector.json" ;;
        match) cat -- "$folder/embedders.json" ;;
        both) printf '{"detector": %s,\n"embedders": %s}\n' "$(cat -- "$folder/detector.json")" "$(cat -- "$folder/embedders.json")" ;;
    esac
}

quantize() {
    RUNNER=local stages quantize "$@"
}

score() {
    local out
    out="$(option out "" "$@")"
    if [ -n "$out" ]; then run metric_sub.score "$@" >&2; return; fi
    out="$(mktemp)"
    if run metric_sub.score "$@" --out "$out" >&2; then cat "$out"; rm "$out"; else rm "$out"; return 1; fi
}

calibrate() {
    local work used=()
    work="$(option work work "$@")"
    [ ! -f "$work/config.yaml" ] || used=(--config "$work/config.yaml")  # the run's own; a --config behind it counts
    run metric_sub.calibrate ${used[@]+"${used[@]}"} "$@" >&2
    cat -- "$(option out "$(option work work "$@")/calibration/calibration.yaml" "$@")"
}

run_tests() {  # run_tests ARGS...: all tests in .venv; or a stage's, in an environment that has that stage's requirements alone
    local chosen package paths kept
    cd "$root"
    chosen="$(chosen_stage "$@")"
    case "$chosen" in
        both) "$python" -m pytest "$@"; return ;;
        detect) package=bbox_sub paths="tests/shared tests/bbox_sub" ;;
        match) package=metric_sub paths=tests/metric_sub ;;
    esac
    without stage "$@"
    "$python" -m tests.stage_environment "$package" "$root/.venv-$chosen"
    "$root/.venv-$chosen/bin/python" -m pytest --override-ini "testpaths=$paths" ${kept[@]+"${kept[@]}"}
}

demo() {
    local work config="$root/configs/tiny.yaml"
    work="$(option work demo "$@")"
    case "$#:${1:-}" in 0:|2:--work|1:--work=*) ;; *) echo "error: demo takes --work DIR alone, found: $*" >&2; exit 2 ;; esac
    echo "1/5 drawing a data set" >&2
    run sample "$work/data" --items 200 --seed 0 --workers 2 >&2
    echo "2/5 training" >&2
    train --config "$config" --data "$work/data" --work "$work/run"
    echo "3/5 matching" >&2
    infer --data "$work/data/test" --work "$work/run" > "$work/result.json"
    echo "4/5 scoring" >&2
    score --data "$work/data/test" --result "$work/result.json" > "$work/score.json"
    echo "5/5 reporting" >&2
    run metric_sub.report --data "$work/data/test" --work "$work/run" >&2
    cat -- "$work/score.json"
    echo "look at $work/run/report.html" >&2
}

{  # read whole before any of it runs: bash would read on in a script that an update has changed meanwhile
verb="${1:-}"
[ $# -gt 0 ] && shift
case "$verb" in
    setup|sample|check|preview|train|infer|find|score|calibrate|evaluate|quantize|export-coco|import-weights|export-weights|report|status|demo|test|bench|kills|fuzz) ;;
    -h|--help|help) usage; exit 0 ;;
    *) [ -z "$verb" ] || echo "error: unknown verb '$verb'" >&2; usage >&2; exit 2 ;;
esac
case "$verb:${1:-}" in
    test:-h|bench:-h|bench:--help) help_of "$verb"; exit 0 ;;
    test:*|bench:*) ;;  # pytest and each benchmark have their own -h
    *)
        for word in "$@"; do
            case "$word" in -h|--help) help_of "$verb"; exit 0 ;; esac
        done ;;
esac
if [ "${RUNNER:-local}" != docker ] || [[ "$verb" != train && "$verb" != infer ]]; then setup; fi
case "$verb" in
    setup) ;;
    sample) run sample "$@" ;;
    check) run shared.check "$@" ;;
    report) run metric_sub.report "$@" ;;
    status) run shared.status "$@" ;;
    import-weights) run bbox_sub.import_weights "$@" ;;
    export-weights) run bbox_sub.export_weights "$@" ;;
    find) find_in_run "$@" ;;
    export-coco) run bbox_sub.coco_results "$@" ;;
    test) run_tests "$@" ;;
    bench) run benchmarks "$@" ;;
    kills) run tests.kill_loop "$@" ;;
    fuzz) run tests.fuzz "$@" ;;
    *) "$verb" "$@" ;;
esac
exit
}
