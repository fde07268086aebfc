"""Reports: the words and figures that the command line and the page share."""
