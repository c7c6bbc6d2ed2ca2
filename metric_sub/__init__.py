"""Stage 2: detections -> crops -> embeddings -> votes -> matches -> result.json."""

from metric_sub.faiss_kernels import import_faiss

import_faiss()  # before a library does: whoever loads FAISS first settles its kernels
