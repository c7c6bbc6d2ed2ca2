"""Stage 2: detections -> crops -> embeddings -> votes -> matches -> result.json."""

import importlib.util

from metric_sub.faiss_kernels import import_faiss

if importlib.util.find_spec("faiss"):  # an environment of stage 1 has none, and does not search
    import_faiss()  # before a library does: who loads FAISS first settles its kernels. It takes a tenth of a second
