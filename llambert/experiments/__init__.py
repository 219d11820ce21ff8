"""The paper's tables and figures with any task, labels and models: made of cells, each computed and stored once.

``recipe`` says what an experiment is, ``sources`` which labels it learns from and is judged by, ``cells`` what is
stored, ``training`` trains a cell, ``grids`` says which cells stand where, ``results`` sums them up over seeds,
``findings`` says in words what came out, ``figures`` and ``pages`` show it. None of them knows Ray; ``run`` does.
"""
