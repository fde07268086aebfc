"""Attribution: node and edge scores of a batch of prompts, one method a module."""
