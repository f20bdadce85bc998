"""Tool use: tools as typed functions, the ReAct loop, its scoring (report §3.4, Table 6). Light: no torch."""
