"""Measures of a trained model.

An evaluator takes arrays of a split, such as the embeddings of
`Pretrain.embed_split`, and yields (name, value)s. A name is "ROW/MEASURE" in
the tables of reports, such as "text_to_video/R@1". A task's `evaluate` says
which evaluators run.
"""
