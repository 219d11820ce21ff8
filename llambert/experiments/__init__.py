"""The paper's tables and figures with any task, labels and models. An experiment consists of cells (trainings), each
computed and stored once.

``experiment_recipe`` describes an experiment, ``sources`` reads its labels, ``cells`` stores results, ``cell_training``
trains a cell, ``grids`` places cells in a table, ``results`` aggregates them over seeds, ``claims`` compares them with
the paper, ``figures`` and ``pages`` show them. Only ``cell_tasks`` and ``experiment`` use Ray.
"""
