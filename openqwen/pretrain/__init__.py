"""Pretraining: the base model from token shards (report §2.4). Light: `config` needs no torch, `loop` is the stage."""
