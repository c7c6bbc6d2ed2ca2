"""Stage 1: photos and videos -> frames -> detections."""
