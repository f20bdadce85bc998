"""Supervised finetuning (report §3.1). Light: `config` needs no torch, `data` reads conversations, `loop` is the stage."""
