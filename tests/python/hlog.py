"""Reads a log of HdrHistogram with its own reader, and says of each histogram: tag, count, largest value."""

import sys

from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

reader = HistogramLogReader(sys.argv[1], HdrHistogram(1, 3_600_000_000, 2))
while histogram := reader.get_next_interval_histogram():
    print(histogram.tag, histogram.get_total_count(), histogram.get_max_value())
