"""Stage 2: detections -> crops -> embeddings -> votes -> matches -> result.json."""

from metric_sub.faiss_kernels import import_faiss

import_faiss()  # before a library does: who loads FAISS first settles its kernels. It takes a tenth of a second
