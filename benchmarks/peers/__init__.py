"""The loops that dglrec is measured against, each as its own documentation writes it.

Same graph, width, depth, fan-outs, inputs, decoder, loss and optimiser in all of them.
"""
