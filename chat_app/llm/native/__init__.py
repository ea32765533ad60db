"""Our own engine: continuous batching over a paged cache, in PyTorch, on the CPU and on CUDA.

It knows token ids and tensors; text, stop texts and money are others' business. Only worker
processes import it.
"""
