"""The viewer: circuits as a local page. `elements` is pure, `app` is the page, `server` serves it on loopback."""

from circuitlens.viewer.server import Viewer as Viewer
from circuitlens.viewer.server import view as view
