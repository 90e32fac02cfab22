"""One data set type = one file that registers a builder; dataset.py loads, batches.py feeds,
augment.py transforms.
"""
