"""What every stage stands on: errors, configuration, artefact directories, metrics, console. No torch.

Ours: the report says nothing about plumbing.
"""
