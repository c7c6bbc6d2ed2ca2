"""Stage 2: detections -> crops -> embeddings -> votes -> matches -> result.json."""
