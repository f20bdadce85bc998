"""Code data for Code-Qwen: from repositories to documents that a corpus is built of.

Report §4.1 says that the base model goes on with code; how the code is chosen it does not say, so the steps are ours, in
the order of the papers that published theirs (Chen et al. 2021; Kocetkov et al. 2022; Li et al. 2023).
"""
