"""
Optional tools around makemore.py, which works without them.

Imports go one way: makemore.py imports these modules, and none of them imports makemore. They
take tensors, modules, paths and plain values, and return data or raise ValueError; none prints.

    fast         the same loss and gradients in less time on a CPU
    backprop     gradients by hand and by micrograd, compared with autograd
    diagnostics  activations, gradients and updates; the learning-rate range test
    board        curves, histograms, embeddings and settings for TensorBoard
    pictures     losses, embeddings, letter pairs and activations, drawn with matplotlib
    longtext     the tokens of a huge text in a memory-mapped file
    runs         a table of all runs
    torchrun     the process group, restarts after a crash, the lock of a run's folder
    audit        refuse hostile checkpoints
"""
