"""Review by people: random documents of a corpus on a local page, their judgements, what follows from them.

Report §2.1 ("we manually sample and review"); how is ours. No torch.
"""
