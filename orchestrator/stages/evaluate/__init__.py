"""Loss, perplexity and bits per byte of any checkpoint on any text, with intervals.

stage     its settings
driver    the checkpoint, the data by the checkpoint's tokenizer, the record
measure   what every rank does: nats of every document, and intervals over documents
"""
