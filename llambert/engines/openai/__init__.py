"""Any endpoint that speaks OpenAI's API: how it is asked (http_engine.py), what its replies and its errors mean.

``replies.py`` reads answers, ``faults.py`` reads errors, ``parameters.py`` knows what the endpoint takes. Only
``http_engine.py`` needs the ``openai`` package.
"""
