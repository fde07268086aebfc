"""A search over many prompts as a folder: what it is of, and one piece for each batch and stage that is done.

Whatever works on it, by itself, as one of several shards, or as workers of Ray, adds pieces; whoever finds all of
them joins them in their order. What was done is never done again, and what is damaged is.
"""

from circuitlens.runfolder.folder import RunFolder as RunFolder
from circuitlens.runfolder.record import RunRecord as RunRecord
from circuitlens.runfolder.running import Shard as Shard
from circuitlens.runfolder.running import join as join
from circuitlens.runfolder.running import run_in_folder as run_in_folder
