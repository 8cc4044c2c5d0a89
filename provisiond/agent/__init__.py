"""The agent: what checks in for a node, in the bootstrap and in the booted capsule.

Packed as a zipapp with provisiond's protocol and vnfsbuild's floor 0, and nothing else: standard
library only, Python ≥ 3.9. One file, two lives: ``agent.pyz bootstrap`` and ``agent.pyz run``.
"""
