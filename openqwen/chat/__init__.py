"""Conversations: messages, ChatML, the ReAct text. No torch.

Report §3.1 and A.1.1.
"""
