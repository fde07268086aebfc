"""A circuit as one file of HTML, which shows it without a server: `page` makes it, of the page's own parts."""

from circuitlens.viewer.sharing.page import share as share
