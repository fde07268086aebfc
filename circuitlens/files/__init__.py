"""Files: read up to a limit, and written whole or not at all."""

from circuitlens.files.reading import MAX_KEYS as MAX_KEYS
from circuitlens.files.reading import format_bytes as format_bytes
from circuitlens.files.reading import parse_json as parse_json
from circuitlens.files.reading import read_bounded as read_bounded
from circuitlens.files.reading import reason_of as reason_of
from circuitlens.files.reading import too_many as too_many
from circuitlens.files.streaming import stream_object as stream_object
from circuitlens.files.writing import cache_folder as cache_folder
from circuitlens.files.writing import locked as locked
from circuitlens.files.writing import remove_dead_parts as remove_dead_parts
from circuitlens.files.writing import write_atomically as write_atomically
from circuitlens.files.writing import write_file as write_file
