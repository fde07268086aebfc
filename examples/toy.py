"""Which features make the toy say "run" after "The cats", and is that so? Run: `python examples/toy.py`."""

import circuitlens

adapter = circuitlens.load("toy")
circuit = circuitlens.find(adapter, "The cats", answer="run", distractor="runs", corrupted="The cat")
metric = circuit.metric
print(f"{metric.answers[0].text} against {metric.distractors[0].text}: {metric.value:+.2f} logits after", end=" ")
print(f"{circuit.prompt!r}, {metric.corrupted_value:+.2f} after {circuit.corrupted!r}. Which features differ?\n")

print("feature  attribution  measured")
for node in sorted(circuit.nodes, key=lambda node: -abs(node.attribution)):
    if node.kind in ("feature", "error"):
        result = circuitlens.ablate(adapter, circuit, [node.id])
        print(f"{node.label:7}  {node.attribution:+11.4f}  {result.measured:+8.4f}")
print("\nStrongest path:", circuit.strongest_path())
