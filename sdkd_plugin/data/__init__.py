"""One data set type = one file that registers a builder.

dataset.py loads, augment.py transforms, batches.py feeds.
"""
