"""What the page says in words: nodes, circuits, evidence and interventions. Text only, never HTML."""
