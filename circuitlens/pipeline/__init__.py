"""The one pipeline from prompts to a circuit, behind `find` and `aggregate`: sums by node, the strongest, their edges.

1. "nodes": each batch of prompts is scored by itself into sums by node, which are joined; the strongest nodes by |mean|
   are kept.
2. "edges": each batch gives the edges between those (and, for a method that measures, their measured effects). Every
   prompt gives every kept edge what it is there, small or 0, so that a mean has no threshold in it.
3. "weighing": the strongest edges by |mean estimate| are weighed anew by path patching, in each batch.

What a batch gives at a stage depends on nothing but the search and on what the stages before left, so batches may be
worked on anywhere. Memory is that of one batch and of the sums, whose size is the number of different nodes, not of
prompts.
"""

from circuitlens.pipeline.search import BATCH as BATCH
from circuitlens.pipeline.search import Search as Search
from circuitlens.pipeline.stages import run as run
