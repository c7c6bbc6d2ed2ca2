#!/usr/bin/env bash
# Builds both images by their Dockerfiles, without Docker, and trains and matches a small drawn set in them as compose.yaml has it:
# not root, without capabilities and, matching, without a network, the root read-only. The answer has to be the one of a run outside.
# usage: containers/check.sh    Needs root, Debian's debootstrap and buildah, 20 GB for the images, and a quarter of an hour.
# BASE=IMAGE builds upon that image; without it a Debian with its own Python 3.11 is made, which needs no registry of images.
# More options for the builds, such as --build-arg DETECTRON2=yes, may follow; they go to buildah.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
settings=(detector_train.phases.0.iterations=20 detector_train.warmup_iterations=5 embedders.0.epochs=2 detect.photo_score=0.0 detect.video_score=0.0 match.max_distance=2.0)
scratch="$(mktemp -d)"
made=()
trap 'for each in "${made[@]}"; do buildah rm "$each" > /dev/null; done; rm -rf "$scratch"' EXIT

bash "$root/run.sh" sample "$scratch/data" --items 12 --frames 120
mkdir -p "$scratch/inside/weights"
chown -R 10001:10001 "$scratch/inside"
chmod 755 "$scratch"

if [ -z "${BASE:-}" ]; then
    BASE=localhost/vid2shop-base
    new="$(buildah from scratch)" && made+=("$new")
    files="$(buildah mount "$new")"
    debootstrap --variant=minbase --include=ca-certificates,python3-dev,python3-pip,python3-venv bookworm "$files" > "$scratch/debootstrap.log"
    ln -s python3 "$files/usr/bin/python"
    buildah umount "$new" > /dev/null
    buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$new"
    buildah commit --quiet "$new" "$BASE" > /dev/null
fi

enter() {  # enter FILES WRITABLE NETWORK ENVIRONMENT... -- COMMAND...: as compose.yaml's services are run, in an image's unpacked files
    local files="$1" writable="$2" spaces=(--mount --ipc --pid --fork)
    [ "$3" = host ] || spaces+=(--net)
    shift 3
    unshare "${spaces[@]}" bash -euo pipefail -c '
        files="$1" scratch="$2" writable="$3" config="$4"
        shift 4
        mkdir -p "$files"/{data,work,weights} && touch "$files/config.yaml"
        mount --bind "$files" "$files"
        mount --rbind /dev "$files/dev" && mount -t tmpfs tmpfs "$files/dev/shm"
        mount --rbind /sys "$files/sys" && mount -o remount,bind,ro "$files/sys"
        mount -t proc proc "$files/proc" && mount -t tmpfs tmpfs "$files/tmp"
        mount --bind "$scratch/data" "$files/data" && mount -o remount,bind,ro "$files/data"
        mount --bind "$config" "$files/config.yaml" && mount -o remount,bind,ro "$files/config.yaml"
        mount --bind "$scratch/inside" "$files/work"
        mount --bind "$scratch/inside/weights" "$files/weights"
        [ "$writable" = weights ] || mount -o remount,bind,ro "$files/weights"
        mount -o remount,bind,ro "$files"
        cd "$files"
        exec chroot . /usr/bin/setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set=-all \
            /usr/bin/env -i -C /app "$@"' - "$files" "$scratch" "$writable" "$root/configs/tiny.yaml" "$@"
}

for package in bbox_sub metric_sub; do
    buildah build --isolation chroot --network host --layers=false --format docker --build-arg BASE="$BASE" "$@" \
        --file "$root/$package/Dockerfile" --tag "vid2shop-$package:check" "$root"
done
for verb in train infer; do
    for package in bbox_sub metric_sub; do
        new="$(buildah from "vid2shop-$package:check")" && made+=("$new")
        [ "$(buildah inspect --format '{{.OCIv1.Config.User}}' "$new")" = 10001:10001 ]
        readarray -t environment < <(buildah inspect --format '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' "$new" | sed '/^$/d')
        case "$verb" in train) rights=(weights host) ;; infer) rights=(nothing none) ;; esac
        part=""
        [ "$verb" = train ] || part=/test
        enter "$(buildah mount "$new")" "${rights[@]}" "${environment[@]}" \
            python -m shared.start "$package.$verb" --config /config.yaml --data "/data$part" --work /work --weights /weights "${settings[@]}"
        bash "$root/run.sh" "$verb" --config "$root/configs/tiny.yaml" --data "$scratch/data$part" --work "$scratch/outside" "${settings[@]}" \
            --stage "$([ $package = bbox_sub ] && echo detect || echo match)" > "$scratch/answer.json"
    done
done
cmp "$scratch/inside/result.json" "$scratch/outside/result.json"
cmp "$scratch/inside/weights/detector/weights.safetensors" "$scratch/outside/weights/detector/weights.safetensors"
echo "the containers train the same weights and give the same answer: $(wc -c < "$scratch/inside/result.json") bytes" >&2
