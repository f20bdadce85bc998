"""Instruction data for Math-Qwen-Chat: problems checked by programs, and paths that a model finds itself.

Report §5.1 says "augmented math instructional dataset" and no more; how it is made is ours. Finetuning on it is the stage
sft with the recipe math-qwen-chat.
"""
