"""What features are called: by Neuronpedia, by a file of labels, or from evidence; `labelling` joins them."""
